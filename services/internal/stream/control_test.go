package stream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/carillon-rt/carillon/services/internal/fault"
)

// following is what a follower of the control log has got.
type following struct {
	mu      sync.Mutex
	entries []string
	caught  int // how many it had when it was caught up; -1 before
	stop    func()
}

// follow follows until the test ends or stop is called.
func follow(t testing.TB, s *Store) *following {
	t.Helper()
	f := &following{caught: -1}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		err := s.Control().Follow(ctx, func(_ context.Context, _ uint64, data []byte) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.entries = append(f.entries, string(data))
		}, func() {
			f.mu.Lock()
			defer f.mu.Unlock()
			if f.caught >= 0 {
				t.Error("caught up twice")
			}
			f.caught = len(f.entries)
		})
		if err != nil && !errors.Is(err, errClosed) {
			t.Error(err)
		}
	})
	f.stop = func() { cancel(); wg.Wait() }
	t.Cleanup(f.stop)
	return f
}

func (f *following) got() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.entries)
}

func (f *following) caughtUpWith() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.caught
}

// await waits until it has got what is wanted, no more and no less.
func (f *following) await(t *testing.T, want ...string) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d entries", len(want)), func() bool { return len(f.got()) >= len(want) })
	if got := f.got(); !slices.Equal(got, want) {
		t.Fatalf("got %q, want %q", got, want)
	}
}

func appendTo(t testing.TB, s *Store, ttl time.Duration, entries ...string) (last uint64) {
	t.Helper()
	for _, e := range entries {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		sequence, err := s.Control().Append(ctx, []byte(e), ttl)
		cancel()
		if err != nil {
			t.Fatal(err)
		}
		if sequence <= last {
			t.Fatalf("sequence %d after %d", sequence, last)
		}
		last = sequence
	}
	return last
}

// numbers are texts of consecutive numbers.
func numbers(from, count int) (all []string) {
	for i := range count {
		all = append(all, strconv.Itoa(from+i))
	}
	return all
}

// manage gives a test the JetStream of a store.
func manage(t testing.TB, s *Store) jetstream.JetStream {
	t.Helper()
	js, err := jetstream.New(s.publisher.nc)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

func TestControlLogIsFollowedFromTheFirstEntryOn(t *testing.T) {
	t.Parallel()
	embedded := startEmbedded(t)
	s, other := readyStore(t, Options{Embedded: embedded}), readyStore(t, Options{Embedded: embedded})
	stored := numbers(0, 2*followPage+10) // more than a page
	appendTo(t, s, time.Hour, stored...)
	early := follow(t, other)
	early.await(t, stored...)
	eventually(t, "caught up", func() bool { return early.caughtUpWith() >= 0 })
	if early.caughtUpWith() != len(stored) {
		t.Errorf("caught up after %d of %d entries", early.caughtUpWith(), len(stored))
	}
	began := time.Now()
	appendTo(t, s, time.Hour, "live")
	early.await(t, append(slices.Clone(stored), "live")...)
	t.Logf("a live entry took %v", time.Since(began))
}

// What is republished may get lost; that it is asked for once a second is what counts.
func TestControlEntriesThatAreNeverRepublishedCome(t *testing.T) {
	t.Parallel()
	s := readyStore(t, Options{Embedded: startEmbedded(t)})
	f := follow(t, s)
	appendTo(t, s, time.Hour, "1")
	f.await(t, "1")
	js := manage(t, s)
	config := s.control.configuration(jetstream.StreamConfig{Name: controlStream})
	republish := config.RePublish
	config.RePublish = nil
	if _, err := js.UpdateStream(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	appendTo(t, s, time.Hour, "2", "3")
	f.await(t, "1", "2", "3")
	appendTo(t, s, time.Hour, "4")
	config.RePublish = republish
	if _, err := js.UpdateStream(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	appendTo(t, s, time.Hour, "5") // comes before 4 is known of, and must not overtake it
	f.await(t, "1", "2", "3", "4", "5")
}

// An entry that has expired is neither followed nor waited for, also where it was the
// last.
func TestControlEntriesExpire(t *testing.T) {
	t.Parallel()
	s := readyStore(t, Options{Embedded: startEmbedded(t)})
	appendTo(t, s, time.Hour, "kept")
	last := appendTo(t, s, 10*time.Millisecond, "short", "shorter")
	eventually(t, "they expire", func() bool {
		stream, err := manage(t, s).Stream(t.Context(), controlStream)
		return err == nil && stream.CachedInfo().State.Msgs == 1
	})
	f := follow(t, s)
	eventually(t, "caught up", func() bool { return f.caughtUpWith() == 1 })
	f.await(t, "kept")
	if next := appendTo(t, s, time.Hour, "next"); next != last+1 {
		t.Errorf("sequence %d after %d", next, last)
	}
	f.await(t, "kept", "next")
}

func TestControlLogThatIsFullSaysSo(t *testing.T) {
	t.Parallel()
	s := readyStore(t, Options{Embedded: startEmbedded(t)})
	config := s.control.configuration(jetstream.StreamConfig{Name: controlStream})
	if config.MaxMsgs != 1_000_000 || config.MaxBytes != 256<<20 {
		t.Errorf("bounds %d, %d", config.MaxMsgs, config.MaxBytes)
	}
	config.MaxMsgs = 2
	if _, err := manage(t, s).UpdateStream(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	appendTo(t, s, time.Hour, "1", "2")
	_, err := s.Control().Append(t.Context(), []byte("3"), time.Hour)
	refused(t, err, fault.ControlUnavailable)
	if !strings.Contains(err.Error(), "the control log is full") {
		t.Error(err)
	}
	follow(t, s).await(t, "1", "2") // what is kept is kept
}

func TestControlLogThroughARestart(t *testing.T) {
	t.Parallel()
	x := newExternal(t)
	x.start()
	s := readyStore(t, Options{URL: x.url()})
	f := follow(t, s)
	appendTo(t, s, time.Hour, "1")
	f.await(t, "1")
	x.stop()
	if err := s.Ready(); err == nil {
		eventually(t, "not ready", func() bool { return s.Ready() != nil })
	}
	_, err := s.Control().Append(soon(t), []byte("lost"), time.Hour)
	refused(t, err, fault.ControlUnavailable)
	x.start()
	appendTo(t, s, time.Hour, "2")
	f.await(t, "1", "2")
}

// A follower of a log that was set back gets what is appended to it, though it has
// smaller numbers.
func TestControlLogThatWasSetBack(t *testing.T) {
	t.Parallel()
	x := newExternal(t)
	x.start()
	s := readyStore(t, Options{URL: x.url()})
	f := follow(t, s)
	appendTo(t, s, time.Hour, "1")
	x.stop()
	backup := copyDir(t, x.options.StoreDir)
	x.start()
	appendTo(t, s, time.Hour, "2", "3", "4")
	f.await(t, "1", "2", "3", "4")
	x.stop()
	x.options.StoreDir = backup
	x.start()
	if sequence := appendTo(t, s, time.Hour, "5"); sequence != 2 {
		t.Fatalf("the log was not set back: sequence %d", sequence)
	}
	eventually(t, "5 comes", func() bool { return slices.Contains(f.got(), "5") })
}

// A log that was set back may have grown past what was known of it before a follower looks
// again: the numbers of what was lost are given anew, and what has them now is followed.
func TestControlLogThatWasSetBackAndGrewPastWhatWasKnown(t *testing.T) {
	t.Parallel()
	for what, after := range map[string][]string{
		"as far":  {"5", "6", "7"},
		"farther": {"5", "6", "7", "8", "9"},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			x := newExternal(t)
			x.start()
			s := readyStore(t, Options{URL: x.url()})
			var got []string
			f := &follower{control: s.Control(), apply: func(_ context.Context, _ uint64, data []byte) { got = append(got, string(data)) }}
			check := func() {
				t.Helper()
				eventually(t, "checked", func() bool { return f.check(t.Context()) == nil }) // connected again
			}
			appendTo(t, s, time.Hour, "1")
			x.stop()
			backup := copyDir(t, x.options.StoreDir)
			x.start()
			appendTo(t, s, time.Hour, "2", "3", "4")
			check()
			x.stop()
			x.options.StoreDir = backup
			x.start()
			if last := appendTo(t, s, time.Hour, after...); last != uint64(1+len(after)) {
				t.Fatalf("the log was not set back: sequence %d", last)
			}
			check()
			for _, entry := range after {
				if !slices.Contains(got, entry) {
					t.Errorf("got %q, without %q", got, entry)
				}
			}
			before := len(got)
			check()
			if len(got) != before {
				t.Errorf("again %q", got[before:])
			}
		})
	}
}

// An entry that is republished with a number that another had is of a log that was set
// back; one that is late is not.
func TestARepublishedNumberThatAnotherEntryHad(t *testing.T) {
	t.Parallel()
	f := &follower{
		control: &Control{store: &Store{logger: testLogger(t)}},
		apply:   func(context.Context, uint64, []byte) {},
	}
	now := time.Now()
	for sequence := uint64(1); sequence <= 3; sequence++ {
		f.done(t.Context(), logged{sequence: sequence, stored: now.Add(time.Duration(sequence) * time.Second)})
	}
	republished := func(sequence int, stored time.Time) *nats.Msg {
		return &nats.Msg{Header: nats.Header{
			headerSequence: {strconv.Itoa(sequence)}, headerLastSequence: {strconv.Itoa(sequence - 1)}, headerTimestamp: {stored.Format(time.RFC3339Nano)},
		}}
	}
	if !f.take(t.Context(), republished(2, now.Add(2*time.Second))) || f.applied != 3 {
		t.Errorf("a late entry: applied %d", f.applied)
	}
	if f.take(t.Context(), republished(2, now.Add(time.Minute))) || f.applied != 0 {
		t.Errorf("a number that another had: applied %d, want the log to be read from the start", f.applied)
	}
}

// A log that was deleted is made anew, and followed.
func TestControlLogThatWasDeleted(t *testing.T) {
	t.Parallel()
	s := readyStore(t, Options{Embedded: startEmbedded(t), keepEvery: 50 * time.Millisecond})
	f := follow(t, s)
	appendTo(t, s, time.Hour, "1", "2", "3")
	f.await(t, "1", "2", "3")
	if err := manage(t, s).DeleteStream(t.Context(), controlStream); err != nil {
		t.Fatal(err)
	}
	appendTo(t, s, time.Hour, "4") // waits until there is one
	f.await(t, "1", "2", "3", "4")
}

// What is older than what was applied last is not applied again when a log is read from
// the start: a user who was disconnected yesterday is not disconnected today.
func TestFollowerOfALogThatWasSetBackLeavesOutWhatIsOld(t *testing.T) {
	t.Parallel()
	var got []uint64
	f := &follower{
		control: &Control{store: &Store{logger: testLogger(t)}},
		apply:   func(_ context.Context, sequence uint64, _ []byte) { got = append(got, sequence) },
	}
	now, created := time.Now(), time.Now().Add(-time.Hour)
	if err := f.judge(controlPlace{created: created, last: 3}, now); err != nil {
		t.Fatal(err)
	}
	old := []logged{{sequence: 1, stored: now.Add(-30 * time.Minute)}, {sequence: 2, stored: now.Add(-20 * time.Minute)}, {sequence: 3, stored: now}}
	for _, e := range old {
		f.done(t.Context(), e)
	}
	back := controlPlace{created: created, last: 2}
	for _, step := range []struct {
		after time.Duration
		sure  bool
	}{{0, false}, {time.Second, false}, {doubtFor, true}} {
		if err := f.judge(back, now.Add(step.after)); (err == nil) != step.sure {
			t.Fatalf("after %v: %v", step.after, err)
		}
	}
	for _, e := range append(old[:2:2], logged{sequence: 3, stored: now.Add(time.Minute)}) {
		f.done(t.Context(), e)
	}
	if want := []uint64{1, 2, 3, 3}; !slices.Equal(got, want) {
		t.Errorf("applied %v, want %v", got, want)
	}
	if err := f.judge(controlPlace{created: now, last: 9}, now); err != nil || f.applied != 0 {
		t.Errorf("a log made anew: applied %d, %v", f.applied, err)
	}
}

// A replica that is behind has nothing; the leader has.
func TestControlLogOfAReplicaThatIsBehind(t *testing.T) {
	t.Parallel()
	x := newExternal(t)
	x.options.JetStream = false
	x.start()
	s := openStore(t, Options{URL: x.url(), keepEvery: time.Hour})
	nc, err := nats.Connect(x.url())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	serve := func(subject string, answer func(m *nats.Msg) *nats.Msg) {
		_, err := nc.Subscribe("$JS.API."+subject+"."+controlStream, func(m *nats.Msg) {
			if err := m.RespondMsg(answer(m)); err != nil {
				t.Error(err)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	serve("STREAM.INFO", func(*nats.Msg) *nats.Msg {
		return &nats.Msg{Data: []byte(`{"created":"2026-01-02T03:04:05Z","state":{"last_seq":5}}`)}
	})
	serve("DIRECT.GET", func(*nats.Msg) *nats.Msg { return &nats.Msg{Header: nats.Header{"Status": {"404"}}} })
	serve("STREAM.MSG.GET", func(m *nats.Msg) *nats.Msg {
		var ask request
		if err := json.Unmarshal(m.Data, &ask); err != nil {
			t.Error(err)
		}
		if ask.Seq > 4 { // 5 has expired
			return &nats.Msg{Data: []byte(`{"error":{"code":404,"err_code":10037,"description":"no message found"}}`)}
		}
		return &nats.Msg{Data: fmt.Appendf(nil, `{"message":{"seq":%d,"data":"eA==","time":"2026-01-02T03:04:05Z"}}`, ask.Seq)}
	})
	f := follow(t, s)
	eventually(t, "caught up", func() bool { return f.caughtUpWith() == 4 })
	f.await(t, "x", "x", "x", "x")
}

func TestTellAndHear(t *testing.T) {
	t.Parallel()
	embedded := startEmbedded(t)
	a, b := readyStore(t, Options{Embedded: embedded}), readyStore(t, Options{Embedded: embedded})
	heard := make(chan string, 10)
	stop, err := a.Control().Hear("test", func(text []byte) { heard <- string(text) })
	if err != nil {
		t.Fatal(err)
	}
	if err := a.publisher.nc.Flush(); err != nil {
		t.Fatal(err)
	}
	tell := func(topic, text string) {
		t.Helper()
		if err := errors.Join(b.Control().Tell(topic, []byte(text)), b.publisher.nc.Flush(), a.publisher.nc.Flush()); err != nil {
			t.Fatal(err)
		}
	}
	tell("other", "0")
	tell("test", "1")
	select {
	case text := <-heard:
		if text != "1" {
			t.Errorf("heard %q", text)
		}
	case <-time.After(patience):
		t.Fatal("nothing is heard")
	}
	stop()
	stop()
	tell("test", "2")
	if len(heard) > 0 {
		t.Errorf("heard %q after stop", <-heard)
	}
}

// The leader of the log is killed while entries are appended; followers on other servers
// get every one that was acknowledged, in order, once.
func TestControlLogThroughElections(t *testing.T) {
	c := startCluster(t)
	s := readyStore(t, Options{URL: c.url(), Namespaces: replicated()})
	c.whole(controlStream)
	var followers []*following
	for _, n := range c.nodes {
		followers = append(followers, follow(t, readyStore(t, Options{URL: n.url() + "," + c.url(), Namespaces: replicated()})))
	}
	var acknowledged []string
	insist := func(entry string) {
		t.Helper()
		for deadline := time.Now().Add(3 * patience); ; {
			_, err := s.Control().Append(t.Context(), []byte(entry), time.Hour)
			if err == nil {
				acknowledged = append(acknowledged, entry)
				return
			}
			if time.Now().After(deadline) {
				t.Fatal(err)
			}
		}
	}
	for i := range 3 {
		for n := range 20 {
			insist(fmt.Sprintf("%d-%d", i, n))
		}
		leader := c.leaderOf(controlStream)
		if i == 1 {
			c.stepDown(controlStream)
		} else {
			leader.vanish()
		}
		for n := range 20 {
			insist(fmt.Sprintf("%d-%d again", i, n))
		}
		leader.comeBack()
		c.whole(controlStream)
	}
	stream, err := manage(t, s).Stream(t.Context(), controlStream)
	if err != nil || stream.CachedInfo().Config.Replicas != clusterNodes {
		t.Errorf("%d replicas, %v", stream.CachedInfo().Config.Replicas, err)
	}
	for i, f := range followers {
		eventually(t, "all entries", func() bool { return len(unique(f.got())) >= len(acknowledged) })
		// An append that was not acknowledged may be stored, and its repetition with it.
		got := f.got()
		if !slices.Equal(unique(got), acknowledged) {
			t.Errorf("follower %d: got %q\nwant %q", i, got, acknowledged)
		}
	}
}

// unique leaves out what stands there before.
func unique(entries []string) (all []string) {
	for _, e := range entries {
		if !slices.Contains(all, e) {
			all = append(all, e)
		}
	}
	return all
}
