package stream

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/message"
	"github.com/carillon-rt/carillon/services/internal/namespace"
)

// one keeps everything in one stream.
func one(ns *namespace.Namespace) { ns.Partitions = 1 }

const onlyStream = "CARILLON_chat_0"

// copyDir returns a copy of a directory, as a backup makes it.
func copyDir(t testing.TB, dir string) string {
	t.Helper()
	to := t.TempDir()
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	return to
}

func publishMany(t testing.TB, s *Store, count int) (last message.Receipt) {
	t.Helper()
	for i := range count {
		last = publish(t, s, text("chat.lobby", strconv.Itoa(i)))
	}
	return last
}

// setBack restores a server to what it held after the first publishes, having had more.
func setBack(t *testing.T, x *external, s *Store, kept, lost int) (last message.Receipt) {
	t.Helper()
	publishMany(t, s, kept)
	x.stop()
	backup := copyDir(t, x.options.StoreDir)
	x.start()
	last = publishMany(t, s, lost)
	x.stop()
	x.options.StoreDir = backup
	x.start()
	return last
}

// invalid checks that bounds know a position of no older epoch.
func invalid(t *testing.T, bounds message.Bounds, old message.Position) {
	t.Helper()
	for offset := message.Offset(0); offset <= old.Offset; offset++ {
		if bounds.Knows(message.Position{Epoch: old.Epoch, Offset: offset}) {
			t.Fatalf("offset %d of the old epoch is valid in %+v", offset, bounds)
		}
	}
}

// The first acknowledgement after a restore names an offset that was given before.
func TestInvariantEpochsRestoredAndPublishedTo(t *testing.T) {
	t.Parallel()
	x := newExternal(t)
	x.start()
	s := readyStore(t, Options{URL: x.url(), Namespaces: testNamespaces(one)})
	before := setBack(t, x, s, 5, 5)
	after := publish(t, s, text("chat.lobby", "1"))
	if after.Epoch == before.Epoch || after.Offset != 6 {
		t.Fatalf("%+v after %+v", after, before)
	}
	if next := publish(t, s, text("chat.lobby", "2")); next.Epoch != after.Epoch || next.Offset != 7 {
		t.Errorf("%+v after %+v", next, after)
	}
	bounds, err := s.Bounds(t.Context(), "chat.lobby")
	if err != nil || bounds.Epoch() != after.Epoch {
		t.Fatalf("bounds %+v, %v", bounds, err)
	}
	invalid(t, bounds, before.Position)
	if !bounds.Recoverable(after.Position) {
		t.Errorf("%+v cannot be resumed from in %+v", after, bounds)
	}
}

// A process that was started after a restore knows nothing that contradicts it; but
// others do.
func TestInvariantEpochsAreKnownToPeers(t *testing.T) {
	t.Parallel()
	x := newExternal(t)
	x.start()
	old := readyStore(t, Options{URL: x.url(), Namespaces: testNamespaces(one), keepEvery: time.Hour})
	before := setBack(t, x, old, 5, 5)
	eventually(t, "the old one is back", func() bool { return old.Ready() == nil })
	s := readyStore(t, Options{URL: x.url(), Namespaces: testNamespaces(one), keepEvery: time.Hour})
	after := publish(t, s, text("chat.lobby", "1"))
	if after.Epoch == before.Epoch || after.Offset != 6 {
		t.Errorf("%+v after %+v", after, before)
	}
}

// A pipeline is told of it as a single publish is, by each of its acknowledgements.
func TestInvariantEpochsRestoredUnderAPipeline(t *testing.T) {
	t.Parallel()
	x := newExternal(t)
	x.start()
	s := readyStore(t, Options{URL: x.url(), Namespaces: testNamespaces(one), keepEvery: time.Hour})
	before := publishMany(t, s, 50)
	rewind(t, x, 5)
	p := s.Pipeline()
	const messages = 20
	answers := make(chan message.Receipt, messages)
	for i := range messages {
		err := p.Publish(t.Context(), text("chat.lobby", strconv.Itoa(i)), func(receipt message.Receipt, err error) {
			if err != nil {
				t.Error(err)
			}
			answers <- receipt
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	p.Close()
	previous := message.Offset(5)
	for range messages {
		receipt := <-answers
		if receipt.Epoch == before.Epoch || receipt.Offset != previous+1 || receipt.Duplicate {
			t.Errorf("%+v after offset %d; the epoch before is %s", receipt, previous, before.Epoch)
		}
		previous = receipt.Offset
	}
}

// Nobody publishes: bounds say nothing before it is sure, and then name another epoch.
// Another process, which knows less, follows.
func TestInvariantEpochsRestoredAndQuiet(t *testing.T) {
	t.Parallel()
	x := newExternal(t)
	x.start()
	other := readyStore(t, Options{URL: x.url(), Namespaces: testNamespaces(one), keepEvery: 10 * time.Millisecond})
	s := readyStore(t, Options{URL: x.url(), Namespaces: testNamespaces(one), Receiver: newRecorder(), keepEvery: time.Hour})
	listen(t, s, "chat.lobby")
	before := setBack(t, x, s, 5, 5)
	eventually(t, "connected", func() bool { return s.Ready() == nil && s.subscriber.nc.IsConnected() })
	if _, err := s.Bounds(soon(t), "chat.lobby"); err == nil {
		t.Error("bounds of a stream that lost messages")
	} else {
		refused(t, err, fault.StoreUnavailable)
	}
	bounds, err := s.Bounds(t.Context(), "chat.lobby")
	if err != nil || bounds.Last != 5 {
		t.Fatalf("bounds %+v, %v", bounds, err)
	}
	invalid(t, bounds, before.Position)
	eventually(t, "the other follows", func() bool {
		t := other.groups["chat"].partitions[0].current()
		return t != nil && t.epoch == bounds.Epoch()
	})
	if receipt := publish(t, other, text("chat.lobby", "1")); receipt.Epoch != bounds.Epoch() {
		t.Errorf("the other publishes in epoch %q, want %q", receipt.Epoch, bounds.Epoch())
	}
}

// A restored stream that has grown beyond what was known is told by the message that is
// in the place of one that was.
func TestInvariantEpochsRestoredAndGrown(t *testing.T) {
	t.Parallel()
	x := newExternal(t)
	x.start()
	s := readyStore(t, Options{URL: x.url(), Namespaces: testNamespaces(one), keepEvery: time.Hour})
	publishMany(t, s, 5)
	x.stop()
	backup := copyDir(t, x.options.StoreDir)
	x.start()
	publishMany(t, s, 5)
	before, err := s.Bounds(t.Context(), "chat.lobby")
	if err != nil {
		t.Fatal(err)
	}
	x.stop()
	apart := external{t: t, options: x.options} // so that the store does not see it grow
	apart.options.StoreDir, apart.options.Port = backup, -1
	apart.start()
	publishMany(t, readyStore(t, Options{URL: apart.url(), Namespaces: testNamespaces(one)}), 20)
	apart.stop()
	x.options.StoreDir = backup
	x.start()
	after := publish(t, s, text("chat.lobby", "1"))
	bounds, err := s.Bounds(t.Context(), "chat.lobby")
	if err != nil || after.Offset != 26 || bounds.Epoch() != after.Epoch {
		t.Fatalf("%+v, %+v, %v", after, bounds, err)
	}
	invalid(t, bounds, before.Head())
}

// rewind deletes a stream under its users and makes it again with its metadata and
// fewer messages, as the restore of a backup does.
func rewind(t *testing.T, x *external, count int) {
	t.Helper()
	js := rawJetStream(t, x)
	stream, err := js.Stream(t.Context(), onlyStream)
	if err != nil {
		t.Fatal(err)
	}
	config := stream.CachedInfo().Config
	if err := js.DeleteStream(t.Context(), onlyStream); err != nil {
		t.Fatal(err)
	}
	if count < 0 {
		return
	}
	if _, err := js.CreateStream(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	for range count {
		if _, err := js.Publish(t.Context(), "rt.in.0.chat.lobby", []byte("1")); err != nil {
			t.Fatal(err)
		}
	}
}

func TestInvariantEpochsRestoredUnderAConnection(t *testing.T) {
	t.Parallel()
	x := newExternal(t)
	x.start()
	s := readyStore(t, Options{URL: x.url(), Namespaces: testNamespaces(one), keepEvery: 100 * time.Millisecond})
	before := publishMany(t, s, 9)
	rewind(t, x, 4)
	p := s.groups["chat"].partitions[0]
	eventually(t, "the keeper notices", func() bool { return p.current().epoch != before.Epoch })
	bounds, err := s.Bounds(t.Context(), "chat.lobby")
	if err != nil || bounds.Last != 4 {
		t.Fatalf("bounds %+v, %v", bounds, err)
	}
	invalid(t, bounds, before.Position)
}

func TestInvariantEpochsDeletedUnderAConnection(t *testing.T) {
	t.Parallel()
	x := newExternal(t)
	x.start()
	s := readyStore(t, Options{URL: x.url(), Namespaces: testNamespaces(one), keepEvery: 100 * time.Millisecond})
	before := publishMany(t, s, 3)
	rewind(t, x, -1)
	began := time.Now()
	var after message.Receipt
	eventually(t, "it is made anew", func() bool {
		var err error
		after, err = s.Publish(t.Context(), text("chat.lobby", "1"))
		return err == nil
	})
	if after.Epoch == before.Epoch || after.Offset != 1 || time.Since(began) < doubtFor {
		t.Errorf("%+v after %+v and %v", after, before, time.Since(began))
	}
}

// Received messages count: a process that only listens, and has not asked since, knows.
func TestInvariantEpochsKnowWhatWasReceived(t *testing.T) {
	t.Parallel()
	x := newExternal(t)
	x.start()
	r := newRecorder()
	s := readyStore(t, Options{URL: x.url(), Namespaces: testNamespaces(one), Receiver: r, keepEvery: time.Hour})
	listen(t, s, "chat.lobby")
	publishMany(t, readyStore(t, Options{URL: x.url(), Namespaces: testNamespaces(one)}), 7)
	eventually(t, "all messages", func() bool { return len(r.of("chat.lobby")) == 7 })
	if _, known := s.groups["chat"].partitions[0].remembered(); known != 7 {
		t.Errorf("known %d, want 7", known)
	}
}

// Several processes find out at once. No offset of an epoch is given to two messages,
// and all end in one epoch.
func TestInvariantEpochsNeverReuseAnOffset(t *testing.T) {
	t.Parallel()
	x := newExternal(t)
	x.start()
	const stores, each = 4, 30
	var all [stores]*Store
	for i := range all {
		all[i] = readyStore(t, Options{URL: x.url(), Namespaces: testNamespaces(one), keepEvery: 20 * time.Millisecond})
	}
	given := map[message.Position]string{}
	var mu sync.Mutex
	burst := func(round string) {
		var wg sync.WaitGroup
		for i, s := range all {
			wg.Go(func() {
				for n := range each {
					content := fmt.Sprintf(`"%s %d %d"`, round, i, n)
					receipt := publish(t, s, text("chat.lobby", content))
					mu.Lock()
					if was, ok := given[receipt.Position]; ok && was != content {
						t.Errorf("%+v is %s and %s", receipt.Position, was, content)
					}
					given[receipt.Position] = content
					mu.Unlock()
				}
			})
		}
		wg.Wait()
	}
	burst("kept")
	x.stop()
	backup := copyDir(t, x.options.StoreDir)
	for _, round := range []string{"first", "second"} { // the same copy is restored twice
		x.start()
		burst(round)
		x.stop()
		x.options.StoreDir = copyDir(t, backup)
	}
	x.start()
	burst("last")
	eventually(t, "one epoch", func() bool {
		var epochs []message.Epoch
		for _, s := range all {
			bounds, err := s.Bounds(t.Context(), "chat.lobby")
			if err != nil {
				t.Fatal(err)
			}
			if current := s.groups["chat"].partitions[0].current(); current != nil {
				epochs = append(epochs, bounds.Epoch(), current.epoch)
			}
		}
		return len(epochs) == 2*stores && len(slices.Compact(epochs)) == 1
	})
}

// Nothing that is as it should be begins an epoch: acknowledgements overtake each other
// and the bounds.
func TestInvariantEpochsStayUnderLoad(t *testing.T) {
	t.Parallel()
	x := newExternal(t)
	x.start()
	stores := make([]*Store, 3)
	for i := range stores {
		stores[i] = readyStore(t, Options{URL: x.url(), Namespaces: testNamespaces(one), Receiver: newRecorder(), keepEvery: time.Millisecond})
		listen(t, stores[i], "chat.lobby")
	}
	var wg sync.WaitGroup
	for _, s := range stores {
		for range 16 {
			wg.Go(func() {
				for range 40 {
					publish(t, s, text("chat.lobby", "1"))
				}
			})
		}
		wg.Go(func() {
			for range 200 {
				if _, err := s.Bounds(t.Context(), "chat.lobby"); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	bounds, err := stores[0].Bounds(t.Context(), "chat.lobby")
	if err != nil || len(bounds.Epochs) != 1 || bounds.Last != 3*16*40 {
		t.Errorf("bounds %+v, %v", bounds, err)
	}
}

// A publish that is tried again keeps its place: it is no new message at an old offset.
func TestInvariantEpochsSurviveARepetition(t *testing.T) {
	t.Parallel()
	x := newExternal(t)
	x.start()
	s := readyStore(t, Options{URL: x.url(), Namespaces: testNamespaces(one)})
	p := text("chat.lobby", "1")
	p.ID = "a"
	original := publish(t, s, p)
	publishMany(t, s, 5)
	again := publish(t, s, p)
	if !again.Duplicate || again.Position != original.Position {
		t.Errorf("%+v after %+v", again, original)
	}
	if next := publish(t, s, text("chat.lobby", "2")); next.Epoch != original.Epoch || next.Offset != 7 {
		t.Errorf("%+v", next)
	}
}

// A renewal that somebody else was faster with takes over theirs.
func TestRenewAdoptsTheEpochOfAnother(t *testing.T) {
	t.Parallel()
	x := newExternal(t)
	x.start()
	s := readyStore(t, Options{URL: x.url(), Namespaces: testNamespaces(one), keepEvery: time.Hour})
	publishMany(t, s, 3)
	js := rawJetStream(t, x)
	stream, err := js.Stream(t.Context(), onlyStream)
	if err != nil {
		t.Fatal(err)
	}
	config := stream.CachedInfo().Config
	config.Metadata[metadataEpochs] = `[{"epoch":"THEIRS","first":1}]`
	if _, err := js.UpdateStream(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	p := s.groups["chat"].partitions[0]
	p.current().broken.Store(true)
	if receipt := publish(t, s, text("chat.lobby", "1")); receipt.Epoch != "THEIRS" {
		t.Errorf("%+v", receipt)
	}
	if info, err := stream.Info(t.Context()); err != nil || info.Config.Metadata[metadataEpochs] != config.Metadata[metadataEpochs] {
		t.Errorf("%+v, %v", info, err)
	}
	if err := s.renew(t.Context(), p); err != nil || p.current().epoch != "THEIRS" {
		t.Errorf("%v; epoch %q", err, p.current().epoch)
	}
}
