package stream

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/message"
)

// gate is a TCP proxy before a NATS server that can hold back what the server says:
// messages arrive and are stored, and nobody is told.
type gate struct {
	listener net.Listener
	target   string
	wg       sync.WaitGroup

	mu    sync.Mutex
	open  chan struct{} // closed while answers pass
	conns map[net.Conn]struct{}
}

func newGate(t testing.TB, target string) *gate {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := &gate{listener: listener, target: target, open: make(chan struct{}), conns: map[net.Conn]struct{}{}}
	close(g.open)
	g.wg.Go(func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", g.target)
			if err != nil {
				_ = near.Close()
				continue
			}
			g.mu.Lock()
			g.conns[near], g.conns[far] = struct{}{}, struct{}{}
			g.mu.Unlock()
			g.wg.Go(func() { g.copy(far, near, false) })
			g.wg.Go(func() { g.copy(near, far, true) })
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		g.cut()
		g.pass()
		g.wg.Wait()
	})
	return g
}

func (g *gate) copy(to, from net.Conn, answers bool) {
	defer func() { _, _ = to.Close(), from.Close() }()
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		if answers {
			g.mu.Lock()
			open := g.open
			g.mu.Unlock()
			<-open
		}
		if n > 0 {
			if _, err := to.Write(buffer[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// hold keeps answers back until pass.
func (g *gate) hold() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open = make(chan struct{})
}

func (g *gate) pass() {
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case <-g.open:
	default:
		close(g.open)
	}
}

// cut ends all connections, with the answers that are held.
func (g *gate) cut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for c := range g.conns {
		_ = c.Close()
	}
	clear(g.conns)
}

func (g *gate) url() string { return "nats://" + g.listener.Addr().String() }

// gated is a store behind a gate, and one that nothing happens to, to look with.
func gated(t *testing.T) (s, plain *Store, g *gate) {
	x := newExternal(t)
	x.start()
	g = newGate(t, "127.0.0.1:"+portText(x.options.Port))
	return readyStore(t, Options{URL: g.url()}), readyStore(t, Options{URL: x.url()}), g
}

// What was stored although the answer was lost is not stored again, and its receipt
// is that of the first.
func TestAcknowledgementLost(t *testing.T) {
	t.Parallel()
	s, plain, g := gated(t)
	p, a := s.Pipeline(), newAnswers(t)
	g.hold()
	const count = 100
	for n := range count {
		a.publish(p, numbered("chat.a", n))
		a.publish(p, text("chat.b", fmt.Sprint(n))) // without an ID
	}
	single := make(chan message.Receipt)
	go func() {
		receipt, err := s.Publish(t.Context(), expect(numbered("chat.c", 1), "", 0))
		if err != nil {
			t.Error(err)
		}
		single <- receipt
	}()
	for _, name := range []channel.Name{"chat.a", "chat.b"} {
		eventually(t, "all stored", func() bool { return len(storedIn(t, plain, name)) >= count-50 })
	}
	eventually(t, "the single one stored", func() bool { return len(storedIn(t, plain, "chat.c")) == 1 })
	if a.count() != 0 {
		t.Errorf("%d answers through a gate that holds them", a.count())
	}
	g.cut()
	g.pass()
	p.Close()
	if receipt := <-single; receipt.Offset != storedIn(t, plain, "chat.c")[0].Offset || !receipt.Duplicate {
		t.Errorf("the single one: %+v", receipt)
	}
	duplicates := 0
	for _, name := range []channel.Name{"chat.a", "chat.b"} {
		all := storedIn(t, plain, name)
		if len(all) != count {
			t.Errorf("%s: %d stored", name, len(all))
		}
		for n, m := range all {
			key := fmt.Sprintf("%s %d", name, n)
			receipt := a.receipts[key]
			if err := a.errs[key]; err != nil || string(m.Payload.Data) != fmt.Sprint(n) || receipt.Offset != m.Offset {
				t.Errorf("%s at place %d, offset %d; receipt %+v, %v", m.Payload.Data, n, m.Offset, receipt, err)
			}
			if receipt.Duplicate {
				duplicates++
				if name == "chat.b" {
					t.Errorf("%s is a duplicate of itself", key)
				}
			}
		}
	}
	if duplicates == 0 {
		t.Error("no acknowledgement was lost")
	}
}

// A lane whose answers do not come is not held for dead while others go on.
func TestPipelineAnswersOverdue(t *testing.T) {
	t.Parallel()
	s, plain, g := gated(t)
	p, a := s.Pipeline(), newAnswers(t)
	g.hold()
	const count = 20
	for n := range count {
		a.publish(p, numbered("chat.a", n))
	}
	part := s.groups["chat"].of("chat.a")
	eventually(t, "stored", func() bool { return len(storedIn(t, plain, "chat.a")) == count })
	eventually(t, "the replies are overdue", func() bool {
		s.requests.mu.Lock()
		defer s.requests.mu.Unlock()
		return len(s.requests.waiting) == 1 // the first probe
	})
	g.pass()
	p.Close()
	if part.current() == nil {
		t.Error("the connection was lost")
	}
	for key, err := range a.errs {
		if receipt := a.receipts[key]; err != nil || !receipt.Duplicate {
			t.Errorf("%s: %+v, %v", key, receipt, err)
		}
	}
	if all := storedIn(t, plain, "chat.a"); len(all) != count {
		t.Errorf("%d stored", len(all))
	}
}

// Whatever the network does: once, in order.
func TestPipelineThroughFaults(t *testing.T) {
	t.Parallel()
	s, plain, g := gated(t)
	p, a := s.Pipeline(), newAnswers(t)
	ctx, stop := context.WithCancel(t.Context())
	published := make(chan int)
	const channels = 4
	go func() {
		n := 0
		for ; ctx.Err() == nil; n++ {
			for i := range channels {
				a.publish(p, numbered(channel.Name(fmt.Sprintf("chat.%d", i)), n))
			}
		}
		published <- n
	}()
	chance := rand.New(rand.NewPCG(1, 2))
	for range 12 {
		before := a.count()
		eventually(t, "some more", func() bool { return a.count() > before+chance.IntN(2000) })
		g.hold()
		if chance.IntN(2) == 0 {
			eventually(t, "answers are held", func() bool { return s.slots.used() > 0 }) // not more: a lane may be settling
			g.cut()
		}
		g.pass()
	}
	stop()
	count := <-published
	p.Close()
	for i := range channels {
		all := storedIn(t, plain, channel.Name(fmt.Sprintf("chat.%d", i)))
		if len(all) != count {
			t.Errorf("channel %d: %d stored, %d published", i, len(all), count)
		}
		for n, m := range all {
			key := fmt.Sprintf("chat.%d %d", i, n)
			if string(m.Payload.Data) != fmt.Sprint(n) || a.receipts[key].Offset != m.Offset || a.errs[key] != nil {
				t.Fatalf("%s: %s at offset %d; receipt %+v, %v", key, m.Payload.Data, m.Offset, a.receipts[key], a.errs[key])
			}
		}
	}
}

// followed publishes to a channel in order as a client does: what is unknown again with
// its ID, and what was behind it after it. It returns the offsets by number.
func followed(t *testing.T, s *Store, name channel.Name, more func(acknowledged int) bool) []message.Offset {
	p := s.Pipeline()
	defer p.Close()
	type answer struct {
		n       int
		receipt message.Receipt
		err     error
	}
	answers := make(chan answer, pipelineRoom)
	send := func(n int) {
		if err := p.Publish(t.Context(), numbered(name, n), func(receipt message.Receipt, err error) {
			answers <- answer{n, receipt, err}
		}); err != nil {
			t.Error(err)
		}
	}
	var offsets []message.Offset
	acknowledged, next, open := 0, 0, 0
	again := map[int]bool{}
	for {
		if len(again) > 0 && open == 0 { // in their order
			for n := range next {
				if again[n] {
					send(n)
					open++
				}
			}
			clear(again)
		}
		for len(again) == 0 && open < 64 && more(acknowledged) {
			offsets = append(offsets, 0)
			send(next)
			next++
			open++
		}
		if open == 0 {
			return offsets
		}
		got := <-answers
		open--
		switch {
		case got.err == nil:
			offsets[got.n] = got.receipt.Offset
			acknowledged++
		case fault.From(got.err).Reason == fault.StoreUnavailable, fault.From(got.err).Reason == fault.EarlierPublishUnknown:
			again[got.n] = true
		default:
			t.Error(got.n, got.err)
		}
	}
}

func TestPipelineAcrossLeaderChanges(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	s := readyStore(t, Options{URL: c.url(), Namespaces: replicated()})
	const stream = "CARILLON_chat_0"
	var wg sync.WaitGroup
	var mu sync.Mutex
	acknowledged := map[channel.Name]int{}
	stop := make(chan struct{})
	names := []channel.Name{"chat.a", "chat.b", "chat.c"}
	results := make([][]message.Offset, len(names))
	for i, name := range names {
		wg.Go(func() {
			results[i] = followed(t, s, name, func(count int) bool {
				mu.Lock()
				acknowledged[name] = count
				mu.Unlock()
				select {
				case <-stop:
					return false
				default:
					return true
				}
			})
		})
	}
	progress := func(what string) {
		t.Helper()
		mu.Lock()
		before := acknowledged["chat.a"]
		mu.Unlock()
		eventually(t, what, func() bool {
			mu.Lock()
			defer mu.Unlock()
			return acknowledged["chat.a"] > before+200
		})
	}
	progress("some messages")
	for range 4 {
		c.stepDown(stream)
		progress("more after a step-down")
	}
	old := c.leaderOf(stream)
	old.vanish()
	c.leaderOf(stream, old)
	progress("more after the leader vanished")
	old.comeBack()
	progress("more after it came back")
	close(stop)
	wg.Wait()
	for i, name := range names {
		all := storedIn(t, s, name)
		at := map[string]message.Offset{}
		for _, m := range all {
			if at[string(m.Payload.Data)] != 0 {
				t.Errorf("%s: %s is stored twice", name, m.Payload.Data)
			}
			at[string(m.Payload.Data)] = m.Offset
		}
		last := message.Offset(0)
		for n, offset := range results[i] {
			if at[fmt.Sprint(n)] != offset {
				t.Errorf("%s: %d was answered with %d and is stored at %d", name, n, offset, at[fmt.Sprint(n)])
			}
			if offset <= last {
				t.Errorf("%s: %d stands at %d, after %d", name, n, offset, last)
			}
			last = offset
		}
		t.Logf("%s: %d published, %d stored", name, len(results[i]), len(all))
	}
}

// The first offset is the answer to a repetition: in another connection, of another
// leader, and after the message's ttl.
func TestDuplicateAcrossReconnectAndLeaderChange(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	s := readyStore(t, Options{URL: c.url(), Namespaces: replicated()})
	p := numbered("chat.a", 1)
	p.TTL = time.Second
	first := publish(t, s, p)
	same := func(when string, s *Store) {
		t.Helper()
		var again message.Receipt
		eventually(t, "an answer, "+when, func() bool { // a failover may take longer than a publish tries
			var err error
			again, err = s.Publish(t.Context(), p)
			return err == nil
		})
		if !again.Duplicate || again.Position != first.Position {
			t.Errorf("%s: %+v, want a duplicate of %+v", when, again, first)
		}
		pipeline, a := s.Pipeline(), newAnswers(t)
		a.publish(pipeline, p)
		pipeline.Close()
		if again := a.receipts["chat.a 1"]; !again.Duplicate || again.Position != first.Position {
			t.Errorf("%s, pipelined: %+v, want a duplicate of %+v", when, again, first)
		}
	}
	same("at once", s)
	c.stepDown("CARILLON_chat_0")
	same("after a step-down", s)
	old := c.leaderOf("CARILLON_chat_0")
	old.vanish()
	same("after the leader vanished", s)
	old.comeBack()
	same("in another connection", readyStore(t, Options{URL: c.url(), Namespaces: replicated()}))
	all := storedIn(t, s, "chat.a")
	eventually(t, "the ttl has passed", func() bool { return all[0].Expired(time.Now()) })
	same("after its ttl", s)
	if len(storedIn(t, s, "chat.a")) != 1 {
		t.Error("stored again")
	}
}

func TestDuplicateAcrossRestartOfEmbeddedAndAfterTTL(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := numbered("chat.a", 1)
	p.TTL = time.Second
	run := func(use func(*Store)) {
		e, err := StartEmbedded(EmbeddedOptions{Dir: dir, Logger: testLogger(t)})
		if err != nil {
			t.Fatal(err)
		}
		s := readyStore(t, Options{Embedded: e})
		use(s)
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	}
	var first message.Receipt
	run(func(s *Store) { first = publish(t, s, p) })
	run(func(s *Store) {
		all := storedIn(t, s, "chat.a")
		if len(all) != 1 || all[0].TTL != time.Second {
			t.Fatalf("stored %+v", all)
		}
		eventually(t, "the ttl has passed", func() bool { return all[0].Expired(time.Now()) })
		if again := publish(t, s, p); !again.Duplicate || again.Position != first.Position {
			t.Errorf("%+v, want a duplicate of %+v", again, first)
		}
		p.TTL = 2 * time.Second
		_, err := s.Publish(t.Context(), p)
		refused(t, err, fault.MessageIDReused)
	})
}
