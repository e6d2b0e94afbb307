package crowd

import (
	"cmp"
	"context"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"github.com/carillon-rt/carillon/services/chaos/attendance"
)

// device is what a user is connected with, one connection after the other.
type device struct {
	crowd  *Crowd
	user   string
	name   string // of the device
	steady bool   // it never goes by itself
	random *rand.Rand
	rooms  []string
	edge   int

	// state is what await looks at.
	state  atomic.Int32
	ghosts []ghost
}

// ghost is a connection that has vanished, to be dropped when it has been given up.
type ghost struct {
	*socket

	until time.Time
}

// States of a device.
const (
	coming int32 = iota // means to be there, and is not yet everywhere
	here                // is in every room that it means to be in
	gone                // means not to be there
)

func newDevice(c *Crowd, person, number int) *device {
	d := &device{crowd: c, user: fmt.Sprint("p", person), steady: person%2 == 0}
	d.name = fmt.Sprintf("%s/%d", d.user, number)
	seed := fnv.New64a()
	_, _ = seed.Write([]byte(d.name)) // never fails
	d.random = rand.New(rand.NewPCG(c.options.Seed, seed.Sum64()))
	for n := range min(roomsOfUser, len(c.options.Rooms)) { // those of a user's devices overlap
		d.rooms = append(d.rooms, c.options.Rooms[(person/2+n+number)%len(c.options.Rooms)])
	}
	d.edge = d.random.IntN(len(c.options.Edges))
	return d
}

func (d *device) settled() bool { return d.state.Load() != coming }

func (d *device) note(what string, args ...any) { d.crowd.note(d.name, what, args...) }

// away is how long somebody stays away, and why.
type away struct {
	wait time.Duration
	// gone: on purpose, and not just to come back.
	gone bool
}

// run connects again and again, until all leave.
func (d *device) run(ctx context.Context) {
	defer d.dropGhosts(true)
	for failures := 0; ; {
		d.state.Store(coming)
		pauses, connected := d.visit(ctx)
		if failures++; connected {
			failures = 0
		}
		still := d.crowd.still
		if pauses.gone {
			d.state.Store(gone)
		} else {
			pauses.wait += between(d.random, 0, min(100*time.Millisecond<<failures, 2*time.Second))
			still = nil
		}
		timer := time.NewTimer(pauses.wait)
		select {
		case <-timer.C:
		case <-still:
			timer.Stop()
			select {
			case <-d.crowd.leave:
			case <-ctx.Done():
			}
			return
		case <-d.crowd.leave:
			timer.Stop()
			return
		case <-ctx.Done():
			timer.Stop()
			return
		}
		d.dropGhosts(false)
	}
}

// visit is one connection, from dialling to its end.
func (d *device) visit(ctx context.Context) (_ away, connected bool) {
	edge := d.crowd.options.Edges[d.edge]
	d.edge = (d.edge + 1 + d.random.IntN(len(d.crowd.options.Edges))) % len(d.crowd.options.Edges)
	token, err := d.crowd.options.Tokens.Client(ctx, d.user)
	if err != nil {
		return away{}, false
	}
	so, err := dial(ctx, edge.Address, token)
	if err != nil {
		return away{}, false
	}
	v := &visit{
		device: d, socket: so, edge: edge.Name, connection: d.crowd.options.Check.Connection(d.user, edge.Name),
		seats: map[string]*seat{}, asked: map[uint64]reply{},
	}
	d.note("connects to %s", edge.Name)
	v.connect()
	return v.run(ctx), v.connected
}

// dropGhosts drops those whose time has come, or all.
func (d *device) dropGhosts(all bool) {
	d.ghosts = slices.DeleteFunc(d.ghosts, func(g ghost) bool {
		due := all || time.Now().After(g.until)
		if due {
			g.drop(true)
		}
		return due
	})
}

// Ways to end a connection.
type parting int

const (
	goodbye parting = iota // 1000
	reload                 // 1001
	endOfFile
	reset
	vanishing
	partings
)

func (p parting) String() string {
	return []string{"a goodbye", "a reload", "an end of file", "a reset", "silence"}[p]
}

// part ends the visit on purpose, and says for how long.
func (v *visit) part(how parting) away {
	d, bounds := v.device, v.crowd.options.Bounds
	soon := d.random.IntN(2) == 0
	d.note("ends its connection to %s with %v, soon back: %t", v.edge, how, soon)
	v.unwatch()
	if how == goodbye {
		v.connection.Leaving("")
	}
	ended := attendance.Ending{Known: true, Held: true}
	lasts := bounds.Grace
	switch how {
	case goodbye:
		ended = attendance.Ending{Known: v.goodbye(websocket.StatusNormalClosure)}
		lasts = 0
	case reload:
		if !v.goodbye(websocket.StatusGoingAway) {
			ended.Known = false
		}
	case endOfFile, reset:
		v.drop(how == reset)
	case vanishing:
		v.vanish()
		d.ghosts = append(d.ghosts, ghost{v.socket, time.Now().Add(bounds.Noticed)})
		ended, lasts = attendance.Ending{}, bounds.Noticed
	}
	v.connection.Ended("", ended)
	d.note("has ended its connection to %s", v.edge)
	if soon {
		return away{wait: between(d.random, 0, bounds.Grace/2)}
	}
	return away{wait: lasts + between(d.random, 2*bounds.Told, 4*bounds.Told), gone: true}
}

// move does something by chance; ends tells that the connection has ended.
func (v *visit) move() (_ away, ends bool) {
	d := v.device
	switch chance := d.random.IntN(100); {
	case chance < 50:
		return v.part(parting(d.random.IntN(int(partings)))), true
	case chance < 60:
		v.ask(d.rooms[d.random.IntN(len(d.rooms))])
	default:
		room := d.rooms[d.random.IntN(len(d.rooms))]
		if s := v.seats[room]; s != nil && s.taken {
			v.leaveRoom(room)
		} else if s == nil {
			v.enter(room)
		}
	}
	return away{}, false
}

// endingOf says what an end means that the user did not want.
func endingOf(code websocket.StatusCode, after time.Duration) attendance.Ending {
	const (
		malformed, unauthenticated, forbidden, timeout, limit = 4400, 4401, 4403, 4408, 4429
	)
	switch code {
	case -1: // without a close frame: whatever has happened
		return attendance.Ending{Held: true}
	case websocket.StatusNormalClosure, websocket.StatusProtocolError, websocket.StatusInvalidFramePayloadData,
		malformed, unauthenticated, forbidden, timeout, limit:
		return attendance.Ending{Known: true}
	}
	return attendance.Ending{Known: true, Held: true, After: after}
}

// sortedNames are for the log.
func sortedNames(names []string) []string {
	slices.SortFunc(names, func(a, b string) int { return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b)) })
	return names
}
