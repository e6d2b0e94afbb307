package stream

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/message"
)

// answers keeps what a pipeline answers.
type answers struct {
	t  testing.TB
	wg sync.WaitGroup

	mu       sync.Mutex
	receipts map[string]message.Receipt // by what was published
	errs     map[string]error
}

func newAnswers(t testing.TB) *answers {
	return &answers{t: t, receipts: map[string]message.Receipt{}, errs: map[string]error{}}
}

func (a *answers) publish(p *Pipeline, pub message.Publication) {
	a.t.Helper()
	key := string(pub.Channel) + " " + string(pub.Payload.Data)
	a.wg.Add(1)
	ctx, cancel := context.WithTimeout(a.t.Context(), patience)
	defer cancel()
	if err := p.Publish(ctx, pub, func(receipt message.Receipt, err error) {
		a.mu.Lock()
		defer a.mu.Unlock()
		if _, ok := a.receipts[key]; ok {
			a.t.Errorf("%s was answered twice", key)
		}
		a.receipts[key], a.errs[key] = receipt, err
		a.wg.Done()
	}); err != nil {
		a.wg.Done()
		a.t.Errorf("%s: %v", key, err)
	}
}

func (a *answers) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.receipts)
}

func numbered(name channel.Name, n int) message.Publication {
	p := text(name, fmt.Sprintf("%d", n))
	p.ID = fmt.Sprintf("m-%d", n)
	return p
}

// cutOff stops a server and returns when the store has noticed.
func cutOff(t *testing.T, x *external, s *Store) {
	t.Helper()
	x.stop()
	eventually(t, "the store is cut off", func() bool {
		for _, part := range s.groups["chat"].partitions {
			if part.current() != nil {
				return false
			}
		}
		return true
	})
}

// storedIn returns what a channel keeps.
func storedIn(t testing.TB, s *Store, name channel.Name) []*message.Message {
	t.Helper()
	var all []*message.Message
	after := message.Offset(0)
	for {
		page, err := s.Read(t.Context(), name, after, MaxPage)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, page.Messages...)
		if after = page.Reached; page.Pending == 0 {
			return all
		}
	}
}

func contents(messages []*message.Message) string {
	texts := make([]string, 0, len(messages))
	for _, m := range messages {
		texts = append(texts, string(m.Payload.Data))
	}
	return strings.Join(texts, " ")
}

func TestPipelineKeepsTheOrderOfEachChannel(t *testing.T) {
	t.Parallel()
	r := newRecorder()
	s := readyStore(t, Options{Embedded: startEmbedded(t), Receiver: r})
	listen(t, s, "cursor.doc")
	p, a := s.Pipeline(), newAnswers(t)
	const each = 500
	names := []channel.Name{"chat.a", "chat.b", "chat.c", "cursor.doc"}
	for n := range each {
		for _, name := range names {
			a.publish(p, text(name, fmt.Sprint(n)))
		}
	}
	p.Close()
	a.wg.Wait()
	for key, err := range a.errs {
		if err != nil {
			t.Errorf("%s: %v", key, err)
		}
	}
	if len(a.receipts) != each*len(names) || s.slots.used() != 0 {
		t.Errorf("%d answers, %d slots left taken", len(a.receipts), s.slots.used())
	}
	for _, name := range names[:3] {
		all := storedIn(t, s, name)
		if len(all) != each {
			t.Fatalf("%s: %d stored", name, len(all))
		}
		for n, m := range all {
			receipt := a.receipts[fmt.Sprintf("%s %d", name, n)]
			if string(m.Payload.Data) != fmt.Sprint(n) || receipt.Offset != m.Offset || receipt.Epoch == "" || receipt.Duplicate {
				t.Fatalf("%s: %s at %d, which is %d of them; receipt %+v", name, m.Payload.Data, m.Offset, n, receipt)
			}
		}
	}
	eventually(t, "the ephemeral ones", func() bool { return len(r.of("cursor.doc")) == each })
	for n, m := range r.of("cursor.doc") {
		if string(m.Payload.Data) != fmt.Sprint(n) {
			t.Fatalf("%s came as %d", m.Payload.Data, n)
		}
	}
}

func TestPipelineAnswersAsPublishDoes(t *testing.T) {
	t.Parallel()
	x := newExternal(t)
	x.options.MaxPayload = 2048
	x.start()
	s := readyStore(t, Options{URL: x.url()})
	first := publish(t, s, numbered("chat.a", 1))
	p, a := s.Pipeline(), newAnswers(t)
	a.publish(p, numbered("chat.a", 1)) // again
	reused := numbered("chat.a", 1)
	reused.Payload.Data = []byte(`"other"`)
	a.publish(p, reused)
	a.publish(p, text("chat.a", strings.Repeat("1", 2048)))
	a.publish(p, text("cursor.doc", strings.Repeat("1", 2048)))
	expecting := func(n int, last message.Offset) message.Publication {
		pub := numbered("chat.a", n)
		pub.Expected = &message.Expectation{Last: last}
		return pub
	}
	a.publish(p, numbered("chat.a", 2))
	a.publish(p, expecting(3, first.Offset))   // which 2 has followed
	a.publish(p, expecting(4, first.Offset+1)) // which is that of 2
	a.publish(p, numbered("chat.a", 5))
	p.Close()
	if err := p.Publish(t.Context(), text("chat.a", "1"), nil); err == nil {
		t.Error("published after Close")
	} else {
		refused(t, err, fault.StoreUnavailable)
	}
	p.Close()
	if receipt := a.receipts["chat.a 1"]; !receipt.Duplicate || receipt.Position != first.Position {
		t.Errorf("again: %+v, %v", receipt, a.errs["chat.a 1"])
	}
	refused(t, a.errs[`chat.a "other"`], fault.MessageIDReused)
	refused(t, a.errs["chat.a "+strings.Repeat("1", 2048)], fault.PayloadTooLarge)
	refused(t, a.errs["cursor.doc "+strings.Repeat("1", 2048)], fault.PayloadTooLarge)
	refused(t, a.errs["chat.a 3"], fault.ChannelMoved)
	if got := contents(storedIn(t, s, "chat.a")); got != "1 2 4 5" {
		t.Errorf("stored %s; %v", got, a.errs)
	}
	err := s.Pipeline().Publish(t.Context(), text("absent.a", "1"), nil)
	refused(t, err, fault.NamespaceUnknown)
}

func TestPipelineAcrossRestartsKeepsOrderAndStoresOnce(t *testing.T) {
	t.Parallel()
	x := newExternal(t)
	x.start()
	s := readyStore(t, Options{URL: x.url()})
	p, a := s.Pipeline(), newAnswers(t)
	const channels, restarts = 8, 3
	stop, stopped := make(chan struct{}), make(chan int)
	go func() {
		for n := 0; ; n++ {
			select {
			case <-stop:
				stopped <- n
				return
			default:
			}
			for i := range channels {
				pub := numbered(channel.Name(fmt.Sprintf("chat.%d", i)), n)
				if i%2 == 0 { // without an ID it is stored once too
					pub.ID = ""
				}
				a.publish(p, pub)
			}
		}
	}()
	for range restarts {
		before := a.count()
		eventually(t, "some messages", func() bool { return a.count() > before+2000 })
		x.stop()
		x.start()
	}
	before := a.count()
	eventually(t, "messages after the last restart", func() bool { return a.count() > before })
	close(stop)
	published := <-stopped
	p.Close()
	for key, err := range a.errs {
		if err != nil {
			t.Errorf("%s: %v", key, err)
		}
	}
	for i := range channels {
		all := storedIn(t, s, channel.Name(fmt.Sprintf("chat.%d", i)))
		if len(all) != published {
			t.Errorf("channel %d: %d stored, %d published", i, len(all), published)
		}
		for n, m := range all {
			if string(m.Payload.Data) != fmt.Sprint(n) || a.receipts[fmt.Sprintf("chat.%d %d", i, n)].Offset != m.Offset {
				t.Fatalf("channel %d: %s stands at place %d, offset %d", i, m.Payload.Data, n, m.Offset)
			}
		}
	}
}

func TestPipelineRoomIsBounded(t *testing.T) {
	t.Parallel()
	x := newExternal(t)
	x.start()
	s := readyStore(t, Options{URL: x.url()})
	cutOff(t, x, s)
	p, a := s.Pipeline(), newAnswers(t)
	for n := range pipelineRoom {
		a.publish(p, numbered("chat.a", n))
	}
	err := p.Publish(soon(t), text("chat.b", "1"), nil)
	refused(t, err, fault.StoreUnavailable)
	large, b := s.Pipeline(), newAnswers(t)
	for n := range pipelineRoom / 16 {
		b.publish(large, text("chat.b", fmt.Sprintf(`"%d%s"`, n, strings.Repeat("x", 15*pipelineShare))))
	}
	err = large.Publish(soon(t), text("chat.b", "1"), nil)
	refused(t, err, fault.StoreUnavailable)
	x.start()
	p.Close()
	large.Close()
	if all := storedIn(t, s, "chat.a"); len(all) != pipelineRoom {
		t.Errorf("%d stored", len(all))
	}
}

func TestStoreCloseAnswersPipelines(t *testing.T) {
	t.Parallel()
	x := newExternal(t)
	x.start()
	s := readyStore(t, Options{URL: x.url()})
	idle, p, a := s.Pipeline(), s.Pipeline(), newAnswers(t)
	cutOff(t, x, s)
	const count = 300
	for n := range count {
		a.publish(p, numbered(channel.Name(fmt.Sprintf("chat.%d", n%3)), n))
	}
	a.publish(p, text("cursor.doc", "1"))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	a.wg.Wait()
	unknown, earlier := 0, 0
	for key, err := range a.errs {
		switch {
		case strings.HasPrefix(key, "cursor"):
			refused(t, err, fault.StoreUnavailable)
		case fault.From(err).Reason == fault.EarlierPublishUnknown:
			earlier++
		default:
			unknown++
			refused(t, err, fault.StoreUnavailable)
		}
	}
	if unknown != 3 || earlier != count-3 {
		t.Errorf("%d unknown, %d behind them", unknown, earlier)
	}
	for _, p := range []*Pipeline{idle, p, s.Pipeline()} {
		err := p.Publish(t.Context(), text("chat.a", "1"), nil)
		refused(t, err, fault.StoreUnavailable)
		p.Close()
	}
	if s.slots.used() != 0 {
		t.Errorf("%d slots left taken", s.slots.used())
	}
}

// What an outage of more than 10 seconds leaves is answered, in a way that keeps the
// order when it is published again; nothing with another ID may come in between.
func TestPipelineUnknownOutcomeBarsTheChannel(t *testing.T) {
	t.Parallel()
	x := newExternal(t)
	x.start()
	s := readyStore(t, Options{URL: x.url()})
	cutOff(t, x, s)
	p, a := s.Pipeline(), newAnswers(t)
	for n := range 3 {
		a.publish(p, numbered("chat.a", n))
	}
	a.wg.Wait()
	refused(t, a.errs["chat.a 0"], fault.StoreUnavailable)
	refused(t, a.errs["chat.a 1"], fault.EarlierPublishUnknown)
	refused(t, a.errs["chat.a 2"], fault.EarlierPublishUnknown)
	x.start()
	a.publish(p, numbered("chat.a", 3))
	a.publish(p, numbered("chat.b", 9))
	a.wg.Wait()
	refused(t, a.errs["chat.a 3"], fault.EarlierPublishUnknown)
	if a.errs["chat.b 9"] != nil {
		t.Error(a.errs["chat.b 9"])
	}
	again := newAnswers(t)
	for n := range 4 {
		again.publish(p, numbered("chat.a", n))
	}
	p.Close()
	if got := contents(storedIn(t, s, "chat.a")); got != "0 1 2 3" {
		t.Errorf("stored %s; %v", got, again.errs)
	}
}

// A bar ends by itself.
func TestPipelineBarEnds(t *testing.T) {
	t.Parallel()
	s := readyStore(t, Options{Embedded: startEmbedded(t)})
	p := &Pipeline{s: s, room: semaphore.NewWeighted(9), wake: make(chan struct{}, 1), lanes: map[channel.Name]*lane{}}
	enter := func(id string) (err error) {
		pub := text("chat.a", "1")
		pub.ID = id
		if !p.room.TryAcquire(1) {
			t.Fatal("no room")
		}
		p.enter(&entry{p: p, pub: pub, draft: &draft{}, done: func(_ message.Receipt, refusal error) { err = refusal }})
		return err
	}
	bar := func(until time.Time) {
		p.lanes["chat.a"] = &lane{part: s.groups["chat"].of("chat.a"), barredFor: "m-1", barredUntil: until}
	}
	later, before := time.Now().Add(time.Hour), time.Now()
	for _, tt := range []struct {
		id    string
		until time.Time
		want  bool
		after bool // m-2 may pass then
	}{
		{"m-2", later, false, false},
		{"", later, true, false},
		{"m-1", later, true, true},
		{"m-2", before, true, true},
	} {
		bar(tt.until)
		if err := enter(tt.id); (err == nil) != tt.want {
			t.Errorf("%q: %v", tt.id, err)
		}
		if err := enter("m-2"); (err == nil) != tt.after {
			t.Errorf("%q, then m-2: %v", tt.id, err)
		}
	}
	bar(before)
	if p.review(time.Now()); len(p.lanes) != 0 {
		t.Error("a lane was kept whose bar has ended")
	}
}

// settledBy runs a settlement of what was sent of chat.a and says what it found out.
func settledBy(t *testing.T, s *Store, patience time.Duration, some ...*suspect) (outcomes map[string]outcome, cause error) {
	t.Helper()
	p := &Pipeline{s: s, wake: make(chan struct{}, 1)}
	of := settlement{p: p, part: s.groups["chat"].of("chat.a"), some: some}
	for _, each := range some {
		each.deadline = time.Now().Add(patience)
	}
	cause = of.run()
	if cause != nil {
		of.giveUp(cause)
	}
	outcomes = map[string]outcome{}
	for _, o := range p.inbox.settled {
		outcomes[o.entry.pub.ID] = o
	}
	return outcomes, cause
}

func suspectOf(s *Store, n int) *suspect {
	pub := numbered("chat.a", n)
	return &suspect{e: &entry{pub: pub}, m: &encodeStored(pub, s.groups["chat"].of("chat.a").in+"chat.a").msg, sent: true}
}

// What a leader lost is not stored after what was sent later and was not lost.
func TestSettlementKeepsOrder(t *testing.T) {
	t.Parallel()
	s := readyStore(t, Options{Embedded: startEmbedded(t)})
	second, fourth := publish(t, s, numbered("chat.a", 2)), publish(t, s, numbered("chat.a", 4))
	acknowledged := suspectOf(s, 4)
	acknowledged.answered, acknowledged.at = true, fourth.Position
	got, cause := settledBy(t, s, patience,
		suspectOf(s, 1), suspectOf(s, 2), suspectOf(s, 3), acknowledged, suspectOf(s, 5), suspectOf(s, 6))
	if cause != nil {
		t.Fatal(cause)
	}
	refused(t, got["m-1"].err, fault.PublishOvertaken)
	refused(t, got["m-3"].err, fault.PublishOvertaken)
	if o := got["m-2"]; o.err != nil || o.receipt.Position != second.Position || !o.receipt.Duplicate {
		t.Errorf("what was stored: %+v", o)
	}
	if _, ok := got["m-4"]; ok {
		t.Error("what was answered was answered again")
	}
	if text := contents(storedIn(t, s, "chat.a")); text != "2 4 5 6" {
		t.Errorf("stored %s", text)
	}
}

// A leader that does not know what was acknowledged since is not believed about what
// came before it.
func TestSettlementDoesNotBelieveALeaderThatIsBehind(t *testing.T) {
	t.Parallel()
	s := readyStore(t, Options{Embedded: startEmbedded(t)})
	epoch := s.groups["chat"].of("chat.a").current().epoch
	elsewhere := suspectOf(s, 2) // acknowledged by another one
	elsewhere.answered, elsewhere.at = true, message.Position{Epoch: epoch, Offset: 9}
	got, cause := settledBy(t, s, 300*time.Millisecond, suspectOf(s, 1), elsewhere)
	if cause == nil {
		t.Error("settled")
	}
	refused(t, got["m-1"].err, fault.StoreUnavailable)
	if all := storedIn(t, s, "chat.a"); len(all) != 0 {
		t.Errorf("stored %s", contents(all))
	}
	elsewhere.at.Epoch = "before" // what a restored stream has lost bears no witness
	got, cause = settledBy(t, s, patience, suspectOf(s, 1), elsewhere)
	if cause != nil || got["m-1"].err != nil {
		t.Errorf("%v, %+v", cause, got["m-1"])
	}
}

// A reply does not come through another connection than the message went: that is not
// waited for.
func TestPipelineTakesOutOfFlightWhatLostItsConnection(t *testing.T) {
	t.Parallel()
	s := readyStore(t, Options{Embedded: startEmbedded(t)})
	part := s.groups["chat"].of("chat.a")
	ended, end := context.WithCancel(t.Context())
	end()
	for name, tt := range map[string]struct {
		tenure *tenure
		sent   time.Duration // ago
		lost   bool
	}{
		"connected":    {part.current(), 0, false},
		"overdue":      {part.current(), requestTimeout, true},
		"disconnected": {&tenure{connected: ended}, 0, true},
		"reconnected":  {&tenure{connected: t.Context()}, 0, true},
	} {
		if !s.slots.try() {
			t.Fatal("no slot")
		}
		now := time.Now()
		l := &lane{part: part, tenure: tt.tenure, sent: 1, flying: 1}
		e := &entry{lane: l, state: inFlight, sentAt: now.Add(-tt.sent)}
		l.entries = []*entry{e}
		p := &Pipeline{s: s}
		if lost := p.dropOverdue(l, now); lost != tt.lost || (l.flying == 0) != lost || (e.state == failed) != lost || (s.slots.used() == 0) != lost {
			t.Errorf("%s: %v, %+v, %d slots", name, lost, l, s.slots.used())
		}
		if !tt.lost {
			s.slots.release()
		}
	}
}
