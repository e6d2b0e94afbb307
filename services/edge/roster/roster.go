// Package roster is the edge's side of presence: it counts who is subscribed here,
// keeps every replica of the presence role told, and asks them who is in a channel
// on all edges. Which namespaces have presence, and who may ask, is not its affair.
package roster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
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
	// maxBacklog is by how many the changes that a replica has not been sent may
	// outnumber the attendances; beyond, a new snapshot is cheaper.
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
	// Dial connects to one of Addresses; nil: over the network with Credentials.
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

// seat is one user in one channel.
type seat struct {
	name channel.Name
	user channel.User
}

// attendance is how a user attends a channel on this edge.
type attendance struct {
	connections uint32
	since       int64 // Unix milliseconds
}

// Roster is who is subscribed on this edge. It is safe for concurrent use.
type Roster struct {
	edgeID   string
	replicas []*replica
	asked    atomic.Uint64 // how often members were asked for

	mu          sync.Mutex
	attendances map[seat]attendance
	version     uint64 // counts the changes
}

// New returns a Roster that tells nobody before Run.
func New(o Options) (*Roster, error) {
	if len(o.Addresses) == 0 {
		return nil, errors.New("roster: there is no address of a presence replica")
	}
	dial := o.Dial
	if dial == nil {
		dial = func(address string) (*grpc.ClientConn, error) { return rpc.Dial([]string{address}, o.Credentials) }
	}
	r := &Roster{edgeID: o.EdgeID, attendances: map[seat]attendance{}}
	for _, address := range o.Addresses {
		conn, err := dial(address)
		if err != nil {
			r.close()
			return nil, fmt.Errorf("roster: %w", err)
		}
		r.replicas = append(r.replicas, newReplica(r, conn, o.Logger.With("presence", address)))
	}
	return r, nil
}

// Run keeps every replica told until ctx ends, then says goodbye to each within a
// second, and closes the connections.
func (r *Roster) Run(ctx context.Context) {
	var running sync.WaitGroup
	for _, replica := range r.replicas {
		running.Go(func() { replica.run(ctx) })
	}
	running.Wait()
	r.close()
}

func (r *Roster) close() {
	for _, replica := range r.replicas {
		_ = replica.conn.Close() // nothing is left to be lost
	}
}

// Join counts one more connection of a user in a channel. It does not block.
func (r *Roster) Join(name channel.Name, user channel.User) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := seat{name, user}
	a := r.attendances[s]
	if a.connections == 0 {
		a.since = time.Now().UnixMilli()
	}
	a.connections++
	r.attendances[s] = a
	r.changed(s)
}

// Connect notes a connection. It does not block.
func (r *Roster) Connect(Connection) {}

// Disconnect takes back a Connect; the user was last heard then. It does not block.
func (r *Roster) Disconnect(id string, heard time.Time) {}

// Watch has a channel's changes told, one after the other, until stop has returned. told
// must not block, nor call the Roster.
func (r *Roster) Watch(name channel.Name, told func(Update)) (stop func()) { return func() {} }

// Look calls f with the members of a channel that is watched here, what this edge was
// told before the call among them, in order of user id: between two calls of told, so
// that with all later ones the list stays right. Where truncated is set they are a sample.
// f must not block, nor call the Roster, nor keep members. watched tells whether the
// channel is watched; else, and on an error (*fault.Error: PRESENCE_UNAVAILABLE), f is not
// called.
func (r *Roster) Look(ctx context.Context, name channel.Name, f func(members []Member, total int, truncated bool)) (watched bool, err error) {
	return false, nil
}

// Leave takes back one Join. A user who leaves with its last connection stays a member
// for as long as it is held. It does not block.
func (r *Roster) Leave(name channel.Name, user channel.User, held time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := seat{name, user}
	a, ok := r.attendances[s]
	if !ok {
		return
	}
	if a.connections--; a.connections == 0 {
		delete(r.attendances, s)
	} else {
		r.attendances[s] = a
	}
	r.changed(s)
}

// changed marks a seat for every replica that has, or is being given, a snapshot;
// the others will find it in theirs.
func (r *Roster) changed(s seat) {
	r.version++
	for _, replica := range r.replicas {
		replica.mark(s)
	}
}

// Members returns at most limit members of a channel in order of user id, and the
// number of all. What this edge was told before the call is in the answer, unless the
// replica that answers is more than half a second behind. The replicas take turns,
// and stand in for each other. Errors are *fault.Error: PRESENCE_UNAVAILABLE,
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
func (r *Roster) turn() []*replica {
	n := uint64(len(r.replicas))
	first := r.asked.Add(1)
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
