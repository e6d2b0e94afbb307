package stream

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/message"
)

const (
	// many is more than one question of a range read brings.
	many = batchMessages + 250
	// manyChannels is how many channels they are of, in turns.
	manyChannels = 50
)

func manyOf(i int) channel.Name { return channel.Name(fmt.Sprint("chat.", i%manyChannels)) }

// fillPartition fills the only partition of a store.
func fillPartition(t testing.TB, s *Store) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	pipeline := s.Pipeline()
	failed := make(chan error, many)
	for i := range many {
		p := text(manyOf(i), fmt.Sprint(i))
		switch i % 500 {
		case 100:
			p.Payload.Data = fmt.Appendf(nil, "%q", strings.Repeat("x", 200<<10))
		case 200:
			p.Headers, p.TTL, p.ID = map[string]string{"Status": "404", "x": "y"}, time.Hour, fmt.Sprint(i)
		}
		if err := pipeline.Publish(ctx, p, func(_ message.Receipt, err error) { failed <- err }); err != nil {
			t.Fatal(err)
		}
	}
	pipeline.Close()
	for range many {
		if err := <-failed; err != nil {
			t.Fatal(err)
		}
	}
}

// readPartition reads all that fillPartition has published, of all channels at once, and tells
// whether a range brought it. It is what single fetches bring.
func readPartition(t *testing.T, s *Store) (ranged bool) {
	t.Helper()
	before := s.ReadStats()
	questions := make([]wants, manyChannels)
	for i := range questions {
		questions[i] = wants{manyOf(i), 0, MaxPage}
	}
	pages := together(t, s, questions)
	stats := s.ReadStats()
	q := partitionNamed(t, s, manyOf(0)).reads
	q.mu.Lock()
	q.keep(nil)
	q.mu.Unlock()
	for i, page := range pages {
		single, err := s.Read(t.Context(), manyOf(i), 0, MaxPage)
		if err != nil {
			t.Fatal(err)
		}
		if page.Pending == 0 && len(page.Messages) != many/manyChannels || !reflect.DeepEqual(page, single) {
			t.Errorf("%s: %d messages up to %d, %d pending; alone %d, %d, %d", manyOf(i),
				len(page.Messages), page.Reached, page.Pending, len(single.Messages), single.Reached, single.Pending)
		}
	}
	return stats.Ranged-before.Ranged == manyChannels
}

// onlooker hears what is asked of a server.
func onlooker(t *testing.T, url, subject string) (nc *nats.Conn, heard chan *nats.Msg) {
	t.Helper()
	nc, err := nats.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	heard = make(chan *nats.Msg, 1024)
	if _, err := nc.ChanSubscribe(subject, heard); err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	return nc, heard
}

func TestALongRangeComesThroughAConsumer(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(*testing.T) (*Store, string){
		"one server": func(t *testing.T) (*Store, string) {
			x := newExternal(t)
			x.start()
			return readyStore(t, Options{URL: x.url(), Namespaces: testNamespaces(one)}), x.url()
		},
		"three replicas": func(t *testing.T) (*Store, string) {
			c := startCluster(t)
			return readyStore(t, Options{URL: c.url(), Namespaces: replicated()}), c.url()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, url := start(t)
			fillPartition(t, s)
			nc, heard := onlooker(t, url, "$JS.API.CONSUMER.>")
			_, gets := onlooker(t, url, "$JS.API.DIRECT.GET.>")
			if !readPartition(t, s) {
				t.Error("no range was worth it")
			}
			for range len(gets) {
				if m := <-gets; !strings.Contains(string(m.Data), "by_subj") && !strings.Contains(string(m.Data), "multi_last") {
					t.Errorf("%s: %s", m.Subject, m.Data)
				}
			}
			for questions := 1; ; questions++ {
				select {
				case m := <-heard:
					if !strings.HasPrefix(m.Subject, "$JS.API.CONSUMER.DELETE.CARILLON_chat_0.") {
						continue
					}
				case <-time.After(patience):
					t.Error("the consumer was not deleted")
				}
				if questions < 2+many/batchMessages {
					t.Errorf("%d questions about consumers", questions)
				}
				break
			}
			eventually(t, "no consumer is left", func() bool {
				reply, err := nc.Request("$JS.API.STREAM.INFO.CARILLON_chat_0", nil, patience)
				return err == nil && strings.Contains(string(reply.Data), `"consumer_count":0`)
			})
		})
	}
}

// A consumer that ends halfway, or cannot be made, costs nobody anything but time.
func TestARangeGoesOnWithoutAConsumer(t *testing.T) {
	t.Parallel()
	x := newExternal(t)
	x.start()
	s := readyStore(t, Options{URL: x.url(), Namespaces: testNamespaces(one)})
	fillPartition(t, s)
	nc, asked := onlooker(t, x.url(), "$JS.API.CONSUMER.MSG.NEXT.>")
	deleted := make(chan error, 1)
	go func() {
		m := <-asked
		_, err := nc.Request(strings.Replace(m.Subject, "MSG.NEXT", "DELETE", 1), nil, patience)
		deleted <- err
	}()
	if !readPartition(t, s) {
		t.Error("no range was worth it")
	}
	if err := <-deleted; err != nil {
		t.Error(err)
	}
}

func TestARangeGoesOnWhereConsumersAreRefused(t *testing.T) {
	g := startGuarded(t, `"$JS.API.CONSUMER.CREATE.*", "$JS.API.CONSUMER.MSG.NEXT.*.*", "$JS.API.CONSUMER.DELETE.*.*"`)
	fillPartition(t, readyStore(t, g.as("publish", nil, one)))
	at := readyStore(t, g.as("edge", newRecorder(), one))
	for range 2 {
		if !readPartition(t, at) {
			t.Error("no range was worth it")
		}
	}
	if refused := g.log.violations(); len(refused) != 1 { // and for a while it is not tried again
		t.Errorf("refused:\n%s", strings.Join(refused, "\n"))
	}
}

// consumption makes consumers of the only partition of a store.
type consumption struct {
	s       *Store
	stream  string
	reached uint64 // by the last that next brought
}

func (c *consumption) consume(t *testing.T, after message.Offset) *consumer {
	t.Helper()
	made, err := c.s.direct.consume(t.Context(), c.stream, after)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(made.close)
	return made
}

func (c *consumption) next(t *testing.T, of *consumer, count int) (int, error) {
	t.Helper()
	return of.next(t.Context(), count, func(_ *nats.Msg, place *nats.MsgMetadata) error {
		c.reached = place.Sequence.Stream
		return nil
	})
}

func (c *consumption) wantNext(t *testing.T, of *consumer, count, want int) {
	t.Helper()
	if n, err := c.next(t, of, count); n != want || err != nil {
		t.Errorf("%d up to %d, %v, want %d", n, c.reached, err, want)
	}
}

// What is told of a partition depends on what was done to it before: in this order.
func TestConsumer(t *testing.T) {
	t.Parallel()
	s := readyStore(t, Options{Embedded: startEmbedded(t), Namespaces: testNamespaces(one)})
	fillPartition(t, s)
	c := &consumption{s: s, stream: partitionNamed(t, s, manyOf(0)).stream}
	t.Run("a purge takes what is its own, and leaves the rest", c.purged)
	t.Run("the end is told at once, and so is what comes later", c.ended)
	t.Run("what is too much at once comes the next time", c.tooMuch)
	t.Run("nothing is left out unnoticed", c.leftOut)
}

func (c *consumption) purged(t *testing.T) {
	of := c.consume(t, 10)
	if c.wantNext(t, of, 10, 10); c.reached != 20 {
		t.Errorf("up to %d", c.reached)
	}
	if _, err := c.s.Purge(t.Context(), manyOf(30)); err != nil { // the 31st, and each 50th after it
		t.Fatal(err)
	}
	if c.wantNext(t, of, 60, 60); c.reached != 82 {
		t.Errorf("up to %d", c.reached)
	}
}

func (c *consumption) ended(t *testing.T) {
	of := c.consume(t, many)
	c.wantNext(t, of, 10, 1) // the mark of the purge
	c.wantNext(t, of, 10, 0)
	publish(t, c.s, text(manyOf(0), "1"))
	eventually(t, "what came later", func() bool {
		n, err := c.next(t, of, 10)
		return n == 1 && err == nil
	})
}

// Also where it is just not too much.
func (c *consumption) tooMuch(t *testing.T) {
	large := func(bytes int) message.Offset {
		return publish(t, c.s, text(manyOf(0), strconv.Quote(strings.Repeat("x", bytes)))).Offset
	}
	const half = batchBytes/2 - 200 // with all that is beside it
	of := c.consume(t, large(half)-1)
	size := 0
	if _, err := of.next(t.Context(), 1, func(m *nats.Msg, _ *nats.MsgMetadata) error { size = m.Size(); return nil }); err != nil {
		t.Fatal(err)
	}
	of = c.consume(t, large(half+batchBytes/2-size)-1)
	large(half + batchBytes/2 - size)
	large(half)
	began := time.Now()
	c.wantNext(t, of, 10, 2)
	c.wantNext(t, of, 10, 1)
	if took := time.Since(began); took >= requestTimeout {
		t.Errorf("that took %v", took)
	}
}

func (c *consumption) leftOut(t *testing.T) {
	of := c.consume(t, 0)
	of.taken--
	if n, err := c.next(t, of, 10); n != 0 || err == nil {
		t.Error(n, err)
	}
	of = c.consume(t, 0)
	of.reached = 1
	if n, err := c.next(t, of, 10); n != 0 || err == nil {
		t.Error(n, err)
	}
	of = c.consume(t, 0)
	if err := of.sub.Unsubscribe(); err != nil {
		t.Fatal(err)
	}
	c.s.direct.lost()
	if n, err := c.next(t, of, 10); n != 0 || !errors.Is(err, nats.ErrDisconnected) {
		t.Error(n, err)
	}
}
