package authorization

import (
	"context"
	"log/slog"
	"maps"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	authzv1 "github.com/carillon-rt/carillon/gen/carillon/authz/v1"
	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/rpc"
)

// teller is an AuthorizationService that tells versions, or ends the stream where one
// is "end". What it allows is settable.
type teller struct {
	authzv1.UnimplementedAuthorizationServiceServer
	versions chan string

	mu      sync.Mutex
	allowed bool
	entered chan struct{} // gets one when a check is asked, if not nil
	release chan struct{} // which then waits for one
}

func (r *teller) CheckPermissions(_ context.Context, req *authzv1.CheckPermissionsRequest) (*authzv1.CheckPermissionsResponse, error) {
	r.mu.Lock()
	allowed, entered, release := r.allowed, r.entered, r.release
	r.mu.Unlock()
	if entered != nil {
		entered <- struct{}{}
		<-release
	}
	res := &authzv1.CheckPermissionsResponse{}
	for range req.GetChecks() {
		res.Decisions = append(res.Decisions, &authzv1.Decision{Allowed: allowed, CacheFor: durationpb.New(time.Hour)})
	}
	return res, nil
}

func (r *teller) WatchPolicy(_ *authzv1.WatchPolicyRequest, stream grpc.ServerStreamingServer[authzv1.WatchPolicyResponse]) error {
	for {
		select {
		case version := <-r.versions:
			if version == "end" {
				return status.Error(codes.Unavailable, "draining")
			}
			if err := stream.Send(&authzv1.WatchPolicyResponse{Version: version}); err != nil {
				return err
			}
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}

func (r *teller) set(allowed bool, entered, release chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.allowed, r.entered, r.release = allowed, entered, release
}

// dial returns a connection to a real server of a service.
func dial(t *testing.T, s authzv1.AuthorizationServiceServer, options ...rpc.Option) *grpc.ClientConn {
	t.Helper()
	memory := rpc.NewMemory()
	server := grpc.NewServer(grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}))
	authzv1.RegisterAuthorizationServiceServer(server, s)
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(memory) })
	conn, err := memory.Dial(nil, options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		server.Stop()
		serving.Wait()
	})
	return conn
}

// watching runs Watch over connections until the test ends, and returns the channel
// that gets one for each change.
func watching(t *testing.T, c *Client, conns map[string]grpc.ClientConnInterface) chan struct{} {
	t.Helper()
	changes := make(chan struct{}, 16)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { c.Watch(ctx, conns, slog.New(slog.DiscardHandler), func() { changes <- struct{}{} }) })
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	return changes
}

// What the replicas tell is known while they tell it.
func TestVersions(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a, b := &teller{versions: make(chan string)}, &teller{versions: make(chan string)}
		conn := dial(t, a)
		c := New(conn)
		changes := watching(t, c, map[string]grpc.ClientConnInterface{"a": conn, "b": dial(t, b)})
		want := func(of map[string]string) {
			t.Helper()
			synctest.Wait()
			if got := c.Versions(); !maps.Equal(got, of) {
				t.Errorf("the versions are %v, want %v", got, of)
			}
		}
		want(map[string]string{"a": "", "b": ""})
		a.versions <- "1"
		want(map[string]string{"a": "1", "b": ""})
		b.versions <- "2"
		want(map[string]string{"a": "1", "b": "2"})
		b.versions <- "end"
		want(map[string]string{"a": "1", "b": ""})
		time.Sleep(10 * time.Second)
		b.versions <- "2"
		want(map[string]string{"a": "1", "b": "2"})
		if len(changes) != 2 {
			t.Errorf("told of %d changes, want 2", len(changes))
		}
	})
}

// An answer is kept until the rules change: then it is asked for anew, and whoever
// watches is told, once for each change of each replica.
func TestAChangeOfTheRulesForgetsEveryAnswer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a, b := &teller{versions: make(chan string), allowed: true}, &teller{versions: make(chan string)}
		conn := dial(t, a)
		c := New(conn)
		changes := watching(t, c, map[string]grpc.ClientConnInterface{"a": conn, "b": dial(t, b)})
		ann := subject("ann")
		want := func(allowed bool, told int) {
			t.Helper()
			synctest.Wait()
			wantAllowed(t, c, ann, subscribe("chat.a"), allowed)
			if got := len(changes); got != told {
				t.Fatalf("told of %d changes, want %d", got, told)
			}
			for range told {
				<-changes
			}
		}
		a.versions <- "1"
		b.versions <- "1"
		want(true, 2) // what was asked before they could tell may be of any rules
		a.set(false, nil, nil)
		want(true, 0)
		a.versions <- "1"
		want(true, 0)
		a.versions <- "2"
		want(false, 1)
		a.set(true, nil, nil)
		b.versions <- "2"
		want(true, 1)

		a.set(false, nil, nil) // a restart with the same rules
		b.versions <- "end"
		time.Sleep(10 * time.Second)
		b.versions <- "2"
		want(true, 0)
		b.versions <- "end" // and one with others
		time.Sleep(10 * time.Second)
		b.versions <- "3"
		want(false, 1)
	})
}

// An answer that was under way while the rules changed is given, and not kept.
func TestAnAnswerFromBeforeAChangeIsNotKept(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		entered, release := make(chan struct{}), make(chan struct{})
		s := &teller{versions: make(chan string), allowed: true, entered: entered, release: release}
		conn := dial(t, s)
		c := New(conn)
		changes := watching(t, c, map[string]grpc.ClientConnInterface{"a": conn})
		s.versions <- "1"
		<-changes
		s.set(true, nil, nil)
		wantAllowed(t, c, subject("bob"), subscribe("chat.a"), true)
		s.set(true, entered, release)
		var asking sync.WaitGroup
		asking.Go(func() { wantAllowed(t, c, subject("ann"), subscribe("chat.a"), true) })
		<-entered
		s.set(false, nil, nil)
		s.versions <- "2"
		<-changes
		if n := c.cache.Len(); n != 0 {
			t.Errorf("%d answers are kept that nobody will find", n)
		}
		close(release)
		asking.Wait()
		wantAllowed(t, c, subject("ann"), subscribe("chat.a"), false)
	})
}

// A service of somebody's own need not tell of changes: then it is hardly asked to.
func TestAServiceThatDoesNotTell(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &service{cacheFor: time.Hour}
		counted := &counting{ClientConnInterface: dial(t, s)}
		c := New(counted)
		changes := watching(t, c, map[string]grpc.ClientConnInterface{"a": counted})
		time.Sleep(time.Hour)
		if n := counted.streams.Load(); n < 1 || n > 61 || len(changes) != 0 {
			t.Fatalf("%d streams, %d changes", n, len(changes))
		}
		wantAllowed(t, c, subject("ann", "chat.a"), subscribe("chat.a"), true)
	})
}

// A proxy that does not know the way for a moment does not end the watching.
func TestAServiceThatTellsLater(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &teller{versions: make(chan string), allowed: true}
		counted := &counting{ClientConnInterface: dial(t, s)}
		counted.refuse.Store(int32(codes.Unimplemented))
		c := New(counted)
		changes := watching(t, c, map[string]grpc.ClientConnInterface{"a": counted})
		time.Sleep(10 * time.Second)
		counted.refuse.Store(0)
		wantAllowed(t, c, subject("ann"), subscribe("chat.a"), true)
		s.set(false, nil, nil)
		select {
		case s.versions <- "1":
		case <-time.After(time.Hour):
			t.Fatal("it is not watched")
		}
		<-changes
		wantAllowed(t, c, subject("ann"), subscribe("chat.a"), false)
	})
}

// One that cannot be reached is tried again and again, not in a storm.
func TestAnAbsentReplicaIsTriedAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		counted := &counting{ClientConnInterface: dial(t, &teller{})}
		counted.refuse.Store(int32(codes.Unavailable))
		watching(t, New(counted), map[string]grpc.ClientConnInterface{"a": counted})
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := counted.streams.Load(); n < 25 || n > 200 {
			t.Fatalf("%d streams in a minute", n)
		}
	})
}

// counting counts the streams that are opened.
type counting struct {
	grpc.ClientConnInterface
	refuse  atomic.Int32 // a code; 0: none
	streams atomic.Int64
}

func (c *counting) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	c.streams.Add(1)
	if code := c.refuse.Load(); code != 0 {
		return nil, status.Error(codes.Code(code), "refused")
	}
	return c.ClientConnInterface.NewStream(ctx, desc, method, opts...)
}

// typed allows everything but adminAction, and says that the type matters in every
// channel but chat.plain.
type typed struct {
	authzv1.UnimplementedAuthorizationServiceServer
	asked []string
}

func (s *typed) CheckPermissions(_ context.Context, req *authzv1.CheckPermissionsRequest) (*authzv1.CheckPermissionsResponse, error) {
	res := &authzv1.CheckPermissionsResponse{}
	for _, check := range req.GetChecks() {
		s.asked = append(s.asked, check.GetAction().String()+" "+check.GetChannel()+" "+check.GetMessageType())
		res.Decisions = append(res.Decisions, &authzv1.Decision{
			Allowed: check.GetChannel() == "chat.plain" || check.GetMessageType() != "adminAction", CacheFor: durationpb.New(time.Hour),
			MessageTypeMatters: check.GetChannel() != "chat.plain",
		})
	}
	return res, nil
}

func TestAnswersHoldForTheTypesThatTheyAreGood(t *testing.T) {
	t.Parallel()
	s := &typed{}
	c := New(dial(t, s))
	ann := subject("ann")
	ask := func(action Action, name channel.Name, messageType string, allowed, matters, asked bool) {
		t.Helper()
		before := len(s.asked)
		got, err := c.Check(t.Context(), ann, []Check{{action, name, messageType}})
		if err != nil || got[0].Allowed != allowed || got[0].MessageTypeMatters != matters || (len(s.asked) > before) != asked {
			t.Fatalf("%d %s %q: %+v, %v, asked %q", action, name, messageType, got, err, s.asked[before:])
		}
	}
	ask(Publish, "chat.plain", "", true, false, true)
	ask(Publish, "chat.plain", "adminAction", true, false, false)
	for _, asked := range []bool{true, false} {
		ask(Publish, "chat.a", "", true, true, asked)
		ask(Publish, "chat.a", "say", true, true, asked)
		ask(Publish, "chat.a", "adminAction", false, true, asked)
	}
	ask(History, "chat.a", "", true, true, true) // of which no type matters, whatever a service says
	ask(History, "chat.a", "say", true, true, false)
	if want := "ACTION_HISTORY chat.a "; s.asked[len(s.asked)-1] != want {
		t.Errorf("asked %q, want %q", s.asked, want)
	}
}
