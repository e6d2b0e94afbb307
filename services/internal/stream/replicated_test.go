package stream

import (
	"context"
	"crypto/rand"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/carillon-rt/carillon/services/internal/message"
)

// writers publish with ids to one channel until they are stopped. Each tries again with
// the same id where the outcome is unknown, as PROTOCOL asks of clients.
type writers struct {
	t     *testing.T
	stop  chan struct{}
	ended sync.Once
	wg    sync.WaitGroup

	mu       sync.Mutex
	receipts map[string]message.Receipt // by id, acknowledged
	retried  int                        // Publish calls that ended unknown
	total    atomic.Int64
}

func startWriters(t *testing.T, s *Store, count int) *writers {
	w := &writers{t: t, stop: make(chan struct{}), receipts: map[string]message.Receipt{}}
	for i := range count {
		w.wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-w.stop:
					return
				default:
				}
				w.publish(s, fmt.Sprintf("%d-%d", i, n))
			}
		})
	}
	t.Cleanup(w.end)
	return w
}

func (w *writers) publish(s *Store, id string) {
	p := text("chat.lobby", `"`+id+`"`)
	p.ID = id
	var receipt message.Receipt
	deadline := time.Now().Add(90 * time.Second)
	for {
		var err error
		if receipt, err = s.Publish(context.Background(), p); err == nil {
			break
		}
		w.mu.Lock()
		w.retried++
		w.mu.Unlock()
		if time.Now().After(deadline) {
			w.t.Errorf("%s: %v", id, err)
			return
		}
	}
	w.mu.Lock()
	w.receipts[id] = receipt
	w.mu.Unlock()
	w.total.Add(1)
}

// insist publishes until it is acknowledged, however long an election takes.
func insist(t *testing.T, s *Store, p message.Publication) message.Receipt {
	t.Helper()
	p.ID = rand.Text() // so that it is stored once, however often it is tried
	for deadline := time.Now().Add(3 * patience); ; {
		receipt, err := s.Publish(t.Context(), p)
		if err == nil {
			return receipt
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// end may be called again.
func (w *writers) end() {
	w.ended.Do(func() { close(w.stop) })
	w.wg.Wait()
}

// more waits until 200 more messages are acknowledged, for as long as the cluster
// takes to elect a leader: each round of that is 9 s, and a node that is behind can
// spoil some.
func (w *writers) more() {
	w.t.Helper()
	deadline := time.After(3 * patience)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for target := w.total.Load() + 200; w.total.Load() < target; {
		select {
		case <-tick.C:
		case <-deadline:
			w.t.Fatalf("no leader within %v", 3*patience)
		}
	}
}

// readAll returns the ids of a channel with their offsets, in order.
func readAll(t *testing.T, s *Store) (ids []string, offsets []message.Offset) {
	t.Helper()
	after := message.Offset(0)
	for {
		page, err := s.Read(t.Context(), "chat.lobby", after, MaxPage)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range page.Messages {
			ids, offsets = append(ids, m.ID), append(offsets, m.Offset)
		}
		if page.Reached == after {
			return ids, offsets
		}
		after = page.Reached
	}
}

// exactlyOnce checks what is stored, and what was received, against the receipts.
func (w *writers) exactlyOnce(s *Store, epoch message.Epoch) {
	t := w.t
	t.Helper()
	ids, offsets := readAll(t, s)
	at := map[string]message.Offset{}
	for i, id := range ids {
		if was, ok := at[id]; ok {
			t.Errorf("%s is stored twice: at %d and %d", id, was, offsets[i])
		}
		at[id] = offsets[i]
	}
	for id, receipt := range w.receipts {
		if want := (message.Position{Epoch: epoch, Offset: at[id]}); receipt.Position != want {
			t.Errorf("%s was acknowledged at %+v, and is stored at %+v", id, receipt.Position, want)
		}
	}
	if len(ids) != len(w.receipts) {
		t.Errorf("%d stored, %d acknowledged: all were published until they were", len(ids), len(w.receipts))
	}
}

// The leader gives way, and the next one vanishes: nothing acknowledged is lost, nothing is
// stored twice, the epoch stays, and what the receiver did not get is in the history.
func TestInvariantPublishRetriesAcrossLeaderChanges(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	r := newRecorder()
	s := readyStore(t, Options{URL: c.url(), Namespaces: replicated(), Receiver: r})
	start := listen(t, s, "chat.lobby")
	w := startWriters(t, s, 8)
	w.more()

	c.stepDown(onlyStream)
	w.more()

	missed := r.missedTimes()
	leader := c.leaderOf(onlyStream)
	leader.vanish()
	c.leaderOf(onlyStream, leader)
	w.more()
	leader.comeBack()
	c.whole(onlyStream)
	eventually(t, "Missed at 0, 1 and 10 s after the election", func() bool { return r.missedTimes() >= missed+3 })
	w.more()
	w.end()
	w.exactlyOnce(s, start.Epoch)
	t.Logf("%d messages, %d publishes ended unknown, %d received live", len(w.receipts), w.retried, len(r.of("chat.lobby")))

	bounds, err := s.Bounds(t.Context(), "chat.lobby")
	if err != nil || len(bounds.Epochs) != 1 {
		t.Errorf("bounds %+v, %v", bounds, err)
	}
	previous := message.Offset(0)
	for _, m := range r.of("chat.lobby") {
		if receipt, ok := w.receipts[m.ID]; !ok || receipt.Offset != m.Offset {
			t.Errorf("received %s at %d, acknowledged at %d", m.ID, m.Offset, receipt.Offset)
		}
		previous = max(previous, m.Offset)
	}
	if previous > bounds.Last {
		t.Errorf("received %d beyond the head %d", previous, bounds.Last)
	}
}

// A store whose server is cut off from the others leaves it, and the bounds that it
// tells meanwhile are never behind what others were told.
func TestInvariantHeadAcrossACutRoute(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	publish(t, readyStore(t, Options{URL: c.url(), Namespaces: replicated()}), text("chat.lobby", "1"))
	alone := c.leaderOf(onlyStream)
	others := []*node{c.nodes[(alone.index+1)%clusterNodes], c.nodes[(alone.index+2)%clusterNodes]}
	for _, n := range others {
		n.clients.setCut(true)
	}
	stuck := readyStore(t, Options{URL: c.url(), Namespaces: replicated(), Receiver: newRecorder(), keepEvery: 250 * time.Millisecond})
	eventually(t, "all connections", func() bool { return stuck.subscriber.nc.IsConnected() && stuck.reader.nc.IsConnected() })
	for _, n := range others {
		n.clients.setCut(false)
	}
	outside := readyStore(t, Options{URL: others[0].url(), Namespaces: replicated()})

	alone.isolate(true)
	c.leaderOf(onlyStream, alone)
	last := insist(t, outside, text("chat.lobby", "2"))
	t.Logf("two leaders: %v", alone.server.JetStreamIsStreamLeader(server.DEFAULT_GLOBAL_ACCOUNT, onlyStream))
	eventually(t, "bounds", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		bounds, err := stuck.Bounds(ctx, "chat.lobby")
		if err == nil && bounds.Last < last.Offset {
			t.Fatalf("the head is %d, others were told %d", bounds.Last, last.Offset)
		}
		return err == nil
	})
	if after := insist(t, stuck, text("chat.lobby", "3")); after.Epoch != last.Epoch || after.Offset <= last.Offset {
		t.Errorf("%+v after %+v", after, last)
	}
	for _, connection := range []*connection{stuck.publisher, stuck.subscriber, stuck.reader} {
		eventually(t, "all connections have left", func() bool {
			return connection.nc.IsConnected() && connection.nc.ConnectedServerName() != alone.options.ServerName
		})
	}
}

// All nodes are stopped, and their directories are put back as they were before: an
// epoch begins. Without that, the same stop is none.
func TestInvariantEpochsOfARestoredCluster(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	s := readyStore(t, Options{URL: c.url(), Namespaces: replicated(), Receiver: newRecorder()})
	first := publishMany(t, s, 5)
	c.whole(onlyStream)
	c.stop()
	var backups [clusterNodes]string
	for i, n := range c.nodes {
		backups[i] = copyDir(t, n.options.StoreDir)
	}
	c.start()
	c.leaderOf(onlyStream)
	insist(t, s, text("chat.lobby", "1"))
	before := publishMany(t, s, 5)
	if before.Epoch != first.Epoch || before.Offset <= first.Offset {
		t.Fatalf("%+v after %+v and a restart", before, first)
	}
	c.stop()
	for i, n := range c.nodes {
		n.options.StoreDir = backups[i]
	}
	c.start()
	c.leaderOf(onlyStream)
	eventually(t, "a head", func() bool {
		bounds, err := s.Bounds(t.Context(), "chat.lobby")
		if err != nil {
			return false // the new leader and its store find each other
		}
		if bounds.Last != first.Offset {
			t.Fatalf("bounds %+v after the copy ended at %d", bounds, first.Offset)
		}
		invalid(t, bounds, before.Position)
		return true
	})
	if after := insist(t, s, text("chat.lobby", "1")); after.Epoch == before.Epoch || after.Offset != first.Offset+1 {
		t.Errorf("%+v after %+v", after, before)
	}
}
