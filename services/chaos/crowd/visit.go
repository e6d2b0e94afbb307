package crowd

import (
	"context"
	"fmt"
	"time"

	"github.com/coder/websocket"

	clientv1 "github.com/carillon-rt/carillon/gen/carillon/client/v1"
	"github.com/carillon-rt/carillon/services/chaos/attendance"
)

const (
	// pingInterval is how often a user makes sure that its connection lives, silence after
	// how long it takes it for dead.
	pingInterval = 500 * time.Millisecond
	silence      = 6 * time.Second
	// Times between two things that somebody does who is not steady.
	leastRest = time.Second
	mostRest  = 6 * time.Second
	// retryAfter is when what was refused for now is asked again.
	retryAfter = 500 * time.Millisecond
)

// visit is one connection of a device.
type visit struct {
	*device
	*socket

	edge       string
	connection *attendance.Connection
	connected  bool
	seats      map[string]*seat // by room: those that it is in, or means to be in
	asked      map[uint64]reply // what has not been answered
	pinged     time.Time        // when the ping was sent that has not been answered; zero: none
	heard      time.Time
	said       *clientv1.DisconnectPush
	failed     bool // the connection is of no use
}

// reply handles the answer to a command.
type reply func(f *clientv1.ServerFrame)

// seat is a room that somebody is in, or means to be in.
type seat struct {
	taken   bool // subscribed
	watcher *attendance.Watcher
	due     time.Time // when to ask for the room, or for who is there; zero: not
}

// watches tells whether a device is told who comes and goes in a room.
func (d *device) watches(room string) bool {
	return (len(room)+len(d.name)+int(room[len(room)-1]))%2 == 0
}

func (v *visit) connect() {
	v.heard = time.Now()
	command := &clientv1.ConnectCommand{
		Client: &clientv1.ClientInfo{Name: "chaos"},
		Info:   fmt.Sprintf(`{"name":%q}`, v.user),
	}
	for _, room := range v.rooms {
		v.seats[room] = &seat{}
		v.connection.Asked(room)
		command.Subscriptions = append(command.Subscriptions, v.subscribeCommand(room))
	}
	id := v.send(&clientv1.ClientFrame{Command: &clientv1.ClientFrame_Connect{Connect: command}})
	v.asked[id] = func(f *clientv1.ServerFrame) {
		if refusal := f.GetError(); refusal != nil {
			v.note("is not connected: %v", refusal)
			v.failed = true
			return
		}
		v.connected = true
		for _, result := range f.GetConnected().GetSubscriptions() {
			if refusal := result.GetError(); refusal != nil {
				v.refused(refusal.GetChannel(), refusal.GetError())
			} else if _, ok := v.seats[result.GetSubscribed().GetChannel()]; ok {
				v.entered(result.GetSubscribed().GetChannel())
			}
		}
	}
}

func (v *visit) subscribeCommand(room string) *clientv1.SubscribeCommand {
	return &clientv1.SubscribeCommand{Channel: room, Presence: v.watches(room)}
}

// run is the visit until it ends.
func (v *visit) run(ctx context.Context) away {
	ping := time.NewTicker(pingInterval)
	defer ping.Stop()
	moves := time.NewTimer(between(v.random, leastRest, mostRest))
	defer moves.Stop()
	for {
		move := moves.C
		select {
		case <-v.crowd.still:
			move = nil
		default:
		}
		if v.steady {
			move = nil
		}
		select {
		case f, open := <-v.frames:
			if !open {
				return v.lost()
			}
			v.take(f)
		case <-ping.C:
			if time.Since(v.heard) > silence || v.failed {
				return v.lost()
			}
			v.tend()
		case <-move:
			if !v.connected {
				moves.Reset(leastRest)
				continue
			}
			if pauses, ends := v.move(); ends {
				return pauses
			}
			moves.Reset(between(v.random, leastRest, mostRest))
		case <-v.crowd.leave:
			v.part(goodbye)
			return away{gone: true}
		case <-ctx.Done():
			v.unwatch()
			v.drop(true)
			return away{gone: true}
		}
		v.settle()
	}
}

// settle tells whether everything is as the user means it to be.
func (v *visit) settle() {
	state := here
	for room, s := range v.seats {
		if !s.taken || v.watches(room) && s.watcher == nil {
			state = coming
		}
	}
	if !v.connected {
		state = coming
	}
	v.state.Store(state)
}

// take handles one frame.
func (v *visit) take(f *clientv1.ServerFrame) {
	v.heard = time.Now()
	if answered := v.asked[f.GetId()]; answered != nil {
		delete(v.asked, f.GetId())
		answered(f)
		return
	}
	switch event := f.GetEvent().(type) {
	case *clientv1.ServerFrame_PresenceChanged:
		v.changed(event.PresenceChanged)
	case *clientv1.ServerFrame_Unsubscribed:
		v.unsubscribed(event.Unsubscribed)
	case *clientv1.ServerFrame_Disconnect:
		v.said = event.Disconnect
	}
}

// tend pings, and asks again for what was refused for now.
func (v *visit) tend() {
	if v.pinged.IsZero() && v.connected {
		v.pinged = time.Now()
		id := v.send(&clientv1.ClientFrame{Command: &clientv1.ClientFrame_Ping{Ping: &clientv1.PingCommand{}}})
		v.asked[id] = func(*clientv1.ServerFrame) {
			v.connection.Alive(v.pinged)
			for _, s := range v.seats {
				if s.watcher != nil {
					s.watcher.Alive(v.pinged)
				}
			}
			v.pinged = time.Time{}
		}
	}
	for room, s := range v.seats {
		if s.due.IsZero() || time.Now().Before(s.due) {
			continue
		}
		if s.due = (time.Time{}); s.taken {
			v.ask(room)
		} else {
			v.enter(room)
		}
	}
}

// enter subscribes to a room.
func (v *visit) enter(room string) {
	v.seats[room] = &seat{}
	v.connection.Asked(room)
	v.note("enters %s", room)
	id := v.send(&clientv1.ClientFrame{Command: &clientv1.ClientFrame_Subscribe{Subscribe: v.subscribeCommand(room)}})
	v.asked[id] = func(f *clientv1.ServerFrame) {
		if refusal := f.GetError(); refusal != nil {
			v.refused(room, refusal)
		} else {
			v.entered(room)
		}
	}
}

func (v *visit) entered(room string) {
	v.connection.Subscribed(room)
	v.note("is in %s, over %s", room, v.edge)
	v.seats[room].taken = true
	if v.watches(room) {
		v.ask(room)
	}
}

// refused is a room that somebody does not get into, for now.
func (v *visit) refused(room string, refusal *clientv1.ErrorReply) {
	v.connection.Ended(room, attendance.Ending{Known: true})
	v.note("does not get into %s: %v", room, refusal)
	v.expect(refusal)
	if s := v.seats[room]; s != nil {
		s.due = time.Now().Add(retryAfter)
	}
}

// expect wants a refusal to be one that passes.
func (v *visit) expect(refusal *clientv1.ErrorReply) {
	switch refusal.GetCode() {
	case "UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "INTERNAL", "ABORTED":
	default:
		v.crowd.problem(fmt.Errorf("%s: %v", v.name, refusal))
	}
}

// ask asks who is in a room, for a list that is kept from then on.
func (v *visit) ask(room string) {
	s := v.seats[room]
	if s == nil || !s.taken || !v.watches(room) {
		return
	}
	id := v.send(&clientv1.ClientFrame{Command: &clientv1.ClientFrame_Presence{Presence: &clientv1.PresenceCommand{Channel: room}}})
	v.asked[id] = func(f *clientv1.ServerFrame) {
		if v.seats[room] != s || !s.taken {
			return // left meanwhile
		}
		if refusal := f.GetError(); refusal != nil {
			v.note("is not told who is in %s: %v", room, refusal)
			v.expect(refusal)
			s.due = time.Now().Add(retryAfter)
			return
		}
		v.listed(room, s, f.GetPresence())
	}
}

func (v *visit) listed(room string, s *seat, list *clientv1.PresenceReply) {
	users := usersOf(list.GetMembers())
	v.note("is told that %d are in %s: %v", list.GetTotal(), room, sortedNames(users))
	if s.watcher == nil {
		s.watcher = v.crowd.options.Check.Watcher(fmt.Sprintf("%s over %s", v.name, v.edge), room, v.edge)
	}
	if list.GetTruncated() {
		s.watcher.Lost()
		return
	}
	s.watcher.Snapshot(users, int(list.GetTotal()))
}

func usersOf(members []*clientv1.Member) []string {
	users := make([]string, len(members))
	for i, m := range members {
		users[i] = m.GetUserId()
	}
	return users
}

func (v *visit) changed(push *clientv1.PresenceChangedPush) {
	room, joined, left := push.GetChannel(), usersOf(push.GetJoined()), usersOf(push.GetLeft())
	v.note("is told of %s: +%v -%v, %d", room, joined, left, push.GetTotal())
	s := v.seats[room]
	switch {
	case s == nil || !v.watches(room):
		v.crowd.problem(fmt.Errorf("%s is told of %s without having asked", v.name, room))
	case push.GetTruncated() && s.watcher != nil:
		s.watcher.Lost()
	case push.GetTruncated():
	case s.watcher == nil:
		s.watcher = v.crowd.options.Check.Watcher(fmt.Sprintf("%s over %s", v.name, v.edge), room, v.edge)
		fallthrough
	default:
		s.watcher.Changed(joined, left, int(push.GetTotal()))
	}
}

// leaveRoom unsubscribes.
func (v *visit) leaveRoom(room string) {
	s := v.seats[room]
	s.taken = false
	v.lose(s)
	v.connection.Leaving(room)
	v.note("leaves %s", room)
	id := v.send(&clientv1.ClientFrame{Command: &clientv1.ClientFrame_Unsubscribe{Unsubscribe: &clientv1.UnsubscribeCommand{Channel: room}}})
	v.asked[id] = func(*clientv1.ServerFrame) { // a refusal says that it was not there
		v.connection.Ended(room, attendance.Ending{Known: true})
		v.note("has left %s", room)
		delete(v.seats, room)
	}
}

// unsubscribed is the end of a subscription that the edge wants.
func (v *visit) unsubscribed(push *clientv1.UnsubscribedEvent) {
	s := v.seats[push.GetChannel()]
	if s == nil || !s.taken {
		return
	}
	v.note("is put out of %s: %v", push.GetChannel(), push)
	v.connection.Ended(push.GetChannel(), attendance.Ending{Known: true, Held: push.GetResubscribe()})
	s.taken = false
	v.lose(s)
	s.due = time.Now().Add(retryAfter)
}

func (v *visit) lose(s *seat) {
	if s.watcher != nil {
		s.watcher.Lost()
		s.watcher = nil
	}
}

// unwatch ends every list.
func (v *visit) unwatch() {
	for _, s := range v.seats {
		v.lose(s)
	}
}

// lost is the end of a connection that the user did not want.
func (v *visit) lost() away {
	v.unwatch()
	v.drop(true)
	code, after := websocket.CloseStatus(v.err), time.Duration(v.said.GetReconnectAfterMs())*time.Millisecond
	how := endingOf(code, after)
	if v.said != nil && code < 0 { // the close frame was lost, not the word before it
		how = attendance.Ending{Held: true, After: after}
	}
	v.connection.Ended("", how)
	v.note("has lost its connection to %s: %v %v", v.edge, v.err, v.said)
	return away{wait: after}
}
