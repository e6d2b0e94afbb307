package edge

import (
	"slices"
	"strings"

	"github.com/carillon-rt/carillon/services/internal/channel"
)

// subscriptions are those of one session, sorted by channel. Most sessions have a few, for
// which a map would take 250 bytes.
type subscriptions []*subscription

func (all *subscriptions) find(name channel.Name) (index int, found bool) {
	return slices.BinarySearchFunc(*all, name, func(sub *subscription, name channel.Name) int {
		return strings.Compare(string(sub.topic.name), string(name))
	})
}

// of returns the subscription of a channel; nil if there is none.
func (all *subscriptions) of(name channel.Name) *subscription {
	if i, found := all.find(name); found {
		return (*all)[i]
	}
	return nil
}

// add puts in a subscription of a channel that has none.
func (all *subscriptions) add(sub *subscription) {
	i, _ := all.find(sub.topic.name)
	*all = slices.Insert(*all, i, sub)
}

func (all *subscriptions) remove(name channel.Name) {
	if i, found := all.find(name); found {
		*all = slices.Delete(*all, i, i+1)
	}
}
