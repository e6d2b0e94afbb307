package roster

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"time"

	"google.golang.org/grpc"

	presencev1 "github.com/carillon-rt/carillon/gen/carillon/presence/v1"
	"github.com/carillon-rt/carillon/services/internal/channel"
)

const (
	// watchSilence is how long a replica may say nothing; it says something every 2 s.
	watchSilence = 5 * time.Second
	// watchLinger is how long a stream without a channel stays open.
	watchLinger = 5 * time.Second
)

var (
	errSilent = errors.New("the replica was silent for too long")
	errIdle   = errors.New("nothing is watched any more")
)

// watching is one stream after the other to one replica at a time, over which up to
// maxStreamChannels channels are watched. One goroutine opens them and sends, another
// receives.
type watching struct {
	watches *watches
	wake    chan struct{} // there is something to send, to hold back or to end
	again   chan struct{} // a replica has come back

	// Guarded by watches.mu.

	channels int       // how many
	lonely   time.Time // since when there is none
	used     uint64    // counts the streams
	replica  *replica  // nil: no stream is open
	// pending names the channels of which the replica is to hear: to watch them, if they
	// are watched and it was not asked, else not to.
	pending map[channel.Name]struct{}
	// absences are when to decide of those who are missing, the first first.
	absences []absence
	// marks are syncs that wait for the one that is under way: who comes meanwhile shares
	// them. sent is the number of the last that was sent, synced of the last that was
	// answered. progress is closed, and replaced, when that changes or the stream ends.
	marks        []mark
	sent, synced uint64
	progress     chan struct{}
}

// mark is a sync, and the channels that are to be listed with it.
type mark struct {
	number   uint64
	channels map[channel.Name]struct{}
}

// maxListed is how many channels a sync may have listed.
const maxListed = 100

type absence struct {
	watch *watch
	at    time.Time
	// hearing: the replica heard this edge when that was set, so by then it has told of
	// who is here.
	hearing bool
}

type watchStream = grpc.BidiStreamingClient[presencev1.WatchRequest, presencev1.WatchResponse]

func newWatching(ws *watches) *watching {
	return &watching{watches: ws, wake: make(chan struct{}, 1), again: make(chan struct{}, 1), progress: make(chan struct{}), pending: map[channel.Name]struct{}{}}
}

func (g *watching) add(w *watch) {
	g.channels++
	g.pending[w.name] = struct{}{}
	g.stir()
}

func (g *watching) remove(w *watch) {
	if g.channels--; g.channels == 0 {
		g.lonely = time.Now()
	}
	if w.asked {
		g.pending[w.name] = struct{}{}
	} else {
		delete(g.pending, w.name)
	}
	g.stir()
}

// sync returns the number whose answer says that everything is told of a channel that is
// applied now, and what else the list of its members says.
func (g *watching) sync(name channel.Name) uint64 {
	for _, m := range g.marks {
		if _, listed := m.channels[name]; listed || len(m.channels) < maxListed {
			m.channels[name] = struct{}{}
			return m.number
		}
	}
	next := mark{g.sent + uint64(len(g.marks)) + 1, map[channel.Name]struct{}{name: {}}}
	g.marks = append(g.marks, next)
	g.stir()
	return next.number
}

func (g *watching) stir() {
	select {
	case g.wake <- struct{}{}:
	default:
	}
}

func (g *watching) progressed() {
	close(g.progress)
	g.progress = make(chan struct{})
}

// run keeps a stream to a replica while a channel is watched, until ctx ends. Another
// replica is tried at once, and more slowly when none answers.
func (g *watching) run(ctx context.Context) {
	replicas := len(g.watches.roster.replicas)
	turn, failures := rand.Uint64N(uint64(replicas)), 0
	for g.awaitChannel(ctx) {
		replica := g.watches.roster.inOrder(turn)[0]
		heard, err := g.follow(ctx, replica)
		if ctx.Err() != nil {
			return
		}
		if errors.Is(err, errIdle) {
			continue
		}
		if heard {
			failures = 0
		}
		level := slog.LevelDebug
		if failures == replicas {
			level = slog.LevelWarn
		}
		replica.logger.Log(ctx, level, "who joins and leaves is not told: the stream ended", "error", err)
		turn = g.watches.roster.after(replica)
		select {
		case <-ctx.Done():
			return
		case <-time.After(pauseAfter(max(0, failures-replicas))):
		case <-g.again:
		}
		failures++
	}
}

// awaitChannel waits for one to be watched; false: ctx ended first.
func (g *watching) awaitChannel(ctx context.Context) bool {
	for {
		g.watches.mu.Lock()
		n := g.channels
		g.watches.mu.Unlock()
		if n > 0 {
			return true
		}
		select {
		case <-g.wake:
		case <-ctx.Done():
			return false
		}
	}
}

// follow keeps one stream until it fails, or errIdle; heard tells whether anything came.
func (g *watching) follow(ctx context.Context, replica *replica) (heard bool, err error) {
	conn := replica.connection()
	streamCtx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silence := time.AfterFunc(watchSilence, func() { cancel(errSilent) })
	defer silence.Stop()
	stream, err := presencev1.NewPresenceReportServiceClient(conn).Watch(streamCtx)
	if err != nil {
		return false, err
	}
	g.enter(replica)
	defer g.leave()
	ended := make(chan struct{})
	var failure error
	go func() {
		defer close(ended)
		for {
			res, err := stream.Recv()
			if err != nil {
				failure = err
				return
			}
			silence.Reset(watchSilence)
			heard = true
			g.take(res)
		}
	}()
	err = g.send(streamCtx, stream, ended)
	cancel(nil)
	<-ended
	if err == nil {
		err = failure
	}
	if errors.Is(context.Cause(streamCtx), errSilent) {
		replica.redial(conn)
		return heard, errSilent
	}
	return heard, err
}

// enter begins a stream, of which nothing is known yet.
func (g *watching) enter(replica *replica) {
	g.watches.mu.Lock()
	defer g.watches.mu.Unlock()
	g.used++
	g.replica = replica
	clear(g.pending)
	for name, w := range g.watches.channels {
		if w.stream == g {
			g.pending[name] = struct{}{}
		}
	}
	g.marks, g.synced = nil, g.sent // who waits for one leaves
	g.stir()
}

// leave ends it. Who is known stays known.
func (g *watching) leave() {
	g.watches.mu.Lock()
	defer g.watches.mu.Unlock()
	g.used++
	g.replica = nil
	g.absences = nil
	for _, w := range g.watches.channels {
		if w.stream == g {
			w.asked, w.fresh, w.staged, w.listed = false, false, nil, nil
		}
	}
	g.progressed()
}

// send sends what is to be sent, and decides of who is missing, until the stream ends.
func (g *watching) send(ctx context.Context, stream watchStream, ended <-chan struct{}) error {
	timer := time.NewTimer(watchLinger)
	defer timer.Stop()
	for {
		for _, req := range g.requests() {
			if stream.Send(req) != nil { // Recv has the reason
				<-ended
				return nil
			}
		}
		next, idle := g.due(time.Now())
		if idle {
			return errIdle
		}
		timer.Reset(next)
		select {
		case <-g.wake:
		case <-timer.C:
		case <-ended:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// requests takes what is to be sent: first what makes room.
func (g *watching) requests() []*presencev1.WatchRequest {
	ws := g.watches
	ws.mu.Lock()
	defer ws.mu.Unlock()
	var all, watch []*presencev1.WatchRequest
	for name := range g.pending {
		to := &presencev1.WatchedChannel{Channel: string(name)}
		w, ok := ws.channels[name]
		switch {
		case !ok || w.stream != g:
			all = append(all, &presencev1.WatchRequest{Request: &presencev1.WatchRequest_Unwatch{Unwatch: to}})
		case !w.asked:
			w.asked = true
			watch = append(watch, &presencev1.WatchRequest{Request: &presencev1.WatchRequest_Watch{Watch: to}})
		}
	}
	clear(g.pending)
	all = append(all, watch...)
	if len(g.marks) > 0 && g.synced == g.sent {
		sync := &presencev1.Sync{Number: g.marks[0].number}
		for name := range g.marks[0].channels {
			sync.Channels = append(sync.Channels, string(name))
		}
		g.sent, g.marks = sync.GetNumber(), g.marks[1:]
		all = append(all, &presencev1.WatchRequest{Request: &presencev1.WatchRequest_Sync{Sync: sync}})
	}
	return all
}

// due decides of those who are missing whose time has come, and tells when to come again,
// or that no channel has been watched for a while.
func (g *watching) due(now time.Time) (next time.Duration, idle bool) {
	g.watches.mu.Lock()
	defer g.watches.mu.Unlock()
	for len(g.absences) > 0 && !g.absences[0].at.After(now) {
		w, heard := g.absences[0].watch, g.absences[0].hearing
		g.absences = g.absences[1:]
		if hears := g.replica.hears(); hears && heard {
			w.tell(w.absent())
		} else { // of those who are here, it is no witness
			g.absences = append(g.absences, absence{w, now.Add(lagTime), hears})
		}
	}
	next = time.Hour
	if len(g.absences) > 0 {
		next = g.absences[0].at.Sub(now)
	}
	if g.channels > 0 {
		return next, false
	}
	left := g.lonely.Add(watchLinger).Sub(now)
	return min(next, left), left <= 0
}

// take applies what the replica says. It may still speak of what is not watched any more;
// if that is watched again, the snapshot that was asked for comes after it.
func (g *watching) take(res *presencev1.WatchResponse) {
	g.watches.mu.Lock()
	defer g.watches.mu.Unlock()
	if synced := res.GetSynced(); synced != nil {
		g.synced = min(max(g.synced, synced.GetNumber()), g.sent)
		g.progressed()
		if len(g.marks) > 0 {
			g.stir()
		}
		return
	}
	w, ok := g.watches.channels[channel.Name(res.GetChannel())]
	if !ok || w.stream != g {
		return
	}
	switch say := res.GetEvent().(type) {
	case *presencev1.WatchResponse_Snapshot:
		g.takeSnapshot(w, say.Snapshot)
	case *presencev1.WatchResponse_Listed:
		if !w.fresh {
			return
		}
		w.listed = append(w.listed, membersOf(say.Listed.GetMembers())...)
		if say.Listed.GetComplete() {
			w.refresh(w.listed)
			w.listed = nil
		}
	case *presencev1.WatchResponse_Changed:
		if !w.fresh {
			return
		}
		left := make([]channel.User, 0, len(say.Changed.GetLeft()))
		for _, m := range say.Changed.GetLeft() {
			left = append(left, channel.User(m.GetUserId()))
		}
		w.tell(w.change(membersOf(say.Changed.GetJoined()), left, int(say.Changed.GetTotal()), say.Changed.GetTruncated()))
	}
}

// takeSnapshot waits for the last part. Parts are in order of user id, so that what does
// not go on begins anew.
func (g *watching) takeSnapshot(w *watch, part *presencev1.MembersSnapshot) {
	members := membersOf(part.GetMembers())
	if n := len(w.staged); n > 0 && len(members) > 0 && members[0].User <= w.staged[n-1].User {
		w.staged = nil
	}
	w.staged = append(w.staged, members...)
	if !part.GetComplete() {
		return
	}
	members, w.staged = w.staged, nil
	first := !w.fresh // of this stream
	w.fresh = true
	u := w.snapshot(members, int(part.GetTotal()), part.GetTruncated(), first)
	if first && len(w.missing) > 0 {
		g.absences = append(g.absences, absence{w, time.Now().Add(lagTime), g.replica.hears()})
		g.stir()
	}
	w.tell(u)
	w.settled()
}

func membersOf(in []*presencev1.Member) []Member {
	out := make([]Member, 0, len(in))
	for _, m := range in {
		out = append(out, memberOf(m))
	}
	return out
}
