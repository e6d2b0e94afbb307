package edge

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/carillon-rt/carillon/services/edge/frame"
	"github.com/carillon-rt/carillon/services/edge/roster"
	"github.com/carillon-rt/carillon/services/edge/socket"
	"github.com/carillon-rt/carillon/services/internal/channel"
)

const (
	// A channel's changes are pushed at most once in an interval, the longer the more are
	// told: so many frames a second at most.
	minPushInterval = 100 * time.Millisecond
	maxPushInterval = 5 * time.Second
	pushesPerSecond = 5000
	// maxPushed bounds both lists of a push; where there are more, they are samples.
	maxPushed  = 100
	pushSample = 20
	// pushBatch is to how many a push goes before others may have the audience's lock.
	pushBatch = 64
)

// audiences are the channels of which somebody on this edge is told who joins and leaves.
// The roster's lock is taken after theirs, and an audience's after both.
type audiences struct {
	roster  Roster
	codecs  []*codec
	metrics *metrics
	rounds  rounds

	mu     sync.Mutex
	byName map[channel.Name]*audience
}

func newAudiences(roster Roster, codecs []*codec, m *metrics) *audiences {
	return &audiences{roster: roster, codecs: codecs, metrics: m, rounds: newRounds(), byName: map[channel.Name]*audience{}}
}

// reader is where a spectator's frames go.
type reader interface {
	// send queues a frame that cannot be left out.
	send(f socket.Frame)
	// sendLossy queues a frame, unless there is no room.
	sendLossy(f socket.Frame) bool
}

// enter has a reader told who joins and leaves a channel; lossy: what it is too slow for
// is left out.
func (all *audiences) enter(name channel.Name, to reader, c *codec, lossy bool) *spectator {
	all.mu.Lock()
	defer all.mu.Unlock()
	a, known := all.byName[name]
	if !known {
		a = &audience{all: all, name: name, round: -1}
		all.byName[name] = a
		a.stop = all.roster.Watch(name, a.told)
	}
	sp := &spectator{audience: a, to: to, codec: c, lossy: lossy}
	a.add(sp)
	return sp
}

// leave ends that: when it returns, nothing more of it is queued for the reader.
func (all *audiences) leave(sp *spectator) {
	all.mu.Lock()
	defer all.mu.Unlock()
	a := sp.audience
	if a.remove(sp) {
		delete(all.byName, a.name)
		a.stop()
	}
}

// audience is those who are told of one channel.
type audience struct {
	all   *audiences
	name  channel.Name
	stop  func()    // of the roster's telling; guarded by all.mu
	due   time.Time // of its next round; guarded by rounds.mu, as round is
	round int       // its place among the rounds; -1 while it waits for none

	mu         sync.Mutex
	spectators []*spectator // in no order
	codecs     [codecCount]int
	// touched are the users for whom something may have changed since the last push,
	// where they ended up: no more than tell that a push cannot list them.
	touched   map[channel.User]change
	changed   bool // there is something to push
	truncated bool // touched is a sample
	total     int
	lagging   bool      // somebody has missed a push
	pushes    uint64    // how many there were
	pushed    time.Time // when the last was
}

// change is where a user ended up.
type change struct {
	member roster.Member
	joined bool
}

// spectator is one subscription that is told who joins and leaves.
type spectator struct {
	audience *audience
	to       reader
	codec    *codec
	lossy    bool
	// Guarded by audience.mu.
	index  int            // in audience.spectators
	pushed uint64         // the last of the audience's pushes that is none of its affair any more
	paused bool           // pushes wait for resume
	held   []socket.Frame // those that do
	missed bool           // there was no room for a push, and the client does not know
}

func (a *audience) add(sp *spectator) {
	a.mu.Lock()
	defer a.mu.Unlock()
	sp.index, sp.pushed = len(a.spectators), a.pushes
	a.spectators = append(a.spectators, sp)
	a.codecs[sp.codec.index]++
}

// remove takes a spectator out, and tells whether it was the last.
func (a *audience) remove(sp *spectator) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	last := len(a.spectators) - 1
	moved := a.spectators[last]
	a.spectators[sp.index], moved.index = moved, sp.index
	a.spectators[last] = nil
	a.spectators = a.spectators[:last]
	a.codecs[sp.codec.index]--
	return last == 0
}

// told takes in what the roster tells, and has it pushed soon.
func (a *audience) told(u roster.Update) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, m := range u.Joined {
		a.touch(m.User, change{m, true})
	}
	for _, user := range u.Left {
		a.touch(user, change{})
	}
	a.changed = a.changed || len(u.Joined) > 0 || len(u.Left) > 0 || u.Truncated || u.Total != a.total
	a.truncated = a.truncated || u.Truncated
	a.total = u.Total
	if a.changed {
		a.all.rounds.add(a, a.pushed.Add(a.interval()))
	}
}

// touch notes where a user ended up. The caller holds a.mu.
func (a *audience) touch(user channel.User, c change) {
	if _, known := a.touched[user]; !known && len(a.touched) > 2*maxPushed { // one list is too long already
		a.truncated = true
		return
	}
	if a.touched == nil {
		a.touched = map[channel.User]change{}
	}
	a.touched[user] = c
}

// interval is the least time between two pushes. The caller holds a.mu.
func (a *audience) interval() time.Duration {
	return min(max(minPushInterval, time.Duration(len(a.spectators))*time.Second/pushesPerSecond), maxPushInterval)
}

// push tells all spectators what has changed. They are told in batches, between which
// spectators come and go, and the roster goes on; only one push is under way at a time.
func (a *audience) push(now time.Time) {
	a.mu.Lock()
	if !a.changed && !a.lagging {
		a.mu.Unlock()
		return
	}
	p := push{news: a.changed, next: len(a.spectators)}
	p.lists = a.take()
	a.lagging = false
	a.pushes++
	a.pushed, p.number = now, a.pushes
	codecs := a.codecs
	a.mu.Unlock()
	for _, c := range a.all.codecs {
		if p.news && codecs[c.index] > 0 {
			p.encoded.frame(c, p.lists)
		}
	}
	for p.next > 0 {
		a.pushBatch(&p)
	}
	a.all.metrics.pushed(p.sent)
}

// push is one that is under way.
type push struct {
	number  uint64
	news    bool // else it is only for those who have missed one
	lists   frame.PresenceChanged
	encoded encodings // of lists
	lost    encodings // for those who have missed one: their lists are not right any more
	next    int       // the spectators below are to be told
	sent    int
}

// pushBatch tells some spectators, the last first. In the place of one who leaves comes
// the last, who either has been told, or is found there.
func (a *audience) pushBatch(p *push) {
	a.mu.Lock()
	defer a.mu.Unlock()
	p.next = min(p.next, len(a.spectators))
	for range min(pushBatch, p.next) {
		p.next--
		sp := a.spectators[p.next]
		f := p.encoded[sp.codec.index]
		switch {
		case sp.pushed >= p.number, !p.news && !sp.missed:
			continue
		case sp.missed:
			f = p.lost.frame(sp.codec, frame.PresenceChanged{Channel: string(a.name), Total: p.lists.Total, Truncated: true})
		}
		sp.pushed, sp.missed = p.number, false
		sp.send(f)
		p.sent++
	}
}

// take makes the push of what has changed, and forgets it. The caller holds a.mu.
func (a *audience) take() frame.PresenceChanged {
	event := frame.PresenceChanged{Channel: string(a.name), Total: a.total, Truncated: a.truncated}
	infos := 0
	for user, c := range a.touched {
		if c.joined {
			infos += len(c.member.Info)
			event.Joined = append(event.Joined, memberOf(c.member))
		} else {
			event.Left = append(event.Left, frame.Member{UserID: string(user)})
		}
	}
	a.touched, a.changed, a.truncated = nil, false, false
	byUser := func(a, b frame.Member) int { return cmp.Compare(a.UserID, b.UserID) }
	slices.SortFunc(event.Joined, byUser)
	slices.SortFunc(event.Left, byUser)
	if event.Truncated = event.Truncated || max(len(event.Joined), len(event.Left)) > maxPushed || infos > maxInfosBytes; event.Truncated {
		event.Joined = event.Joined[:min(pushSample, len(event.Joined))]
		event.Left = event.Left[:min(pushSample, len(event.Left))]
	}
	return event
}

// send queues a push, or keeps it until resume. The caller holds audience.mu.
func (sp *spectator) send(f socket.Frame) {
	switch {
	case sp.paused:
		sp.held = append(sp.held, f)
	case !sp.lossy:
		sp.to.send(f)
	case !sp.to.sendLossy(f):
		a := sp.audience
		sp.missed, a.lagging = true, true
		a.all.rounds.add(a, time.Now().Add(a.interval()))
	}
}

// pause holds back what is pushed from now on: what the push that is under way says is
// older than what the roster says now.
func (sp *spectator) pause() {
	a := sp.audience
	a.mu.Lock()
	defer a.mu.Unlock()
	sp.paused, sp.pushed = true, a.pushes
}

// resume sends a frame, if there is one, and then what was held back.
func (sp *spectator) resume(first socket.Frame) {
	sp.audience.mu.Lock()
	defer sp.audience.mu.Unlock()
	if first != nil {
		sp.to.send(first)
	}
	held := sp.held
	sp.paused, sp.held = false, nil
	for _, f := range held {
		sp.send(f)
	}
}
