package presence

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/structpb"

	authzv1 "github.com/carillon-rt/carillon/gen/carillon/authz/v1"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/namespace"
)

// allowing are namespaces in which chat.<room> and news.<room> can be subscribed to, or
// not, as the expressions say.
func allowing(chat, news string) namespace.Set {
	return namespace.NewSet([]namespace.Namespace{
		{Name: "chat", Rules: []namespace.Rule{{Channel: "chat.{room}", Subscribe: chat}}},
		{Name: "news", Rules: []namespace.Rule{{Channel: "news.{room}", Subscribe: news}}},
	})
}

func (s *system) watch(t *testing.T) grpc.ServerStreamingClient[authzv1.WatchPolicyResponse] {
	t.Helper()
	stream, err := authzv1.NewAuthorizationServiceClient(s.asRole(t)).WatchPolicy(t.Context(), &authzv1.WatchPolicyRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

func version(t *testing.T, stream grpc.ServerStreamingClient[authzv1.WatchPolicyResponse]) string {
	t.Helper()
	told, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	return told.GetVersion()
}

var subscribeBoth = &authzv1.CheckPermissionsRequest{UserId: "ann", Checks: []*authzv1.PermissionCheck{
	{Action: authzv1.Action_ACTION_SUBSCRIBE, Channel: "chat.a"}, {Action: authzv1.Action_ACTION_SUBSCRIBE, Channel: "news.a"},
}}

func TestRulesAreReplacedAndEdgesAreTold(t *testing.T) {
	t.Parallel()
	s := started(t)
	conn, watch := s.asRole(t), s.watch(t)
	first := version(t, watch)
	if first != s.service.Version() || len(first) != 32 {
		t.Fatalf("told the version %q, which is %q", first, s.service.Version())
	}
	if err := s.service.Replace(allowing("false", "true")); err != nil {
		t.Fatal(err)
	}
	second := version(t, watch)
	res, err := check(t, conn, subscribeBoth)
	if err != nil || second == first || res.GetDecisions()[0].GetAllowed() || !res.GetDecisions()[1].GetAllowed() {
		t.Fatalf("version %q after %q decides %v, %v", second, first, res, err)
	}
	decide := s.service.rules.Load()
	if err := s.service.Replace(allowing("false", "true")); err != nil || s.service.rules.Load() != decide {
		t.Fatalf("equal rules are told again (%v)", err)
	}
	if err := s.service.Replace(namespace.NewSet(namespaces())); err != nil {
		t.Fatal(err)
	}
	if back := version(t, watch); back != first {
		t.Errorf("the first rules now have the version %q, not %q", back, first)
	}
}

// Rules with a problem are refused whole: what decided goes on deciding, and nobody is
// told of anything.
func TestRulesThatDoNotCompileReplaceNothing(t *testing.T) {
	t.Parallel()
	s := started(t)
	if err := s.service.Replace(allowing("true", "true")); err != nil {
		t.Fatal(err)
	}
	before := s.service.Version()
	watch := s.watch(t)
	version(t, watch)
	err := s.service.Replace(allowing("false", "nope"))
	if err == nil || !strings.HasPrefix(err.Error(), "namespaces[news].rules[0].subscribe: ") || s.service.Version() != before {
		t.Fatalf("%v; the version is %q, was %q", err, s.service.Version(), before)
	}
	res, err := check(t, s.asRole(t), subscribeBoth)
	if err != nil || !res.GetDecisions()[0].GetAllowed() || !res.GetDecisions()[1].GetAllowed() {
		t.Fatalf("%v, %v", res, err)
	}
	if err := s.service.Replace(allowing("true", "false")); err != nil {
		t.Fatal(err)
	}
	if next := version(t, watch); next != s.service.Version() {
		t.Errorf("told %q, want %q", next, s.service.Version())
	}
}

// However often rules change meanwhile, one request is decided by one of them: both
// checks allowed, or neither.
func TestARequestIsDecidedByOneVersion(t *testing.T) {
	t.Parallel()
	s := started(t)
	if err := s.service.Replace(allowing("true", "true")); err != nil {
		t.Fatal(err)
	}
	var replacing sync.WaitGroup
	ctx, stop := context.WithCancel(t.Context())
	replacing.Go(func() {
		for ctx.Err() == nil {
			for _, allowed := range []string{"false", "true"} {
				if err := s.service.Replace(allowing(allowed, allowed)); err != nil {
					t.Error(err)
				}
			}
		}
	})
	conn := s.asRole(t)
	request := &authzv1.CheckPermissionsRequest{UserId: "ann"}
	for range 100 {
		request.Checks = append(request.Checks, subscribeBoth.GetChecks()...)
	}
	for range 50 {
		res, err := check(t, conn, request)
		if err != nil {
			t.Error(err)
			break
		}
		for i, d := range res.GetDecisions() {
			if d.GetAllowed() != res.GetDecisions()[0].GetAllowed() {
				t.Errorf("check %d was decided by other rules than the first", i)
			}
		}
	}
	stop()
	replacing.Wait()
}

func TestClosingEndsTheWatchesOfEdges(t *testing.T) {
	t.Parallel()
	s := started(t)
	watch := s.watch(t)
	version(t, watch)
	s.stop()
	_, err := watch.Recv()
	wantFault(t, err, codes.Unavailable, fault.Draining, "", "")

	s = started(t) // and an edge that has gone is no longer told
	ctx, cancel := context.WithCancel(t.Context())
	stream, err := authzv1.NewAuthorizationServiceClient(s.asRole(t)).WatchPolicy(ctx, &authzv1.WatchPolicyRequest{})
	if err != nil {
		t.Fatal(err)
	}
	version(t, stream)
	cancel()
	if _, err := stream.Recv(); err == nil || errors.Is(err, io.EOF) {
		t.Fatalf("after the end: %v", err)
	}
}

func TestHistoryAndMessageTypesAreDecided(t *testing.T) {
	t.Parallel()
	s := started(t)
	if err := s.service.Replace(namespace.NewSet([]namespace.Namespace{{Name: "chat", Rules: []namespace.Rule{
		{Channel: "chat.{room}", Subscribe: "true", History: "has(claims.reader)", Publish: `message_type != "adminAction" || has(claims.admin)`},
	}}})); err != nil {
		t.Fatal(err)
	}
	claims, err := structpb.NewStruct(map[string]any{"reader": true})
	if err != nil {
		t.Fatal(err)
	}
	res, err := check(t, s.asRole(t), &authzv1.CheckPermissionsRequest{UserId: "ann", Claims: claims, Checks: []*authzv1.PermissionCheck{
		{Action: authzv1.Action_ACTION_HISTORY, Channel: lobby},
		{Action: authzv1.Action_ACTION_PUBLISH, Channel: lobby, MessageType: "say"},
		{Action: authzv1.Action_ACTION_PUBLISH, Channel: lobby, MessageType: "adminAction"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []struct{ allowed, matters bool }{{true, false}, {true, true}, {false, true}} {
		if d := res.GetDecisions()[i]; d.GetAllowed() != want.allowed || d.GetMessageTypeMatters() != want.matters {
			t.Errorf("decision %d: %v", i, d)
		}
	}
}
