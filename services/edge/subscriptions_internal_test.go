package edge

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/carillon-rt/carillon/services/internal/channel"
)

func TestSubscriptionsAreFoundByChannel(t *testing.T) {
	t.Parallel()
	var all subscriptions
	want := map[channel.Name]*subscription{}
	for range 2000 {
		name := channel.Name(fmt.Sprint("chat.", rand.N(100)))
		if all.of(name) != want[name] {
			t.Fatalf("%s: %p, want %p", name, all.of(name), want[name])
		}
		if _, there := want[name]; there {
			all.remove(name)
			delete(want, name)
		} else {
			want[name] = &subscription{topic: &topic{name: name}}
			all.add(want[name])
		}
		all.remove("chat.none")
		if len(all) != len(want) {
			t.Fatalf("%d subscriptions, want %d", len(all), len(want))
		}
	}
}
