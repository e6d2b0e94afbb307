package stream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/message"
	"github.com/carillon-rt/carillon/services/internal/namespace"
)

// replica answers for the streams of a Store instead of NATS: as a follower that does
// not have everything yet, or while its front is trimmed, when the test wants it.
type replica struct {
	part *partition
	nc   *nats.Conn

	mu     sync.Mutex
	stored []channel.Name // offset 1, 2, …
	first  message.Offset // of what is kept
	has    message.Offset // what the replica that answers has; the leader has all
	silent bool           // it hears, and does not answer
	// deposed is true where another answers as the leader that does not have more either.
	deposed bool
	asked   int // direct gets
	// When a direct get comes, and after each message that is read for it.
	onGet, onMessage func(request)
}

type request struct {
	Seq   message.Offset `json:"seq"`
	Next  string         `json:"next_by_subj"`
	Batch int            `json:"batch"`
	Lasts []string       `json:"multi_last"`
}

// startReplicas makes a Store whose streams are replicas, on a NATS server that has no
// JetStream.
func startReplicas(t *testing.T, partitions int) (*Store, []*replica) {
	t.Helper()
	x := newExternal(t)
	x.options.JetStream = false
	x.start()
	s := openStore(t, Options{URL: x.url(), Namespaces: testNamespaces(func(ns *namespace.Namespace) {
		ns.Partitions, ns.Replicas = partitions, clusterNodes
	}), keepEvery: time.Hour})
	nc, err := nats.Connect(x.url())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	var replicas []*replica
	for _, part := range s.groups["chat"].partitions {
		r := &replica{part: part, nc: nc, first: 1}
		for subject, answer := range map[string]func(request) any{
			"$JS.API.STREAM.INFO." + part.stream:    r.info,
			"$JS.API.STREAM.MSG.GET." + part.stream: r.leader,
		} {
			r.serve(t, subject, func(m *nats.Msg, ask request) {
				text, err := json.Marshal(answer(ask))
				if err == nil {
					err = m.Respond(text)
				}
				if err != nil {
					t.Error(err)
				}
			})
		}
		r.serve(t, "$JS.API.DIRECT.GET."+part.stream, r.get)
		replicas = append(replicas, r)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range replicas {
		if _, err := s.look(t.Context(), nc, r.part); err != nil {
			t.Fatal(err)
		}
		r.part.occupy(s.ctx, js)
	}
	return s, replicas
}

func (r *replica) serve(t *testing.T, subject string, answer func(*nats.Msg, request)) {
	t.Helper()
	if _, err := r.nc.Subscribe(subject, func(m *nats.Msg) {
		var ask request
		if len(m.Data) > 0 {
			if err := json.Unmarshal(m.Data, &ask); err != nil {
				t.Error(err)
			}
		}
		answer(m, ask)
	}); err != nil {
		t.Fatal(err)
	}
}

func (r *replica) info(request) any {
	r.mu.Lock()
	defer r.mu.Unlock()
	return map[string]any{
		"config": map[string]any{"metadata": map[string]string{metadataEpochs: `[{"epoch":"e","first":1}]`, metadataPartitions: "0"}},
		"state":  map[string]any{"first_seq": r.first, "last_seq": len(r.stored)},
	}
}

// leader answers which message has an offset.
func (r *replica) leader(ask request) any {
	r.mu.Lock()
	defer r.mu.Unlock()
	last := message.Offset(len(r.stored))
	if r.deposed {
		last = r.has
	}
	if ask.Seq >= r.first && ask.Seq <= last {
		return map[string]any{"message": map[string]any{"seq": ask.Seq, "subject": r.part.in + string(r.stored[ask.Seq-1])}}
	}
	return map[string]any{"error": map[string]any{"code": 404, "err_code": 10037, "description": "no message found"}}
}

func (r *replica) find(ask request, last message.Offset) (message.Offset, bool) {
	for offset := max(ask.Seq, r.first); offset <= last; offset++ {
		if ask.Next == "" || ask.Next == r.part.in+string(r.stored[offset-1]) {
			return offset, true
		}
	}
	return 0, false
}

func (r *replica) get(m *nats.Msg, ask request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked++
	if r.onGet != nil {
		r.onGet(ask)
	}
	if r.silent {
		return
	}
	if len(ask.Lasts) > 0 {
		r.lasts(m.Reply, ask)
		return
	}
	sent, previous := 0, message.Offset(0)
	for ; sent < ask.Batch; sent++ {
		offset, ok := r.find(ask, r.has)
		if !ok {
			break
		}
		ask.Seq = offset + 1
		r.send(m.Reply, offset, previous)
		previous = offset
		if r.onMessage != nil {
			r.onMessage(ask)
		}
	}
	if sent == 0 {
		r.end(m.Reply, nats.Header{"Status": {"404"}})
		return
	}
	pending := 0
	for next := ask; ; pending++ {
		offset, ok := r.find(next, r.has)
		if !ok {
			break
		}
		next.Seq = offset + 1
	}
	r.end(m.Reply, nats.Header{"Status": {"204"}, headerPending: {fmt.Sprint(pending)}, headerLastSequence: {fmt.Sprint(previous)}})
}

// lasts brings the last messages of some channels, those before an offset excepted.
func (r *replica) lasts(reply string, ask request) {
	found, previous := false, message.Offset(0)
	for offset := r.has; offset >= r.first; offset-- {
		i := slices.Index(ask.Lasts, r.part.in+string(r.stored[offset-1]))
		if i < 0 {
			continue
		}
		ask.Lasts = slices.Delete(ask.Lasts, i, i+1)
		if found = true; offset >= ask.Seq {
			r.send(reply, offset, previous)
			previous = offset
		}
	}
	if !found {
		r.end(reply, nats.Header{"Status": {"404"}})
		return
	}
	r.end(reply, nats.Header{"Status": {"204"}, headerPending: {"0"}, headerUpTo: {fmt.Sprint(r.has)}, headerLastSequence: {fmt.Sprint(previous)}})
}

func (r *replica) send(reply string, offset, previous message.Offset) {
	_ = r.nc.PublishMsg(&nats.Msg{Subject: reply, Data: []byte("0"), Header: nats.Header{
		headerSubject: {r.part.in + string(r.stored[offset-1])}, headerSequence: {fmt.Sprint(offset)}, headerLastSequence: {fmt.Sprint(previous)},
		headerTimestamp: {time.Now().UTC().Format(time.RFC3339Nano)}, headerPublisher: {"alice"},
	}})
}

func (r *replica) end(reply string, header nats.Header) {
	_ = r.nc.PublishMsg(&nats.Msg{Subject: reply, Header: header})
}

// set changes what there is.
func (r *replica) set(change func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change()
}

func offsetsOf(page message.Page) string {
	offsets := []message.Offset{}
	for _, m := range page.Messages {
		offsets = append(offsets, m.Offset)
	}
	return fmt.Sprint(offsets, page.Pending)
}

// A follower that is behind answers with what it has, and more is said to follow; where
// it has nothing of it, another answer is waited for. So it is also where a leader that
// has been replaced answers beside the new one.
func TestReadFromAFollowerThatIsBehind(t *testing.T) {
	t.Parallel()
	for _, deposed := range []bool{false, true} {
		t.Run(fmt.Sprint("deposed ", deposed), func(t *testing.T) {
			t.Parallel()
			s, replicas := startReplicas(t, 1)
			r := replicas[0]
			r.set(func() {
				for range 6 {
					r.stored = append(r.stored, "chat.a", "chat.b")
				}
				r.stored = append(r.stored, "chat.c", "chat.a", "chat.e")
				r.has, r.deposed = 8, deposed
			})
			page, err := s.Read(t.Context(), "chat.a", 0, 10)
			if err != nil || offsetsOf(page) != "[1 3 5 7] 1" {
				t.Errorf("%s, %v", offsetsOf(page), err)
			}
			r.set(func() { r.has = 11 })
			if page, err = s.Read(t.Context(), "chat.a", page.Reached, 10); err != nil || offsetsOf(page) != "[9 11] 1" {
				t.Errorf("%s, %v", offsetsOf(page), err)
			}
			// It has all of one and nothing of another: which it is, is not known yet.
			for _, ask := range []wants{{"chat.a", 11, 10}, {"chat.c", 0, 10}, {"chat.d", 0, 10}} {
				r.set(func() { r.asked, r.has = 0, 11 })
				var reading sync.WaitGroup
				reading.Go(func() { page, err = s.Read(t.Context(), ask.name, ask.after, ask.limit) })
				eventually(t, "asked again", func() bool {
					r.mu.Lock()
					defer r.mu.Unlock()
					return r.asked > 4
				})
				r.set(func() { r.has = 15 })
				reading.Wait()
				want := map[channel.Name]string{"chat.a": "[14] 0", "chat.c": "[13] 0", "chat.d": "[] 0"}[ask.name]
				if err != nil || offsetsOf(page) != want {
					t.Errorf("%s: %s, %v", ask.name, offsetsOf(page), err)
				}
			}
		})
	}
}

// A range ends where the leader says, not where a follower that is behind does.
func TestARangeFromAFollowerThatIsBehind(t *testing.T) {
	t.Parallel()
	s, replicas := startReplicas(t, 1)
	r := replicas[0]
	var questions []wants
	r.set(func() {
		for i := range 40 {
			r.stored = append(r.stored, channel.Name(fmt.Sprint("chat.", i%20)))
			if i < 20 {
				questions = append(questions, wants{channel.Name(fmt.Sprint("chat.", i)), 0, 10})
			}
		}
		r.has, r.deposed = 30, true
		r.onGet = func(request) {
			if r.asked == 3 { // then it has caught up
				r.has = 40
			}
		}
	})
	for i, page := range together(t, s, questions) {
		if want := fmt.Sprintf("[%d %d] 0", i+1, i+21); offsetsOf(page) != want {
			t.Errorf("%d: %s", i, offsetsOf(page))
		}
	}
	if stats := s.ReadStats(); stats.Ranged != 20 || stats.Fetches != 0 {
		t.Errorf("%+v", stats)
	}
}

// Where the front is trimmed while it is read, nothing of what may have a hole is given:
// the hole would be silent.
func TestTrimmedWhileItIsRead(t *testing.T) {
	t.Parallel()
	for _, channels := range []int{1, 20} {
		t.Run(fmt.Sprint(channels), func(t *testing.T) {
			t.Parallel()
			s, replicas := startReplicas(t, 1)
			r := replicas[0]
			var questions []wants
			r.set(func() {
				for i := range 10 * channels {
					r.stored = append(r.stored, channel.Name(fmt.Sprint("chat.", i%channels)))
					if i < channels {
						questions = append(questions, wants{r.stored[i], 0, 10})
					}
				}
				r.has = message.Offset(len(r.stored))
				r.onMessage = func(ask request) {
					if ask.Seq == message.Offset(2*channels+1) { // each has two
						r.first = message.Offset(5*channels + 1)
					}
				}
			})
			for i, page := range together(t, s, questions) {
				if page.Trimmed != message.Offset(5*channels) || len(page.Messages) != 5 || page.Messages[0].Offset != message.Offset(5*channels+i+1) {
					t.Errorf("%d: %s, trimmed %d", i, offsetsOf(page), page.Trimmed)
				}
			}
		})
	}
}

// Also where only what precedes an earlier range is read.
func TestTrimmedWhileWhatPrecedesIsRead(t *testing.T) {
	t.Parallel()
	s, replicas := startReplicas(t, 1)
	r := replicas[0]
	var questions []wants
	r.set(func() {
		for i := range 80 {
			r.stored = append(r.stored, channel.Name(fmt.Sprint("chat.", i%20)))
			if i < 20 {
				questions = append(questions, wants{r.stored[i], 40, 10})
			}
		}
		r.has = 80
	})
	for i, page := range together(t, s, questions) {
		if want := fmt.Sprintf("[%d %d] 0", i+41, i+61); offsetsOf(page) != want || page.Trimmed != 0 {
			t.Errorf("%d: %s, trimmed %d", i, offsetsOf(page), page.Trimmed)
		}
		questions[i].after = 0
	}
	r.set(func() {
		r.onMessage = func(ask request) {
			if ask.Seq == 10 {
				r.first = 31
			}
		}
	})
	for i, page := range together(t, s, questions) {
		want := fmt.Sprintf("[%d %d] 0", i+41, i+61)
		if i >= 10 {
			want = fmt.Sprintf("[%d %d %d] 0", i+21, i+41, i+61)
		}
		if offsetsOf(page) != want || page.Trimmed != 30 {
			t.Errorf("%d: %s, trimmed %d", i, offsetsOf(page), page.Trimmed)
		}
	}
	if stats := s.ReadStats(); stats.Ranged != 40 || stats.Ranges != 2 {
		t.Errorf("%+v", stats)
	}
}

// A partition whose answers are swallowed holds up nobody else's readers.
func TestReadBesideAPartitionThatIsSilent(t *testing.T) {
	t.Parallel()
	s, replicas := startReplicas(t, 2)
	nameIn := func(r *replica, i int) channel.Name {
		for k := i * 1000; ; k++ {
			if name := channel.Name(fmt.Sprint("chat.", k)); s.groups["chat"].of(name) == r.part {
				return name
			}
		}
	}
	broken, whole := replicas[0], replicas[1]
	broken.set(func() { // too far behind for a range read: each channel is asked for
		broken.stored, broken.silent = make([]channel.Name, maxRange+1), true
	})
	whole.set(func() { whole.stored, whole.has = []channel.Name{nameIn(whole, 0)}, 1 })
	ctx, cancel := context.WithCancel(t.Context())
	var reading sync.WaitGroup
	for i := range 100 {
		reading.Go(func() {
			if _, err := s.Read(ctx, nameIn(broken, i), 0, 1); err == nil {
				t.Error("read what is not told")
			}
		})
	}
	q := broken.part.reads
	eventually(t, "it is asked", func() bool {
		broken.mu.Lock()
		defer broken.mu.Unlock()
		return broken.asked > 1
	})
	for range 20 {
		began := time.Now()
		if page, err := s.Read(t.Context(), nameIn(whole, 0), 0, 1); err != nil || len(page.Messages) != 1 || time.Since(began) > requestTimeout/2 {
			t.Errorf("after %v: %v", time.Since(began), err)
			break
		}
	}
	places := func() (workers int, failing bool) {
		q.mu.Lock()
		defer q.mu.Unlock()
		return q.workers, q.failing
	}
	eventually(t, "it has one place", func() bool {
		workers, failing := places()
		return workers == 1 && failing
	})
	again := time.NewTicker(5 * time.Millisecond)
	defer again.Stop()
	for range 50 {
		if workers, _ := places(); workers > 1 {
			t.Fatalf("it has %d places", workers)
		}
		<-again.C
	}
	cancel()
	reading.Wait()
	eventually(t, "nothing is left", q.idle)
}

// What is under way when the connection is lost does not wait for its timeout.
func TestReadsEndWithTheConnection(t *testing.T) {
	t.Parallel()
	s, replicas := startReplicas(t, 1)
	r := replicas[0]
	r.set(func() { r.silent = true })
	failed := make(chan error, 1)
	go func() {
		_, err := s.direct.ask(t.Context(), r.part.stream, []byte(`{"seq":1,"batch":1}`), 1, func(*nats.Msg) error { return nil })
		failed <- err
	}()
	eventually(t, "it is asked", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.asked > 0
	})
	s.direct.lost()
	if err := <-failed; !errors.Is(err, nats.ErrDisconnected) {
		t.Error(err)
	}
	if strings.TrimSpace(s.direct.prefix) == "" || len(s.direct.waiting) != 0 {
		t.Errorf("%d are left", len(s.direct.waiting))
	}
}

// Where all that followed has been trimmed nothing is left to wait for.
func TestReadOfAStreamThatIsEmptyByNow(t *testing.T) {
	t.Parallel()
	s, replicas := startReplicas(t, 1)
	r := replicas[0]
	r.set(func() {
		r.stored = slices.Repeat([]channel.Name{"chat.a"}, 10)
		r.first, r.has = 11, 10
	})
	page, err := s.Read(t.Context(), "chat.a", 5, 10)
	if err != nil || page.Trimmed != 10 || offsetsOf(page) != "[] 0" {
		t.Errorf("%s, trimmed %d, %v", offsetsOf(page), page.Trimmed, err)
	}
}
