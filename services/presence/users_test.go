package presence

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"

	presencev1 "github.com/carillon-rt/carillon/gen/carillon/presence/v1"
	"github.com/carillon-rt/carillon/services/internal/fault"
)

func count(t testing.TB, conn grpc.ClientConnInterface, channels ...string) (*presencev1.CountMembersResponse, error) {
	t.Helper()
	return presencev1.NewPresenceServiceClient(conn).CountMembers(t.Context(), &presencev1.CountMembersRequest{Channels: channels})
}

func user(t testing.TB, conn grpc.ClientConnInterface, id string) (*presencev1.GetUserResponse, error) {
	t.Helper()
	return presencev1.NewPresenceServiceClient(conn).GetUser(t.Context(), &presencev1.GetUserRequest{UserId: id})
}

func TestCountMembers(t *testing.T) {
	t.Parallel()
	s := started(t)
	s.report(t).ok(hello("e1")).ok(snapshot(true, at(lobby, "ann", 2), held("bob", 60_000), at("chat.attic", "ann", 1)))
	s.report(t).ok(hello("e2")).ok(snapshot(true, at(lobby, "ann", 3)))
	res, err := count(t, s.as(t, "callers/billing"), lobby, "chat.empty", "chat.attic", lobby)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range res.GetCounts() {
		got = append(got, fmt.Sprintf("%s %d %d", c.GetChannel(), c.GetMembers(), c.GetConnections()))
	}
	if want := []string{"chat.lobby 2 5", "chat.empty 0 0", "chat.attic 1 1", "chat.lobby 2 5"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestCountMembersRefusals(t *testing.T) {
	t.Parallel()
	s := started(t)
	for name, c := range map[string]struct {
		as       bearer
		channels []string
		code     codes.Code
		reason   fault.Reason
		field    string
	}{
		"none":              {"roles/edge", nil, codes.InvalidArgument, fault.FieldRequired, "channels"},
		"too many":          {"roles/edge", slices.Repeat([]string{lobby}, 1001), codes.InvalidArgument, fault.FieldInvalid, "channels"},
		"illegal channel":   {"callers/billing", []string{lobby, "chat.*"}, codes.InvalidArgument, fault.ChannelInvalid, "channels[1]"},
		"unknown namespace": {"callers/billing", []string{"nope.x"}, codes.NotFound, fault.NamespaceUnknown, "channels[0]"},
		"without presence":  {"callers/billing", []string{lobby, lobby, "news.x"}, codes.FailedPrecondition, fault.PresenceDisabled, "channels[2]"},
		"not covered":       {"callers/billing", []string{lobby, "chat.a.b"}, codes.PermissionDenied, fault.CallerDenied, "channels[1]"},
		"unknown caller":    {"callers/ghost", []string{lobby}, codes.PermissionDenied, fault.CallerUnknown, ""},
		"a user":            {"clients/ann", []string{lobby}, codes.Unauthenticated, fault.TokenAudienceInvalid, ""},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := count(t, s.as(t, c.as), c.channels...)
			wantFault(t, err, c.code, c.reason, c.field, "")
		})
	}
}

// A user is told of over all edges, with what its latest connection says, and once it
// has gone with when it was last heard.
func TestUserFromFirstToLastConnection(t *testing.T) {
	t.Parallel()
	s := started(t)
	talker := connected("c2", "ann", 2000)
	talker.Info = `{"name":"Ann"}`
	one := s.report(t).ok(hello("e1")).ok(snapshot(true, at(lobby, "ann", 1))).ok(connections(connected("c1", "ann", 1000)))
	two := s.report(t).ok(hello("e2")).ok(snapshot(true)).ok(connections(talker, connected("c3", "ann", 1500)))
	conn := s.as(t, "callers/billing")
	res, err := user(t, conn, "ann")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range res.GetConnections() {
		got = append(got, fmt.Sprintf("%s %s %d %s", c.GetConnectionId(), c.GetEdgeId(), c.GetSince().GetSeconds(), c.GetInfo()))
	}
	if want := []string{"c1 e1 1000 ", "c3 e2 1500 ", `c2 e2 2000 {"name":"Ann"}`}; !slices.Equal(got, want) || !res.GetOnline() || res.GetTotal() != 3 || res.GetLastSeen() != nil {
		t.Errorf("%q %v, want %q", got, res, want)
	}
	members, err := list(t, conn, &presencev1.ListMembersRequest{Channel: lobby})
	if err != nil || members.GetMembers()[0].GetInfo() != `{"name":"Ann"}` {
		t.Errorf("as a member: %v, %v", members, err)
	}

	end := func(id string, at time.Time) *presencev1.Connection {
		return &presencev1.Connection{ConnectionId: id, UserId: "ann", Ended: timestamppb.New(at)}
	}
	last := time.Now().Add(-time.Minute).Truncate(time.Millisecond)
	two.ok(connections(end("c2", last.Add(-time.Hour)), end("c3", last)))
	if res, err = user(t, conn, "ann"); err != nil || res.GetTotal() != 1 || res.GetLastSeen() != nil {
		t.Errorf("with one left: %v, %v", res, err)
	}
	one.ok(connections(end("c1", last.Add(-time.Minute))))
	if res, err = user(t, conn, "ann"); err != nil || res.GetOnline() || len(res.GetConnections()) > 0 || !res.GetLastSeen().AsTime().Equal(last) {
		t.Errorf("offline: %v, %v, want last seen %v", res, err, last)
	}
	if res, err = user(t, conn, "nobody"); err != nil || res.GetUserId() != "nobody" || res.GetOnline() || res.GetLastSeen() != nil {
		t.Errorf("who was never there: %v, %v", res, err)
	}
}

// What edges remember of those who have gone comes with their snapshots; the latest
// counts.
func TestLastSeenOfSnapshots(t *testing.T) {
	t.Parallel()
	s := started(t)
	at := time.Now().Add(-time.Hour).Truncate(time.Millisecond)
	for i, seen := range []time.Time{at.Add(-time.Minute), at, at.Add(-time.Hour)} {
		s.report(t).ok(hello(fmt.Sprint("e", i))).ok(&presencev1.ReportRequest{Report: &presencev1.ReportRequest_Snapshot{Snapshot: &presencev1.Snapshot{
			Complete: true, LastSeen: []*presencev1.LastSeen{{UserId: "ann", Time: timestamppb.New(seen)}},
		}}})
	}
	if res, err := user(t, s.asRole(t), "ann"); err != nil || !res.GetLastSeen().AsTime().Equal(at) {
		t.Errorf("%v, %v, want %v", res, err, at)
	}
}

func TestGetUserRefusals(t *testing.T) {
	t.Parallel()
	s := started(t)
	for name, c := range map[string]struct {
		as     bearer
		user   string
		code   codes.Code
		reason fault.Reason
		field  string
	}{
		"nobody":       {"callers/billing", "", codes.InvalidArgument, fault.FieldRequired, "userId"},
		"bad":          {"callers/billing", "a\n", codes.InvalidArgument, fault.FieldInvalid, "userId"},
		"too long":     {"callers/billing", strings.Repeat("x", 256), codes.InvalidArgument, fault.FieldInvalid, "userId"},
		"not covered":  {"callers/other", "ann", codes.PermissionDenied, fault.CallerDenied, "userId"},
		"not a caller": {"callers/ghost", "ann", codes.PermissionDenied, fault.CallerUnknown, ""},
		"a user":       {"clients/ann", "ann", codes.Unauthenticated, fault.TokenAudienceInvalid, ""},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := user(t, s.as(t, c.as), c.user)
			wantFault(t, err, c.code, c.reason, c.field, "")
		})
	}
}

// A member who is held stays without connections for its time, and not for longer.
func TestHeldMembersOverTheWire(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := started(t)
		e := s.report(t).ok(hello("e1")).ok(snapshot(true, at(lobby, "ann", 1), held("bob", 3000))).ok(changes(held("ann", 1000)))
		res, err := list(t, s.asRole(t), &presencev1.ListMembersRequest{Channel: lobby})
		if err != nil || res.GetTotal() != 2 || res.GetMembers()[0].GetConnections() != 0 {
			t.Fatalf("%v, %v", res, err)
		}
		time.Sleep(1200 * time.Millisecond)
		wantUsers(t, s, "bob")
		e.ok(goodbye())
		wantUsers(t, s, "bob")
		time.Sleep(2 * time.Second)
		wantUsers(t, s)
		s.stop()
	})
}

// Before every edge that there is has had time to report nobody is told who is where,
// but reports are taken and permissions decided; a moment later all is.
func TestNothingIsToldBeforeItIsKnown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := startedWith(t, Options{})
		defer s.stop()
		e := s.report(t).ok(hello("e1"))
		conn := s.asRole(t)
		wantNotReady := func() {
			t.Helper()
			client, reports := presencev1.NewPresenceServiceClient(conn), presencev1.NewPresenceReportServiceClient(conn)
			var errs [5]error
			_, errs[0] = list(t, conn, &presencev1.ListMembersRequest{Channel: lobby})
			_, errs[1] = count(t, conn, lobby)
			_, errs[2] = user(t, conn, "ann")
			stream, err := client.WatchChannel(t.Context(), &presencev1.WatchChannelRequest{Channel: lobby})
			if err != nil {
				t.Fatal(err)
			}
			_, errs[3] = stream.Recv()
			watch, err := reports.Watch(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			_, errs[4] = watch.Recv()
			for i, err := range errs {
				wantFault(t, err, codes.Unavailable, fault.PresenceUnavailable, "", "this replica does not know yet who is where")
				if retry := fault.FromGRPC(err, "").RetryAfter; retry != 500*time.Millisecond {
					t.Errorf("call %d: to be tried again after %v", i, retry)
				}
			}
			if s.service.Ready() == nil {
				t.Error("it says that it is ready")
			}
		}
		wantNotReady()
		time.Sleep(3200 * time.Millisecond)
		wantNotReady() // since the edge has said hello and nothing else
		e.ok(snapshot(true, at(lobby, "ann", 1)))
		time.Sleep(200 * time.Millisecond)
		if res, err := list(t, conn, &presencev1.ListMembersRequest{Channel: lobby}); err != nil || res.GetTotal() != 1 || s.service.Ready() != nil {
			t.Errorf("%v, %v, ready: %v", res, err, s.service.Ready())
		}
	})
}
