// Package roster is the edge's side of presence: it counts who is connected and
// subscribed here, keeps every replica of the presence role told, asks them who is in a
// channel on all edges, and follows one of them where somebody here watches a channel. Which namespaces have presence, and who may ask, is not its affair.
package roster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/rpc"
)

const (
	// askTimeout bounds what one replica is given to answer.
	askTimeout = 2 * time.Second
	// settleTimeout bounds how long an answer is held back for a replica to hear of
	// what happened here before.
	settleTimeout = 500 * time.Millisecond
	// maxBacklog is by how many the changes that a replica has not been sent may outnumber
	// attendances and connections; beyond, a new snapshot is cheaper.
	maxBacklog = 10_000
)

// Options are what a Roster needs.
type Options struct {
	// EdgeID is unique to this process.
	EdgeID string
	// Addresses has each replica of the presence role, host:port. One that stands for
	// several replicas would leave all but one of them untold.
	Addresses   []string
	Credentials credentials.PerRPCCredentials
	// Dial connects to one of Addresses; nil: over the network with Credentials. Its
	// backoff is to be short, as rpc.Impatient makes it: it is not reset here, since
	// ResetConnectBackoff of gRPC 1.85 races with a connection that is only being made.
	Dial   func(address string) (*grpc.ClientConn, error)
	Logger *slog.Logger
}

// Member is a user in a channel, on all edges together.
type Member struct {
	User        channel.User
	Connections int
	// Since is when the first of them subscribed.
	Since time.Time
	// Info is what is said of the user, a compact JSON text; empty: nothing.
	Info string
}

// Connection is a connection of a user to this edge.
type Connection struct {
	ID    string
	User  channel.User
	Since time.Time
	Info  string // a compact JSON text; may be empty
}

// Update is a step of what happens in a channel on all edges: who is a member now and
// who is not, of those for whom that may have changed. Truncated: the channel has more
// members than are listed, Joined and Left are samples.
type Update struct {
	Joined    []Member
	Left      []channel.User
	Total     int
	Truncated bool
}

// Roster is who is on this edge, and who is in the channels that are watched here. It is
// safe for concurrent use.
type Roster struct {
	edgeID   string
	replicas []*replica
	asked    atomic.Uint64 // how often members were asked for
	watches  *watches

	mu          sync.Mutex
	attendances map[seat]attendance // those that are held have no connections
	holds       holds
	connections map[string]connection // by id
	online      map[channel.User]int  // how many of them a user has
	seen        sightings
	version     uint64 // counts the changes
}

// New returns a Roster that tells nobody before Run.
func New(o Options) (*Roster, error) {
	if len(o.Addresses) == 0 {
		return nil, errors.New("roster: there is no address of a presence replica")
	}
	dial := o.Dial
	if dial == nil {
		dial = func(address string) (*grpc.ClientConn, error) {
			return rpc.Dial([]string{address}, o.Credentials, rpc.Impatient)
		}
	}
	r := &Roster{
		edgeID:      o.EdgeID,
		attendances: map[seat]attendance{},
		holds:       newHolds(),
		connections: map[string]connection{},
		online:      map[channel.User]int{},
		seen:        newSightings(),
	}
	r.watches = newWatches(r, o.Logger)
	for _, address := range o.Addresses {
		replica, err := newReplica(r, address, dial, o.Logger)
		if err != nil {
			r.close()
			return nil, fmt.Errorf("roster: %w", err)
		}
		r.replicas = append(r.replicas, replica)
	}
	return r, nil
}

// Run keeps every replica told, and watchers here, until ctx ends; then it tells each
// replica what it has not told yet, who is held for one, says goodbye within a second, and
// closes the connections.
func (r *Roster) Run(ctx context.Context) {
	var running sync.WaitGroup
	for _, replica := range r.replicas {
		running.Go(func() { replica.run(ctx) })
	}
	running.Go(func() { r.watches.run(ctx) })
	running.Wait()
	r.close()
}

func (r *Roster) close() {
	for _, replica := range r.replicas {
		_ = replica.connection().Close() // nothing is left to be lost
	}
}

// Members returns at most limit members of a channel in order of user id, and the
// number of all. What this edge was told before the call is in the answer, unless the
// replica that answers is more than half a second behind; who holds a list by what Watch
// tells wants Look. The replicas take turns, and stand in for each other. Errors are *fault.Error: PRESENCE_UNAVAILABLE,
// NAMESPACE_UNKNOWN, PRESENCE_DISABLED.
func (r *Roster) Members(ctx context.Context, name channel.Name, limit int) ([]Member, int, error) {
	var errs []error
	for _, replica := range r.turn() {
		members, total, err := replica.members(ctx, name, limit)
		if err == nil {
			return members, total, nil
		}
		switch f := fault.FromGRPC(err, fault.PresenceUnavailable); f.Reason {
		case fault.NamespaceUnknown, fault.PresenceDisabled:
			return nil, 0, f
		}
		errs = append(errs, err)
		if ctx.Err() != nil {
			break
		}
	}
	return nil, 0, fault.Unavailable(fault.PresenceUnavailable, errors.Join(errs...), "the presence service does not answer")
}

// turn lists the replicas in the order to ask them: those that hear from this edge,
// the one whose turn it is first, then the others.
func (r *Roster) turn() []*replica { return r.inOrder(r.asked.Add(1)) }

// inOrder lists the replicas from a number on: first those that hear from this edge.
func (r *Roster) inOrder(first uint64) []*replica {
	n := uint64(len(r.replicas))
	r.mu.Lock()
	defer r.mu.Unlock()
	live, away := make([]*replica, 0, n), []*replica(nil)
	for i := range n {
		replica := r.replicas[(first+i)%n]
		if replica.live {
			live = append(live, replica)
		} else {
			away = append(away, replica)
		}
	}
	return append(live, away...)
}

// after is the number of the replica that follows one.
func (r *Roster) after(one *replica) uint64 { return uint64(slices.Index(r.replicas, one) + 1) }
