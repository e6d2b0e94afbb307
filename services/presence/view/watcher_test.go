package view

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/carillon-rt/carillon/services/internal/channel"
)

// short is an event in short.
func short(e Event) string {
	s := "+"
	if e.Snapshot {
		s = "="
	}
	for _, m := range slices.Concat(e.Members, e.Joined) {
		s += " " + string(m.User)
	}
	for _, user := range e.Left {
		s += " -" + string(user)
	}
	if e.Truncated {
		s += " ..."
	}
	return fmt.Sprintf("%s of %d", s, e.Total)
}

// wantNext compares all that a watcher is to be told of one channel, and returns where
// it is then.
func wantNext(t testing.TB, w *Watcher, want ...string) (at Position) {
	t.Helper()
	var got []string
	for e, ok := w.Next(); ok; e, ok = w.Next() {
		got, at = append(got, short(e)), e.Position
	}
	if !slices.Equal(got, want) {
		t.Fatalf("told %q, want %q", got, want)
	}
	return at
}

func watching(t testing.TB, v *View) *Watcher {
	t.Helper()
	w, err := v.Watch()
	must(t, err)
	t.Cleanup(w.Close)
	return w
}

func awake(w *Watcher) bool {
	select {
	case <-w.Wake():
		return true
	default:
		return false
	}
}

func TestWatcherIsToldWhereUsersEndUp(t *testing.T) {
	t.Parallel()
	v := New(Options{Alone: true})
	defer v.Close()
	a, b := joined(t, v, "a", att(lobby, "ann", 1, 1)), joined(t, v, "b", att(lobby, "ann", 1, 1), att("chat.attic", "eve", 1, 1))
	w := watching(t, v)
	if awake(w) {
		t.Fatal("a watcher of nothing is woken")
	}
	w.Add(lobby, 10, nil)
	w.Add("chat.empty", 10, nil)
	if !awake(w) || awake(w) {
		t.Fatal("not woken once for the snapshots")
	}
	wantNext(t, w, "= ann of 1", "= of 0")
	must(t, a.Change(atts(att(lobby, "ann", 0, 0))))
	must(t, a.Change(atts(att("chat.attic", "bob", 1, 1))))
	if awake(w) {
		t.Fatal("woken though ann is there over b, and the attic is not watched")
	}
	must(t, b.Change(atts(att(lobby, "ann", 0, 0), att(lobby, "bob", 2, 1))))
	must(t, a.Change(atts(att(lobby, "cid", 1, 1))))
	must(t, a.Change(atts(att(lobby, "cid", 0, 0))))
	must(t, a.Change(atts(att("chat.empty", "dan", 1, 1))))
	if !awake(w) {
		t.Fatal("not woken")
	}
	wantNext(t, w, "+ bob -cid -ann of 1", "+ dan of 1")
	must(t, b.Change(atts(att(lobby, "bob", 3, 1))))
	wantNext(t, w) // more connections are no change
	must(t, b.Goodbye())
	w.Remove("chat.empty")
	must(t, a.Change(atts(att("chat.empty", "dan", 0, 0))))
	wantNext(t, w, "+ -bob of 0")
	w.Add(lobby, 10, nil)
	wantNext(t, w, "= of 0")
	if e, ok := w.Next(); ok {
		t.Fatalf("told %+v", e)
	}
}

// However fast a channel changes, what a watcher is told comes to an end.
func TestEachChannelHasOneTurnInARound(t *testing.T) {
	t.Parallel()
	v := New(Options{Alone: true})
	defer v.Close()
	s := joined(t, v, "a")
	w := watching(t, v)
	w.Add(lobby, 10, nil)
	w.Add("chat.attic", 10, nil)
	awake(w)
	for i, want := range []string{"= of 0", "= of 0"} {
		e, ok := w.Next()
		if !ok || short(e) != want {
			t.Fatalf("told %t, %s", ok, short(e))
		}
		must(t, s.Change(atts(att(lobby, channel.User(fmt.Sprint("u", i)), 1, 1))))
	}
	if e, ok := w.Next(); ok {
		t.Fatalf("told %s in the same round", short(e))
	}
	if !awake(w) {
		t.Fatal("not woken again")
	}
	wantNext(t, w, "+ u1 u0 of 2")
	if awake(w) {
		t.Fatal("woken for nothing")
	}
}

func TestJoinedComeWithInfo(t *testing.T) {
	t.Parallel()
	v := New(Options{Alone: true})
	defer v.Close()
	s := joined(t, v, "a")
	w := watching(t, v)
	w.Add(lobby, 10, nil)
	wantNext(t, w, "= of 0")
	must(t, s.Change(Part{
		Attendances: []Attendance{att(lobby, "ann", 1, 5)},
		Connections: []Connection{{ID: "c1", User: "ann", Since: 4, Info: `{"name":"Ann"}`}},
	}))
	e, _ := w.Next()
	if want := (Member{"ann", 1, 5, `{"name":"Ann"}`}); len(e.Joined) != 1 || e.Joined[0] != want {
		t.Fatalf("got %+v, want %v", e, want)
	}
	wantNext(t, w)
	w.Add(lobby, 10, nil)
	if e, _ := w.Next(); len(e.Members) != 1 || e.Members[0].Info == "" {
		t.Fatalf("a snapshot without info: %+v", e)
	}
}

func TestWatcherResumes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		v := running(t, Options{Alone: true})
		s := joined(t, v, "a", att(lobby, "ann", 1, 1))
		live := func(d time.Duration) {
			for ; d > 0; d -= time.Second {
				time.Sleep(time.Second)
				must(t, s.Heartbeat())
			}
			synctest.Wait()
		}
		w := watching(t, v)
		w.Add(lobby, 10, nil)
		at := wantNext(t, w, "= ann of 1")
		w.Add(lobby, 10, &at)
		if still := wantNext(t, w, "+ of 1"); still != at {
			t.Fatalf("nothing happened, and %v became %v", at, still)
		}
		w.Close()
		live(feedAge - 2*time.Second)
		must(t, s.Change(atts(att(lobby, "bob", 1, 1), att("chat.attic", "eve", 1, 1))))
		w = watching(t, v)
		w.Add(lobby, 10, &at)
		at = wantNext(t, w, "+ bob of 2")
		w.Add(lobby, 10, &Position{Replica: "another", Version: at.Version})
		wantNext(t, w, "= ann bob of 2")
		w.Add(lobby, 10, &Position{Replica: at.Replica, Version: 1 << 60})
		wantNext(t, w, "= ann bob of 2")
		w.Remove(lobby)
		// A minute after it was watched last, the channel's changes are not kept: who comes
		// with a token of before gets a snapshot, though no version was counted since.
		live(2 * time.Second)
		if r := v.shard(lobby).rooms[lobby]; r.feed == nil {
			t.Fatal("the feed is forgotten a minute after it was made, though it was watched in between")
		}
		live(feedAge + time.Second)
		if r := v.shard(lobby).rooms[lobby]; r.feed != nil || len(v.shard(lobby).unwatched) != 0 {
			t.Fatal("the feed of a channel that nobody watches is kept")
		}
		must(t, s.Change(atts(att(lobby, "bob", 0, 0))))
		w.Add(lobby, 10, &at)
		wantNext(t, w, "= ann of 1")
		w.Close()
		must(t, s.Goodbye())
		live(0)
	})
}

func TestChangesBeyondTheLogAreASnapshot(t *testing.T) {
	t.Parallel()
	v := New(Options{Alone: true})
	defer v.Close()
	s := joined(t, v, "a", att(lobby, "ann", 1, 1))
	w := watching(t, v)
	w.Add(lobby, 10, nil)
	at := wantNext(t, w, "= ann of 1")
	flip := func(n int) {
		for i := range n {
			must(t, s.Change(atts(att(lobby, "bob", uint32(i+1)%2, 1))))
		}
	}
	flip(feedSize - 2)
	early := wantNext(t, w, "+ -bob of 1")
	must(t, s.Change(atts(att(lobby, "cid", 1, 1))))
	last := wantNext(t, w, "+ cid of 2")
	must(t, s.Change(atts(att(lobby, "cid", 0, 0))))
	flip(feedSize)
	w.Add(lobby, 10, &at)
	past := wantNext(t, w, "+ -bob -cid of 1")
	flip(2) // the older half is forgotten, up to cid, who left
	w.Add(lobby, 10, &early)
	wantNext(t, w, "= ann of 1")
	w.Add(lobby, 10, &last)
	wantNext(t, w, "= ann of 1")
	flip(feedSize - 2)
	w.Add(lobby, 10, &past)
	wantNext(t, w, "+ -bob of 1")
	flip(3 * feedSize)
	if r := v.shard(lobby).rooms[lobby]; len(r.feed.log) < feedSize || len(r.feed.log) > 2*feedSize {
		t.Fatalf("the log has %d changes", len(r.feed.log))
	}
	wantNext(t, w, "= ann of 1")
}

// A channel that is watched for long keeps no more than who resumes may want: not all
// changes that the log has room for.
func TestOldChangesAreNotKept(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		v := running(t, Options{Alone: true})
		s := joined(t, v, "a")
		w := watching(t, v)
		w.Add(lobby, 1000, nil)
		wantNext(t, w, "= of 0")
		must(t, s.Change(crew(0, 300, 1)))
		must(t, s.Change(crew(0, 299, 0)))
		w.Next()
		w.Next()
		behind := watching(t, v)
		behind.Add(lobby, 10, nil)
		wantNext(t, behind, "= u299 of 1")
		var past []Position
		for i := range 10 {
			live(t, feedAge/3, s)
			must(t, s.Change(crew(i, i+1, 1)))
			past = append(past, wantNext(t, w, fmt.Sprintf("+ u%03d of %d", i, i+2)))
		}
		if log := v.shard(lobby).rooms[lobby].feed.log; len(log) > 6 || cap(log) > 100 {
			t.Errorf("%d changes are kept, room for %d", len(log), cap(log))
		}
		w.Add(lobby, 1000, &past[6]) // not older than a minute
		wantNext(t, w, "+ u009 u008 u007 of 11")
		w.Add(lobby, 1000, &past[0])
		wantNext(t, w, "= u000 u001 u002 u003 u004 u005 u006 u007 u008 u009 u299 of 11")
		wantNext(t, behind, "= u000 u001 u002 u003 u004 u005 u006 u007 u008 u009 u299 ... of 11")
		// What happened last is known for as long as nothing else does.
		live(t, 5*feedAge, s)
		w.Add(lobby, 1000, &past[8])
		wantNext(t, w, "+ u009 of 11")
		w.Add(lobby, 1000, &past[9])
		must(t, s.Change(crew(10, 11, 1)))
		wantNext(t, w, "+ u010 of 12")
	})
}

func crew(from, to int, connections uint32) Part {
	var p Part
	for i := from; i < to; i++ {
		p.Attendances = append(p.Attendances, att(lobby, channel.User(fmt.Sprintf("u%03d", i)), connections, 1))
	}
	return p
}

func TestLargeChannelIsToldInSamples(t *testing.T) {
	t.Parallel()
	v := New(Options{Alone: true})
	defer v.Close()
	s := joined(t, v, "a")
	w := watching(t, v)
	w.Add(lobby, 50, nil)
	next := func() Event {
		t.Helper()
		e, ok := w.Next()
		if _, more := w.Next(); !ok || more {
			t.Fatalf("not told one thing: %t, %+v", ok, e)
		}
		return e
	}
	next()
	must(t, s.Change(crew(0, 50, 1)))
	if e := next(); len(e.Joined) != 50 || e.Truncated {
		t.Fatalf("50 of 50 joined: %s", short(e))
	}
	must(t, s.Change(crew(50, 51, 1)))
	if e := next(); len(e.Joined) != 1 || !e.Truncated || e.Total != 51 {
		t.Fatalf("one more: %s", short(e))
	}
	must(t, s.Change(crew(0, 30, 0)))
	must(t, s.Change(crew(100, 230, 1)))
	e := next()
	if len(e.Joined) != sample || len(e.Left) != sample || !e.Truncated || e.Snapshot || e.Total != 151 {
		t.Fatalf("130 joined, 30 left: %s", short(e))
	}
	must(t, s.Change(crew(100, 210, 0)))
	at := next()
	if !at.Truncated || at.Total != 41 {
		t.Fatalf("41 are not below 80 %% of 50: %s", short(at))
	}
	// Who was told samples has no list, wherever it goes on from there.
	w.Add(lobby, 50, &at.Position)
	if e := next(); !e.Truncated || e.Snapshot {
		t.Fatalf("resumed: %s", short(e))
	}
	must(t, s.Change(crew(210, 212, 0)))
	if e := next(); !e.Snapshot || len(e.Members) != 39 || e.Truncated {
		t.Fatalf("39 again: %s", short(e))
	}
	w.Add(lobby, 38, nil)
	if e := next(); !e.Snapshot || len(e.Members) != sample || e.Members[0].User != "u030" || !e.Truncated || e.Total != 39 {
		t.Fatalf("a snapshot of more than is wanted: %s", short(e))
	}
	must(t, s.Change(crew(30, 32, 0)))
	w.Add(lobby, 100, &at.Position)
	if e := next(); !e.Snapshot || len(e.Members) != 37 || e.Truncated {
		t.Fatalf("resumed with a higher bound: %s", short(e))
	}
}

func TestWatchersAreBounded(t *testing.T) {
	t.Parallel()
	v := New(Options{Alone: true, MaxWatchers: 1})
	if _, err := v.Watch(); !errors.Is(err, ErrNotReady) {
		t.Fatalf("before the view is ready: %v", err)
	}
	joined(t, v, "a")
	w := watching(t, v)
	if _, err := v.Watch(); !errors.Is(err, ErrTooManyWatchers) {
		t.Fatalf("a second watcher: %v", err)
	}
	w.Close()
	w = watching(t, v)
	w.Add(lobby, 10, nil)
	v.Close()
	<-w.Ended()
	if _, ok := w.Next(); ok || !errors.Is(w.Err(), ErrClosed) {
		t.Fatalf("the view is closed: %v", w.Err())
	}
	if _, err := v.Watch(); !errors.Is(err, ErrClosed) {
		t.Fatalf("watching a closed view: %v", err)
	}
}

// A view that closes forgets everybody, which is not that they leave.
func TestNobodyIsToldToLeaveAtClose(t *testing.T) {
	t.Parallel()
	v := New(Options{Alone: true})
	joined(t, v, "a", att(lobby, "ann", 1, 1))
	w := watching(t, v)
	w.Add(lobby, 10, nil)
	room := v.shard(lobby)
	room.mu.Lock()
	told := make(chan bool)
	go func() {
		_, ok := w.Next()
		told <- ok
	}()
	taken := func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.at == 1
	}
	for !taken() {
		runtime.Gosched()
	}
	closed := make(chan struct{})
	go func() {
		v.Close()
		close(closed)
	}()
	<-w.Ended()
	room.mu.Unlock()
	if <-told {
		t.Error("told something of a view that is closed")
	}
	<-closed
}

// What watchers were told equals the truth once all is quiet, however edges and
// watchers run beside one another.
func TestWatchersBesideWriters(t *testing.T) {
	t.Parallel()
	v := New(Options{Alone: true})
	defer v.Close()
	joined(t, v, "first")
	names := []channel.Name{lobby, "chat.attic", "chat.cellar"}
	var writers, watchers sync.WaitGroup
	for _, edge := range []string{"a", "b", "c"} {
		writers.Go(func() {
			for range 20 {
				s := joined(t, v, edge, crew(0, 5, 1).Attendances...)
				for i := range 200 {
					user := channel.User(fmt.Sprintf("%s%d", edge, i%7))
					if err := s.Change(atts(att(names[i%3], user, uint32(i/7)%2, 1), att(names[i%2], "everybody", uint32(i)%2, 1))); err != nil {
						t.Error(err)
					}
				}
				s.Close()
			}
		})
	}
	done := make(chan struct{})
	for i := range 3 {
		w := watching(t, v)
		f := &follower{watcher: w, lists: map[channel.Name]*followed{}}
		watchers.Go(func() {
			for n := 0; ; n++ {
				name := names[n%3]
				if l := f.lists[name]; l == nil || n%5 == i {
					f.lists[name] = &followed{}
					w.Add(name, 1000, nil)
				} else if n%7 == i {
					w.Remove(name)
					w.Add(name, 1000, l.position)
				}
				select {
				case <-w.Wake():
				case <-done:
					for f.step() {
					}
					f.compare(t, v)
					return
				}
				for f.step() {
				}
			}
		})
	}
	writers.Wait()
	close(done)
	watchers.Wait()
}

// step applies what a watcher is told next.
func (f *follower) step() bool {
	e, ok := f.watcher.Next()
	if ok {
		f.lists[e.Channel].apply(e)
	}
	return ok
}

func (f *follower) compare(t *testing.T, v *View) {
	for name, l := range f.lists {
		page, total, _ := v.Members(name, "", 1000)
		var want []channel.User
		for _, m := range page {
			want = append(want, m.User)
		}
		var got []channel.User
		for user := range l.users {
			got = append(got, user)
		}
		slices.Sort(got)
		if !slices.Equal(got, want) || l.total != total {
			t.Errorf("%s: told %v of %d, want %v", name, got, l.total, want)
		}
	}
}
