package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/metadata"

	carillon "github.com/carillon-rt/carillon/clients/go"
	publishv1 "github.com/carillon-rt/carillon/gen/carillon/publish/v1"
	"github.com/carillon-rt/carillon/services/internal/rpc"
)

const (
	rooms    = 4
	perRoom  = 250
	watchers = 12 // spread over the rooms
)

func room(i int) string { return fmt.Sprintf("chat.room%d", i%rooms) }

// fleet is the edges that are there at the moment.
type fleet struct {
	mu    sync.Mutex
	edges []string
	turn  int
}

func (f *fleet) set(edges ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.edges = edges
}

// any is what a load balancer would choose.
func (f *fleet) any() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.turn++
	return f.edges[f.turn%len(f.edges)]
}

// watcher follows a room over any number of connections, as a client that keeps its
// position does.
type watcher struct {
	s       *system
	fleet   *fleet
	user    string
	channel string
	seen    atomic.Int64 // messages
	resumes atomic.Int64
}

// follow reads until it has every message of its room, and fails at one that is not
// the next.
func (w *watcher) follow(ctx context.Context) error {
	epoch, offset, began := "", uint64(0), false
	for w.seen.Load() < perRoom {
		c, err := carillon.Dial(ctx, carillon.Options{URL: "ws://" + w.fleet.any() + "/v1/ws", Token: w.token(), Name: "watcher"})
		if err != nil {
			if ctx.Err() != nil {
				return fmt.Errorf("%s has seen %d: %w", w.user, w.seen.Load(), ctx.Err())
			}
			continue // the edge has gone; another is chosen
		}
		err = w.read(ctx, c, &epoch, &offset, &began)
		_ = c.Close() // what matters is in err
		if err != nil {
			return fmt.Errorf("%s: %w", w.user, err)
		}
	}
	return nil
}

func (w *watcher) token() string {
	made, _ := w.s.tokens.Load("user" + w.user)
	text, _ := made.(string)
	return text
}

// read follows over one connection; its error is a broken promise, not a broken
// connection.
func (w *watcher) read(ctx context.Context, c *carillon.Client, epoch *string, offset *uint64, began *bool) error {
	if !*began {
		subscribed, err := c.Subscribe(ctx, w.channel)
		if err != nil {
			return nil //nolint:nilerr // the connection broke: the next one is tried
		}
		*epoch, *offset, *began = subscribed.GetEpoch(), subscribed.GetOffset(), true
	} else {
		subscribed, err := c.Resume(ctx, w.channel, *epoch, *offset)
		if err != nil {
			return nil //nolint:nilerr // as above
		}
		w.resumes.Add(1)
		if !subscribed.GetRecovered() {
			return fmt.Errorf("not recovered from %d", *offset)
		}
	}
	for w.seen.Load() < perRoom {
		push, open := <-c.Pushes()
		if !open {
			return nil
		}
		if gap := push.GetGap(); gap != nil {
			return fmt.Errorf("a gap: %v", gap)
		}
		m := push.GetMessage()
		if m.GetChannel() != w.channel {
			continue
		}
		if m.GetOffset() <= *offset || m.GetJson() != strconv.Itoa(int(w.seen.Load())) {
			return fmt.Errorf("message %s at %d came after %d messages, the last at %d", m.GetJson(), m.GetOffset(), w.seen.Load(), *offset)
		}
		*offset = m.GetOffset()
		w.seen.Add(1)
	}
	return nil
}

// An edge is killed and another stopped while backends publish: those who followed
// there resume elsewhere and have every message once, in order.
func TestEdgesComeAndGo(t *testing.T) {
	t.Parallel()
	address := reserve(t)
	startNATS(t, t.TempDir(), address)
	cl := newCluster(t, address)
	presence, publisher := cl.start(t, "presence").ready(t), cl.start(t, "publish").ready(t)
	told := presences(presence.address(t, "presence"))
	edge := func() *process { return cl.start(t, "edge", told, "--edge.drain-window=500ms").ready(t) }
	first, second := edge(), edge()
	s := cl.system(t, presence, publisher, first, second)
	fleet := &fleet{edges: s.edges}

	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	var all []*watcher
	var watching sync.WaitGroup
	failures := make(chan error, watchers)
	for i := range watchers {
		w := &watcher{s: s, fleet: fleet, user: fmt.Sprint("watcher", i), channel: room(i)}
		s.token(t, "user", w.user)
		all = append(all, w)
		watching.Go(func() { failures <- w.follow(ctx) })
	}
	for i := range rooms { // everybody listens before the first message
		var users []string
		for _, w := range all {
			if w.channel == room(i) {
				users = append(users, w.user)
			}
		}
		slices.Sort(users)
		s.members(t, room(i), users...)
	}

	published := make(chan error, 1)
	progress := make(chan int, rooms*perRoom)
	go func() { published <- s.publishRooms(ctx, s.token(t, "service", s.caller), progress) }()
	for n := range progress {
		switch n {
		case perRoom / 5:
			fleet.set(s.edges[1])
			first.kill(t)
		case 2 * perRoom / 5:
			third := edge()
			fleet.set(s.edges[1], third.address(t, "edge"))
			s.edges = append(s.edges, third.address(t, "edge"))
		case 3 * perRoom / 5:
			fleet.set(s.edges[2])
			second.signal(t, os.Signal(syscall.SIGTERM))
		}
	}
	if err := <-published; err != nil {
		t.Fatal(err)
	}
	watching.Wait()
	close(failures)
	for err := range failures {
		if err != nil {
			t.Error(err)
		}
	}
	if status := second.status(t); status != 0 {
		t.Errorf("the edge that was stopped: exit %d", status)
	}
	resumes := int64(0)
	for _, w := range all {
		resumes += w.resumes.Load()
	}
	if resumes < watchers { // each lost its edge at least once
		t.Errorf("%d resumes", resumes)
	}
}

// publishRooms sends perRoom numbers to every room, and says how many each has had.
func (s *system) publishRooms(ctx context.Context, token string, progress chan<- int) error {
	defer close(progress)
	conn, err := rpc.Dial(s.publishers, nil)
	if err != nil {
		return err
	}
	defer conn.Close()
	api := publishv1.NewPublishServiceClient(conn)
	ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
	pace := time.NewTicker(4 * time.Millisecond) // so that the edges come and go meanwhile
	defer pace.Stop()
	for i := range perRoom {
		var errs [rooms]error
		var sending sync.WaitGroup
		for r := range rooms {
			sending.Go(func() {
				_, errs[r] = api.Publish(ctx, &publishv1.PublishRequest{
					Target:  &publishv1.PublishRequest_Channel{Channel: room(r)},
					Payload: &publishv1.PublishRequest_Json{Json: strconv.Itoa(i)}, MessageId: strconv.Itoa(i),
				})
			})
		}
		sending.Wait()
		if err := errors.Join(errs[:]...); err != nil {
			return err
		}
		progress <- i + 1
		<-pace.C
	}
	return nil
}
