package namespace_test

import (
	"slices"
	"testing"
	"time"

	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/namespace"
)

func valid() namespace.Namespace {
	return namespace.Namespace{
		Name: "chat", Partitions: 1, Replicas: 1, SlowConsumer: "disconnect",
		History: &namespace.History{MaxMessages: 10, MaxAge: time.Hour, MaxBytes: 1 << 20},
		Rules:   []namespace.Rule{{Channel: "chat.{room}", Subscribe: "true"}},
	}
}

func TestProblems(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		change func(*namespace.Namespace)
		want   []string
	}{
		{"none", func(*namespace.Namespace) {}, nil},
		{"neither", func(n *namespace.Namespace) { n.History = nil }, []string{"says neither history nor ephemeral: true"}},
		{"both", func(n *namespace.Namespace) { n.Ephemeral = true }, []string{"says both history and ephemeral: true"}},
		{"name", func(n *namespace.Namespace) { n.Name, n.Rules = "Chat.x", nil }, []string{`name: "Chat.x" is not a namespace: lower-case letters, digits, - and _, at most 32`}},
		{"numbers", func(n *namespace.Namespace) { n.Partitions, n.Replicas = 65, 2 }, []string{"partitions: 65 is not within 1 and 64", "replicas: 2 is not 1, 3 or 5"}},
		{"slow consumer", func(n *namespace.Namespace) { n.SlowConsumer = "wait" }, []string{`slow_consumer: "wait" is not disconnect, latest or drop`}},
		{"rate", func(n *namespace.Namespace) { n.Rate = &namespace.Rate{Per: time.Second} }, []string{"rate: messages must be within 1 and 1000000, per within 1ms and 1h, bytes within 0 and 1GiB"}},
		{"history", func(n *namespace.Namespace) { *n.History = namespace.History{} }, []string{
			"history.max_messages: 0 is not within 1 and 100000", "history.max_age: 0s is less than 1s", "history.max_bytes: 0 is less than 1MiB",
		}},
		{"foreign rule", func(n *namespace.Namespace) { n.Rules[0].Channel = "news.{x}" }, []string{`rules[0].channel: "news.{x}" is not in the namespace "chat"`}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			n := valid()
			tt.change(&n)
			if got := n.Problems(); !slices.Equal(got, tt.want) {
				t.Errorf("got  %q\nwant %q", got, tt.want)
			}
		})
	}
}

func TestSet(t *testing.T) {
	t.Parallel()
	set := namespace.NewSet([]namespace.Namespace{valid()})
	if ns, err := set.Of("chat.lobby"); err != nil || ns.Name != "chat" {
		t.Errorf("%v, %v", ns, err)
	}
	if _, err := set.Of("news.x"); fault.From(err).Reason != fault.NamespaceUnknown {
		t.Error(err)
	}
}

func TestDeduplicationWindow(t *testing.T) {
	t.Parallel()
	n := valid()
	if n.DeduplicationWindow() != 2*time.Minute {
		t.Error(n.DeduplicationWindow())
	}
	n.History.MaxAge = time.Second
	if n.DeduplicationWindow() != time.Second {
		t.Error(n.DeduplicationWindow())
	}
}

func TestBytes(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]namespace.Bytes{"1GiB": 1 << 30, "64KiB": 65536, "12": 12, "3 MiB": 3 << 20, "7B": 7, "0": 0} {
		var b namespace.Bytes
		if err := b.UnmarshalText([]byte(text)); err != nil || b != want {
			t.Errorf("%q: %d, %v", text, b, err)
		}
		var again namespace.Bytes
		if err := again.UnmarshalText([]byte(b.String())); err != nil || again != b {
			t.Errorf("%q was written %q", text, b)
		}
	}
	for _, text := range []string{"", "-1", "1GB", "9999999999GiB", "1.5MiB"} {
		var b namespace.Bytes
		if err := b.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q was read as %d", text, b)
		}
	}
}
