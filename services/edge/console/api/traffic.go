package api

import (
	"cmp"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/carillon-rt/carillon/services/edge"
	"github.com/carillon-rt/carillon/services/internal/channel"
)

const (
	// trafficAge is how old a look at all channels may be: each goes over all of them.
	trafficAge = time.Second
	// Bounds of a list of the busiest.
	maxBusiest, defaultBusiest = 100, 20
)

// traffic is the last look at all channels, which everybody shares.
type traffic struct {
	mu      sync.Mutex
	at      time.Time
	busiest busiest // maxBusiest of each
	spaces  map[string]spaceTraffic
}

// busiest is an answer.
type busiest struct {
	At            int64      `json:"at"`
	Total         int        `json:"total"`
	ByDeliveries  []activity `json:"byDeliveries"`
	BySubscribers []activity `json:"bySubscribers"`
}

type activity struct {
	Channel     channel.Name `json:"channel"`
	Subscribers int          `json:"subscribers"`
	rates
}

type rates struct {
	Messages   float64 `json:"messages"`
	Deliveries float64 `json:"deliveries"`
	Bytes      float64 `json:"bytes"`
}

func ratesOf(r edge.Rates) rates {
	return rates{hundredths(r.Messages), hundredths(r.Deliveries), hundredths(r.Bytes)}
}

func hundredths(x float64) float64 { return math.Round(x*100) / 100 }

// spaceTraffic is what goes through a namespace.
type spaceTraffic struct {
	channels, subscribers int
	messages, deliveries  float64
}

// look looks at all channels, unless somebody has a moment ago. The caller holds a.traffic.mu.
func (a *API) look() {
	t := &a.traffic
	now := time.Now()
	if now.Sub(t.at) < trafficAge {
		return
	}
	all := a.options.Edge.Traffic("")
	t.at, t.spaces = now, map[string]spaceTraffic{}
	for _, c := range all {
		s := t.spaces[c.Channel.Namespace()]
		s.channels++
		s.subscribers += c.Subscribers
		s.messages += c.Rates.Messages
		s.deliveries += c.Rates.Deliveries
		t.spaces[c.Channel.Namespace()] = s
	}
	t.busiest = busiest{At: now.UnixMilli(), Total: len(all)}
	slices.SortFunc(all, func(a, b edge.ChannelTraffic) int {
		return cmp.Or(cmp.Compare(b.Subscribers, a.Subscribers), cmp.Compare(a.Channel, b.Channel))
	})
	t.busiest.BySubscribers = firstOf(all)
	all = slices.DeleteFunc(all, func(c edge.ChannelTraffic) bool { return c.Rates.Deliveries == 0 })
	slices.SortFunc(all, func(a, b edge.ChannelTraffic) int {
		return cmp.Or(cmp.Compare(b.Rates.Deliveries, a.Rates.Deliveries), cmp.Compare(a.Channel, b.Channel))
	})
	t.busiest.ByDeliveries = firstOf(all)
}

func firstOf(all []edge.ChannelTraffic) []activity {
	first := make([]activity, 0, min(maxBusiest, len(all)))
	for _, c := range all[:min(maxBusiest, len(all))] {
		first = append(first, activity{c.Channel, c.Subscribers, ratesOf(c.Rates)})
	}
	return first
}

// busiest are the busiest channels, so many of each kind.
func (a *API) busiest(limit int) busiest {
	a.traffic.mu.Lock()
	defer a.traffic.mu.Unlock()
	a.look()
	b := a.traffic.busiest
	b.ByDeliveries, b.BySubscribers = b.ByDeliveries[:min(limit, len(b.ByDeliveries))], b.BySubscribers[:min(limit, len(b.BySubscribers))]
	return b
}

// spaces is what goes through each namespace. It is not to be changed.
func (a *API) spaces() map[string]spaceTraffic {
	a.traffic.mu.Lock()
	defer a.traffic.mu.Unlock()
	a.look()
	return a.traffic.spaces
}

// channels answers channels.
func (a *API) channels(r *request) (any, error) {
	limit, err := r.number("limit", defaultBusiest, 1, maxBusiest)
	if err != nil {
		return nil, err
	}
	return a.busiest(limit), nil
}
