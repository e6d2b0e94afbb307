package presence

import (
	"fmt"
	"testing"

	presencev1 "github.com/carillon-rt/carillon/gen/carillon/presence/v1"
)

// listing is a sync with which channels are listed.
func listing(n uint64, channels ...string) *presencev1.WatchRequest {
	return &presencev1.WatchRequest{Request: &presencev1.WatchRequest_Sync{Sync: &presencev1.Sync{Number: n, Channels: channels}}}
}

// listed reads a list.
func (w *watch) listed(name string) *presencev1.MembersSnapshot {
	w.t.Helper()
	res, err := w.stream.Recv()
	if err != nil || res.GetChannel() != name || res.GetListed() == nil {
		w.t.Fatalf("%v, %v, want the list of %s", res, err, name)
	}
	return res.GetListed()
}

// With a sync comes what nobody is told of by itself: over how many connections a member is
// there. Of a channel that is not watched nothing comes.
func TestSyncListsMembers(t *testing.T) {
	t.Parallel()
	s := started(t)
	e := s.report(t).ok(hello("e1")).ok(snapshot(true, at(lobby, "ann", 1), at("chat.attic", "bob", 1)))
	w := s.look(t)
	w.say(watching(lobby)).want("chat.lobby: all ann of 1")
	for n := range uint32(3) {
		e.ok(changes(at(lobby, "ann", n+2)))
		list := w.say(listing(uint64(n), "chat.attic", lobby)).listed(lobby)
		if m := list.GetMembers(); len(m) != 1 || m[0].GetConnections() != n+2 || !list.GetComplete() || list.GetTruncated() {
			t.Errorf("got %v", list)
		}
		w.want(fmt.Sprint("synced ", n))
	}
	e.ok(changes(at(lobby, "zoe", 1)))
	w.say(listing(9, lobby)).want("chat.lobby: +zoe of 2")
	if m := w.listed(lobby).GetMembers(); len(m) != 2 || m[1].GetUserId() != "zoe" {
		t.Errorf("got %v", m)
	}
	w.want("synced 9")
}

// A large channel is listed by a sample, as it is told.
func TestSyncListsASample(t *testing.T) {
	t.Parallel()
	s := started(t)
	e := s.report(t).ok(hello("e1")).ok(snapshot(false))
	for i := range 3 {
		var part []*presencev1.Attendance
		for j := range edgeMost/3 + 1 {
			part = append(part, at(lobby, fmt.Sprintf("u%d-%03d", i, j), 1))
		}
		e.ok(snapshot(i == 2, part...))
	}
	w := s.look(t).say(watching(lobby))
	if res, err := w.stream.Recv(); err != nil || !res.GetSnapshot().GetTruncated() {
		t.Fatalf("%v, %v", res, err)
	}
	list := w.say(listing(1, lobby)).listed(lobby)
	if len(list.GetMembers()) != 20 || list.GetTotal() != 1002 || !list.GetTruncated() || list.GetMembers()[19].GetUserId() != "u0-019" {
		t.Errorf("%d of %d", len(list.GetMembers()), list.GetTotal())
	}
	w.want("synced 1")
}
