package edge

import (
	"time"

	"github.com/carillon-rt/carillon/services/edge/frame"
	"github.com/carillon-rt/carillon/services/internal/message"
)

// positionPause is the least time between two positions of a topic, unless what was
// told before is about to be lost.
const positionPause = 10 * time.Second

// tellPositions tells those who have heard nothing of a quiet channel for long that it
// is complete: what they know would else fall out of what the store keeps, and a resume
// from there could not be told from one that has lost something.
func (h *hub) tellPositions(topics []*topic, bounds message.Bounds, now time.Time) {
	for _, t := range topics {
		t.mu.Lock()
		t.tellPosition(bounds, now)
		t.mu.Unlock()
	}
}

// tellPosition tells the subscriptions whose clients know an offset that lies a quarter
// of what is kept behind the topic's, now and then, or in the oldest quarter, at once.
// The caller holds t.mu.
func (t *topic) tellPosition(bounds message.Bounds, now time.Time) {
	at := t.position
	if len(t.subscriptions) == 0 || t.told >= at.Offset || bounds.Last < bounds.First-1 {
		return
	}
	quarter := (bounds.Last - (bounds.First - 1)) / 4
	rested := now.Sub(t.positioned) >= positionPause
	due := func(told message.Offset) bool {
		return told < at.Offset && (told+1 < bounds.First+quarter || rested && at.Offset-told > quarter)
	}
	if !due(t.told) {
		return
	}
	t.positioned = now
	var encoded encodings
	event := frame.Position{Position: at, Channels: []string{string(t.name)}}
	t.told = at.Offset
	for _, sub := range t.subscriptions {
		if due(sub.told) && sub.behind == nil && sub.session.sendLossy(encoded.frame(sub.session.codec, event)) {
			sub.told = at.Offset
		}
		t.told = min(t.told, sub.told)
	}
}
