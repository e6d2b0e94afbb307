package presence_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	presencev1 "github.com/carillon-rt/carillon/gen/carillon/presence/v1"
	"github.com/carillon-rt/carillon/services/edge/roster"
	"github.com/carillon-rt/carillon/services/internal/auth"
	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/namespace"
	"github.com/carillon-rt/carillon/services/internal/rpc"
	"github.com/carillon-rt/carillon/services/presence"
)

// replica is a place where a replica of the presence role runs, ends and runs again.
type replica struct {
	name   string
	cables []*cable // that lead here

	mu      sync.Mutex
	service *presence.Service // nil: it does not run
	memory  *rpc.Memory
	life    int       // counts the starts
	born    time.Time // of this life
	died    time.Time // of the last
	cancel  context.CancelFunc
	running *sync.WaitGroup
}

func namespaces() namespace.Set {
	return namespace.NewSet([]namespace.Namespace{{Name: "chat", Ephemeral: true, Presence: true}})
}

func (r *replica) start(t testing.TB) {
	t.Helper()
	callers, err := auth.NewCallers(nil)
	if err != nil {
		t.Fatal(err)
	}
	logger := slog.New(slog.DiscardHandler)
	service, err := presence.New(presence.Options{Namespaces: namespaces(), Callers: callers, Logger: logger})
	if err != nil {
		t.Fatal(err)
	}
	asRole := func(ctx context.Context, _ string) (context.Context, error) {
		return rpc.WithIdentity(ctx, auth.Identity{Kind: auth.ForRoles, Subject: "edge"}), nil
	}
	server := rpc.NewServer(rpc.Options{Logger: logger, EndStreams: service.Close, Authenticate: map[string]rpc.Authenticator{
		presence.AuthorizationService: asRole, presence.ReportService: asRole, presence.MembersService: asRole,
	}})
	service.Register(server)
	memory := rpc.NewMemory()
	ctx, cancel := context.WithCancel(context.Background())
	running := &sync.WaitGroup{}
	running.Go(func() { service.Run(ctx) })
	running.Go(func() {
		if err := server.Serve(ctx, memory); err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	r.mu.Lock()
	defer r.mu.Unlock()
	r.service, r.memory, r.cancel, r.running, r.born = service, memory, cancel, running, time.Now()
	r.life++
	for _, c := range r.cables {
		c.lead(memory)
	}
}

// end ends a replica: as a signal of the kernel's, or asked to.
func (r *replica) end(kill bool) {
	r.mu.Lock()
	service := r.service
	r.service, r.died = nil, time.Now()
	if service == nil {
		r.mu.Unlock()
		return
	}
	if kill {
		for _, c := range r.cables {
			c.lead(nil)
		}
	}
	r.mu.Unlock()
	r.cancel()
	r.running.Wait()
	service.Close()
	for _, c := range r.cables {
		c.lead(nil)
	}
}

// ready tells why the replica should not be asked; nil if it says that it holds the truth.
func (r *replica) ready() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.service == nil {
		return fmt.Errorf("%s does not run", r.name)
	}
	return r.service.Ready()
}

// lives is which life it is, and for how long; 0 if it does not run.
func (r *replica) lives() (life int, since time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.service == nil {
		return r.life, 0
	}
	return r.life, time.Since(r.born)
}

// calm is whether it has neither started nor ended of late.
func (r *replica) calm() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return time.Since(r.born) > recovery && time.Since(r.died) > recovery
}

// ask opens a connection to a replica that no fault concerns; nil if it does not run.
func (r *replica) ask(t testing.TB) *grpc.ClientConn {
	t.Helper()
	r.mu.Lock()
	memory := r.memory
	if r.service == nil {
		memory = nil
	}
	r.mu.Unlock()
	if memory == nil {
		return nil
	}
	conn, err := memory.Dial(nil)
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// dialled is a connection of an edge to a replica, over a cable, with the timings of
// those over the network.
func dialled(c *cable) (*grpc.ClientConn, error) {
	how := rpc.Connecting{ConnectParams: grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2}}}
	rpc.Impatient(&how)
	return grpc.NewClient("passthrough:///replica",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(how.ConnectParams),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second, PermitWithoutStream: true}),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return c.dial(ctx) }))
}

// edge is what presence sees of an edge: its roster.
type edge struct {
	id     string
	roster *roster.Roster
	cables []*cable // to each replica
	cancel context.CancelFunc
	ended  chan struct{}
	watch  map[channel.Name]*watch
}

func startEdge(t testing.TB, id string, replicas []*replica) *edge {
	t.Helper()
	e := &edge{id: id, ended: make(chan struct{}), watch: map[channel.Name]*watch{}}
	byAddress := map[string]*cable{}
	var addresses []string
	for _, r := range replicas {
		c := newCable()
		r.mu.Lock()
		r.cables = append(r.cables, c)
		if r.service != nil {
			c.target = r.memory
		}
		r.mu.Unlock()
		e.cables, byAddress[r.name], addresses = append(e.cables, c), c, append(addresses, r.name)
	}
	var err error
	e.roster, err = roster.New(roster.Options{
		EdgeID: id, Addresses: addresses, Logger: slog.New(slog.DiscardHandler),
		Dial: func(address string) (*grpc.ClientConn, error) { return dialled(byAddress[address]) },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	e.cancel = cancel
	go func() {
		defer close(e.ended)
		e.roster.Run(ctx)
	}()
	return e
}

// drain ends an edge as an operator would.
func (e *edge) drain() {
	e.cancel()
	<-e.ended
	for _, c := range e.cables {
		c.end(refusing)
	}
}

// crash ends an edge without a word: the process, whose kernel resets its connections,
// or silently the whole machine.
func (e *edge) crash(silently bool) {
	for _, c := range e.cables {
		if silently {
			c.end(holding)
		} else {
			c.end(refusing)
		}
	}
	e.cancel()
	<-e.ended
}

// members asks a replica for the whole list of a channel, a page after the other.
func members(ctx context.Context, conn *grpc.ClientConn, name string) (list []*presencev1.Member, total int, err error) {
	client := presencev1.NewPresenceServiceClient(conn)
	req := &presencev1.ListMembersRequest{Channel: name, PageSize: 7}
	for {
		res, err := client.ListMembers(ctx, req)
		if err != nil {
			return nil, 0, err
		}
		list, total = append(list, res.GetMembers()...), int(res.GetTotal())
		if req.PageToken = res.GetNextPageToken(); req.PageToken == "" {
			return list, total, nil
		}
	}
}
