package presence_test

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	presencev1 "github.com/carillon-rt/carillon/gen/carillon/presence/v1"
	"github.com/carillon-rt/carillon/services/edge/roster"
	"github.com/carillon-rt/carillon/services/internal/channel"
)

// list is who is in a channel, to somebody who applies what is told.
type list struct {
	users map[channel.User]bool
	total int
}

func newList() list { return list{users: map[channel.User]bool{}} }

// watch is a channel that an edge watches.
type watch struct {
	world *world
	edge  *site
	name  channel.Name
	stop  func()

	mu sync.Mutex
	list
	whole bool // the list was taken; what is told before is not of it
	told  int
}

// watchOn begins to watch a channel on an edge, and takes the list as soon as there is one.
func (w *world) watchOn(s *site, name channel.Name) {
	v := &watch{world: w, edge: s, name: name, list: newList()}
	v.stop = s.roster.Watch(name, v.tell)
	s.watch[name] = v
	w.behind.Go(func() {
		for {
			watched, err := s.roster.Look(context.Background(), name, v.take)
			if err == nil || !watched {
				return
			}
			select {
			case <-s.ended:
				return
			case <-time.After(100 * time.Millisecond):
			}
		}
	})
}

func (w *world) unwatch(v *watch) {
	delete(v.edge.watch, v.name)
	v.stop()
}

// take takes the list, or compares it with what was told since.
func (v *watch) take(members []roster.Member, total int, truncated bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	users := map[channel.User]bool{}
	for _, m := range members {
		users[m.User] = true
	}
	if truncated || total != len(users) || v.whole && !maps.Equal(users, v.users) {
		v.world.fail("%s looks at %s and sees %v of %d, having been told of %v", v.edge.id, v.name, sorted(users), total, sorted(v.users))
	}
	v.users, v.total, v.whole = users, total, true
}

func (v *watch) tell(u roster.Update) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.told++
	v.total = u.Total
	if u.Truncated {
		v.world.fail("%s was told of %s in samples: %+v", v.edge.id, v.name, u)
	}
	delay := prompt
	v.world.truth.mu.Lock()
	if !v.edge.well() {
		delay = late
	}
	v.world.truth.mu.Unlock()
	for _, m := range u.Joined {
		v.world.judgeJoined(v.edge.id, v.name, m.User)
		v.users[m.User] = true
	}
	for _, user := range u.Left {
		v.world.judgeLeft(v.edge.id, v.name, user, delay)
		delete(v.users, user)
	}
	if v.whole && u.Total != len(v.users) {
		v.world.fail("%s is told of %d members of %s, and knows %v", v.edge.id, u.Total, v.name, sorted(v.users))
	}
}

// state copies what the watcher holds for true.
func (v *watch) state() (users map[channel.User]bool, total, told int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return maps.Clone(v.users), v.total, v.told
}

// onlooker is a backend that watches a channel with WatchChannel, now at this replica,
// now at that one, and goes on where it was.
type onlooker struct {
	world  *world
	name   channel.Name
	random *rand.Rand

	mu sync.Mutex
	list
	token    string
	staged   map[channel.User]bool // a snapshot that is not complete
	resumed  int                   // streams that went on without a snapshot
	streams  int
	whole    bool // a snapshot was complete
	lastHope string
}

// look watches until ctx ends.
func (o *onlooker) look(ctx context.Context, t testing.TB) {
	for ctx.Err() == nil {
		r := o.world.replicas[o.random.IntN(len(o.world.replicas))]
		if conn := r.ask(t); conn != nil {
			err := o.follow(ctx, conn, r.name)
			_ = conn.Close() // it is of no more use
			o.mu.Lock()
			o.lastHope = fmt.Sprint(r.name, ": ", err)
			o.mu.Unlock()
		}
		select {
		case <-ctx.Done():
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// follow is one stream; it breaks after a random time, if the replica does not end it.
func (o *onlooker) follow(ctx context.Context, conn *grpc.ClientConn, replica string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(1+o.random.IntN(30_000))*time.Millisecond)
	defer cancel()
	o.mu.Lock()
	token := o.token
	o.staged = nil
	o.mu.Unlock()
	stream, err := presencev1.NewPresenceServiceClient(conn).WatchChannel(ctx, &presencev1.WatchChannelRequest{Channel: string(o.name), ResumeToken: token})
	for first := true; err == nil; first = false {
		var res *presencev1.WatchChannelResponse
		if res, err = stream.Recv(); err == nil {
			o.take(res, replica, first)
		}
	}
	return err
}

func (o *onlooker) take(res *presencev1.WatchChannelResponse, replica string, first bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if first {
		o.streams++
	}
	who := "the onlooker at " + replica
	if snapshot := res.GetSnapshot(); snapshot != nil {
		if o.staged == nil {
			o.staged = map[channel.User]bool{}
		}
		for _, m := range snapshot.GetMembers() {
			o.staged[channel.User(m.GetUserId())] = true
			o.world.judgeJoined(who, o.name, channel.User(m.GetUserId()))
		}
		if snapshot.GetComplete() {
			o.users, o.staged, o.whole = o.staged, nil, true
			o.total = int(snapshot.GetTotal())
			o.token = res.GetResumeToken()
		}
		return
	}
	if first {
		o.resumed++
	}
	if !o.whole || o.staged != nil {
		o.world.fail("%s was told of changes in %s before a snapshot", who, o.name)
	}
	changed := res.GetChanged()
	for _, m := range changed.GetJoined() {
		o.world.judgeJoined(who, o.name, channel.User(m.GetUserId()))
		o.users[channel.User(m.GetUserId())] = true
	}
	for _, m := range changed.GetLeft() {
		o.world.judgeLeft(who, o.name, channel.User(m.GetUserId()), prompt)
		delete(o.users, channel.User(m.GetUserId()))
	}
	o.total = int(changed.GetTotal())
	o.token = res.GetResumeToken()
}
