package roster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/types/known/timestamppb"

	presencev1 "github.com/carillon-rt/carillon/gen/carillon/presence/v1"
	"github.com/carillon-rt/carillon/services/internal/channel"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// host is where one replica of the presence role runs, stops and runs again.
type host struct {
	mu       sync.Mutex
	listener *bufconn.Listener // nil: nobody listens
	server   *grpc.Server
	serving  sync.WaitGroup
}

func (h *host) start(p *presence) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.listener, h.server = bufconn.Listen(64<<10), grpc.NewServer()
	presencev1.RegisterPresenceReportServiceServer(h.server, p)
	presencev1.RegisterPresenceServiceServer(h.server, &lister{presence: p})
	listener, server := h.listener, h.server
	h.serving.Go(func() { _ = server.Serve(listener) })
}

func (h *host) stop() {
	h.mu.Lock()
	server := h.server
	h.listener, h.server = nil, nil
	h.mu.Unlock()
	if server != nil {
		server.Stop()
	}
	h.serving.Wait()
}

func (h *host) dial(string) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///replica", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, MaxDelay: 2 * time.Second}, MinConnectTimeout: time.Second}),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			h.mu.Lock()
			listener := h.listener
			h.mu.Unlock()
			if listener == nil {
				return nil, errors.New("nobody listens")
			}
			return listener.DialContext(ctx)
		}))
}

// presence is a replica written by hand: it keeps what the edge says as it is and
// checks the order of it.
type presence struct {
	presencev1.UnimplementedPresenceReportServiceServer

	mu       sync.Mutex
	said     map[seat]attendance
	staged   map[seat]attendance
	complete bool
	log      []string // the kinds of requests: "hello snapshot+2 complete+1 changes+1 heartbeat goodbye"
	gate     chan struct{}
	streams  int
	broken   error // of the order
	failWith error // of ListMembers
	lists    int
}

func newPresence() *presence { return &presence{said: map[seat]attendance{}} }

// hold keeps requests from being applied until the function it returns is called.
func (p *presence) hold() (release func()) {
	gate := make(chan struct{})
	p.mu.Lock()
	p.gate = gate
	p.mu.Unlock()
	return func() {
		p.mu.Lock()
		p.gate = nil
		p.mu.Unlock()
		close(gate)
	}
}

func (p *presence) Report(stream grpc.BidiStreamingServer[presencev1.ReportRequest, presencev1.ReportResponse]) error {
	p.mu.Lock()
	p.staged, p.complete = map[seat]attendance{}, false
	p.streams++
	p.mu.Unlock()
	for n := uint64(1); ; n++ {
		req, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		p.mu.Lock()
		gate := p.gate
		p.mu.Unlock()
		if gate != nil {
			select {
			case <-gate:
			case <-stream.Context().Done():
				return stream.Context().Err()
			}
		}
		if err := p.apply(n, req); err != nil {
			return err
		}
		if err := stream.Send(&presencev1.ReportResponse{Sequence: n}); err != nil {
			return err
		}
	}
}

func (p *presence) apply(n uint64, req *presencev1.ReportRequest) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if req.GetSequence() != n || (n == 1) != (req.GetHello() != nil) {
		p.broken = fmt.Errorf("request %d: %v", n, req)
		return p.broken
	}
	switch say := req.GetReport().(type) {
	case *presencev1.ReportRequest_Hello:
		p.log = append(p.log, "hello")
	case *presencev1.ReportRequest_Snapshot:
		kind := "snapshot"
		p.put(p.staged, say.Snapshot.GetAttendances(), true)
		if say.Snapshot.GetComplete() {
			kind, p.said, p.complete = "complete", p.staged, true
		}
		p.log = append(p.log, fmt.Sprintf("%s+%d", kind, len(say.Snapshot.GetAttendances())))
	case *presencev1.ReportRequest_Changes:
		if !p.complete {
			p.broken = errors.New("changes before the snapshot")
		}
		p.put(p.said, say.Changes.GetAttendances(), false)
		p.log = append(p.log, fmt.Sprintf("changes+%d", len(say.Changes.GetAttendances())))
	case *presencev1.ReportRequest_Heartbeat:
		p.log = append(p.log, "heartbeat")
	case *presencev1.ReportRequest_Goodbye:
		p.log = append(p.log, "goodbye")
		p.said = map[seat]attendance{}
	}
	return p.broken
}

func (p *presence) put(into map[seat]attendance, all []*presencev1.Attendance, snapshot bool) {
	if len(all) > 1000 {
		p.broken = fmt.Errorf("a part of %d", len(all))
	}
	for _, a := range all {
		s := seat{channel.Name(a.GetChannel()), channel.User(a.GetUserId())}
		if _, twice := into[s]; twice && snapshot || snapshot && a.GetConnections() == 0 {
			p.broken = fmt.Errorf("in a snapshot: %v", a)
		}
		if delete(into, s); a.GetConnections() > 0 {
			into[s] = attendance{a.GetConnections(), a.GetSince().AsTime().UnixMilli()}
		}
	}
}

// lister lists what one replica was told.
type lister struct {
	presencev1.UnimplementedPresenceServiceServer
	*presence
}

func (l *lister) ListMembers(_ context.Context, req *presencev1.ListMembersRequest) (*presencev1.ListMembersResponse, error) {
	p := l.presence
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lists++
	if p.failWith != nil {
		return nil, p.failWith
	}
	var users []string
	res := &presencev1.ListMembersResponse{}
	for s := range p.said {
		if string(s.name) == req.GetChannel() {
			users = append(users, string(s.user))
		}
	}
	res.Total = uint32(len(users))
	slices.Sort(users)
	for _, user := range users {
		if user <= req.GetPageToken() {
			continue
		}
		if len(res.GetMembers()) == int(req.GetPageSize()) {
			res.NextPageToken = res.GetMembers()[len(res.GetMembers())-1].GetUserId()
			break
		}
		a := p.said[seat{channel.Name(req.GetChannel()), channel.User(user)}]
		res.Members = append(res.Members, &presencev1.Member{UserId: user, Connections: a.connections, Since: timestamppb.New(time.UnixMilli(a.since))})
	}
	return res, nil
}

// state copies what the replica holds and the log so far.
func (p *presence) state() (map[seat]attendance, string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.said), strings.Join(p.log, " ")
}

func (p *presence) wantLog(t testing.TB, want string) {
	t.Helper()
	if _, got := p.state(); got != want {
		t.Fatalf("the replica heard %q, want %q", got, want)
	}
}

// system is a Roster with replicas; the Roster runs until stop.
type system struct {
	*Roster
	hosts    []*host
	replicas []*presence
	stop     func()
}

// started starts n replicas and a Roster that tells them.
func started(t testing.TB, n int) *system {
	t.Helper()
	s := &system{}
	var addresses []string
	for i := range n {
		h, p := &host{}, newPresence()
		h.start(p)
		s.hosts, s.replicas = append(s.hosts, h), append(s.replicas, p)
		addresses = append(addresses, fmt.Sprint(i))
	}
	r, err := New(Options{
		EdgeID:    "edge-1",
		Addresses: addresses,
		Dial:      func(address string) (*grpc.ClientConn, error) { return s.hosts[address[0]-'0'].dial(address) },
		Logger:    slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Roster = r
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { r.Run(ctx) })
	s.stop = sync.OnceFunc(func() {
		cancel()
		running.Wait()
		for _, h := range s.hosts {
			h.stop()
		}
		for i, p := range s.replicas {
			if p.broken != nil {
				t.Errorf("replica %d: %v", i, p.broken)
			}
		}
	})
	t.Cleanup(s.stop)
	return s
}
