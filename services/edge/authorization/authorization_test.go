package authorization

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	authzv1 "github.com/carillon-rt/carillon/gen/carillon/authz/v1"
	"github.com/carillon-rt/carillon/services/internal/auth"
	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/rpc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// service allows a check if its channel is in the claims' rooms, and notes what it
// was asked.
type service struct {
	authzv1.UnimplementedAuthorizationServiceServer
	cacheFor time.Duration
	failures []error // of the next requests
	short    bool    // answers one decision too few
	hangs    bool

	mu    sync.Mutex
	asked [][]string // the channels of each request
}

func (s *service) CheckPermissions(ctx context.Context, req *authzv1.CheckPermissionsRequest) (*authzv1.CheckPermissionsResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.hangs {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if len(s.failures) > 0 {
		err := s.failures[0]
		s.failures = s.failures[1:]
		return nil, err
	}
	rooms, _ := req.GetClaims().AsMap()["rooms"].([]any)
	res := &authzv1.CheckPermissionsResponse{}
	var names []string
	for _, check := range req.GetChecks() {
		names = append(names, check.GetChannel())
		d := &authzv1.Decision{Allowed: slices.Contains(rooms, any(check.GetChannel())), CacheFor: durationpb.New(s.cacheFor)}
		d.Rule = fmt.Sprintf("%s %s", req.GetUserId(), check.GetAction())
		if !d.Allowed {
			d.Message = "no room"
		}
		res.Decisions = append(res.Decisions, d)
	}
	s.asked = append(s.asked, names)
	if s.short {
		res.Decisions = res.Decisions[1:]
	}
	return res, nil
}

// client returns a Client of a service behind a real server.
func client(t testing.TB, s *service) *Client {
	t.Helper()
	memory := rpc.NewMemory()
	server := grpc.NewServer()
	authzv1.RegisterAuthorizationServiceServer(server, s)
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(memory) })
	conn, err := memory.Dial(nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		server.Stop()
		serving.Wait()
	})
	return New(conn)
}

func subject(user string, rooms ...any) *Subject {
	return NewSubject(auth.Identity{Subject: user, Claims: map[string]any{"rooms": rooms, "exp": 1.8e9, "nested": map[string]any{"a": nil, "b": true}}})
}

func subscribe(names ...channel.Name) []Check {
	var checks []Check
	for _, name := range names {
		checks = append(checks, Check{Action: Subscribe, Channel: name})
	}
	return checks
}

func wantAllowed(t testing.TB, c *Client, s *Subject, checks []Check, want ...bool) {
	t.Helper()
	got, err := c.Check(t.Context(), s, checks)
	if err != nil {
		t.Fatal(err)
	}
	for i := range want {
		if got[i].Allowed != want[i] {
			t.Fatalf("check %d: got %+v, want allowed %t", i, got[i], want[i])
		}
	}
}

func (s *service) wantAsked(t testing.TB, want string) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if got := fmt.Sprint(s.asked); got != want {
		t.Fatalf("asked %s, want %s", got, want)
	}
}

func TestCheckAsksOnceForWhatItDoesNotKnow(t *testing.T) {
	t.Parallel()
	s := &service{cacheFor: time.Minute}
	c := client(t, s)
	ann := subject("ann", "chat.a", "chat.b")
	wantAllowed(t, c, ann, subscribe("chat.a", "chat.x"), true, false)
	wantAllowed(t, c, ann, subscribe("chat.b", "chat.x", "chat.a"), true, false, true)
	wantAllowed(t, c, subject("ann", "chat.a", "chat.b"), subscribe("chat.a"), true) // another connection with equal claims
	s.wantAsked(t, "[[chat.a chat.x] [chat.b]]")

	wantAllowed(t, c, subject("ann"), subscribe("chat.a"), false)
	wantAllowed(t, c, subject("bob", "chat.a", "chat.b"), subscribe("chat.a"), true)
	wantAllowed(t, c, ann, []Check{{Action: Publish, Channel: "chat.a"}, {Action: Presence, Channel: "chat.a"}}, true, true)
	s.wantAsked(t, "[[chat.a chat.x] [chat.b] [chat.a] [chat.a] [chat.a chat.a]]")

	got, err := c.Check(t.Context(), ann, []Check{{Action: Publish, Channel: "chat.a"}, {Action: Subscribe, Channel: "chat.x"}})
	want := []Decision{{Allowed: true, Rule: "ann ACTION_PUBLISH"}, {Rule: "ann ACTION_SUBSCRIBE", Message: "no room"}}
	if err != nil || !slices.Equal(got, want) {
		t.Fatalf("got %v, %v, want %v", got, err, want)
	}
}

func TestManyChecksGoInSeveralRequests(t *testing.T) {
	t.Parallel()
	s := &service{cacheFor: time.Minute}
	c := client(t, s)
	var checks []Check
	for i := range 600 {
		checks = append(checks, Check{Action: Subscribe, Channel: channel.Name(fmt.Sprintf("chat.%d", i))})
	}
	got, err := c.Check(t.Context(), subject("ann", "chat.599"), checks)
	if err != nil || len(got) != 600 || !got[599].Allowed || got[0].Allowed || len(s.asked) != 3 {
		t.Fatalf("%d decisions in %d requests: %v", len(got), len(s.asked), err)
	}
}

func TestAnswersExpire(t *testing.T) {
	t.Parallel()
	for _, cacheFor := range []time.Duration{time.Minute, 0, -time.Second} {
		synctest.Test(t, func(t *testing.T) {
			s := &service{cacheFor: cacheFor}
			c := client(t, s)
			ann := subject("ann", "chat.a")
			ask := func(want int) {
				t.Helper()
				wantAllowed(t, c, ann, subscribe("chat.a"), true)
				if len(s.asked) != want {
					t.Fatalf("kept for %v: asked %d times, want %d", cacheFor, len(s.asked), want)
				}
			}
			ask(1)
			time.Sleep(max(0, cacheFor-time.Nanosecond))
			if cacheFor > 0 {
				ask(1)
			} else {
				ask(2)
			}
			time.Sleep(time.Nanosecond)
			if cacheFor > 0 {
				ask(2)
			} else {
				ask(3)
			}
		})
	}
}

func TestUnavailable(t *testing.T) {
	t.Parallel()
	gone := status.Error(codes.Unavailable, "gone")
	rich := fault.New(fault.TokenExpired, "", "the role's, not the user's")
	for name, c := range map[string]struct {
		service *service
		ok      bool
	}{
		"once":             {&service{failures: []error{gone}}, true},
		"twice":            {&service{failures: []error{gone, gone}}, false},
		"refuses the role": {&service{failures: []error{rich}}, false},
		"breaks":           {&service{failures: []error{errors.New("broken")}}, false},
		"answers short":    {&service{short: true}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cl := client(t, c.service)
			_, err := cl.Check(t.Context(), subject("ann"), subscribe("chat.a"))
			checkUnavailable(t, err, c.ok)
			c.service.failures, c.service.short = nil, false
			wantAllowed(t, cl, subject("ann", "chat.a"), subscribe("chat.a"), true) // nothing wrong was remembered
		})
	}
	synctest.Test(t, func(t *testing.T) {
		cl := client(t, &service{hangs: true})
		started := time.Now()
		_, err := cl.Check(t.Context(), subject("ann"), subscribe("chat.a"))
		checkUnavailable(t, err, false)
		if took := time.Since(started); took != askTimeout {
			t.Fatalf("took %v", took)
		}
	})
}

func checkUnavailable(t *testing.T, err error, ok bool) {
	t.Helper()
	if ok {
		if err != nil {
			t.Fatal(err)
		}
		return
	}
	f, is := errors.AsType[*fault.Error](err)
	if !is || f.Reason != fault.AuthorizationUnavailable || f.RetryAfter != time.Second || f.Cause == nil || f.Message != "the authorization service does not answer" {
		t.Fatalf("got %v", err)
	}
}

func TestClaimsThatAreNotJSONAreNeverAskedAbout(t *testing.T) {
	t.Parallel()
	s := &service{}
	c := client(t, s)
	_, err := c.Check(t.Context(), NewSubject(auth.Identity{Subject: "ann", Claims: map[string]any{"x": make(chan int)}}), subscribe("chat.a"))
	checkUnavailable(t, err, false)
	s.wantAsked(t, "[]")
	wantAllowed(t, c, NewSubject(auth.Identity{Subject: "ann"}), subscribe("chat.a"), false) // no claims are claims
}

func TestSubjectsAreSmallAndApart(t *testing.T) {
	t.Parallel()
	if size := unsafe.Sizeof(Subject{}); size > 80 {
		t.Errorf("a Subject has %d bytes", size)
	}
	digests := map[digest]string{}
	for _, s := range []struct {
		name string
		*Subject
	}{
		{"ann", subject("ann")},
		{"bob", subject("bob")},
		{"ann in a", subject("ann", "a")},
		{"ann in a and b", subject("ann", "a", "b")},
		{"ann in ab", subject("ann", "ab")},
		{"no claims", NewSubject(auth.Identity{Subject: "ann"})},
	} {
		if other, twice := digests[s.digest]; twice {
			t.Errorf("%s and %s are the same", s.name, other)
		}
		digests[s.digest] = s.name
	}
	for range 20 { // whatever the order of the map
		if digests[subject("ann", "a").digest] != "ann in a" {
			t.Fatal("equal subjects have other digests")
		}
	}
}

func BenchmarkNewSubject(b *testing.B) {
	identity := auth.Identity{Subject: "user-12345", Claims: map[string]any{
		"sub": "user-12345", "exp": 1.8e9, "iat": 1.7e9, "iss": "https://sso.example", "rooms": []any{"lobby", "attic"},
	}}
	b.ReportAllocs()
	for b.Loop() {
		NewSubject(identity)
	}
}

func BenchmarkCheck(b *testing.B) {
	for _, cacheFor := range []time.Duration{time.Hour, 0} {
		b.Run(fmt.Sprintf("cacheFor=%v", cacheFor), func(b *testing.B) {
			c := client(b, &service{cacheFor: cacheFor})
			ann := subject("ann", "chat.a")
			b.ReportAllocs()
			for b.Loop() {
				if got, err := c.Check(b.Context(), ann, subscribe("chat.a")); err != nil || !got[0].Allowed {
					b.Fatal(got, err)
				}
			}
		})
	}
}
