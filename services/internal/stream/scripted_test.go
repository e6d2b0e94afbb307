package stream

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/message"
)

// scripted is a partition whose stream is played by a test, on a NATS server that has
// no JetStream.
type scripted struct {
	t     *testing.T
	nc    *nats.Conn
	store *Store
	part  *partition
}

func newScripted(t *testing.T) *scripted {
	t.Helper()
	x := newExternal(t)
	x.options.JetStream = false
	x.start()
	nc, err := nats.Connect(x.url())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	s := openStore(t, Options{URL: x.url(), Namespaces: testNamespaces(one), keepEvery: time.Hour})
	eventually(t, "connected", func() bool { return s.publisher.problem() == nil })
	return &scripted{t: t, nc: nc, store: s, part: s.groups["chat"].partitions[0]}
}

// answer has what is asked on a subject answered by what reply returns.
func (x *scripted) answer(subject string, reply func() string) {
	x.t.Helper()
	_, err := x.nc.Subscribe(subject, func(m *nats.Msg) { _ = m.Respond([]byte(reply())) })
	if err == nil {
		err = x.nc.Flush()
	}
	if err != nil {
		x.t.Fatal(err)
	}
}

// What is acknowledged while a question is on its way need not be in the answer.
func TestInvariantEpochsCompareWithWhatWasKnownBefore(t *testing.T) {
	t.Parallel()
	x := newScripted(t)
	x.answer(jetstream.DefaultAPIPrefix+"STREAM.INFO."+x.part.stream, func() string {
		if l := x.part.latest.Load(); l != nil {
			l.saw(12)
		}
		return infoText("") // which ends at 9
	})
	for i := range 2 {
		if bounds, err := x.store.look(t.Context(), x.nc, x.part); err != nil || bounds.Last != 9 {
			t.Fatalf("look %d: %+v, %v", i, bounds, err)
		}
	}
	if _, err := x.store.look(t.Context(), x.nc, x.part); err != errDoubt {
		t.Errorf("now 12 is known: %v", err)
	}
}

// Acknowledgements overtake each other: only one that is not above what was known when
// its message was sent is proof.
func TestInvariantEpochsCompareWithWhatWasKnownAtSending(t *testing.T) {
	t.Parallel()
	x := newScripted(t)
	x.answer(jetstream.DefaultAPIPrefix+"STREAM.INFO."+x.part.stream, func() string { return infoText("") })
	if _, err := x.store.look(t.Context(), x.nc, x.part); err != nil {
		t.Fatal(err)
	}
	js, err := jetstream.New(x.nc)
	if err != nil {
		t.Fatal(err)
	}
	x.part.occupy(t.Context(), js)
	tenure := x.part.current()
	m := &nats.Msg{Subject: "test.publish"}
	x.answer(m.Subject, func() string {
		tenure.saw(12) // of a later message, by another goroutine
		return `{"stream":"S","seq":10}`
	})
	receipt, err := x.store.attempt(t.Context(), tenure, x.part, text("chat.lobby", "1"), m)
	if want := (message.Position{Epoch: "a", Offset: 10}); err != nil || receipt.Position != want || tenure.broken.Load() {
		t.Fatalf("%+v, %v", receipt, err)
	}
	if _, err := x.store.attempt(t.Context(), tenure, x.part, text("chat.lobby", "1"), m); err != errSetBack || !tenure.broken.Load() {
		t.Errorf("offset 10 again after 12: %v", err)
	}
}

// The answers of members of a group that has no leader are not those of its stream.
func TestInvariantHeadIsThatOfALeader(t *testing.T) {
	t.Parallel()
	x := newScripted(t)
	x.answer(jetstream.DefaultAPIPrefix+"STREAM.INFO."+x.part.stream, func() string {
		return infoText(`,"cluster":{"leader":"n","replicas":[{"active":3000000001},{"active":60000000000}]}`)
	})
	if bounds, err := x.store.look(t.Context(), x.nc, x.part); err != errDeposed {
		t.Errorf("%+v, %v", bounds, err)
	}
	if x.part.latest.Load() != nil {
		t.Error("its epoch is believed")
	}
}

// What a stream that may have been set back says of a repetition is not believed.
func TestRepetitionInDoubt(t *testing.T) {
	t.Parallel()
	x := newScripted(t)
	x.answer(jetstream.DefaultAPIPrefix+"STREAM.MSG.GET."+x.part.stream, func() string { // as infoText has it
		return `{"message":{"seq":9,"time":"2026-01-02T03:04:05.6Z"}}`
	})
	x.answer(jetstream.DefaultAPIPrefix+"STREAM.INFO."+x.part.stream, func() string { return infoText("") })
	look := func() {
		t.Helper()
		if _, err := x.store.look(t.Context(), x.nc, x.part); err != nil {
			t.Fatal(err)
		}
	}
	look()
	tenure := &tenure{lineage: x.part.latest.Load(), connected: t.Context()}
	at := message.Position{Epoch: tenure.epoch, Offset: 7}
	repeated := func() error {
		receipt, err := x.store.repeated(t.Context(), tenure, x.part, message.Publication{}, at)
		if err == nil && receipt.Position != at {
			t.Errorf("%+v", receipt)
		}
		return err
	}
	if err := repeated(); err != nil {
		t.Error(err)
	}
	x.part.doubt()
	if err := repeated(); err != errDoubt {
		t.Errorf("after a reconnect: %v", err)
	}
	look()
	if err := repeated(); err != nil {
		t.Error(err)
	}
	tenure.broken.Store(true)
	if err := repeated(); err != errDoubt {
		t.Errorf("after what was known is lost: %v", err)
	}
}

// A refusal says that nothing is stored: not while nobody knows what became of an
// earlier attempt.
func TestRaceAfterAnAttemptWithoutAnswer(t *testing.T) {
	t.Parallel()
	x := newScripted(t)
	x.answer(jetstream.DefaultAPIPrefix+"STREAM.INFO."+x.part.stream, func() string { return infoText("") })
	if _, err := x.store.look(t.Context(), x.nc, x.part); err != nil {
		t.Fatal(err)
	}
	js, err := jetstream.New(x.nc)
	if err != nil {
		t.Fatal(err)
	}
	x.part.occupy(t.Context(), js)
	attempts := 0
	if _, err := x.nc.Subscribe(x.part.in+"chat.lobby", func(m *nats.Msg) {
		if attempts++; attempts > 1 { // the first is lost on the way, or yet to come
			_ = m.Respond([]byte(`{"error":{"code":400,"err_code":10164,"description":"race"}}`))
		}
	}); err != nil {
		t.Fatal(err)
	}
	if err := x.nc.Flush(); err != nil {
		t.Fatal(err)
	}
	_, err = x.store.Publish(t.Context(), expect(text("chat.lobby", "1"), "", 9))
	refused(t, err, fault.StoreUnavailable)
}

// What is lost on the way is not taken for what is not there.
func TestAnswersWithHoles(t *testing.T) {
	t.Parallel()
	x := newScripted(t)
	var lost atomic.Value
	lost.Store("")
	if _, err := x.nc.Subscribe(jetstream.DefaultAPIPrefix+"DIRECT.GET."+x.part.stream, func(m *nats.Msg) {
		previous := "0"
		for _, offset := range []string{"3", "5", "8"} {
			if offset != lost.Load() {
				_ = x.nc.PublishMsg(&nats.Msg{Subject: m.Reply, Header: nats.Header{headerSequence: {offset}, headerLastSequence: {previous}}})
			}
			previous = offset
		}
		_ = x.nc.PublishMsg(&nats.Msg{Subject: m.Reply, Header: nats.Header{
			"Status": {"204"}, headerPending: {"0"}, headerLastSequence: {previous}, headerUpTo: {"9"},
		}})
	}); err != nil {
		t.Fatal(err)
	}
	if err := x.nc.Flush(); err != nil {
		t.Fatal(err)
	}
	for _, offset := range []string{"3", "5", "8"} {
		lost.Store(offset)
		if _, err := x.store.direct.ask(t.Context(), x.part.stream, nil, 3, func(*nats.Msg) error { return nil }); err != errIncomplete {
			t.Errorf("without %s: %v", offset, err)
		}
	}
	lost.Store("")
	if _, err := x.store.direct.ask(t.Context(), x.part.stream, nil, 3, func(*nats.Msg) error { return nil }); err != nil {
		t.Error(err)
	}
}

// What is answered when another epoch has begun is not told as of the one before.
func TestAnswerOfAnotherEpoch(t *testing.T) {
	t.Parallel()
	for _, reply := range []string{`{"stream":"S","seq":20}`, `{"stream":"S","seq":7,"duplicate":true}`} {
		t.Run(reply, func(t *testing.T) {
			t.Parallel()
			x := newScripted(t)
			x.answer(jetstream.DefaultAPIPrefix+"STREAM.INFO."+x.part.stream, func() string { return infoText("") })
			if _, err := x.store.look(t.Context(), x.nc, x.part); err != nil {
				t.Fatal(err)
			}
			js, err := jetstream.New(x.nc)
			if err != nil {
				t.Fatal(err)
			}
			x.part.occupy(t.Context(), js)
			old := x.part.current()
			m := &nats.Msg{Subject: "test.publish"}
			x.answer(m.Subject, func() string {
				asked, known := x.part.remembered()
				x.part.judge(asked, known, told("b", 1, 7)) // begun by another process
				return reply
			})
			receipt, err := x.store.attempt(t.Context(), old, x.part, text("chat.lobby", "1"), m)
			if err == nil || !transient(err) {
				t.Errorf("%+v, %v", receipt, err)
			}
			if now := x.part.current(); now.epoch != "b" || now.broken.Load() {
				t.Errorf("%s, broken %t", now.epoch, now.broken.Load())
			}
		})
	}
}
