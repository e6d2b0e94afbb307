package presence

import (
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"

	presencev1 "github.com/carillon-rt/carillon/gen/carillon/presence/v1"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/presence/view"
)

const lobby = "chat.lobby"

// wantUsers compares the members of chat.lobby.
func wantUsers(t testing.TB, s *system, want ...string) {
	t.Helper()
	page, total, _ := s.service.view.Members(lobby, "", 1000)
	var got []string
	for _, m := range page {
		got = append(got, string(m.User))
	}
	if strings.Join(got, " ") != strings.Join(want, " ") || total != len(want) {
		t.Fatalf("members %v of %d, want %v", got, total, want)
	}
}

func TestReportFromHelloToGoodbye(t *testing.T) {
	t.Parallel()
	s := started(t)
	e := s.report(t).ok(hello("e1")).
		ok(snapshot(false, at(lobby, "ann", 1))).
		ok(snapshot(true, at(lobby, "bob", 2)))
	wantUsers(t, s, "ann", "bob")
	e.ok(changes(at(lobby, "ann", 0), at(lobby, "cid", 1))).ok(heartbeat())
	wantUsers(t, s, "bob", "cid")
	s.report(t).ok(hello("e2")).ok(snapshot(true, at(lobby, "bob", 1), at("news.x", "no presence here", 1)))
	res, err := list(t, s.asRole(t), &presencev1.ListMembersRequest{Channel: lobby})
	if err != nil || res.GetTotal() != 2 || res.GetMembers()[0].GetConnections() != 3 || res.GetMembers()[0].GetSince().GetSeconds() != 1_700_000_000 {
		t.Fatalf("ListMembers: %v, %v", res, err)
	}
	e.ok(goodbye())
	wantUsers(t, s, "bob")
	if _, err := e.stream.Recv(); err != io.EOF {
		t.Fatalf("after the goodbye: %v", err)
	}
}

func TestReportRefusals(t *testing.T) {
	t.Parallel()
	s := started(t)
	begun := []*presencev1.ReportRequest{hello("e1"), snapshot(true)}
	numbered := func(n uint64, req *presencev1.ReportRequest) *presencev1.ReportRequest {
		req.Sequence = n
		return req
	}
	late := at(lobby, "ann", 1)
	late.Since = nil
	lateHeld := held("ann", 1000)
	lateHeld.Since = &timestamppb.Timestamp{}
	both := at(lobby, "ann", 2)
	both.HeldMs = 1
	ended := &presencev1.Connection{ConnectionId: "c", UserId: "ann", Ended: timestamppb.Now()}
	said := func(info string) *presencev1.Connection {
		c := connected("c", "ann", 1)
		c.Info = info
		return c
	}
	for name, c := range map[string]struct {
		before  []*presencev1.ReportRequest
		bad     *presencev1.ReportRequest
		field   string
		message string
	}{
		"begins with 2":           {nil, numbered(2, hello("e1")), "sequence", "sequence is 2 where 1 comes next"},
		"a hole":                  {begun, numbered(4, heartbeat()), "sequence", "sequence is 4 where 3 comes next"},
		"a repeat":                {begun, numbered(2, heartbeat()), "sequence", "sequence is 2 where 3 comes next"},
		"no hello":                {nil, snapshot(true), "report", "the first request is a hello"},
		"hello twice":             {begun, hello("e1"), "report", ""},
		"snapshot twice":          {begun, snapshot(true), "report", ""},
		"changes before snapshot": {begun[:1], changes(), "report", ""},
		"bad channel":             {begun, changes(at("chat", "ann", 1)), "changes.attendances[0].channel", ""},
		"bad user":                {begun, changes(at(lobby, "ann", 1), at(lobby, "a\x00", 1)), "changes.attendances[1].userId", ""},
		"nobody":                  {begun[:1], snapshot(true, at(lobby, "ann", 0)), "snapshot.attendances[0].connections", "connections is 0, and the member is not held: nobody to be told of"},
		"too many connections":    {begun, changes(at(lobby, "ann", 1_000_001)), "changes.attendances[0].connections", ""},
		"no since":                {begun, changes(late), "changes.attendances[0].since", "since is required"},
		"held, no since":          {begun, changes(lateHeld), "changes.attendances[0].since", "since is not a time after 1970"},
		"held too long":           {begun, changes(held("ann", 3_600_001)), "changes.attendances[0].heldMs", "heldMs is 3600001, more than 3600000"},
		"held and connected":      {begun, changes(both), "changes.attendances[0].heldMs", "heldMs is for a user without connections; there are 2"},
		"a connection unnamed":    {begun, connections(connected("", "ann", 1)), "changes.connections[0].connectionId", "connectionId has 0 bytes; it needs 1 to 64"},
		"a connection's user":     {begun, connections(connected("c", "a\x00", 1)), "changes.connections[0].userId", ""},
		"a connection's since":    {begun, connections(connected("c", "ann", 1), connected("d", "ann", 0)), "changes.connections[1].since", ""},
		"ended before it began":   {begun[:1], &presencev1.ReportRequest{Report: &presencev1.ReportRequest_Snapshot{Snapshot: &presencev1.Snapshot{Connections: []*presencev1.Connection{ended}}}}, "snapshot.connections[0].ended", ""},
		"last seen never":         {begun[:1], &presencev1.ReportRequest{Report: &presencev1.ReportRequest_Snapshot{Snapshot: &presencev1.Snapshot{LastSeen: []*presencev1.LastSeen{{UserId: "ann"}}}}}, "snapshot.lastSeen[0].time", "time is required"},
		"an info that is none":    {begun, connections(said("{")), "changes.connections[0].info", ""},
		"an info not compact":     {begun, connections(said("{ }")), "changes.connections[0].info", "info is not compact"},
		"an info too long":        {begun, connections(said(`"` + strings.Repeat("x", 1023) + `"`)), "changes.connections[0].info", "info has 1025 bytes, more than 1024"},
		"an info too deep":        {begun, connections(said(strings.Repeat("[", 33) + strings.Repeat("]", 33))), "changes.connections[0].info", ""},
		"too many connected":      {begun, connections(make([]*presencev1.Connection, 1001)...), "changes.connections", "connections has 1001 entries, more than 1000"},
		"a part too large":        {begun, changes(make([]*presencev1.Attendance, 1001)...), "changes.attendances", "attendances has 1001 entries, more than 1000"},
	} {
		t.Run(name, func(t *testing.T) {
			e := s.report(t)
			for _, req := range c.before {
				req.Sequence = 0
				e.ok(req)
			}
			for i, a := range c.bad.GetChanges().GetConnections() {
				if a == nil {
					c.bad.GetChanges().Connections[i] = connected("c", "ann", 1)
				}
			}
			for i, a := range c.bad.GetChanges().GetAttendances() {
				if a == nil {
					c.bad.GetChanges().Attendances[i] = at(lobby, "ann", 1)
				}
			}
			f := fault.FromGRPC(e.send(c.bad), "none")
			if f == nil || f.Code() != codes.InvalidArgument || f.Field != c.field || c.message != "" && f.Message != c.message {
				t.Fatalf("got %v, want %s: %s", f, c.field, c.message)
			}
		})
	}
}

// An edge that has started again has more to say than its last stream.
func TestReportOfAnOldIncarnation(t *testing.T) {
	t.Parallel()
	s := started(t)
	s.report(t).ok(incarnated("e0", 7)) // which is forgotten after a silence
	f := fault.FromGRPC(s.report(t).send(incarnated("e0", 6)), "none")
	if f == nil || f.Code() != codes.InvalidArgument || f.Field != "hello.incarnation" {
		t.Fatalf("got %v", f)
	}
	s.report(t).ok(incarnated("e0", 8))
}

// The interceptor refuses what the contract bounds.
func TestReportWithinTheContract(t *testing.T) {
	t.Parallel()
	s := started(t)
	for _, bad := range []*presencev1.ReportRequest{hello(""), hello(strings.Repeat("x", 65)), {}} {
		if f := fault.FromGRPC(s.report(t).send(bad), "none"); f == nil || f.Code() != codes.InvalidArgument {
			t.Errorf("%v: %v", bad, f)
		}
	}
}

func TestNewStreamOfAnEdgeReplacesTheOld(t *testing.T) {
	t.Parallel()
	s := started(t)
	old := s.report(t).ok(incarnated("e1", 1)).ok(snapshot(true, at(lobby, "ann", 1)))
	e := s.report(t).ok(incarnated("e1", 2))
	_, err := old.stream.Recv()
	wantFault(t, err, codes.Unavailable, fault.PresenceUnavailable, "", "another stream of this edge took over")
	wantUsers(t, s, "ann")
	e.ok(snapshot(true, at(lobby, "bob", 1)))
	wantUsers(t, s, "bob")
}

func TestSilenceAndLossOverTheWire(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := started(t)
		silent := s.report(t).ok(hello("silent")).ok(snapshot(true, at(lobby, "ann", 1)))
		lost := s.report(t).ok(hello("lost")).ok(snapshot(true, at(lobby, "bob", 1)))
		mute := s.report(t) // opens a stream and never says hello
		time.Sleep(view.Silence - time.Second)
		if err := lost.stream.CloseSend(); err != nil {
			t.Fatal(err)
		}
		if _, err := lost.stream.Recv(); err != io.EOF {
			t.Fatal(err)
		}
		wantUsers(t, s, "ann", "bob")
		time.Sleep(time.Second + 200*time.Millisecond) // the view looks every 100 ms
		synctest.Wait()
		wantUsers(t, s)
		_, err := silent.stream.Recv()
		wantFault(t, err, codes.DeadlineExceeded, fault.Timeout, "", "the edge said nothing for 5.5s")
		_, err = mute.stream.Recv()
		wantFault(t, err, codes.DeadlineExceeded, fault.Timeout, "", "the edge said nothing for 5.5s")
		s.stop()
		synctest.Wait()
	})
}

func TestCloseEndsReports(t *testing.T) {
	t.Parallel()
	s := started(t)
	e := s.report(t).ok(hello("e1")).ok(snapshot(true, at(lobby, "ann", 1)))
	mute := s.report(t)
	s.service.Close()
	for _, stream := range []*edge{e, mute} {
		_, err := stream.stream.Recv()
		wantFault(t, err, codes.Unavailable, fault.Draining, "", "the presence service stops")
	}
	wantFault(t, s.report(t).send(hello("e2")), codes.Unavailable, fault.Draining, "", "")
	s.service.Close()
}

// Every error of the view has a fault of its own.
func TestFaultsOfTheView(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		err    error
		reason fault.Reason
	}{
		{view.ErrReplaced, fault.PresenceUnavailable},
		{view.ErrClosed, fault.Draining},
		{view.ErrSilent, fault.Timeout},
		{view.ErrUnfinished, fault.Timeout},
		{view.ErrNotReady, fault.PresenceUnavailable},
		{view.ErrIncarnation, fault.FieldInvalid},
		{view.ErrTooManyConnections, fault.ConnectionLimit},
		{view.ErrTooManyWatchers, fault.WatchLimit},
		{view.ErrOrder, fault.FieldInvalid},
		{view.ErrTooManyAttendances, fault.SubscriptionLimit},
		{view.ErrTooManyEdges, fault.ConnectionLimit},
		{errors.New("unforeseen"), fault.Internal},
	} {
		if got := fault.From(faultOf(c.err)); got.Reason != c.reason {
			t.Errorf("%v: %v, want %s", c.err, got, c.reason)
		}
	}
	if faultOf(nil) != nil {
		t.Error("a fault without an error")
	}
}
