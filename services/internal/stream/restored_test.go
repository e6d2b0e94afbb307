package stream

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/carillon-rt/carillon/services/internal/namespace"
)

// Every stream that there is begins an epoch, and a process that runs follows.
func TestInvariantEpochsBegunByHand(t *testing.T) {
	t.Parallel()
	x := newExternal(t)
	x.start()
	s := readyStore(t, Options{URL: x.url(), Namespaces: testNamespaces(), keepEvery: 10 * time.Millisecond})
	before := publishMany(t, s, 5)
	options := Options{URL: x.url(), Namespaces: testNamespaces(), Logger: testLogger(t), Name: "test"}
	more := namespace.Namespace{Name: "absent", Partitions: 1, Replicas: 1, History: options.Namespaces["chat"].History}
	options.Namespaces["absent"] = &more
	begun, err := BeginEpochs(t.Context(), options)
	if want := []string{"CARILLON_chat_0", "CARILLON_chat_1"}; err != nil || !slices.Equal(begun, want) {
		t.Fatalf("%q, %v, want %q", begun, err, want)
	}
	eventually(t, "the process follows", func() bool {
		bounds, err := s.Bounds(t.Context(), "chat.lobby")
		return err == nil && bounds.Epoch() != before.Epoch
	})
	bounds, err := s.Bounds(t.Context(), "chat.lobby")
	if err != nil {
		t.Fatal(err)
	}
	invalid(t, bounds, before.Position)
	if bounds.First != 1 || bounds.Last != before.Offset {
		t.Errorf("bounds %+v, where nothing was lost", bounds)
	}
	if after := publish(t, s, text("chat.lobby", "1")); after.Epoch != bounds.Epoch() || after.Offset != before.Offset+1 {
		t.Errorf("%+v in %+v", after, bounds)
	}
}

func TestBeginEpochsLeavesWhatIsNotCarillons(t *testing.T) {
	t.Parallel()
	x := newExternal(t)
	x.start()
	config := jetstream.StreamConfig{Name: onlyStream, Subjects: []string{"theirs"}, Metadata: map[string]string{"theirs": "1"}}
	js := rawJetStream(t, x)
	if _, err := js.CreateStream(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	begun, err := BeginEpochs(t.Context(), Options{URL: x.url(), Namespaces: testNamespaces(one), Logger: testLogger(t), Name: "test"})
	if len(begun) > 0 || err == nil || !strings.Contains(err.Error(), onlyStream+": exists but was not made by Carillon") {
		t.Errorf("%q, %v", begun, err)
	}
	found, err := js.Stream(t.Context(), onlyStream)
	if err != nil || found.CachedInfo().Config.Metadata[metadataEpochs] != "" {
		t.Errorf("%+v, %v", found.CachedInfo().Config, err)
	}
}

func TestBeginEpochsWantsNATS(t *testing.T) {
	t.Parallel()
	x := newExternal(t)
	x.start()
	x.stop()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	begun, err := BeginEpochs(ctx, Options{URL: x.url(), Namespaces: testNamespaces(one), Logger: testLogger(t), Name: "test"})
	if len(begun) > 0 || !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "not connected") {
		t.Errorf("%q, %v", begun, err)
	}
}
