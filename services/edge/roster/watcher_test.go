package roster

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	presencev1 "github.com/carillon-rt/carillon/gen/carillon/presence/v1"
	"github.com/carillon-rt/carillon/services/internal/channel"
)

// watchedPresence is what a replica written by hand needs to be watched. presence.mu
// guards it.
type watchedPresence struct {
	elsewhere map[seat]attendance // on other edges
	most      int                 // members that are listed; 0: all
	limit     int                 // channels of a stream; 0: none
	refuse    error               // who opens a stream
	gone      chan struct{}       // closed: streams end
	mute      bool                // streams say nothing any more
	lazy      bool                // changes are told when somebody asks for a sync
	streams   int
	heard     []string // "watch chat.a"
	syncs     []int    // how many channels were to be listed with each
	changed   chan struct{}
}

func newWatchedPresence() watchedPresence {
	return watchedPresence{elsewhere: map[seat]attendance{}, changed: make(chan struct{}), gone: make(chan struct{})}
}

func (w *watchedPresence) change() {
	close(w.changed)
	w.changed = make(chan struct{})
}

// elsewhere has a user join (n > 0) or leave a channel on other edges.
func (p *presence) elsewhere(name channel.Name, user channel.User, n uint32) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if delete(p.watched.elsewhere, seat{name, user}); n > 0 {
		p.watched.elsewhere[seat{name, user}] = attendance{n, time.Now().UnixMilli()}
	}
	p.watched.change()
}

// everywhere is elsewhere for all replicas.
func (s *system) everywhere(name channel.Name, user channel.User, n uint32) {
	for _, p := range s.replicas {
		p.elsewhere(name, user, n)
	}
}

// endWatches ends the streams of now.
func (p *presence) endWatches() {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.watched.gone)
	p.watched.gone = make(chan struct{})
}

// members are those of a channel on all edges. The caller holds mu.
func (p *presence) members(name channel.Name) map[channel.User]*presencev1.Member {
	members := map[channel.User]*presencev1.Member{}
	for _, all := range []map[seat]attendance{p.said.attendances, p.watched.elsewhere} {
		for s, a := range all {
			if s.name != name {
				continue
			}
			m := members[s.user]
			if m == nil {
				m = &presencev1.Member{UserId: string(s.user), Since: timestamppb.New(time.UnixMilli(a.since))}
				members[s.user] = m
			}
			m.Connections += a.connections
		}
	}
	for _, c := range p.said.connections {
		if m := members[c.User]; m != nil {
			m.Info = c.Info
		}
	}
	return members
}

// watcher is one stream.
type watcher struct {
	*presence
	stream grpc.BidiStreamingServer[presencev1.WatchRequest, presencev1.WatchResponse]
	told   map[channel.Name]map[channel.User]struct{}
}

func (p *presence) Watch(stream grpc.BidiStreamingServer[presencev1.WatchRequest, presencev1.WatchResponse]) error {
	p.mu.Lock()
	err, gone := p.watched.refuse, p.watched.gone
	p.watched.streams++
	p.mu.Unlock()
	if err != nil {
		return err
	}
	requests := make(chan *presencev1.WatchRequest)
	go func() { // ends with the stream, once this function has returned
		for {
			req, err := stream.Recv()
			if err != nil {
				return
			}
			select {
			case requests <- req:
			case <-stream.Context().Done():
				return
			}
		}
	}()
	w := &watcher{p, stream, map[channel.Name]map[channel.User]struct{}{}}
	heartbeat := time.NewTicker(2 * time.Second)
	defer heartbeat.Stop()
	for {
		p.mu.Lock()
		changed, mute := p.watched.changed, p.watched.mute
		if p.watched.lazy {
			changed = nil
		}
		p.mu.Unlock()
		if mute {
			<-stream.Context().Done()
			return nil
		}
		select {
		case req := <-requests:
			err = w.answer(req)
		case <-changed:
			err = w.step()
		case <-heartbeat.C:
			err = stream.Send(&presencev1.WatchResponse{})
		case <-gone:
			return errUnacknowledged
		case <-stream.Context().Done():
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (w *watcher) answer(req *presencev1.WatchRequest) error {
	w.mu.Lock()
	note := func(said string) { w.watched.heard = append(w.watched.heard, said) }
	switch ask := req.GetRequest().(type) {
	case *presencev1.WatchRequest_Watch:
		note("watch " + ask.Watch.GetChannel())
		if n := w.watched.limit; n > 0 && len(w.told) >= n {
			w.broken = fmt.Errorf("more than %d channels", n)
		}
		w.mu.Unlock()
		return w.snapshot(channel.Name(ask.Watch.GetChannel()))
	case *presencev1.WatchRequest_Unwatch:
		note("unwatch " + ask.Unwatch.GetChannel())
		delete(w.told, channel.Name(ask.Unwatch.GetChannel()))
	case *presencev1.WatchRequest_Sync:
		w.watched.syncs = append(w.watched.syncs, len(ask.Sync.GetChannels()))
		w.mu.Unlock()
		if err := w.step(); err != nil {
			return err
		}
		for _, name := range ask.Sync.GetChannels() {
			if err := w.list(channel.Name(name)); err != nil {
				return err
			}
		}
		return w.stream.Send(&presencev1.WatchResponse{Event: &presencev1.WatchResponse_Synced{Synced: ask.Sync}})
	}
	w.mu.Unlock()
	return nil
}

// snapshot sends all members, or a sample.
func (w *watcher) snapshot(name channel.Name) error {
	w.mu.Lock()
	members := w.members(name)
	w.mu.Unlock()
	w.told[name] = map[channel.User]struct{}{}
	for user := range members {
		w.told[name][user] = struct{}{}
	}
	for _, part := range w.parts(members) {
		if err := w.stream.Send(&presencev1.WatchResponse{Channel: string(name), Event: &presencev1.WatchResponse_Snapshot{Snapshot: part}}); err != nil {
			return err
		}
	}
	return nil
}

// list sends all members, or a sample, if the channel is watched.
func (w *watcher) list(name channel.Name) error {
	if w.told[name] == nil {
		return nil
	}
	w.mu.Lock()
	members, listed := w.members(name), w.listed
	w.lists++
	w.mu.Unlock()
	if listed != nil {
		listed()
	}
	for _, part := range w.parts(members) {
		if err := w.stream.Send(&presencev1.WatchResponse{Channel: string(name), Event: &presencev1.WatchResponse_Listed{Listed: part}}); err != nil {
			return err
		}
	}
	return nil
}

// parts are two.
func (w *watcher) parts(members map[channel.User]*presencev1.Member) (parts []*presencev1.MembersSnapshot) {
	var all []*presencev1.Member
	for _, user := range slices.Sorted(maps.Keys(members)) {
		all = append(all, members[user])
	}
	total, truncated := uint32(len(all)), w.watched.most > 0 && len(all) > w.watched.most
	if truncated {
		all = all[:sample]
	}
	for i, part := range [][]*presencev1.Member{all[:len(all)/2], all[len(all)/2:]} {
		parts = append(parts, &presencev1.MembersSnapshot{Members: part, Total: total, Truncated: truncated, Complete: i == 1})
	}
	return parts
}

// step sends what has changed.
func (w *watcher) step() error {
	for name, told := range w.told {
		w.mu.Lock()
		members, most := w.members(name), w.watched.most
		w.mu.Unlock()
		large := most > 0 && len(members) > most
		if was := most > 0 && len(told) > most; was && !large {
			if err := w.snapshot(name); err != nil {
				return err
			}
			continue
		}
		changed := &presencev1.MembersChanged{Total: uint32(len(members)), Truncated: large}
		for user, m := range members {
			if _, is := told[user]; !is {
				changed.Joined = append(changed.Joined, m)
				told[user] = struct{}{}
			}
		}
		for user := range told {
			if _, is := members[user]; !is {
				changed.Left = append(changed.Left, &presencev1.Member{UserId: string(user)})
				delete(told, user)
			}
		}
		if len(changed.GetJoined())+len(changed.GetLeft()) == 0 {
			continue
		}
		if large {
			changed.Joined = changed.GetJoined()[:min(len(changed.GetJoined()), sample)]
			changed.Left = changed.GetLeft()[:min(len(changed.GetLeft()), sample)]
		}
		if err := w.stream.Send(&presencev1.WatchResponse{Channel: string(name), Event: &presencev1.WatchResponse_Changed{Changed: changed}}); err != nil {
			return err
		}
	}
	return nil
}

// audience keeps a channel's list as a client does: from Look, and what is told.
type audience struct {
	t    testing.TB
	s    *system
	name channel.Name
	stop func()

	mu      sync.Mutex
	list    map[channel.User]struct{} // nil: there is none
	total   int
	updates []Update
}

func (s *system) audience(t testing.TB, name channel.Name) *audience {
	a := &audience{t: t, s: s, name: name}
	a.stop = s.Watch(name, a.told)
	return a
}

func (a *audience) told(u Update) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.updates = append(a.updates, u)
	a.total = u.Total
	if u.Truncated {
		a.list = nil
	}
	if a.list == nil {
		return
	}
	for _, m := range u.Joined {
		if _, is := a.list[m.User]; is {
			a.t.Errorf("%s joined twice", m.User)
		}
		a.list[m.User] = struct{}{}
	}
	for _, user := range u.Left {
		if _, is := a.list[user]; !is {
			a.t.Errorf("%s left twice", user)
		}
		delete(a.list, user)
	}
	if len(a.list) != u.Total {
		a.t.Errorf("the total is %d of %v", u.Total, a.list)
	}
}

// look takes the list.
func (a *audience) look() (members []Member, total int, truncated bool) {
	a.t.Helper()
	watched, err := a.s.Look(a.t.Context(), a.name, func(list []Member, n int, sampled bool) {
		a.mu.Lock()
		defer a.mu.Unlock()
		members, total, truncated = slices.Clone(list), n, sampled
		a.list, a.total = nil, n
		if !sampled {
			a.list = map[channel.User]struct{}{}
			for _, m := range list {
				a.list[m.User] = struct{}{}
			}
		}
	})
	if !watched || err != nil {
		a.t.Fatalf("watched %v: %v", watched, err)
	}
	return members, total, truncated
}

// users is the list.
func (a *audience) users() []channel.User {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Sorted(maps.Keys(a.list))
}

func (a *audience) wantUsers(want ...channel.User) {
	a.t.Helper()
	synctest.Wait()
	if got := a.users(); !slices.Equal(got, want) {
		a.t.Fatalf("the list has %v, want %v", got, want)
	}
}

// wantUpdates wants so many updates so far.
func (a *audience) wantUpdates(n int) []Update {
	a.t.Helper()
	synctest.Wait()
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.updates) != n {
		a.t.Fatalf("%d updates, want %d; the last: %.500v", len(a.updates), n, a.updates[max(0, len(a.updates)-1):])
	}
	return a.updates
}
