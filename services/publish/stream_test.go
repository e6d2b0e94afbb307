package publish_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	publishv1 "github.com/carillon-rt/carillon/gen/carillon/publish/v1"
	"github.com/carillon-rt/carillon/services/internal/auth"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/message"
	"github.com/carillon-rt/carillon/services/publish"
)

// publishing is the caller's end of a PublishStream.
type publishing struct {
	t *testing.T
	grpc.BidiStreamingClient[publishv1.PublishStreamRequest, publishv1.PublishStreamResponse]
}

func open(t *testing.T, a *api, ctx context.Context) *publishing {
	t.Helper()
	stream, err := a.client.PublishStream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return &publishing{t, stream}
}

func (p *publishing) send(id uint64, request *publishv1.PublishRequest) {
	p.t.Helper()
	if err := p.Send(&publishv1.PublishStreamRequest{Id: id, Message: request}); err != nil {
		p.t.Fatal(err)
	}
}

func (p *publishing) receive() *publishv1.PublishStreamResponse {
	p.t.Helper()
	answer, err := p.Recv()
	if err != nil {
		p.t.Fatal(err)
	}
	return answer
}

// finish closes the caller's side; everything must have been received.
func (p *publishing) finish() {
	p.t.Helper()
	if err := p.CloseSend(); err != nil {
		p.t.Fatal(err)
	}
	if answer, err := p.Recv(); !errors.Is(err, io.EOF) {
		p.t.Errorf("after the end: %v, %v; want EOF", answer, err)
	}
}

// ends receives up to the end, and returns the answers and why it ended.
func (p *publishing) ends() (answered []uint64, why error) {
	for {
		answer, err := p.Recv()
		if err != nil {
			slices.Sort(answered)
			return answered, err
		}
		answered = append(answered, answer.GetId())
	}
}

func TestStreamKeepsTheOrderOfEachChannel(t *testing.T) {
	t.Parallel()
	a := start(t, natsStore(t))
	s := open(t, a, as(t.Context(), callerToken(t, "billing")))
	const many, channels = 3000, 7
	var sending sync.WaitGroup
	sending.Go(func() {
		for id := range uint64(many) {
			request := toChannel(fmt.Sprintf("chat.%d", id%channels), fmt.Sprint(id))
			if err := s.Send(&publishv1.PublishStreamRequest{Id: id + 1, Message: request}); err != nil {
				t.Error(err)
				return
			}
		}
		if err := s.CloseSend(); err != nil {
			t.Error(err)
		}
	})
	offsets := map[uint64]uint64{}
	for {
		answer, err := s.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, twice := offsets[answer.GetId()]; twice || answer.GetPublished().GetOffset() == 0 {
			t.Fatalf("%v, twice %t", answer, twice)
		}
		offsets[answer.GetId()] = answer.GetPublished().GetOffset()
	}
	sending.Wait()
	if len(offsets) != many {
		t.Fatalf("%d answers to %d messages", len(offsets), many)
	}
	for id := uint64(channels + 1); id <= many; id++ {
		if offsets[id] <= offsets[id-channels] {
			t.Fatalf("message %d at %d is behind message %d at %d", id, offsets[id], id-channels, offsets[id-channels])
		}
	}
}

// A message that is refused is answered, and the stream goes on; the order of a channel
// is kept around it.
func TestStreamGoesOn(t *testing.T) {
	t.Parallel()
	a := start(t, natsStore(t))
	s := open(t, a, as(t.Context(), callerToken(t, "narrow")))
	s.send(5, toChannel("chat.lobby", `1`))
	first := s.receive()
	s.send(6, toChannel("chat.other", `1`))
	if got := resultRefusal(s.receive().GetError()); got.reason != "CALLER_DENIED" || got.field != "channel" {
		t.Errorf("denied: %+v", got)
	}
	s.send(7, nil)
	if got := resultRefusal(s.receive().GetError()); got != (refusal{invalid, "FIELD_REQUIRED", "message", "message is required"}) {
		t.Errorf("no message: %+v", got)
	}
	s.send(5, toChannel("chat.lobby", `2`)) // the id is free again
	if again := s.receive(); again.GetId() != 5 || again.GetPublished().GetOffset() <= first.GetPublished().GetOffset() {
		t.Errorf("%v after %v", again, first)
	}
	s.finish()
}

// gate is a store that keeps publications waiting until it is opened.
type gate struct {
	taken   atomic.Int64
	open    chan struct{}
	closing chan struct{} // holds one for each pipeline of which nothing more is taken
}

func (g *gate) publish(context.Context, message.Publication) (message.Receipt, error) {
	g.taken.Add(1)
	<-g.open
	return message.Receipt{Position: message.Position{Epoch: "e", Offset: 1}}, nil
}

// wide is a pipeline that publishes everything at once, so that a gate sees all of it.
type wide struct {
	gate    *gate
	working sync.WaitGroup
	one     sync.Mutex
}

func (w *wide) Publish(ctx context.Context, p message.Publication, done func(message.Receipt, error)) error {
	w.working.Go(func() {
		receipt, err := w.gate.publish(ctx, p)
		w.one.Lock()
		defer w.one.Unlock()
		done(receipt, err)
	})
	return nil
}

func (w *wide) Close() {
	w.gate.closing <- struct{}{}
	w.working.Wait()
}

// openGate is an API whose store waits at a gate.
func openGate(t *testing.T) (*api, *gate) {
	t.Helper()
	g := &gate{open: make(chan struct{}), closing: make(chan struct{}, 8)}
	return start(t, wideStore{g.publish, g}), g
}

type wideStore struct {
	storeFunc
	gate *gate
}

func (s wideStore) Pipeline() publish.Pipeline { return &wide{gate: s.gate} }

// await waits until so many messages have reached the gate.
func (g *gate) await(t *testing.T, n int64) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); g.taken.Load() < n; {
		if time.Now().After(deadline) {
			t.Fatalf("%d messages have arrived, want %d", g.taken.Load(), n)
		}
		<-time.After(time.Millisecond)
	}
}

// However fast somebody sends, and even if they never read, only so many are taken.
func TestStreamIsBounded(t *testing.T) {
	t.Parallel()
	a, g := openGate(t)
	s := open(t, a, as(t.Context(), callerToken(t, "billing")))
	const bound, many = 1024, 1500
	var sending sync.WaitGroup
	sending.Go(func() {
		for id := range uint64(many) {
			if err := s.Send(&publishv1.PublishStreamRequest{Id: id + 1, Message: toChannel("chat.a", "1")}); err != nil {
				t.Error(err)
				return
			}
		}
		if err := s.CloseSend(); err != nil {
			t.Error(err)
		}
	})
	g.await(t, bound)
	<-time.After(50 * time.Millisecond)
	if n := g.taken.Load(); n != bound {
		t.Errorf("%d were taken while none was answered, want %d", n, bound)
	}
	close(g.open)
	answered, err := s.ends()
	sending.Wait()
	if len(answered) != many || !errors.Is(err, io.EOF) {
		t.Errorf("%d answers, %v; want %d", len(answered), err, many)
	}
}

// full is a pipeline with room for nothing while the gate is shut.
type full struct{ wide }

func (f *full) Publish(ctx context.Context, p message.Publication, done func(message.Receipt, error)) error {
	<-f.gate.open
	return f.wide.Publish(ctx, p, done)
}

type fullStore struct{ wideStore }

func (s fullStore) Pipeline() publish.Pipeline { return &full{wide{gate: s.gate}} }

// Of requests that the store has no room for only so many bytes are read, and one that has
// more goes through.
func TestStreamReadsOnlySoFarAhead(t *testing.T) {
	t.Parallel()
	const bound, many, each = 1 << 20, 60, message.MaxPayloadBytes // their number is bounded by 64 and more
	const most = 2*bound/each + 3                                  // gRPC has as many bytes; three are on their way from one to the next
	large := toChannel("chat.a", `"`+strings.Repeat("x", each-2)+`"`)
	huge := toChannel("chat.a", `"`+strings.Repeat("x", 3*bound)+`"`)
	g := &gate{open: make(chan struct{}), closing: make(chan struct{}, 1)}
	a := start(t, fullStore{wideStore{g.publish, g}})
	s := open(t, a, as(t.Context(), callerToken(t, "billing")))
	var sent atomic.Int64
	var sending sync.WaitGroup
	sending.Go(func() {
		for id := range uint64(many) {
			if err := s.Send(&publishv1.PublishStreamRequest{Id: id + 1, Message: large}); err != nil {
				t.Error(err)
				return
			}
			sent.Add(1)
		}
		s.send(many+1, huge)
		if err := s.CloseSend(); err != nil {
			t.Error(err)
		}
	})
	for before := int64(0); before == 0 || before < sent.Load(); <-time.After(100 * time.Millisecond) {
		before = sent.Load()
	}
	if n := sent.Load(); n > most {
		t.Errorf("%d were sent while the store had no room, want no more than %d", n, most)
	}
	close(g.open)
	answered, err := s.ends()
	sending.Wait()
	if len(answered) != many+1 || !errors.Is(err, io.EOF) {
		t.Errorf("%d answers, %v; want %d", len(answered), err, many+1)
	}
}

// A request that cannot be answered ends the stream, when what came before is.
func TestStreamOfAConfusedCaller(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		id   uint64
		want refusal
	}{
		{"no id", 0, refusal{invalid, "FIELD_INVALID", "id", "id must be greater than or equal to 1"}},
		{"an id twice", 2, refusal{invalid, "FIELD_INVALID", "id", "the id 2 is that of a request which is not answered yet"}},
	} {
		a, g := openGate(t)
		s := open(t, a, as(t.Context(), callerToken(t, "billing")))
		for id := range uint64(3) {
			s.send(id+1, toChannel("chat.a", "1"))
		}
		g.await(t, 3)
		s.send(test.id, toChannel("chat.a", "1"))
		<-g.closing
		close(g.open)
		answered, why := s.ends()
		if got := grpcRefusal(why); got != test.want || !slices.Equal(answered, []uint64{1, 2, 3}) {
			t.Errorf("%s: answered %v, then %+v; want 1 to 3, then %+v", test.name, answered, got, test.want)
		}
	}
}

// A server that stops answers what it has taken, and says so.
func TestStreamOnAServerThatStops(t *testing.T) {
	t.Parallel()
	a, g := openGate(t)
	ctx := as(t.Context(), callerToken(t, "billing"))
	s, idle := open(t, a, ctx), open(t, a, ctx)
	idle.send(1, toChannel("chat", "1"))
	idle.receive()
	for id := range uint64(3) {
		s.send(id+1, toChannel("chat.a", "1"))
	}
	g.await(t, 3)
	a.stop()
	want := refusal{
		"UNAVAILABLE", "DRAINING", "",
		"this server is stopping: send what is unanswered to another, in order, with the same message ids",
	}
	if answered, why := idle.ends(); len(answered) != 0 || grpcRefusal(why) != want {
		t.Errorf("an idle stream: %v, %v", answered, why)
	}
	<-g.closing
	<-g.closing
	close(g.open)
	if answered, why := s.ends(); !slices.Equal(answered, []uint64{1, 2, 3}) || grpcRefusal(why) != want {
		t.Errorf("answered %v, then %+v; want 1 to 3, then %+v", answered, grpcRefusal(why), want)
	}
}

func TestStreamOfACallerThatIsGone(t *testing.T) {
	t.Parallel()
	a, g := openGate(t)
	ctx, cancel := context.WithCancel(as(t.Context(), callerToken(t, "billing")))
	s := open(t, a, ctx)
	for id := range uint64(3) {
		s.send(id+1, toChannel("chat.a", "1"))
	}
	g.await(t, 3)
	if n := openStreams(a); n != 1 {
		t.Errorf("%d streams are counted, want 1", n)
	}
	cancel()
	if _, why := s.ends(); status.Code(why) != codes.Canceled {
		t.Errorf("ended with %v", why)
	}
	<-g.closing
	close(g.open)
	for deadline := time.Now().Add(10 * time.Second); openStreams(a) != 0; {
		if time.Now().After(deadline) {
			t.Fatal("the stream has not ended")
		}
		<-time.After(time.Millisecond)
	}
}

// A stream does not outlive the token that it was opened with.
func TestStreamOfATokenThatExpires(t *testing.T) {
	t.Parallel()
	a, g := openGate(t)
	close(g.open)
	expires := time.Now().Add(1500 * time.Millisecond)
	token := sign(t, jwt.SigningMethodHS256, []byte(secret), jwt.MapClaims{"sub": "billing", "aud": auth.CallerAudience, "exp": expires.Unix()})
	s := open(t, a, as(t.Context(), token))
	s.send(1, toChannel("chat.a", "1"))
	answered, why := s.ends()
	want := refusal{"UNAUTHENTICATED", "TOKEN_EXPIRED", "", "the token expired at " + expires.UTC().Format(time.RFC3339)}
	if !slices.Equal(answered, []uint64{1}) || grpcRefusal(why) != want {
		t.Errorf("answered %v, then %+v; want 1, then %+v", answered, grpcRefusal(why), want)
	}
}

// What a store says of one message is said of that message, and logged, but not each time.
func TestStreamOfAFailingStore(t *testing.T) {
	t.Parallel()
	a := start(t, storeFunc(func(_ context.Context, p message.Publication) (message.Receipt, error) {
		if p.Channel == "chat.moved" {
			return message.Receipt{}, fault.New(fault.ChannelMoved, "expectedLastOffset", "moved")
		}
		return message.Receipt{}, fault.Unavailable(fault.StoreUnavailable, io.ErrClosedPipe, "unknown")
	}))
	s := open(t, a, as(t.Context(), callerToken(t, "billing")))
	for id := range uint64(20) {
		s.send(id+1, toChannel("chat.a", `"top secret"`))
		if got := s.receive(); resultRefusal(got.GetError()) != (refusal{"UNAVAILABLE", "STORE_UNAVAILABLE", "", "unknown"}) || got.GetError().GetRetryAfterMs() != 1000 {
			t.Fatalf("%v", got)
		}
	}
	s.send(30, toChannel("chat.moved", "1"))
	if got := resultRefusal(s.receive().GetError()); got != (refusal{"FAILED_PRECONDITION", "CHANNEL_MOVED", "expectedLastOffset", "moved"}) {
		t.Errorf("%+v", got)
	}
	s.finish()
	if n := strings.Count(a.log.String(), "a message of a call failed"); n == 0 || n > 3 || strings.Contains(a.log.String(), "top secret") {
		t.Errorf("%d lines about it:\n%s", n, a.log)
	}
}
