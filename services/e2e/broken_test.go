package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
	"go.opentelemetry.io/otel/metric/noop"
	"google.golang.org/protobuf/proto"

	carillon "github.com/carillon-rt/carillon/clients/go"
	clientv1 "github.com/carillon-rt/carillon/gen/carillon/client/v1"
	"github.com/carillon-rt/carillon/services/chaos/checker"
	"github.com/carillon-rt/carillon/services/edge"
	"github.com/carillon-rt/carillon/services/edge/authorization"
	"github.com/carillon-rt/carillon/services/edge/roster"
	"github.com/carillon-rt/carillon/services/internal/auth"
	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/message"
	"github.com/carillon-rt/carillon/services/internal/namespace"
	"github.com/carillon-rt/carillon/services/internal/stream"
)

// The checker of the chaos test finds what goes wrong where a part of the delivery is
// taken out, and finds nothing where it is there.
func TestCheckerFinds(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		story func(t *testing.T, r *rig, broken bool)
		wants []checker.Kind // one of them
	}{
		{"no head check", lastIsLost, []checker.Kind{checker.Lost}},
		{"no de-duplication", publishedTwice, []checker.Kind{checker.Doubled}},
		{"no hold before replay", liveDuringReplay, []checker.Kind{checker.Reordered}},
		{"same epoch after a restore", restored, []checker.Kind{checker.Lost, checker.SilentGap}},
	} {
		for _, broken := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/%v", tt.name, broken), func(t *testing.T) {
				t.Parallel()
				r := newRig(t)
				tt.story(t, r, broken)
				report := r.finish(t)
				if !broken && !report.OK() {
					t.Errorf("found in a system that is whole:\n%v", report)
				}
				found := false
				for _, kind := range tt.wants {
					found = found || report.Violations[kind] > 0
				}
				if broken && !found {
					t.Errorf("%v was not found:\n%v", tt.wants, report)
				}
			})
		}
	}
}

// lastIsLost loses a message that nothing follows: only a head check can find it.
func lastIsLost(t *testing.T, r *rig, broken bool) {
	r.blind.Store(broken)
	r.start(t)
	r.follow(t)
	for i := range 3 {
		r.publish(t, i)
	}
	r.reached(t)
	r.lose.Store(true)
	r.publish(t, 3)
	if broken {
		asked := r.asked.Load()
		eventually(t, "two head checks", func() error {
			if r.asked.Load() < asked+2 {
				return errors.New("not yet")
			}
			return nil
		})
		return
	}
	r.reached(t)
}

// publishedTwice is a retry whose first attempt had been stored.
func publishedTwice(t *testing.T, r *rig, broken bool) {
	r.forgetful = broken
	r.start(t)
	r.follow(t)
	r.publish(t, 0)
	r.publish(t, 0)
	r.reached(t)
}

// liveDuringReplay publishes while a client that missed something gets it.
func liveDuringReplay(t *testing.T, r *rig, broken bool) {
	r.start(t)
	r.follow(t)
	r.publish(t, 0)
	r.reached(t)
	r.front.cut()
	r.publish(t, 1)
	r.publish(t, 2)
	if broken {
		r.front.liveFirst.Store(new("3"))
	}
	r.front.mend()
	eventually(t, "a second connection", func() error {
		if r.front.connections.Load() < 2 {
			return errors.New("not yet")
		}
		return nil
	})
	r.publish(t, 3)
	r.reached(t)
}

// restored puts an older copy in place of the streams, which then grow beyond where
// the client was.
func restored(t *testing.T, r *rig, broken bool) {
	r.start(t)
	r.follow(t)
	for i := range 3 {
		r.publish(t, i)
	}
	r.reached(t)
	r.stop(t)
	older := filepath.Join(t.TempDir(), "older")
	if err := os.CopyFS(older, os.DirFS(r.dir)); err != nil {
		t.Fatal(err)
	}
	epoch := r.epoch(t)
	r.start(t)
	for i := 3; i < 6; i++ {
		r.publish(t, i)
	}
	r.front.mend()
	r.reached(t)
	r.stop(t)
	r.dir = older
	if broken {
		r.always.Store(&epoch)
	}
	r.start(t)
	for i := 6; i < 12; i++ {
		r.publish(t, i)
	}
	r.front.mend()
	r.reached(t)
}

// rig is an edge and a store in this process, of which parts can be taken out, a
// client that follows a channel through a relay, and a checker.
type rig struct {
	dir   string
	check *checker.Checker
	front *relay

	embedded *stream.Embedded
	store    *stream.Store
	broker   edge.Broker
	stopEdge func() error
	last     carillon.Position // of what was published
	session  *carillon.Session
	unfollow func() // may be called again

	blind     atomic.Bool                   // heads are not told
	asked     atomic.Int64                  // for heads
	lose      atomic.Bool                   // what is republished is lost, once
	forgetful bool                          // ids are not remembered
	always    atomic.Pointer[message.Epoch] // the epoch does not change
	issuers   int
}

const rigChannel = "chat.rig"

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{dir: t.TempDir(), check: checker.New(), front: newRelay()}
	server := httptest.NewServer(r.front)
	r.front.url = "ws" + strings.TrimPrefix(server.URL, "http")
	t.Cleanup(func() {
		r.front.cut()
		r.stop(t)
		server.Close()
	})
	return r
}

func rigNamespaces() namespace.Set {
	history := &namespace.History{MaxMessages: 100, MaxAge: time.Hour, MaxBytes: 16 << 20}
	return namespace.NewSet([]namespace.Namespace{
		{Name: "chat", History: history, Partitions: 1, Replicas: 1, SlowConsumer: namespace.SlowDisconnect},
	})
}

// start starts the store and the edge on the rig's directory.
func (r *rig) start(t *testing.T) {
	t.Helper()
	logger := slog.New(slog.NewTextHandler(t.Output(), nil))
	var err error
	if r.embedded, err = stream.StartEmbedded(stream.EmbeddedOptions{Dir: r.dir, Logger: logger}); err != nil {
		t.Fatal(err)
	}
	issuer := auth.Issuer{Name: "main", For: auth.ForClients, Algorithms: []string{"HS256"}, Secret: auth.Secret{Env: "E2E_CLIENTS_SECRET"}}
	verifier, err := auth.NewVerifier(auth.ForClients, []auth.Issuer{issuer}, func(auth.Secret) ([]byte, error) { return []byte(strings.Repeat("c", 32)), nil })
	if err != nil {
		t.Fatal(err)
	}
	e, err := edge.New(edge.Options{
		OpenBroker: func(receiver edge.Receiver) (edge.Broker, error) {
			store, err := stream.Open(t.Context(), stream.Options{
				Embedded: r.embedded, Namespaces: rigNamespaces(), Receiver: brokenReceiver{receiver, r}, Logger: logger,
			})
			r.store, r.broker = store, brokenBroker{store, r}
			return r.broker, err
		},
		Verifier: verifier, Authorizer: anybody{}, Roster: nobody{}, Namespaces: rigNamespaces(),
		Limits: edge.Limits{
			MaxFrameBytes: 64 << 10, MaxSubscriptions: 8, MaxQueueBytes: 1 << 20, MaxInflight: 8, MaxConnections: 100,
			Rate: namespace.Rate{Messages: 10_000, Per: time.Second}, ConnectTimeout: time.Minute, PingInterval: time.Minute, PongTimeout: time.Minute,
		},
		DrainWindow: time.Millisecond, Logger: logger, Meter: noop.Meter{},
	})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the store", r.store.Ready)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- e.Serve(ctx, listener) }()
	r.stopEdge = func() error {
		cancel()
		return <-served
	}
	r.front.backend.Store(new("ws://" + listener.Addr().String() + "/v1/ws"))
}

// stop stops what start started; the client may not come back before mend.
func (r *rig) stop(t *testing.T) {
	t.Helper()
	if r.stopEdge == nil {
		return
	}
	r.front.cut()
	if err := errors.Join(r.stopEdge(), r.store.Close(), r.embedded.Close()); err != nil {
		t.Error(err)
	}
	r.stopEdge = nil
}

// follow has a client follow the channel, and waits until it does.
func (r *rig) follow(t *testing.T) {
	t.Helper()
	subscriber := r.check.Subscriber("follower", rigChannel)
	began := make(chan struct{})
	var once sync.Once
	token, err := stormToken(0)
	if err != nil {
		t.Fatal(err)
	}
	r.session, err = carillon.NewSession(carillon.SessionOptions{
		URLs: []string{r.front.url}, Channels: []string{rigChannel},
		Token: func(context.Context) (string, error) { return token, nil },
	}, func(event carillon.Event) {
		switch e := event.(type) {
		case carillon.Subscribed:
			if e.Recovered {
				subscriber.Resumed(e.Position.Epoch, e.Position.Offset)
				return
			}
			subscriber.Start(e.Position.Epoch, e.Position.Offset)
			once.Do(func() { close(began) })
		case carillon.Reset:
			subscriber.Reset(e.Position.Epoch, e.Position.Offset)
		case carillon.Message:
			subscriber.Message(e.Epoch, e.GetOffset(), e.GetPublisher(), e.GetMessageId(), contentOf([]byte(e.GetJson())))
		case carillon.Gap:
			subscriber.Gap(e.Epoch, e.From, e.To, strings.TrimPrefix(e.Reason.String(), "ERROR_REASON_"))
		case carillon.Moved:
			subscriber.Moved(e.Position.Epoch, e.Position.Offset)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = r.session.Run(ctx) // ctx ends it
	}()
	r.unfollow = sync.OnceFunc(func() {
		cancel()
		<-done
	})
	t.Cleanup(r.unfollow)
	select {
	case <-began:
	case <-time.After(patience):
		t.Fatal("the channel was not subscribed")
	}
}

var contentSeed = maphash.MakeSeed()

func contentOf(json []byte) uint64 { return maphash.Bytes(contentSeed, json) }

// publish publishes the number i, whose id it is.
func (r *rig) publish(t *testing.T, i int) {
	t.Helper()
	json := []byte(strconv.Itoa(i))
	attempt := r.check.Attempt(checker.Publication{Channel: rigChannel, Publisher: "service:rig", ID: string(json), Content: contentOf(json)})
	receipt, err := r.broker.Publish(t.Context(), message.Publication{
		Channel: rigChannel, ID: string(json), Payload: message.Payload{Data: json},
		Publisher: message.Publisher{Issuer: "rig", Name: "service:rig"},
	})
	if err != nil {
		t.Fatal(err)
	}
	attempt.Acked(string(receipt.Epoch), uint64(receipt.Offset), receipt.Duplicate)
	r.last = carillon.Position{Epoch: string(receipt.Epoch), Offset: uint64(receipt.Offset)}
}

// reached waits until the client has what was published last.
func (r *rig) reached(t *testing.T) {
	t.Helper()
	eventually(t, "the last message at the client", func() error {
		if at := r.session.Positions()[rigChannel]; at.Epoch != r.last.Epoch || at.Offset < r.last.Offset {
			return fmt.Errorf("at %v of %v", at, r.last)
		}
		return nil
	})
}

func (r *rig) epoch(t *testing.T) message.Epoch {
	t.Helper()
	return message.Epoch(r.last.Epoch)
}

// finish tells the checker what is stored, and lets it look.
func (r *rig) finish(t *testing.T) *checker.Report {
	t.Helper()
	bounds, err := r.broker.Bounds(t.Context(), rigChannel)
	if err != nil {
		t.Fatal(err)
	}
	page, err := r.store.Read(t.Context(), rigChannel, 0, stream.MaxPage)
	if err != nil || page.Pending > 0 {
		t.Fatal(page.Pending, err)
	}
	for _, m := range page.Messages {
		r.check.Stored(rigChannel, string(bounds.Epoch()), uint64(m.Offset), m.Publisher, m.ID, contentOf(m.Payload.Data))
	}
	r.check.History(rigChannel, string(bounds.Epoch()), 0)
	r.unfollow()
	return r.check.Check()
}

// brokenBroker is a Store of which parts are taken out.
type brokenBroker struct {
	*stream.Store
	rig *rig
}

func (b brokenBroker) Publish(ctx context.Context, p message.Publication) (message.Receipt, error) {
	if b.rig.forgetful { // the issuer is a part of what a repetition is recognised by
		b.rig.issuers++
		p.Publisher.Issuer = fmt.Sprint("rig", b.rig.issuers)
	}
	receipt, err := b.Store.Publish(ctx, p)
	if epoch := b.rig.always.Load(); epoch != nil {
		receipt.Epoch = *epoch
	}
	return receipt, err
}

func (b brokenBroker) Lasts(ctx context.Context, names []channel.Name, after, upTo message.Offset) (message.Lasts, error) {
	b.rig.asked.Add(1)
	if b.rig.blind.Load() {
		return message.Lasts{}, nil
	}
	return b.Store.Lasts(ctx, names, after, upTo)
}

func (b brokenBroker) Listen(ctx context.Context, name channel.Name) (message.Bounds, error) {
	bounds, err := b.Store.Listen(ctx, name)
	return b.timeless(bounds), err
}

func (b brokenBroker) Bounds(ctx context.Context, name channel.Name) (message.Bounds, error) {
	bounds, err := b.Store.Bounds(ctx, name)
	return b.timeless(bounds), err
}

// timeless hides that an epoch has ended.
func (b brokenBroker) timeless(bounds message.Bounds) message.Bounds {
	if epoch := b.rig.always.Load(); epoch != nil {
		bounds.Epochs = []message.EpochStart{{Epoch: *epoch, First: 1}}
	}
	return bounds
}

type brokenReceiver struct {
	edge.Receiver
	rig *rig
}

func (b brokenReceiver) Receive(messages ...*message.Message) {
	if b.rig.lose.CompareAndSwap(true, false) {
		messages = messages[1:]
	}
	if len(messages) > 0 {
		b.Receiver.Receive(messages...)
	}
}

// anybody may do anything.
type anybody struct{}

func (anybody) Check(_ context.Context, _ *authorization.Subject, checks []authorization.Check) ([]authorization.Decision, error) {
	decisions := make([]authorization.Decision, len(checks))
	for i := range decisions {
		decisions[i].Allowed = true
	}
	return decisions, nil
}

// nobody is anywhere.
type nobody struct{}

func (nobody) Connect(roster.Connection)                       {}
func (nobody) Disconnect(string, time.Time)                    {}
func (nobody) Join(channel.Name, channel.User)                 {}
func (nobody) Leave(channel.Name, channel.User, time.Duration) {}
func (nobody) Look(context.Context, channel.Name, func([]roster.Member, int, bool)) (bool, error) {
	return false, nil
}
func (nobody) Watch(channel.Name, func(roster.Update)) (stop func()) { return func() {} }
func (nobody) Members(context.Context, channel.Name, int) ([]roster.Member, int, error) {
	return nil, 0, nil
}

// relay stands before an edge; it can be cut, and can show what an edge would say that
// does not hold live messages back while it replays.
type relay struct {
	url         string
	backend     atomic.Pointer[string]
	liveFirst   atomic.Pointer[string] // this message goes before those that a resume brings
	connections atomic.Int64

	mu      sync.Mutex
	closed  bool
	current map[context.Context]context.CancelFunc
}

func newRelay() *relay { return &relay{current: map[context.Context]context.CancelFunc{}} }

// cut ends all connections, and refuses others until mend.
func (r *relay) cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	for _, cancel := range r.current {
		cancel()
	}
}

func (r *relay) mend() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = false
}

func (r *relay) enter(ctx context.Context) (context.Context, context.CancelFunc, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, nil, false
	}
	ctx, cancel := context.WithCancel(ctx)
	r.current[ctx] = cancel
	return ctx, func() {
		cancel()
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.current, ctx)
	}, true
}

func (r *relay) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	ctx, leave, ok := r.enter(request.Context())
	if !ok {
		http.Error(w, "cut", http.StatusBadGateway)
		return
	}
	defer leave()
	edge, _, err := websocket.Dial(ctx, *r.backend.Load(), &websocket.DialOptions{
		Subprotocols: []string{carillon.Subprotocol}, HTTPHeader: http.Header{"Authorization": request.Header["Authorization"]},
	})
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer func() { _ = edge.CloseNow() }()
	client, err := websocket.Accept(w, request, &websocket.AcceptOptions{Subprotocols: []string{carillon.Subprotocol}})
	if err != nil {
		return // it has answered
	}
	defer func() { _ = client.CloseNow() }()
	r.connections.Add(1)
	go func() {
		defer leave()
		for {
			kind, data, err := client.Read(ctx)
			if err != nil || edge.Write(ctx, kind, data) != nil {
				return
			}
		}
	}()
	var held [][]byte
	for {
		kind, data, err := edge.Read(ctx)
		if err != nil {
			return
		}
		for _, frame := range r.order(data, &held) {
			if client.Write(ctx, kind, frame) != nil {
				return
			}
		}
	}
}

// order returns what to send now.
func (r *relay) order(data []byte, held *[][]byte) [][]byte {
	first := r.liveFirst.Load()
	var frame clientv1.ServerFrame
	if first == nil || proto.Unmarshal(data, &frame) != nil || frame.GetMessage() == nil {
		return [][]byte{data}
	}
	if frame.GetMessage().GetJson() != *first {
		*held = append(*held, data)
		return nil
	}
	r.liveFirst.Store(nil)
	return append([][]byte{data}, *held...)
}
