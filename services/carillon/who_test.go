package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/types/known/timestamppb"

	presencev1 "github.com/carillon-rt/carillon/gen/carillon/presence/v1"
	"github.com/carillon-rt/carillon/services/internal/auth"
	"github.com/carillon-rt/carillon/services/internal/namespace"
	"github.com/carillon-rt/carillon/services/internal/rpc"
	"github.com/carillon-rt/carillon/services/presence"
)

// replica is a presence replica that lets in whoever shows a token, and an edge that
// reports to it.
type replica struct {
	t        *testing.T
	conn     *grpc.ClientConn
	report   grpc.BidiStreamingClient[presencev1.ReportRequest, presencev1.ReportResponse]
	sequence uint64
	stop     func()
}

func startReplica(t *testing.T, listeners ...net.Listener) *replica {
	t.Helper()
	callers, err := auth.NewCallers([]auth.Caller{{Name: "dev", Presence: []string{"chat.{room}", "user.{id}"}}})
	if err != nil {
		t.Fatal(err)
	}
	logger := slog.New(slog.DiscardHandler)
	service, err := presence.New(presence.Options{
		Namespaces: namespace.NewSet([]namespace.Namespace{{Name: "chat", Ephemeral: true, Presence: true}}), Callers: callers, Alone: true, Logger: logger,
	})
	if err != nil {
		t.Fatal(err)
	}
	as := func(who auth.Identity) rpc.Authenticator {
		return func(ctx context.Context, _ string) (context.Context, error) { return rpc.WithIdentity(ctx, who), nil }
	}
	server := rpc.NewServer(rpc.Options{Logger: logger, Authenticate: map[string]rpc.Authenticator{
		presence.AuthorizationService: as(auth.Identity{}), presence.ReportService: as(auth.Identity{Kind: auth.ForRoles}),
		presence.MembersService: as(auth.Identity{Kind: auth.ForCallers, Subject: "dev"}),
	}})
	service.Register(server)
	memory := rpc.NewMemory()
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { service.Run(ctx) })
	running.Go(func() {
		err := serveWhile(ctx, server, map[string]func() error{
			presence.AuthorizationService: nil, presence.ReportService: nil, presence.MembersService: service.Ready,
		}, append(listeners, memory)...)
		if err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	r := &replica{t: t}
	if r.conn, err = memory.Dial(nil); err != nil {
		t.Fatal(err)
	}
	r.stop = sync.OnceFunc(func() {
		service.Close()
		cancel()
		running.Wait()
		_ = r.conn.Close()
	})
	t.Cleanup(r.stop)
	if r.report, err = presencev1.NewPresenceReportServiceClient(r.conn).Report(ctx); err != nil {
		t.Fatal(err)
	}
	r.say(&presencev1.ReportRequest{Report: &presencev1.ReportRequest_Hello{Hello: &presencev1.Hello{EdgeId: "e1", Incarnation: 1}}})
	return r
}

func (r *replica) say(req *presencev1.ReportRequest) {
	r.t.Helper()
	r.sequence++
	req.Sequence = r.sequence
	if err := r.report.Send(req); err != nil {
		r.t.Fatal(err)
	}
	if _, err := r.report.Recv(); err != nil {
		r.t.Fatal(err)
	}
}

func (r *replica) snapshot(s *presencev1.Snapshot) {
	r.t.Helper()
	s.Complete = true
	r.say(&presencev1.ReportRequest{Report: &presencev1.ReportRequest_Snapshot{Snapshot: s}})
}

func (r *replica) change(all ...*presencev1.Attendance) {
	r.t.Helper()
	r.say(&presencev1.ReportRequest{Report: &presencev1.ReportRequest_Changes{Changes: &presencev1.Changes{Attendances: all}}})
}

// alive is an edge that has nothing to tell.
func (r *replica) alive(d time.Duration) {
	r.t.Helper()
	for end := time.Now().Add(d); time.Now().Before(end); {
		time.Sleep(min(2*time.Second, time.Until(end)))
		r.beat()
	}
}

// beat keeps the edge alive for some seconds.
func (r *replica) beat() {
	r.t.Helper()
	r.say(&presencev1.ReportRequest{Report: &presencev1.ReportRequest_Heartbeat{Heartbeat: &presencev1.Heartbeat{}}})
}

var then = timestamppb.New(time.Date(2026, 11, 22, 5, 40, 53, 0, time.UTC))

func attending(user string, connections uint32) *presencev1.Attendance {
	return &presencev1.Attendance{Channel: "chat.lobby", UserId: user, Connections: connections, Since: then}
}

func TestWho(t *testing.T) {
	t.Parallel()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := startReplica(t, listener)
	held := attending("bob", 0)
	held.HeldMs = 3_600_000
	seen := time.Now().UTC().Add(-time.Minute)
	r.snapshot(&presencev1.Snapshot{
		Attendances: []*presencev1.Attendance{attending("alice", 1), held},
		Connections: []*presencev1.Connection{{ConnectionId: "c1", UserId: "alice", Since: then, Info: `{"name":"Alice"}`}},
		LastSeen:    []*presencev1.LastSeen{{UserId: "bob", Time: timestamppb.New(seen)}},
	})
	server, at := listener.Addr().String(), seen.Format(time.RFC3339)
	for _, c := range []struct {
		arguments string
		want      string
	}{
		{"chat.lobby", "alice\t1\t2026-11-22T05:40:53Z\t{\"name\":\"Alice\"}\nbob\t0\t2026-11-22T05:40:53Z\n"},
		{"chat.lobby --json", `{"connections":1,"info":{"name":"Alice"},"since":"2026-11-22T05:40:53Z","userId":"alice"}` + "\n" +
			`{"connections":0,"since":"2026-11-22T05:40:53Z","userId":"bob"}` + "\n"},
		{"chat.empty", ""},
		{"--user alice", "alice\tonline\t1\nc1\te1\t2026-11-22T05:40:53Z\t{\"name\":\"Alice\"}\n"},
		{"--user=alice --json", `{"connections":[{"connectionId":"c1","edgeId":"e1","info":{"name":"Alice"},"since":"2026-11-22T05:40:53Z"}],"online":true,"total":1,"userId":"alice"}` + "\n"},
		{"--user bob", "bob\toffline\tlast seen " + at + "\n"},
		{"--user bob --json", `{"connections":[],"lastSeen":"` + at + `","online":false,"total":0,"userId":"bob"}` + "\n"},
		{"--user cid", "cid\toffline\tnot seen lately\n"},
	} {
		r.beat()
		var out strings.Builder
		err := run(t.Context(), append([]string{"who", "--token=x", "--server=" + server + "," + server}, strings.Fields(c.arguments)...), noEnvironment, &out, io.Discard)
		if err != nil || out.String() != c.want {
			t.Errorf("%s: %v\n%s\nwant\n%s", c.arguments, err, out.String(), c.want)
		}
	}
	for arguments, want := range map[string]string{
		"":                            "who: give a channel, or --user",
		"chat.lobby --user bob":       "who: give a channel, or --user",
		"--user bob --watch":          "--watch: goes with a channel",
		"chat.lobby --ca x":           "--ca: is for a server over TLS, as https://" + server,
		"nope.x":                      "PERMISSION_DENIED (CALLER_DENIED): ",
		"nope.x --watch":              "PERMISSION_DENIED (CALLER_DENIED): ",
		"a.b --server=https://a:1,:2": "--server: all of them over TLS, or none",
	} {
		arguments := append([]string{"who", "--token=x", "--server=" + server}, strings.Fields(arguments)...)
		if arguments[len(arguments)-1] == "--server=https://a:1,:2" {
			arguments = append(arguments[:2], arguments[3:]...)
		}
		err := run(t.Context(), arguments, noEnvironment, io.Discard, io.Discard)
		if err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%q: %v, want %s", arguments, err, want)
		}
	}
}

// A replica that has just started is asked again until it knows.
func TestWhoWaitsForAReplica(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := startReplica(t)
		var out strings.Builder
		command := &whoCommand{Channel: "chat.lobby", Server: []string{"presence"}, clientFlags: clientFlags{Token: "x"}}
		env := environment{ctx: t.Context(), stdout: &out, getenv: noEnvironment}
		client := presencev1.NewPresenceServiceClient(r.conn)
		time.AfterFunc(time.Second, func() {
			r.snapshot(&presencev1.Snapshot{Attendances: []*presencev1.Attendance{attending("alice", 1)}})
		})
		if err := command.list(env, client); err != nil || out.String() != "alice\t1\t2026-11-22T05:40:53Z\n" {
			t.Errorf("%q, %v", out.String(), err)
		}
		r.stop()
	})
	synctest.Test(t, func(t *testing.T) {
		r := startReplica(t)
		keep := time.AfterFunc(4*time.Second, func() { r.stop() })
		defer keep.Stop()
		command := &whoCommand{Channel: "chat.lobby", Server: []string{"presence"}, clientFlags: clientFlags{Token: "x"}}
		env := environment{ctx: t.Context(), stdout: io.Discard, getenv: noEnvironment}
		err := command.list(env, presencev1.NewPresenceServiceClient(r.conn))
		if err == nil || !strings.HasPrefix(err.Error(), "presence does not answer: ") && !strings.HasPrefix(err.Error(), "UNAVAILABLE (DRAINING): ") {
			t.Errorf("of one that stops: %v", err)
		}
	})
}

// The health service tells of each service by itself whether it is ready, and of all
// together.
func TestHealthOfAReplica(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := startReplica(t)
		defer r.stop()
		want := func(members healthv1.HealthCheckResponse_ServingStatus) {
			t.Helper()
			for service, want := range map[string]healthv1.HealthCheckResponse_ServingStatus{
				presence.AuthorizationService: healthv1.HealthCheckResponse_SERVING, presence.ReportService: healthv1.HealthCheckResponse_SERVING,
				presence.MembersService: members, "": members,
			} {
				res, err := healthv1.NewHealthClient(r.conn).Check(t.Context(), &healthv1.HealthCheckRequest{Service: service})
				if err != nil || res.GetStatus() != want {
					t.Errorf("%q: %v, %v, want %v", service, res.GetStatus(), err, want)
				}
			}
		}
		want(healthv1.HealthCheckResponse_NOT_SERVING)
		r.snapshot(&presencev1.Snapshot{})
		time.Sleep(2 * healthInterval)
		want(healthv1.HealthCheckResponse_SERVING)
	})
}

// switched reaches the replica of the moment.
type switched struct {
	to atomic.Pointer[grpc.ClientConn]
}

func (s *switched) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	return s.to.Load().Invoke(ctx, method, args, reply, opts...)
}

func (s *switched) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	return s.to.Load().NewStream(ctx, desc, method, opts...)
}

// watchedLines are lines of a watching command, as they come.
type watchedLines struct {
	t     *testing.T
	lines chan string
}

func (l watchedLines) want(want string) {
	l.t.Helper()
	if got := <-l.lines; got != want {
		l.t.Errorf("%q, want %q", got, want)
	}
}

func (l watchedLines) wantPrefix(want string) {
	l.t.Helper()
	if got := <-l.lines; !strings.HasPrefix(got, want) {
		l.t.Errorf("%q, want %q", got, want)
	}
}

func (l watchedLines) none() {
	l.t.Helper()
	synctest.Wait()
	select {
	case got := <-l.lines:
		l.t.Errorf("%q, want nothing", got)
	default:
	}
}

func watchLines(t *testing.T, command *whoCommand, conn grpc.ClientConnInterface) (out, errs watchedLines, stop func() error) {
	t.Helper()
	out, errs = watchedLines{t, make(chan string, 100)}, watchedLines{t, make(chan string, 100)}
	ctx, cancel := context.WithCancel(t.Context())
	reader, writer := io.Pipe()
	errReader, errWriter := io.Pipe()
	for from, to := range map[*io.PipeReader]watchedLines{reader: out, errReader: errs} {
		go func() {
			for s := bufio.NewScanner(from); s.Scan(); {
				to.lines <- s.Text()
			}
		}()
	}
	ended := make(chan error, 1)
	go func() {
		env := environment{ctx: ctx, stdout: writer, stderr: errWriter, getenv: noEnvironment}
		err := newWatching(command, env, presencev1.NewPresenceServiceClient(conn)).run()
		ended <- errors.Join(err, writer.Close(), errWriter.Close())
	}()
	return out, errs, func() error {
		cancel()
		return <-ended
	}
}

// Who watches is told each join and leave once, however streams end: what happened
// while nobody could be asked comes when somebody can be, and a replica that is a little
// behind makes nobody leave.
func TestWhoWatchOutlivesReplicas(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		one := startReplica(t)
		one.snapshot(&presencev1.Snapshot{Attendances: []*presencev1.Attendance{attending("alice", 1), attending("bob", 1), attending("cid", 1)}})
		var conn switched
		conn.to.Store(one.conn)
		command := &whoCommand{Channel: "chat.lobby", Server: []string{"presence"}, clientFlags: clientFlags{Token: "x"}}
		out, errs, stop := watchLines(t, command, &conn)
		errs.want("watching chat.lobby: 3 members")
		for _, user := range []string{"alice", "bob", "cid"} {
			out.want("+ " + user + "\t2026-11-22T05:40:53Z")
		}
		one.change(attending("dan", 2), attending("cid", 0))
		out.want("+ dan\t2026-11-22T05:40:53Z")
		out.want("- cid\t" + now())

		two := startReplica(t) // which is not ready yet
		conn.to.Store(two.conn)
		one.stop()
		errs.want("UNAVAILABLE (DRAINING): the presence service stops; trying again in 1s")
		time.Sleep(1100 * time.Millisecond)
		errs.wantPrefix("UNAVAILABLE (PRESENCE_UNAVAILABLE): this replica does not know yet who is where; trying again in ")
		two.snapshot(&presencev1.Snapshot{Attendances: []*presencev1.Attendance{attending("alice", 1), attending("eve", 1)}})
		out.want("+ eve\t2026-11-22T05:40:53Z")
		two.change(attending("bob", 1)) // it was behind
		time.Sleep(time.Second)
		out.none()
		two.change(attending("alice", 2)) // which is not told, and the edge lives
		time.Sleep(2 * time.Second)
		two.change(attending("fay", 1))
		out.want("+ fay\t2026-11-22T05:40:53Z")
		out.want("- dan\t" + now())

		out.none()
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}

// mute is a connection over which nothing comes, as long as it is muted.
type mute struct {
	grpc.ClientConnInterface
	muted atomic.Bool
}

type muteStream struct {
	grpc.ClientStream
	conn *mute
}

func (m *mute) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	stream, err := m.ClientConnInterface.NewStream(ctx, desc, method, opts...)
	return muteStream{stream, m}, err
}

func (s muteStream) RecvMsg(into any) error {
	err := s.ClientStream.RecvMsg(into)
	if err == nil && s.conn.muted.Load() {
		<-s.Context().Done()
		return s.Context().Err()
	}
	return err
}

// A stream over which nothing comes any more is given up for another, which goes on
// behind what was told.
func TestWhoWatchGivesUpASilentStream(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := startReplica(t)
		r.snapshot(&presencev1.Snapshot{Attendances: []*presencev1.Attendance{attending("alice", 1), attending("cid", 1)}})
		conn := &mute{ClientConnInterface: r.conn}
		command := &whoCommand{Channel: "chat.lobby", JSON: true, Server: []string{"presence"}, clientFlags: clientFlags{Token: "x"}}
		out, errs, stop := watchLines(t, command, conn)
		errs.want("watching chat.lobby: 2 members")
		joined := func(user string) string {
			return fmt.Sprintf(`{"joined":{"connections":1,"since":"2026-11-22T05:40:53Z","userId":%q},"time":"20`, user)
		}
		out.wantPrefix(joined("alice"))
		out.wantPrefix(joined("cid"))
		r.alive(12 * time.Second) // which heartbeats bridge
		errs.none()
		conn.muted.Store(true)
		r.change(attending("bob", 1), attending("cid", 0)) // is not heard of
		for range 2 {
			r.alive(8400 * time.Millisecond)
			errs.wantPrefix("presence does not answer: ")
		}
		errs.none()
		out.none()
		conn.muted.Store(false)
		r.alive(8 * time.Second) // by when the third is given up
		at := time.Now()
		out.wantPrefix(joined("bob"))
		out.wantPrefix(`{"left":"cid","time":"20`)
		if late := time.Since(at); late > 0 { // as where there is no token to go on from
			t.Errorf("told %v late", late)
		}
		r.change(attending("alice", 0))
		out.want(fmt.Sprintf(`{"left":"alice","time":%q}`, now()))
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}

// A channel that is too large for names has its size told, and is told whole again, as
// it then is.
func TestWhoWatchOfALargeChannel(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var out strings.Builder
		w := newWatching(&whoCommand{}, environment{stdout: &out, stderr: io.Discard}, nil)
		w.snapshot = map[string]*presencev1.Member{}
		member := func(id string) *presencev1.Member { return &presencev1.Member{UserId: id, Since: then} }
		snapshot := func(truncated bool, total uint32, ids ...string) *presencev1.WatchChannelResponse {
			s := &presencev1.MembersSnapshot{Complete: true, Truncated: truncated, Total: total}
			for _, id := range ids {
				s.Members = append(s.Members, member(id))
			}
			return &presencev1.WatchChannelResponse{Event: &presencev1.WatchChannelResponse_Snapshot{Snapshot: s}}
		}
		changed := func(c *presencev1.MembersChanged) *presencev1.WatchChannelResponse {
			return &presencev1.WatchChannelResponse{Event: &presencev1.WatchChannelResponse_Changed{Changed: c}}
		}
		for _, step := range []*presencev1.WatchChannelResponse{
			snapshot(false, 2, "a", "b"),
			snapshot(true, 10_001, "a", "b"),
			changed(&presencev1.MembersChanged{Joined: []*presencev1.Member{member("x")}, Left: []*presencev1.Member{{UserId: "a"}}, Total: 10_003, Truncated: true}),
			changed(&presencev1.MembersChanged{Total: 10_003, Truncated: true}),
			snapshot(false, 2, "b", "c"),
			changed(&presencev1.MembersChanged{Total: 2}),
		} {
			if err := w.apply(step); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(watchDoubt)
		at := now()
		if err := w.apply(changed(&presencev1.MembersChanged{Total: 2})); err != nil {
			t.Fatal(err)
		}
		const since = "\t2026-11-22T05:40:53Z\n"
		start := time.Now().Add(-watchDoubt).UTC().Format(time.RFC3339)
		want := "+ a" + since + "+ b" + since + "= 10001 members\t" + start + "\n= 10003 members\t" + start + "\n+ c" + since + "- a\t" + at + "\n"
		if out.String() != want {
			t.Errorf("%s\nwant\n%s", out.String(), want)
		}
	})
}
