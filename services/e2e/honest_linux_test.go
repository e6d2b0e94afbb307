package e2e_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/metadata"

	carillon "github.com/carillon-rt/carillon/clients/go"
	publishv1 "github.com/carillon-rt/carillon/gen/carillon/publish/v1"
	"github.com/carillon-rt/carillon/services/internal/rpc"
)

// The honest load: people in rooms, and a backend that publishes to one room after the
// other.
const (
	honestPeople  = 200
	honestPerRoom = 10
	honestEvery   = 10 * time.Millisecond
	// honestPace is how fast they come: edge.max_new_connections_per_address is 200/s.
	honestPace = 10 * time.Millisecond
	// honestGrace is how long after the last one was due a message may still come. One
	// that comes later counts as lost.
	honestGrace = 5 * time.Second
)

// honest is the honest load of a server.
type honest struct {
	people []*carillon.Client
	api    publishv1.PublishServiceClient
	ctx    context.Context // shows the backend's token
	next   int             // number of the next message
}

// measure is what honest people met for a while.
type measure struct {
	took   []time.Duration // from when a message was due to be published, sorted
	late   []time.Duration // from then to when the load published it, sorted
	lost   int             // messages times recipients
	failed int             // publishes
}

// percentile is that of sorted times.
func percentile(sorted []time.Duration, p float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[int(float64(len(sorted)-1)*p/100)]
}

func honestRoom(i int) string { return fmt.Sprintf("chat.room%d", i) }

func newHonest(b *testing.B, s *system, token func(user string) string) *honest {
	b.Helper()
	transport := &http.Transport{DialContext: (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}}).DialContext}
	b.Cleanup(transport.CloseIdleConnections)
	h := &honest{}
	pace := time.NewTicker(honestPace)
	defer pace.Stop()
	for i := range honestPeople {
		<-pace.C
		ctx, cancel := context.WithTimeout(b.Context(), patience)
		c, err := carillon.Dial(ctx, carillon.Options{
			URL: "ws://" + s.edges[0] + "/v1/ws", Token: token(fmt.Sprint("honest", i)), Name: "honest", HTTPClient: &http.Client{Transport: transport},
			Subscriptions: []string{honestRoom(i / honestPerRoom)}, PushBuffer: 1024,
		})
		cancel()
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = c.Close() }) // the server may be gone
		h.people = append(h.people, c)
	}
	conn, err := rpc.Dial(s.publishers, nil)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = conn.Close() })
	h.api = publishv1.NewPublishServiceClient(conn)
	h.ctx = metadata.AppendToOutgoingContext(b.Context(), "authorization", "Bearer "+s.token(b, "service", s.caller))
	return h
}

// measure publishes for a while, and waits until everything has come. How long a
// message took counts from when it was due, however late it was sent: a server that is
// slow, and thereby slows its load, hides nothing.
func (h *honest) measure(d time.Duration) measure {
	first, count := h.next, int(d/honestEvery)
	h.next += count
	began := time.Now()
	due := func(n int) time.Time { return began.Add(time.Duration(n-first) * honestEvery) }
	var working sync.WaitGroup
	var mu sync.Mutex
	var total measure
	const rooms = honestPeople / honestPerRoom
	for i, c := range h.people {
		wanted := map[int]bool{}
		for n := first; n < first+count; n++ {
			if n%rooms == i/honestPerRoom {
				wanted[n] = true
			}
		}
		working.Go(func() {
			took, lost := receive(c, wanted, due, began.Add(d+honestGrace))
			mu.Lock()
			defer mu.Unlock()
			total.took = append(total.took, took...)
			total.lost += lost // a publish that failed is lost too
		})
	}
	var publishing sync.WaitGroup
	for n := first; n < first+count; n++ {
		if wait := time.Until(due(n)); wait > 0 {
			<-time.After(wait)
		}
		total.late = append(total.late, time.Since(due(n)))
		publishing.Go(func() {
			ctx, cancel := context.WithTimeout(h.ctx, patience)
			defer cancel()
			if _, err := h.api.Publish(ctx, &publishv1.PublishRequest{
				Target:  &publishv1.PublishRequest_Channel{Channel: honestRoom(n % rooms)},
				Payload: &publishv1.PublishRequest_Json{Json: fmt.Sprintf(`{"n":%d,"text":"the quick brown fox jumps over the lazy dog"}`, n)},
			}); err != nil {
				mu.Lock()
				defer mu.Unlock()
				total.failed++
			}
		})
	}
	publishing.Wait()
	working.Wait()
	slices.Sort(total.took)
	slices.Sort(total.late)
	return total
}

// receive takes the numbers that are wanted, and counts those that do not come. They
// were published at once, so any order is good.
func receive(c *carillon.Client, wanted map[int]bool, due func(int) time.Time, until time.Time) (took []time.Duration, lost int) {
	deadline := time.NewTimer(time.Until(until))
	defer deadline.Stop()
	for len(wanted) > 0 {
		select {
		case f, open := <-c.Pushes():
			if !open {
				return took, len(wanted)
			}
			var data struct{ N int }
			if f.GetMessage() == nil || json.Unmarshal([]byte(f.GetMessage().GetJson()), &data) != nil {
				continue
			}
			if wanted[data.N] { // else it is of an earlier measure, where it counted as lost
				took = append(took, time.Since(due(data.N)))
				delete(wanted, data.N)
			}
		case <-deadline.C:
			return took, len(wanted)
		}
	}
	return took, 0
}
