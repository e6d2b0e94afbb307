package control_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/control"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/namespace"
	"github.com/carillon-rt/carillon/services/internal/stream"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 20 * time.Second

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// output is a log that may be read while it is written.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

func startNATS(t testing.TB) *stream.Embedded {
	t.Helper()
	e, err := stream.StartEmbedded(stream.EmbeddedOptions{Dir: t.TempDir(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	return e
}

// connect is a process's connection to NATS.
func connect(t testing.TB, nats *stream.Embedded) *stream.Store {
	t.Helper()
	s, err := stream.Open(t.Context(), stream.Options{
		Embedded: nats, Namespaces: namespace.NewSet(nil), Logger: slog.New(slog.DiscardHandler), Name: "test",
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	eventually(t, "connected", func() bool { return s.Ready() == nil })
	return s
}

// theEdge is an edge with a few connections of everybody.
type theEdge struct {
	id     string
	count  int           // of connections that a command concerns
	hold   chan struct{} // Apply waits for it, unless nil
	store  *stream.Store
	agent  *control.Agent
	log    *output
	cancel context.CancelFunc
	ended  chan error

	mu       sync.Mutex
	commands []control.Command
	lists    []control.Connection
}

func (e *theEdge) Apply(ctx context.Context, c control.Command) (told func() int) {
	if e.hold != nil {
		select {
		case <-e.hold:
		case <-ctx.Done():
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.commands = append(e.commands, c)
	return func() int { return e.count }
}

func (e *theEdge) Connections(user channel.User, limit int) ([]control.Connection, int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	var of []control.Connection
	for _, c := range e.lists {
		if user == "" || c.User == user {
			of = append(of, c)
		}
	}
	return of[:min(limit, len(of))], len(of)
}

// applied are the users of the commands that were carried out.
func (e *theEdge) applied() (users []string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, c := range e.commands {
		users = append(users, string(c.User))
	}
	return users
}

// start runs an edge until the test ends.
func (e *theEdge) start(t testing.TB, nats *stream.Embedded) *theEdge {
	t.Helper()
	e.store, e.log, e.ended = connect(t, nats), &output{}, make(chan error, 1)
	e.agent = control.NewAgent(control.AgentOptions{
		Log: e.store.Control(), EdgeID: e.id, Edge: e, Logger: slog.New(slog.NewTextHandler(e.log, nil)),
	})
	if e.agent.CaughtUp() == nil {
		t.Error("caught up before it runs")
	}
	ctx, cancel := context.WithCancel(context.Background())
	e.cancel = cancel
	go func() { e.ended <- e.agent.Run(ctx); close(e.ended) }()
	t.Cleanup(e.stop)
	return e
}

func (e *theEdge) ready(t testing.TB) *theEdge {
	t.Helper()
	eventually(t, "caught up", func() bool { return e.agent.CaughtUp() == nil })
	return e
}

// stop ends an edge as SIGTERM does.
func (e *theEdge) stop() {
	e.cancel()
	<-e.ended
}

// crash takes an edge from the network without a word.
func (e *theEdge) crash(t testing.TB) {
	t.Helper()
	if err := e.store.Close(); err != nil {
		t.Error(err)
	}
	<-e.ended
}

func startDispatcher(t testing.TB, log control.Log) *control.Dispatcher {
	t.Helper()
	d, err := control.NewDispatcher(log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	return d
}

func disconnect(user channel.User) control.Command {
	now := time.Now()
	return control.Command{Kind: control.DisconnectUser, User: user, Message: "bye", By: "billing", At: now, ExpiresAt: now.Add(time.Hour)}
}

func issue(t testing.TB, d *control.Dispatcher, c control.Command) control.Outcome {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	outcome, err := d.Issue(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	return outcome
}

// A dispatcher that has just been started knows every edge, and waits for all.
func TestEveryEdgeAnswers(t *testing.T) {
	t.Parallel()
	nats := startNATS(t)
	a, b := (&theEdge{id: "A", count: 2}).start(t, nats).ready(t), (&theEdge{id: "B"}).start(t, nats).ready(t)
	d := startDispatcher(t, connect(t, nats).Control())
	sent := disconnect("ann")
	outcome := issue(t, d, sent)
	if want := []control.EdgeResult{{EdgeID: "A", Connections: 2}, {EdgeID: "B"}}; !slices.Equal(outcome.Edges, want) || outcome.Unreachable != nil {
		t.Errorf("%+v, want %+v", outcome, want)
	}
	began := time.Now()
	if again := issue(t, d, disconnect("bob")); len(again.Edges) != 2 || again.Sequence != outcome.Sequence+1 {
		t.Errorf("%+v after %+v", again, outcome)
	}
	t.Logf("two edges answered in %v", time.Since(began))
	for _, e := range []*theEdge{a, b} {
		if got := e.applied(); !slices.Equal(got, []string{"ann", "bob"}) {
			t.Errorf("%s has carried out %v", e.id, got)
		}
		got := e.commands[0]
		if !got.At.Equal(sent.At) || !got.ExpiresAt.Equal(sent.ExpiresAt) || got.By != "billing" || got.Message != "bye" || got.Kind != sent.Kind {
			t.Errorf("%s got %+v, want %+v", e.id, got, sent)
		}
	}
}

// An edge that was away is named, and carries out what it missed before it serves.
func TestAnEdgeThatWasAwayCatchesUpBeforeItServes(t *testing.T) {
	t.Parallel()
	nats := startNATS(t)
	(&theEdge{id: "A"}).start(t, nats).ready(t)
	b := (&theEdge{id: "B"}).start(t, nats).ready(t)
	d := startDispatcher(t, connect(t, nats).Control())
	issue(t, d, disconnect("before"))
	b.crash(t)
	began := time.Now()
	outcome := issue(t, d, disconnect("ann"))
	if len(outcome.Edges) != 1 || outcome.Edges[0].EdgeID != "A" || len(outcome.Unreachable) != 1 || outcome.Unreachable[0].EdgeID != "B" {
		t.Fatalf("%+v", outcome)
	}
	if seen := outcome.Unreachable[0].LastSeen; seen.After(began) || began.Sub(seen) > patience {
		t.Errorf("last seen %v, but it crashed before %v", seen, began)
	}
	if took := time.Since(began); took < 2*time.Second {
		t.Errorf("waited only %v", took)
	}
	issue(t, d, disconnect("bob"))

	restarted := &theEdge{id: "B2", hold: make(chan struct{}, 3)}
	restarted.start(t, nats)
	for i := range 3 {
		if err := restarted.agent.CaughtUp(); err == nil {
			t.Errorf("it serves with %d of 3 commands carried out", i)
		}
		restarted.hold <- struct{}{}
		eventually(t, "one more is carried out", func() bool { return len(restarted.applied()) == i+1 })
	}
	restarted.ready(t)
	close(restarted.hold)
	if got := restarted.applied(); !slices.Equal(got, []string{"before", "ann", "bob"}) {
		t.Errorf("carried out %v", got)
	}
	// It is waited for from now on, before it was not.
	if outcome := issue(t, d, disconnect("eve")); len(outcome.Edges) != 2 {
		t.Errorf("%+v", outcome)
	}
}

// Nobody waits for an edge that has said goodbye.
func TestAnEdgeThatStopsIsNotMissed(t *testing.T) {
	t.Parallel()
	nats := startNATS(t)
	(&theEdge{id: "A"}).start(t, nats).ready(t)
	b := (&theEdge{id: "B"}).start(t, nats).ready(t)
	d := startDispatcher(t, connect(t, nats).Control())
	if outcome := issue(t, d, disconnect("ann")); len(outcome.Edges) != 2 {
		t.Fatalf("%+v", outcome)
	}
	b.stop()
	eventually(t, "B is not missed", func() bool { // its goodbye may be on its way
		outcome := issue(t, d, disconnect("ann"))
		return len(outcome.Edges) == 1 && outcome.Unreachable == nil
	})
}

// What another version has written is left out, and not answered.
func TestCommandsOfOtherVersions(t *testing.T) {
	t.Parallel()
	nats := startNATS(t)
	s := connect(t, nats)
	a := (&theEdge{id: "A"}).start(t, nats).ready(t)
	d := startDispatcher(t, s.Control())
	for _, text := range []string{
		`{"from":"D","number":1,"command":{"kind":"explode","user":"ann"}}`,
		`{"from":"D.>","number":1,"command":{"kind":"disconnect_user","user":"ann"}}`,
		`{"from":"D","command":{"kind":"disconnect_user","user":"a\u0000b"}}`,
		`{`,
	} {
		if _, err := s.Control().Append(t.Context(), []byte(text), time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Control().Append(t.Context(), []byte(`{"later":true,"command":{"kind":"disconnect_user","user":"new","more":[1]}}`), time.Hour); err != nil {
		t.Fatal(err)
	}
	issue(t, d, disconnect("bob"))
	if got := a.applied(); !slices.Equal(got, []string{"new", "bob"}) {
		t.Errorf("carried out %v", got)
	}
	if text := a.log.String(); strings.Count(text, "left out") != 4 || !strings.Contains(text, "explode") {
		t.Errorf("the log says\n%s", text)
	}
	if _, err := d.Issue(t.Context(), control.Command{Kind: "explode", ExpiresAt: time.Now().Add(time.Hour)}); err == nil {
		t.Error("a command of an unknown kind was issued")
	}
}

func TestConnectionsOfAllEdges(t *testing.T) {
	t.Parallel()
	nats := startNATS(t)
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	c := func(id string, user channel.User, second int) control.Connection {
		return control.Connection{ID: id, User: user, Address: "192.0.2.1", ConnectedAt: at.Add(time.Duration(second) * time.Second)}
	}
	a := &theEdge{id: "A", lists: []control.Connection{c("4", "ann", 4), c("1", "bob", 1)}}
	b := &theEdge{id: "B", lists: []control.Connection{c("3", "ann", 3), c("2b", "ann", 2), c("2a", "ann", 2)}}
	a.start(t, nats).ready(t)
	b.start(t, nats).ready(t)
	d := startDispatcher(t, connect(t, nats).Control())
	list := func(user channel.User, limit int) (ids string, total int) {
		t.Helper()
		got, err := d.Connections(t.Context(), user, limit)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range got.Connections {
			ids += " " + c.EdgeID + c.ID
		}
		if got.Unreachable != nil {
			t.Errorf("unreachable: %+v", got.Unreachable)
		}
		return ids, got.Total
	}
	for _, test := range []struct {
		user  channel.User
		limit int
		ids   string
		total int
	}{
		{"", 100, " A4 B3 B2a B2b A1", 5},
		{"ann", 100, " A4 B3 B2a B2b", 4},
		{"ann", 2, " A4 B3", 4},
		{"eve", 100, "", 0},
	} {
		if ids, total := list(test.user, test.limit); ids != test.ids || total != test.total {
			t.Errorf("%q, at most %d: %s of %d, want %s of %d", test.user, test.limit, ids, total, test.ids, test.total)
		}
	}
	b.crash(t)
	got, err := d.Connections(t.Context(), "", 100)
	if err != nil || len(got.Connections) != 2 || len(got.Unreachable) != 1 || got.Unreachable[0].EdgeID != "B" {
		t.Errorf("%+v, %v", got, err)
	}
}

// Without NATS nothing is stored, and that is said; a caller's patience counts.
func TestACommandThatCannotBeStored(t *testing.T) {
	t.Parallel()
	s := connect(t, startNATS(t))
	d := startDispatcher(t, s.Control())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := d.Connections(ctx, "", 1); !errors.Is(err, context.Canceled) {
		t.Errorf("a call that was given up: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	_, err := d.Issue(t.Context(), disconnect("ann"))
	if got := fault.From(err); got.Reason != fault.ControlUnavailable || got.RetryAfter == 0 || got.Message != "the command cannot be stored now" {
		t.Errorf("issue: %v", err)
	}
	_, err = d.Connections(t.Context(), "", 1)
	if got := fault.From(err); got.Reason != fault.ControlUnavailable {
		t.Errorf("connections: %v", err)
	}
}

// memory is a log without NATS, for what takes minutes.
type memory struct {
	mu     sync.Mutex
	topics map[string][]func([]byte)
	last   uint64
	away   bool // nothing can be told
}

func (m *memory) Append(_ context.Context, entry []byte, _ time.Duration) (uint64, error) {
	m.mu.Lock()
	m.last++
	last := m.last
	m.mu.Unlock()
	return last, m.Tell("log", entry)
}

func (*memory) Follow(context.Context, func(context.Context, uint64, []byte), func()) error {
	return errors.New("nobody follows")
}

func (m *memory) Tell(topic string, text []byte) error {
	m.mu.Lock()
	heard, away := slices.Clone(m.topics[topic]), m.away
	m.mu.Unlock()
	if away {
		return errors.New("away")
	}
	for _, h := range heard {
		go h(text)
	}
	return nil
}

func (m *memory) Hear(topic string, heard func([]byte)) (func(), error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.topics[topic] = append(m.topics[topic], heard)
	return func() {}, nil
}

// An edge is missed for a minute, and a lost answer costs two seconds. A dispatcher that
// has heard nothing for long asks who is there.
func TestHowLongAnEdgeIsWaitedFor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		log := &memory{topics: map[string][]func([]byte){}}
		d := startDispatcher(t, log)
		var asked atomic.Int64
		_, _ = log.Hear("who", func([]byte) { asked.Add(1) })
		for _, text := range []string{`{"edge":"A"}`, `{"edge":"B"}`, `{"edge":"B","gone":true}`, `{"edge":"a.b"}`, `{"edge":""}`, `[`} {
			_ = log.Tell("here", []byte(text))
			synctest.Wait()
		}
		for _, step := range []struct {
			pause       time.Duration
			took        time.Duration
			asked       int64
			unreachable int
		}{
			{0, 2 * time.Second, 0, 1},
			{10 * time.Second, 2 * time.Second, 1, 1},
			{50 * time.Second, 500 * time.Millisecond, 2, 0},
		} {
			<-time.After(step.pause)
			began := time.Now()
			outcome := issue(t, d, disconnect("ann"))
			if took := time.Since(began); took != step.took || asked.Load() != step.asked || len(outcome.Unreachable) != step.unreachable || outcome.Edges != nil {
				t.Errorf("after %v: %+v in %v, asked %d times", step.pause, outcome, took, asked.Load())
			}
		}
		// Who is there says so in time, and nobody who has answered is waited for.
		_, _ = log.Hear("who", func([]byte) { _ = log.Tell("here", []byte(`{"edge":"C"}`)) })
		_, _ = log.Hear("log", func(text []byte) {
			from := strings.Split(string(text), `"`)[3]
			_ = log.Tell("to."+from, []byte(`{"edge":"C","number":4,"count":3}`))
			_ = log.Tell("to."+from, []byte(`{"edge":"C","number":99,"count":3}`))
		})
		began := time.Now()
		outcome := issue(t, d, disconnect("ann"))
		if got := fmt.Sprint(outcome.Edges, outcome.Unreachable); got != "[{C 3}] []" || time.Since(began) != 500*time.Millisecond && time.Since(began) != 0 {
			t.Errorf("%s in %v", got, time.Since(began))
		}
		if err := log.Tell("to.nobody", nil); err != nil {
			t.Error(err)
		}
	})
}

// A dispatcher that could not ask who is there when it was started does not take the
// first edge that it hears of for the only one.
func TestADispatcherThatCouldNotAskWaitsForAll(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		log := &memory{topics: map[string][]func([]byte){}, away: true}
		d := startDispatcher(t, log)
		log.away = false
		_ = log.Tell("here", []byte(`{"edge":"A"}`))
		synctest.Wait()
		_, _ = log.Hear("who", func([]byte) { _ = log.Tell("here", []byte(`{"edge":"B"}`)) })
		if outcome := issue(t, d, disconnect("ann")); len(outcome.Unreachable) != 2 {
			t.Errorf("%+v, want A and B to be missed", outcome)
		}
	})
}
