package edge

import (
	"time"

	"github.com/carillon-rt/carillon/services/edge/frame"
	"github.com/carillon-rt/carillon/services/internal/message"
)

// positionPause is the least time between two positions of a topic, unless what was
// told before is about to be lost.
const positionPause = 10 * time.Second

// tellPosition tells those who have heard nothing of a quiet channel for long that it is
// complete: what they know would else fall out of what the store keeps, and a resume from
// there could not be told from one that has lost something. They are the subscriptions
// whose clients know an offset that lies a quarter of what is kept behind the topic's, now
// and then, or in the oldest quarter, at once. It returns whether somebody is still to be
// told. The caller holds t.mu.
func (t *topic) tellPosition(bounds message.Bounds, now time.Time) (owed bool) {
	at := t.position
	rested := now.Sub(t.positioned) >= positionPause
	if len(t.subscriptions) == 0 || !positionDue(t.told, at.Offset, bounds, true) {
		return false
	}
	if !positionDue(t.told, at.Offset, bounds, rested) {
		return true
	}
	t.positioned = now
	var encoded encodings
	event := frame.Position{Position: at, Channels: []string{string(t.name)}}
	t.told = at.Offset
	for _, sub := range t.subscriptions {
		if positionDue(sub.told, at.Offset, bounds, rested) && sub.behind == nil && sub.session.sendLossy(encoded.frame(sub.session.codec, event)) {
			sub.told = at.Offset
		}
		t.told = min(t.told, sub.told)
	}
	return positionDue(t.told, at.Offset, bounds, true)
}

// positionDue tells whether a client that knows one offset is to be told a later one.
// Rested means that the topic's was not told just now.
func positionDue(told, at message.Offset, bounds message.Bounds, rested bool) bool {
	quarter := (bounds.Last + 1 - bounds.First) / 4
	return told < at && (told+1 < bounds.First+quarter || rested && at-told > quarter)
}
