package edge

import (
	"github.com/carillon-rt/carillon/services/edge/frame"
	"github.com/carillon-rt/carillon/services/edge/socket"
)

// codec is a frame codec with its place in encodings.
type codec struct {
	frame.Codec
	index int
}

// codecCount is the number of frame.Codecs; a test holds them equal.
const codecCount = 2

func newCodecs() []*codec {
	var codecs []*codec
	for i, c := range frame.Codecs() {
		codecs = append(codecs, &codec{Codec: c, index: i})
	}
	return codecs
}

// build makes the WebSocket message of one event.
func (c *codec) build(id uint64, event frame.Event) socket.Frame {
	return socket.Build(c.Text(), func(dst []byte) []byte { return c.Append(dst, id, event) })
}

// encodings holds one push in every codec that somebody wanted it in.
type encodings [codecCount]socket.Frame

func (e *encodings) frame(c *codec, event frame.Event) socket.Frame {
	if e[c.index] == nil {
		e[c.index] = c.build(0, event)
	}
	return e[c.index]
}
