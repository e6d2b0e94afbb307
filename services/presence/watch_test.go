package presence

import (
	"cmp"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	presencev1 "github.com/carillon-rt/carillon/gen/carillon/presence/v1"
	"github.com/carillon-rt/carillon/services/internal/auth"
	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/presence/view"
)

type channelStream = grpc.ServerStreamingClient[presencev1.WatchChannelResponse]

func watchChannel(t testing.TB, conn grpc.ClientConnInterface, req *presencev1.WatchChannelRequest) channelStream {
	t.Helper()
	stream, err := presencev1.NewPresenceServiceClient(conn).WatchChannel(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

// step is a response in short: "all ann bob of 2", "+cid -ann of 2"; "…" stands where it
// goes on, "~" where it is a sample.
func step(snapshot *presencev1.MembersSnapshot, changed *presencev1.MembersChanged) string {
	var words []string
	total, truncated := changed.GetTotal(), changed.GetTruncated()
	if snapshot != nil {
		words, total, truncated = []string{"all"}, snapshot.GetTotal(), snapshot.GetTruncated()
		for _, m := range snapshot.GetMembers() {
			words = append(words, m.GetUserId())
		}
		if !snapshot.GetComplete() {
			words = append(words, "…")
		}
	}
	for _, m := range changed.GetJoined() {
		words = append(words, "+"+m.GetUserId())
	}
	for _, m := range changed.GetLeft() {
		words = append(words, "-"+m.GetUserId())
	}
	if truncated {
		words = append(words, "~")
	}
	return strings.Join(append(words, fmt.Sprint("of ", total)), " ")
}

// wantStep reads one response, and returns its token.
func wantStep(t testing.TB, stream channelStream, want string) (token string) {
	t.Helper()
	res, err := stream.Recv()
	if err != nil {
		t.Fatalf("%v, want %q", err, want)
	}
	if got := step(res.GetSnapshot(), res.GetChanged()); got != want || res.GetResumeToken() == "" {
		t.Fatalf("%q with the token %q, want %q", got, res.GetResumeToken(), want)
	}
	return res.GetResumeToken()
}

func TestWatchChannelAndGoOn(t *testing.T) {
	t.Parallel()
	s := started(t)
	e := s.report(t).ok(hello("e1")).ok(snapshot(true, at(lobby, "ann", 1), at(lobby, "bob", 1), at("chat.attic", "zoe", 1)))
	conn := s.as(t, "callers/billing")
	stream := watchChannel(t, conn, &presencev1.WatchChannelRequest{Channel: lobby})
	first := wantStep(t, stream, "all ann bob of 2")
	e.ok(changes(at(lobby, "cid", 1), at("chat.attic", "yan", 1)))
	second := wantStep(t, stream, "+cid of 3")
	e.ok(changes(at(lobby, "ann", 2))).ok(changes(at(lobby, "ann", 0), held("bob", 60_000)))
	third := wantStep(t, stream, "-ann of 2")
	var streams []channelStream
	for _, c := range []struct{ token, want string }{
		{first, "+cid -ann of 2"},
		{second, "-ann of 2"},
		{third, "of 2"},
		{"", "all bob cid of 2"},
	} {
		again := watchChannel(t, conn, &presencev1.WatchChannelRequest{Channel: lobby, ResumeToken: c.token})
		wantStep(t, again, c.want)
		streams = append(streams, again)
	}
	e.ok(changes(at(lobby, "dan", 1)))
	for _, each := range streams {
		wantStep(t, each, "+dan of 3")
	}
	other := started(t) // another replica does not know what has changed since
	other.report(t).ok(hello("e1")).ok(snapshot(true, at(lobby, "cid", 1)))
	wantStep(t, watchChannel(t, other.asRole(t), &presencev1.WatchChannelRequest{Channel: lobby, ResumeToken: third}), "all cid of 1")
}

// What is large comes in parts, and who goes on after any of them misses nothing.
func TestWatchChannelInParts(t *testing.T) {
	t.Parallel()
	s := started(t)
	e := s.report(t).ok(hello("e1"))
	part := func(n int, connections uint32) (all []*presencev1.Attendance) {
		for i := range 1000 {
			all = append(all, at(lobby, fmt.Sprintf("u%05d", n*1000+i), connections))
		}
		return all
	}
	e.ok(snapshot(false, part(0, 1)...)).ok(snapshot(false, part(1, 1)...)).ok(snapshot(true, part(2, 1)[:1]...))
	conn := s.asRole(t)
	req := func(token string) *presencev1.WatchChannelRequest {
		return &presencev1.WatchChannelRequest{Channel: lobby, MaxMembers: 100_000, ResumeToken: token}
	}
	stream := watchChannel(t, conn, req(""))
	var tokens []string
	for i, want := range []int{1000, 1000, 1} {
		res, err := stream.Recv()
		if err != nil || len(res.GetSnapshot().GetMembers()) != want || res.GetSnapshot().GetTotal() != 2001 || res.GetSnapshot().GetComplete() != (i == 2) {
			t.Fatalf("part %d: %d members (%v), want %d", i, len(res.GetSnapshot().GetMembers()), err, want)
		}
		tokens = append(tokens, res.GetResumeToken())
	}
	again, err := watchChannel(t, conn, req(tokens[1])).Recv()
	if err != nil || len(again.GetSnapshot().GetMembers()) != 1000 {
		t.Errorf("after a part: %v, %v", step(again.GetSnapshot(), nil), err)
	}
	for n := range 2 {
		e.ok(changes(part(n, 0)...))
	}
	resumed := watchChannel(t, conn, req(tokens[2]))
	for i := range 2 {
		res, err := resumed.Recv()
		if err != nil || len(res.GetChanged().GetLeft()) != 1000 || res.GetChanged().GetTotal() != 1 {
			t.Fatalf("part %d: %d left (%v)", i, len(res.GetChanged().GetLeft()), err)
		}
		if (res.GetResumeToken() == tokens[2]) != (i == 0) {
			t.Errorf("part %d moves on to %q from %q", i, res.GetResumeToken(), tokens[2])
		}
	}
}

// Of a channel beyond max_members there is a sample. Who goes on from that begins anew
// once the channel is small, since a sample is nothing to add changes to.
func TestWatchChannelThatIsLarge(t *testing.T) {
	t.Parallel()
	s := started(t)
	e := s.report(t).ok(hello("e1")).ok(snapshot(true, at(lobby, "a", 1), at(lobby, "b", 1), at(lobby, "c", 1)))
	conn := s.asRole(t)
	req := &presencev1.WatchChannelRequest{Channel: lobby, MaxMembers: 2}
	stream := watchChannel(t, conn, req)
	sample := wantStep(t, stream, "all a b c ~ of 3")
	e.ok(changes(at(lobby, "d", 1)))
	wantStep(t, stream, "+d ~ of 4")
	e.ok(changes(at(lobby, "b", 0), at(lobby, "c", 0), at(lobby, "d", 0)))
	whole := wantStep(t, stream, "all a of 1")
	wantStep(t, watchChannel(t, conn, &presencev1.WatchChannelRequest{Channel: lobby, ResumeToken: sample}), "all a of 1")
	wantStep(t, watchChannel(t, conn, &presencev1.WatchChannelRequest{Channel: lobby, ResumeToken: whole}), "of 1")
}

func TestWatchChannelRefusals(t *testing.T) {
	t.Parallel()
	s := started(t)
	s.report(t).ok(hello("e1")).ok(snapshot(true))
	elsewhere := wantStep(t, watchChannel(t, s.asRole(t), &presencev1.WatchChannelRequest{Channel: "chat.attic"}), "all of 0")
	for name, c := range map[string]struct {
		as     bearer
		req    *presencev1.WatchChannelRequest
		code   codes.Code
		reason fault.Reason
		field  string
	}{
		"no channel":           {"callers/billing", &presencev1.WatchChannelRequest{}, codes.InvalidArgument, fault.FieldRequired, "channel"},
		"illegal channel":      {"callers/billing", &presencev1.WatchChannelRequest{Channel: "chat.*"}, codes.InvalidArgument, fault.ChannelInvalid, "channel"},
		"unknown namespace":    {"callers/billing", &presencev1.WatchChannelRequest{Channel: "nope.x"}, codes.NotFound, fault.NamespaceUnknown, "channel"},
		"without presence":     {"callers/billing", &presencev1.WatchChannelRequest{Channel: "news.x"}, codes.FailedPrecondition, fault.PresenceDisabled, "channel"},
		"not covered":          {"callers/other", &presencev1.WatchChannelRequest{Channel: lobby}, codes.PermissionDenied, fault.CallerDenied, "channel"},
		"a user":               {"clients/ann", &presencev1.WatchChannelRequest{Channel: lobby}, codes.Unauthenticated, fault.TokenAudienceInvalid, ""},
		"too many members":     {"roles/edge", &presencev1.WatchChannelRequest{Channel: lobby, MaxMembers: 100_001}, codes.InvalidArgument, fault.FieldInvalid, "maxMembers"},
		"token not base64":     {"roles/edge", &presencev1.WatchChannelRequest{Channel: lobby, ResumeToken: "?"}, codes.InvalidArgument, fault.FieldInvalid, "resumeToken"},
		"token of another":     {"roles/edge", &presencev1.WatchChannelRequest{Channel: lobby, ResumeToken: elsewhere}, codes.InvalidArgument, fault.FieldInvalid, "resumeToken"},
		"token of no replica":  {"roles/edge", &presencev1.WatchChannelRequest{Channel: lobby, ResumeToken: resumeToken(lobby, &view.Position{Version: 1})}, codes.InvalidArgument, fault.FieldInvalid, "resumeToken"},
		"token of a long name": {"roles/edge", &presencev1.WatchChannelRequest{Channel: lobby, ResumeToken: resumeToken(lobby, &view.Position{Replica: strings.Repeat("x", 65)})}, codes.InvalidArgument, fault.FieldInvalid, "resumeToken"},
		"token beyond reason":  {"roles/edge", &presencev1.WatchChannelRequest{Channel: lobby, ResumeToken: strings.Repeat("A", 129)}, codes.InvalidArgument, fault.FieldInvalid, "resumeToken"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := watchChannel(t, s.as(t, c.as), c.req).Recv()
			wantFault(t, err, c.code, c.reason, c.field, "")
		})
	}
}

// Something comes every 5 s, whose token is as good as the one before, and the stream
// ends with the token of who watches; a role's goes on.
func TestWatchChannelThroughSilence(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := started(t)
		defer s.stop()
		e := s.report(t).ok(hello("e1")).ok(snapshot(true, at(lobby, "ann", 1)))
		begun := time.Now()
		stream := watchChannel(t, s.as(t, "callers/billing/12s"), &presencev1.WatchChannelRequest{Channel: lobby})
		role := watchChannel(t, s.as(t, "roles/edge/1s"), &presencev1.WatchChannelRequest{Channel: lobby})
		token := wantStep(t, stream, "all ann of 1")
		wantStep(t, role, "all ann of 1")
		alive := func(upTo time.Duration) {
			for time.Since(begun) < upTo {
				time.Sleep(time.Second)
				e.ok(heartbeat())
			}
		}
		alive(11 * time.Second)
		for range 2 {
			if beat := wantStep(t, stream, "of 1"); beat != token {
				t.Errorf("after a heartbeat to go on from %q, not %q", beat, token)
			}
			wantStep(t, role, "of 1")
		}
		alive(16 * time.Second)
		_, err := stream.Recv()
		wantFault(t, err, codes.Unauthenticated, fault.TokenExpired, "", "")
		wantStep(t, role, "of 1")
	})
}

// A caller whose patterns cover the channel no longer is told nothing more.
func TestWatchChannelEndsWithTheRightTo(t *testing.T) {
	t.Parallel()
	s := started(t)
	e := s.report(t).ok(hello("e1")).ok(snapshot(true))
	stream := watchChannel(t, s.as(t, "callers/billing"), &presencev1.WatchChannelRequest{Channel: lobby})
	wantStep(t, stream, "all of 0")
	if err := s.callers.Replace([]auth.Caller{{Name: "billing"}}); err != nil {
		t.Fatal(err)
	}
	e.ok(changes(at(lobby, "ann", 1)))
	_, err := stream.Recv()
	wantFault(t, err, codes.PermissionDenied, fault.CallerDenied, "channel", "")
}

// Whoever joins and leaves at once is told of once in a while: as it ended up.
func TestWatchersAreToldAtIntervals(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := started(t)
		defer s.stop()
		e := s.report(t).ok(hello("e1")).ok(snapshot(true))
		stream := watchChannel(t, s.asRole(t), &presencev1.WatchChannelRequest{Channel: lobby})
		wantStep(t, stream, "all of 0")
		at0 := time.Now()
		for i := range 10 {
			e.ok(changes(at(lobby, "flicker", uint32(i%2)), at(lobby, fmt.Sprint("u", i), 1)))
		}
		var steps []string
		joined := 0
		for joined < 11 {
			res, err := stream.Recv()
			if err != nil {
				t.Fatal(err)
			}
			joined += len(res.GetChanged().GetJoined())
			steps = append(steps, step(nil, res.GetChanged()))
		}
		if len(steps) > 1 || time.Since(at0) > 20*time.Millisecond {
			t.Errorf("%v after %v", steps, time.Since(at0))
		}
	})
}

// Who keeps a count in place of a list goes on to, however long nothing happens.
func TestHeartbeatOfALargeChannel(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := started(t)
		defer s.stop()
		s.report(t).ok(hello("e1")).ok(snapshot(true, at(lobby, "a", 1), at(lobby, "b", 1)))
		stream := watchChannel(t, s.asRole(t), &presencev1.WatchChannelRequest{Channel: lobby, MaxMembers: 1})
		wantStep(t, stream, "all a b ~ of 2")
		wantStep(t, stream, "~ of 2")
	})
}

// What ends a watcher of the view ends the stream.
func TestWatchersEndWithTheView(t *testing.T) {
	t.Parallel()
	s := started(t)
	s.report(t).ok(hello("e1")).ok(snapshot(true))
	stream, w := watchChannel(t, s.asRole(t), &presencev1.WatchChannelRequest{Channel: lobby}), s.look(t)
	wantStep(t, stream, "all of 0")
	w.say(watching(lobby)).want("chat.lobby: all of 0")
	s.service.view.Close()
	_, err := stream.Recv()
	wantFault(t, err, codes.Unavailable, fault.Draining, "", "")
	_, err = w.stream.Recv()
	wantFault(t, err, codes.Unavailable, fault.Draining, "", "")
}

func TestCloseEndsWatchers(t *testing.T) {
	t.Parallel()
	s := started(t)
	s.report(t).ok(hello("e1")).ok(snapshot(true))
	stream, w := watchChannel(t, s.asRole(t), &presencev1.WatchChannelRequest{Channel: lobby}), s.look(t)
	wantStep(t, stream, "all of 0")
	w.say(watching(lobby)).want("chat.lobby: all of 0")
	s.service.Close()
	_, err := stream.Recv()
	wantFault(t, err, codes.Unavailable, fault.Draining, "", "the presence service stops")
	_, err = w.stream.Recv()
	wantFault(t, err, codes.Unavailable, fault.Draining, "", "the presence service stops")
	_, err = watchChannel(t, s.asRole(t), &presencev1.WatchChannelRequest{Channel: lobby}).Recv()
	wantFault(t, err, codes.Unavailable, fault.Draining, "", "")
	_, err = s.look(t).stream.Recv()
	wantFault(t, err, codes.Unavailable, fault.Draining, "", "")
}

// watch is an edge's Watch, written by hand.
type watch struct {
	t      testing.TB
	stream grpc.BidiStreamingClient[presencev1.WatchRequest, presencev1.WatchResponse]
}

func (s *system) look(t testing.TB) *watch {
	t.Helper()
	stream, err := presencev1.NewPresenceReportServiceClient(s.asRole(t)).Watch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return &watch{t, stream}
}

func (w *watch) say(req *presencev1.WatchRequest) *watch {
	w.t.Helper()
	if err := w.stream.Send(req); err != nil {
		w.t.Fatal(err)
	}
	return w
}

func (w *watch) want(want string) *watch {
	w.t.Helper()
	res, err := w.stream.Recv()
	if err != nil {
		w.t.Fatalf("%v, want %q", err, want)
	}
	got := cmp.Or(res.GetChannel(), "beat")
	switch event := res.GetEvent().(type) {
	case *presencev1.WatchResponse_Synced:
		got = fmt.Sprint("synced ", event.Synced.GetNumber())
	case *presencev1.WatchResponse_Snapshot:
		got += ": " + step(event.Snapshot, nil)
	case *presencev1.WatchResponse_Changed:
		got += ": " + step(nil, event.Changed)
	}
	if got != want {
		w.t.Fatalf("%q, want %q", got, want)
	}
	return w
}

func watching(name string) *presencev1.WatchRequest {
	return &presencev1.WatchRequest{Request: &presencev1.WatchRequest_Watch{Watch: &presencev1.WatchedChannel{Channel: name}}}
}

func unwatching(name string) *presencev1.WatchRequest {
	return &presencev1.WatchRequest{Request: &presencev1.WatchRequest_Unwatch{Unwatch: &presencev1.WatchedChannel{Channel: name}}}
}

func syncing(n uint64) *presencev1.WatchRequest {
	return &presencev1.WatchRequest{Request: &presencev1.WatchRequest_Sync{Sync: &presencev1.Sync{Number: n}}}
}

// An edge is told of the channels that it watches and no others, and before the answer
// to a sync of all that was acknowledged before.
func TestWatchOfAnEdge(t *testing.T) {
	t.Parallel()
	s := started(t)
	e := s.report(t).ok(hello("e1")).ok(snapshot(true, at(lobby, "ann", 1)))
	w := s.look(t)
	w.say(watching(lobby)).want("chat.lobby: all ann of 1")
	w.say(watching("chat.attic")).want("chat.attic: all of 0")
	for i := range uint64(50) {
		name := fmt.Sprint("u", i)
		e.ok(changes(at("chat.cellar", name, 1), at("chat.attic", name, 1)))
		w.say(syncing(i)).want(fmt.Sprintf("chat.attic: +%s of %d", name, i+1)).want(fmt.Sprint("synced ", i))
	}
	w.say(unwatching("chat.attic")).say(unwatching("chat.unknown")).say(syncing(100)).want("synced 100")
	e.ok(changes(at("chat.attic", "zoe", 1), at(lobby, "ann", 0)))
	w.say(syncing(101)).want("chat.lobby: -ann of 0").want("synced 101")
	w.say(watching(lobby)).want("chat.lobby: all of 0")
	if err := w.stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if res, err := w.stream.Recv(); err == nil || err.Error() != "EOF" {
		t.Errorf("%v, %v after the end", res, err)
	}
}

// Nothing is told any more once the view does not hold the truth: nor is that all is told.
func TestWatcherThatHasEndedIsNotSynced(t *testing.T) {
	t.Parallel()
	s := started(t)
	s.report(t).ok(hello("e1")).ok(snapshot(true))
	watcher, err := s.service.view.Watch()
	if err != nil {
		t.Fatal(err)
	}
	defer watcher.Close()
	s.service.view.Close()
	w := &edgeWatch{telling: telling{service: s.service, watcher: watcher}}
	if f := fault.From(w.wish(syncing(1))); f == nil || f.Reason != fault.Draining {
		t.Errorf("got %v", f)
	}
}

func TestWatchOfAnEdgeThroughSilence(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := started(t)
		defer s.stop()
		s.report(t).ok(hello("e1")).ok(snapshot(true))
		w := s.look(t)
		for range 3 {
			before := time.Now()
			w.want("beat")
			if passed := time.Since(before); passed > 2*time.Second {
				t.Errorf("nothing for %v", passed)
			}
		}
	})
}

func TestWatchOfAnEdgeRefusals(t *testing.T) {
	t.Parallel()
	s := started(t)
	s.report(t).ok(hello("e1")).ok(snapshot(true))
	for _, c := range []struct {
		req    *presencev1.WatchRequest
		reason fault.Reason
		field  string
	}{
		{watching("chat.*"), fault.ChannelInvalid, "watch.channel"},
		{unwatching("chat"), fault.ChannelInvalid, "unwatch.channel"},
		{watching(""), fault.FieldRequired, "watch.channel"},
		{&presencev1.WatchRequest{}, fault.FieldRequired, "request"},
	} {
		_, err := s.look(t).say(c.req).stream.Recv()
		wantFault(t, err, codes.InvalidArgument, c.reason, c.field, "")
	}
	watcher, err := s.service.view.Watch()
	if err != nil {
		t.Fatal(err)
	}
	defer watcher.Close()
	full := &edgeWatch{telling: telling{service: s.service, watcher: watcher}, watched: map[channel.Name]struct{}{}}
	for i := range maxWatched {
		full.watched[channel.Name(fmt.Sprint("chat.", i))] = struct{}{}
	}
	if err := full.wish(watching("chat.7")); err != nil {
		t.Errorf("one of them again: %v", err)
	}
	f := fault.From(full.wish(watching(lobby)))
	if f == nil || f.Reason != fault.WatchLimit || f.Field != "watch.channel" || f.Message != "an edge may watch at most 100000 channels" {
		t.Errorf("one more: %v", f)
	}
	if err := full.wish(unwatching("chat.7")); err != nil {
		t.Error(err)
	}
	if err := full.wish(watching(lobby)); err != nil {
		t.Errorf("in its place: %v", err)
	}
}

func FuzzResumeToken(f *testing.F) {
	f.Add(resumeToken(lobby, nil))
	f.Add(resumeToken(lobby, &view.Position{Replica: "ABC", Version: 1 << 40}))
	f.Add(base64.RawURLEncoding.EncodeToString([]byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13}))
	f.Fuzz(func(t *testing.T, token string) {
		at, err := parseResumeToken(lobby, token)
		if err == nil && token != "" && resumeToken(lobby, at) != token {
			t.Fatalf("%q is another name of %v", token, at)
		}
	})
}
