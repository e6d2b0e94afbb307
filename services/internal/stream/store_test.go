package stream

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/message"
	"github.com/carillon-rt/carillon/services/internal/namespace"
)

func portText(port int) string { return strconv.Itoa(port) }

// refused checks that err is a fault of the reason that tells nothing of NATS's own.
func refused(t *testing.T, err error, reason fault.Reason) *fault.Error {
	t.Helper()
	refusal, ok := errors.AsType[*fault.Error](err)
	if !ok || refusal.Reason != reason {
		t.Fatalf("error %v, want %s", err, reason)
	}
	for _, driver := range []string{"nats:", "context", "rt.", "CARILLON_"} {
		if strings.Contains(refusal.Message, driver) {
			t.Errorf("message %q holds driver text", refusal.Message)
		}
	}
	return refusal
}

// soon is a context for what must fail because it ends.
func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	t.Cleanup(cancel)
	return ctx
}

func rawJetStream(t *testing.T, x *external) jetstream.JetStream {
	t.Helper()
	nc, err := nats.Connect(x.url())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

func storedMessages(t *testing.T, js jetstream.JetStream, streams ...string) (total uint64) {
	t.Helper()
	for _, name := range streams {
		stream, err := js.Stream(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		total += stream.CachedInfo().State.Msgs
	}
	return total
}

func TestOpenRefusesBadOptions(t *testing.T) {
	t.Parallel()
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for _, tt := range []struct {
		ctx  context.Context
		o    Options
		want string
	}{
		{t.Context(), Options{}, "exactly one of a URL and an embedded server"},
		{t.Context(), Options{URL: "nats://h", Embedded: &Embedded{}}, "exactly one"},
		{t.Context(), Options{URL: "nats://user:secret@[::1", Receiver: newRecorder()}, "connect to NATS: the URL cannot be read"},
		{ended, Options{URL: "nats://127.0.0.1:1"}, "context canceled"},
	} {
		tt.o.Logger = testLogger(t)
		if s, err := Open(tt.ctx, tt.o); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("Open(%+v): %v, %v, want %q", tt.o, s, err, tt.want)
		} else if strings.Contains(err.Error(), "secret") {
			t.Errorf("the error holds the password: %v", err)
		}
	}
}

func TestAwayAtStart(t *testing.T) {
	t.Parallel()
	x := newExternal(t)
	x.start()
	x.stop() // what is left is a port that refuses
	r := newRecorder()
	s := openStore(t, Options{URL: x.url(), Receiver: r})

	err := s.Ready()
	if err == nil || !strings.Contains(err.Error(), "nats: not connected") || !strings.Contains(err.Error(), "stream chat/1: not checked yet") {
		t.Errorf("Ready: %v", err)
	}
	_, err = s.Publish(soon(t), text("chat.lobby", "1"))
	if refusal := refused(t, err, fault.StoreUnavailable); !strings.Contains(refusal.Message, "unknown") || !strings.Contains(refusal.Message, "same messageId") {
		t.Errorf("message %q", refusal.Message)
	}
	_, err = s.Publish(soon(t), text("cursor.doc", "1"))
	refused(t, err, fault.StoreUnavailable)
	for _, name := range []channel.Name{"chat.lobby", "cursor.doc"} {
		_, err = s.Listen(soon(t), name)
		refused(t, err, fault.StoreUnavailable)
	}
	if len(s.interests) != 0 {
		t.Errorf("interests left: %v", s.interests)
	}
	_, err = s.Bounds(soon(t), "chat.lobby")
	refused(t, err, fault.StoreUnavailable)

	x.start()
	eventually(t, "ready", func() bool { return s.Ready() == nil })
	listen(t, s, "chat.lobby")
	publish(t, s, text("chat.lobby", "2"))
	eventually(t, "the message", func() bool { return len(r.of("chat.lobby")) == 1 })
	if r.missedTimes() != 0 {
		t.Error("Missed was called for the first connect")
	}
}

func TestRestart(t *testing.T) {
	t.Parallel()
	x := newExternal(t)
	x.start()
	r := newRecorder()
	s := readyStore(t, Options{URL: x.url(), Receiver: r})
	epoch := listen(t, s, "chat.lobby").Epoch
	listen(t, s, "cursor.doc")
	x.stop()
	eventually(t, "not ready", func() bool {
		err := s.Ready()
		return err != nil && strings.Contains(err.Error(), "nats: not connected")
	})
	_, err := s.Publish(soon(t), text("cursor.doc", "1"))
	refused(t, err, fault.StoreUnavailable)
	x.start()
	eventually(t, "Missed", func() bool { return r.missedTimes() > 0 })
	if receipt := publish(t, s, text("chat.lobby", "1")); receipt.Epoch != epoch {
		t.Errorf("epoch %q, want %q", receipt.Epoch, epoch)
	}
	eventually(t, "the message", func() bool { return len(r.of("chat.lobby")) == 1 })
	eventually(t, "ready", func() bool { return s.Ready() == nil })
	publish(t, s, text("cursor.doc", "1"))
	eventually(t, "the ephemeral message", func() bool { return len(r.of("cursor.doc")) == 1 })
}

func TestRestartWithAnEmptyStoreBeginsAnEpoch(t *testing.T) {
	t.Parallel()
	x := newExternal(t)
	x.start()
	s := readyStore(t, Options{URL: x.url()})
	before := publish(t, s, text("chat.lobby", "1"))
	x.stop()
	x.options.StoreDir = t.TempDir()
	x.start()
	after := publish(t, s, text("chat.lobby", "2"))
	if after.Epoch == before.Epoch || after.Epoch == "" || after.Offset != 1 {
		t.Errorf("%+v after %+v", after, before)
	}
}

func TestConcurrentCreatorsAgreeOnOneEpoch(t *testing.T) {
	t.Parallel()
	x := newExternal(t)
	x.start()
	const stores = 6
	epochs := make(chan message.Epoch, stores)
	for range stores {
		s := openStore(t, Options{URL: x.url()})
		go func() {
			receipt, err := s.Publish(t.Context(), text("chat.lobby", "1"))
			if err != nil {
				t.Error(err)
			}
			epochs <- receipt.Epoch
		}()
	}
	first := <-epochs
	for range stores - 1 {
		if epoch := <-epochs; epoch != first || len(epoch) < 12 {
			t.Errorf("epochs %q and %q", first, epoch)
		}
	}
}

func TestLimitsAreUpdatedAndTheEpochKept(t *testing.T) {
	t.Parallel()
	x := newExternal(t)
	x.start()
	s := readyStore(t, Options{URL: x.url()})
	before := publish(t, s, text("chat.lobby", "1"))
	readyStore(t, Options{URL: x.url(), Namespaces: testNamespaces(func(ns *namespace.Namespace) {
		ns.History.MaxAge, ns.History.MaxBytes = time.Minute, 8<<20
	})})
	stream, err := rawJetStream(t, x).Stream(t.Context(), "CARILLON_chat_0")
	if err != nil {
		t.Fatal(err)
	}
	c := stream.CachedInfo().Config
	if c.MaxAge != time.Minute || c.MaxBytes != 4<<20 || c.Duplicates != time.Minute || c.MaxMsgsPerSubject != -1 || !c.AllowDirect {
		t.Errorf("configuration %+v", c)
	}
	if after := publish(t, s, text("chat.lobby", "2")); after.Epoch != before.Epoch || after.Offset != before.Offset+1 {
		t.Errorf("%+v after %+v", after, before)
	}
}

func TestStreamsThatCannotBeUsed(t *testing.T) {
	t.Parallel()
	x := newExternal(t)
	x.start()
	readyStore(t, Options{URL: x.url()})
	js := rawJetStream(t, x)
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "CARILLON_news_0"}); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name   string
		change func(*namespace.Namespace)
		want   string
	}{
		{"more partitions", func(ns *namespace.Namespace) { ns.Partitions = 4 }, "stream chat/0: was made with partitions: 2, the configuration says 4"},
		{"fewer partitions", func(ns *namespace.Namespace) { ns.Partitions = 1 }, "stream chat/0: was made with partitions: 2, the configuration says 1"},
		{"foreign", func(ns *namespace.Namespace) { ns.Name, ns.Partitions = "news", 1 }, "stream news/0: exists but was not made by Carillon"},
		{"replicas", func(ns *namespace.Namespace) { ns.Replicas = 3 }, "stream chat/0: its configuration cannot be updated"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			set := testNamespaces(tt.change)
			s := openStore(t, Options{URL: x.url(), Namespaces: set, Receiver: newRecorder()})
			eventually(t, tt.want, func() bool {
				err := s.Ready()
				return err != nil && strings.Contains(err.Error(), tt.want)
			})
			for name := range set {
				if name != "cursor" {
					_, err := s.Publish(soon(t), text(channel.Name(name+".lobby"), "1"))
					refused(t, err, fault.StoreUnavailable)
					_, err = s.Listen(soon(t), channel.Name(name+".lobby"))
					refused(t, err, fault.StoreUnavailable)
				}
			}
		})
	}
	for name := range js.StreamNames(t.Context()).Name() {
		if name == "CARILLON_chat_2" || name == "CARILLON_chat_3" {
			t.Errorf("%s was made", name)
		}
	}
}

func TestUnknownNamespace(t *testing.T) {
	t.Parallel()
	s := readyStore(t, Options{Embedded: startEmbedded(t), Receiver: newRecorder()})
	_, err := s.Publish(t.Context(), text("absent.lobby", "1"))
	refused(t, err, fault.NamespaceUnknown)
	_, err = s.Listen(t.Context(), "absent.lobby")
	refused(t, err, fault.NamespaceUnknown)
	_, err = s.Bounds(t.Context(), "absent.lobby")
	refused(t, err, fault.NamespaceUnknown)
}

func TestClose(t *testing.T) {
	t.Parallel()
	r := newRecorder()
	s := readyStore(t, Options{Embedded: startEmbedded(t), Receiver: r})
	listen(t, s, "chat.lobby")
	for range 2 {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	_, err := s.Publish(t.Context(), text("chat.lobby", "1"))
	refused(t, err, fault.StoreUnavailable)
	_, err = s.Listen(t.Context(), "chat.other")
	refused(t, err, fault.StoreUnavailable)
	_, err = s.Bounds(t.Context(), "chat.lobby")
	refused(t, err, fault.StoreUnavailable)
	s.Unlisten("chat.lobby")
	if s.Ready() == nil {
		t.Error("ready after Close")
	}
}

func TestCloseEndsWhatCannotFinish(t *testing.T) {
	t.Parallel()
	x := newExternal(t)
	x.start()
	s := readyStore(t, Options{URL: x.url(), Receiver: newRecorder()})
	x.stop()
	ended := make(chan error, 2)
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	go func() {
		_, err := s.Publish(ctx, text("chat.lobby", "1"))
		ended <- err
	}()
	go func() {
		_, err := s.Listen(ctx, "cursor.doc")
		ended <- err
	}()
	eventually(t, "both under way", func() bool {
		s.interestsMu.Lock()
		defer s.interestsMu.Unlock()
		return s.slots.used() == 1 && len(s.interests) == 1
	})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		refused(t, <-ended, fault.StoreUnavailable)
	}
}

func TestOperationsHaveADeadline(t *testing.T) {
	t.Parallel()
	s := readyStore(t, Options{Embedded: startEmbedded(t)})
	ctx, done, err := s.begin(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	defer done()
	if deadline, ok := ctx.Deadline(); !ok || time.Until(deadline) > defaultTimeout {
		t.Errorf("deadline %v, %v", deadline, ok)
	}
}
