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
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	presencev1 "github.com/carillon-rt/carillon/gen/carillon/presence/v1"
	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/rpc"
)

var discard = slog.New(slog.DiscardHandler)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// host is where one replica of the presence role runs, stops and runs again.
type host struct {
	mu       sync.Mutex
	listener *bufconn.Listener // nil: nobody listens
	lost     bool              // whoever connects waits in vain
	cables   []*cable
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
	var how rpc.Connecting
	how.Backoff = backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6}
	rpc.Impatient(&how)
	return grpc.NewClient("passthrough:///replica", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(how.ConnectParams), grpc.WithContextDialer(h.connect))
}

func (h *host) connect(ctx context.Context, _ string) (net.Conn, error) {
	h.mu.Lock()
	listener, lost := h.listener, h.lost
	h.mu.Unlock()
	if lost {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if listener == nil {
		return nil, errors.New("nobody listens")
	}
	conn, err := listener.DialContext(ctx)
	if err != nil {
		return nil, err
	}
	c := &cable{Conn: conn, closed: make(chan struct{})}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.cables = append(h.cables, c)
	return c, nil
}

// cut loses what is sent to the replica from now on, and by it, without a word. When that
// ends, the connections that there were stay dead.
func (h *host) cut() (heal func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lost = true
	for _, c := range h.cables {
		c.dead.Store(true)
	}
	h.cables = nil
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.lost = false
	}
}

// cable is a connection that may lose everything.
type cable struct {
	net.Conn
	dead   atomic.Bool
	once   sync.Once
	closed chan struct{}
}

func (c *cable) Write(b []byte) (int, error) {
	if c.dead.Load() {
		return len(b), nil
	}
	return c.Conn.Write(b)
}

func (c *cable) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if c.dead.Load() {
		<-c.closed
		return 0, net.ErrClosed
	}
	return n, err
}

func (c *cable) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// presence is a replica written by hand: it keeps what the edge says as it is and
// checks the order of it.
type presence struct {
	presencev1.UnimplementedPresenceReportServiceServer

	mu       sync.Mutex
	said     *told
	staged   *told
	complete bool
	last     uint64   // incarnation
	log      []string // the kinds of requests: "hello snapshot+2 complete+1 changes+1 heartbeat goodbye"
	gate     chan struct{}
	streams  int
	broken   error // of the order
	stops    error // ends the stream at the next request
	failWith error // of ListMembers
	lists    int
	listed   func() // is called before an answer is given
	watched  watchedPresence
}

// told is what one edge has said. Those who are held have no connections.
type told struct {
	attendances map[seat]attendance
	held        map[seat]time.Time // until
	connections map[string]Connection
	seen        map[channel.User]time.Time
}

func newTold() *told {
	return &told{map[seat]attendance{}, map[seat]time.Time{}, map[string]Connection{}, map[channel.User]time.Time{}}
}

func newPresence() *presence { return &presence{said: newTold(), watched: newWatchedPresence()} }

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
	p.staged, p.complete = newTold(), false
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
	if p.stops != nil {
		return p.stops
	}
	if req.GetSequence() != n || (n == 1) != (req.GetHello() != nil) {
		p.broken = fmt.Errorf("request %d: %v", n, req)
		return p.broken
	}
	defer p.watched.change()
	switch say := req.GetReport().(type) {
	case *presencev1.ReportRequest_Hello:
		if n := say.Hello.GetIncarnation(); n <= p.last {
			p.broken = fmt.Errorf("incarnation %d after %d", n, p.last)
		}
		p.last = say.Hello.GetIncarnation()
		p.log = append(p.log, "hello")
	case *presencev1.ReportRequest_Snapshot:
		kind := "snapshot"
		p.put(p.staged, say.Snapshot.GetAttendances(), say.Snapshot.GetConnections(), true)
		for _, seen := range say.Snapshot.GetLastSeen() {
			p.staged.seen[channel.User(seen.GetUserId())] = seen.GetTime().AsTime()
		}
		if n := len(say.Snapshot.GetLastSeen()); n > 1000 {
			p.broken = fmt.Errorf("a part of %d last seen", n)
		}
		if say.Snapshot.GetComplete() {
			kind, p.said, p.complete = "complete", p.staged, true
		}
		p.log = append(p.log, fmt.Sprintf("%s+%d", kind, len(say.Snapshot.GetAttendances())))
	case *presencev1.ReportRequest_Changes:
		if !p.complete {
			p.broken = errors.New("changes before the snapshot")
		}
		p.put(p.said, say.Changes.GetAttendances(), say.Changes.GetConnections(), false)
		p.log = append(p.log, fmt.Sprintf("changes+%d", len(say.Changes.GetAttendances())))
	case *presencev1.ReportRequest_Heartbeat:
		p.log = append(p.log, "heartbeat")
	case *presencev1.ReportRequest_Goodbye:
		p.log = append(p.log, "goodbye")
		maps.DeleteFunc(p.said.attendances, func(_ seat, a attendance) bool { return a.connections > 0 })
	}
	return p.broken
}

func (p *presence) put(into *told, attendances []*presencev1.Attendance, connections []*presencev1.Connection, snapshot bool) {
	if len(attendances) > 1000 || len(connections) > 1000 {
		p.broken = fmt.Errorf("a part of %d, %d", len(attendances), len(connections))
	}
	for _, a := range attendances {
		s := seat{channel.Name(a.GetChannel()), channel.User(a.GetUserId())}
		held := time.Duration(a.GetHeldMs()) * time.Millisecond
		if _, twice := into.attendances[s]; twice && snapshot || (snapshot || held > 0) && (a.GetConnections() == 0) != (held > 0) {
			p.broken = fmt.Errorf("snapshot %v: %v", snapshot, a)
		}
		delete(into.attendances, s)
		delete(into.held, s)
		if a.GetConnections() > 0 || held > 0 {
			into.attendances[s] = attendance{a.GetConnections(), a.GetSince().AsTime().UnixMilli()}
		}
		if held > 0 {
			into.held[s] = time.Now().Add(held)
			time.AfterFunc(held, p.expire)
		}
	}
	for _, c := range connections {
		if _, twice := into.connections[c.GetConnectionId()]; snapshot && (twice || c.GetEnded() != nil) {
			p.broken = fmt.Errorf("in a snapshot: %v", c)
		}
		user := channel.User(c.GetUserId())
		if c.GetEnded() == nil {
			into.connections[c.GetConnectionId()] = Connection{c.GetConnectionId(), user, c.GetSince().AsTime(), c.GetInfo()}
			continue
		}
		delete(into.connections, c.GetConnectionId())
		if at := c.GetEnded().AsTime(); at.After(into.seen[user]) { // of several that have ended, in whatever order
			into.seen[user] = at
		}
	}
}

// expire ends what is held no longer.
func (p *presence) expire() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for s, until := range p.said.held {
		if !until.After(time.Now()) {
			delete(p.said.held, s)
			delete(p.said.attendances, s)
		}
	}
	p.watched.change()
}

// lister lists what one replica was told.
type lister struct {
	presencev1.UnimplementedPresenceServiceServer
	*presence
}

func (l *lister) ListMembers(_ context.Context, req *presencev1.ListMembersRequest) (*presencev1.ListMembersResponse, error) {
	p := l.presence
	p.mu.Lock()
	listed := p.listed
	defer func() {
		p.mu.Unlock()
		if listed != nil {
			listed()
		}
	}()
	p.lists++
	if p.failWith != nil {
		return nil, p.failWith
	}
	var users []string
	res := &presencev1.ListMembersResponse{}
	members := p.members(channel.Name(req.GetChannel()))
	for user := range members {
		users = append(users, string(user))
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
		res.Members = append(res.Members, members[channel.User(user)])
	}
	return res, nil
}

// state copies what the replica holds and the log so far.
func (p *presence) state() (map[seat]attendance, string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.said.attendances), strings.Join(p.log, " ")
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
	return startedLogging(t, n, discard)
}

func startedLogging(t testing.TB, n int, logger *slog.Logger) *system {
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
		Logger:    logger,
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
