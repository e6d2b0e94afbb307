package frame_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/carillon-rt/carillon/services/edge/frame"
	"github.com/carillon-rt/carillon/services/internal/message"
)

// BenchmarkPublishJSON is what it takes to have the payload of a client's publish, of a
// small one and of as much as a frame may hold.
func BenchmarkPublishJSON(b *testing.B) {
	small := `{"text":"hello, world","from":{"name":"ann"},"n":[1,2,3]}`
	large := "[" + strings.Repeat(small+",", 1100) + "0]"
	for _, c := range []struct{ name, data string }{
		{"100 B", small},
		{"64 KiB", large},
		{"64 KiB with space", strings.ReplaceAll(large, ":", ": ")},
	} {
		text := fmt.Appendf(nil, `{"id":7,"publish":{"channel":"chat.lobby","data":%s}}`, c.data)
		b.Run(c.name, func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			b.ReportAllocs()
			for b.Loop() {
				command, err := frame.JSON{}.Decode(text)
				if err != nil {
					b.Fatal(err)
				}
				publish, _ := command.Body.(frame.Publish)
				if payload, err := message.JSON("data", publish.JSON); err != nil || len(payload.Data) == 0 {
					b.Fatal(err)
				}
			}
		})
	}
}
