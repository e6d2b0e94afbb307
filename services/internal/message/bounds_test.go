package message_test

import (
	"testing"

	"github.com/carillon-rt/carillon/services/internal/message"
)

func TestRecoverable(t *testing.T) {
	t.Parallel()
	b := message.Bounds{Epochs: []message.EpochStart{{Epoch: "a", First: 1}, {Epoch: "b", First: 50}}, First: 41, Last: 90}
	for _, tt := range []struct {
		name  string
		since message.Position
		want  bool
	}{
		{"at the head", message.Position{Epoch: "b", Offset: 90}, true},
		{"within", message.Position{Epoch: "b", Offset: 60}, true},
		{"in the future", message.Position{Epoch: "b", Offset: 91}, false},
		{"of an older epoch, before the new one", message.Position{Epoch: "a", Offset: 49}, true},
		{"of an older epoch, where offsets were used again", message.Position{Epoch: "a", Offset: 50}, false},
		{"just before the first that is kept", message.Position{Epoch: "a", Offset: 40}, true},
		{"trimmed", message.Position{Epoch: "a", Offset: 39}, false},
		{"of an unknown epoch", message.Position{Epoch: "c", Offset: 60}, false},
		{"of no epoch", message.Position{Offset: 60}, false},
	} {
		if got := b.Recoverable(tt.since); got != tt.want {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
	if (message.Bounds{}).Recoverable(message.Position{}) {
		t.Error("an ephemeral channel has nothing to recover")
	}
	empty := message.Bounds{Epochs: []message.EpochStart{{Epoch: "a", First: 1}}, First: 1, Last: 0}
	if !empty.Recoverable(message.Position{Epoch: "a"}) {
		t.Error("the beginning of an empty channel")
	}
	expired := message.Bounds{Epochs: []message.EpochStart{{Epoch: "a", First: 1}}, First: 8, Last: 7}
	if !expired.Recoverable(message.Position{Epoch: "a", Offset: 7}) || expired.Recoverable(message.Position{Epoch: "a", Offset: 6}) {
		t.Error("where everything has expired only the head is left")
	}
}
