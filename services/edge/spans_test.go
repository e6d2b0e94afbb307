package edge_test

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/carillon-rt/carillon/services/edge"
	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/tracing"
)

// traced is the spans of an edge.
type traced struct{ exporter *tracetest.InMemoryExporter }

// traces has an edge make spans, of so many of the traces that begin there, and follow so
// many of its clients' a second.
func traces(t testing.TB, ratio float64, clients int) (*traced, func(*edge.Options)) {
	t.Helper()
	exporter := tracetest.NewInMemoryExporter()
	provider := sdk.NewTracerProvider(sdk.WithSyncer(exporter), sdk.WithIDGenerator(tracing.IDs{}), sdk.WithSampler(sdk.AlwaysSample()))
	t.Cleanup(func() {
		if err := provider.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return &traced{exporter}, func(o *edge.Options) { o.Tracer, o.ClientTraces = tracing.New(provider, ratio), clients }
}

func (s *traced) named(name string) []tracetest.SpanStub {
	return slices.DeleteFunc(s.exporter.GetSpans(), func(span tracetest.SpanStub) bool { return span.Name != name })
}

// names are those of all spans, in the order of their ends.
func (s *traced) names() string {
	var names []string
	for _, span := range s.exporter.GetSpans() {
		names = append(names, span.Name)
	}
	return strings.Join(names, ", ")
}

// await waits until there are so many of a name: a client may have its answer before.
func (s *traced) await(t testing.TB, count int, name string) []tracetest.SpanStub {
	t.Helper()
	deadline := time.After(15 * time.Second)
	for {
		spans := s.named(name)
		if len(spans) >= count {
			if len(spans) > count {
				t.Fatalf("%d spans %q, want %d", len(spans), name, count)
			}
			return spans
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-deadline:
			t.Fatalf("%d spans %q, want %d; there are %s", len(spans), name, count, s.names())
		}
	}
}

func attributeOf(span tracetest.SpanStub, key attribute.Key) string {
	for _, a := range span.Attributes {
		if a.Key == key {
			return a.Value.String()
		}
	}
	return ""
}

func contextOf(span tracetest.SpanStub) tracing.Context {
	return tracing.From(trace.ContextWithSpanContext(context.Background(), span.SpanContext))
}

const (
	traceID   = "0af7651916cd43dd8448eb211c80319c"
	sampled   = "00-" + traceID + "-b7ad6b7169203331-01"
	unsampled = "00-" + traceID + "-b7ad6b7169203331-00"
)

// A message of a sampled trace has one span of its delivery, however many get it, and all
// of them are told of it; one of another trace has none, and they are told of that.
func TestADeliveryIsASpan(t *testing.T) {
	t.Parallel()
	spans, on := traces(t, 1, 0)
	w := start(t, on)
	clients := []*client{w.connect(t, "alice"), w.connect(t, "bob")}
	for _, c := range clients {
		c.follow(2, "chat.a")
	}
	first := w.publish(t, "chat.a", `"trace `+sampled+`"`)
	w.publish(t, "chat.a", `"trace `+unsampled+`"`)
	w.publish(t, "chat.a", `1`)
	var told []any
	for _, c := range clients {
		told = append(told, c.hear("message")["traceparent"])
		if got := c.hear("message")["traceparent"]; got != unsampled {
			t.Errorf("of an unsampled trace: %v", got)
		}
		if got := c.hear("message")["traceparent"]; got != nil {
			t.Errorf("of none: %v", got)
		}
	}
	span := spans.await(t, 1, "deliver chat")[0]
	inside := contextOf(span)
	switch {
	case told[0] != told[1] || told[0] != inside.Traceparent() || inside.TraceID() != traceID:
		t.Errorf("told %v, in %v", told, inside.Traceparent())
	case span.Parent.SpanID().String() != "b7ad6b7169203331" || attributeOf(span, tracing.RecipientsKey) != "2" ||
		attributeOf(span, "messaging.destination.name") != "chat.a" || attributeOf(span, tracing.OffsetKey) != fmt.Sprint(first.Offset):
		t.Errorf("%+v", span)
	}
}

// What clients ask for is part of their traces; that they are connected, and that they
// subscribe, is told only where there is something to tell.
func TestCommandsAreSpans(t *testing.T) {
	t.Parallel()
	spans, on := traces(t, 0, 10)
	w := start(t, on)
	c := w.connect(t, "alice")
	c.say(`{"id":2,"subscribe":{"channel":"chat.a"}}`)
	c.hear("subscribed")
	c.say(`{"id":3,"ping":{}}`)
	c.hear("pong")
	c.say(`{"id":4,"publish":{"channel":"chat.b","data":1}}`)
	c.hear("published")
	c.say(`{"id":5,"unsubscribe":{"channel":"chat.a"},"traceparent":"` + sampled + `"}`)
	c.hear("unsubscribed")
	if names := spans.names(); names != "" {
		t.Fatalf("spans %s of what nobody traces", names)
	}
	for i, command := range []string{
		`"publish":{"channel":"chat.b","data":1,"messageId":"m"}`, `"history":{"channel":"chat.b"}`, `"presence":{"channel":"chat.b"}`, `"subscribe":{"channel":"chat.c"}`,
	} {
		c.say(fmt.Sprintf(`{"id":%d,"traceparent":%q,%s}`, 10+i, sampled, command))
		c.next()
	}
	for _, name := range []string{"client publish chat", "client history", "client presence", "client subscribe"} {
		span := spans.await(t, 1, name)[0]
		if contextOf(span).TraceID() != traceID || span.Parent.SpanID().String() != "b7ad6b7169203331" || attributeOf(span, "user.id") != "alice" || span.Status.Code != codes.Unset {
			t.Errorf("%+v", span)
		}
	}
	if id := attributeOf(spans.named("client publish chat")[0], "messaging.message.id"); id != "m" {
		t.Errorf("message id %q", id)
	}
}

// lines is a log.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// Who is denied something finds the rule in the trace and in the log, though nobody
// samples anything, and so for each subscription of connect.
func TestDenialsAreSpans(t *testing.T) {
	t.Parallel()
	spans, on := traces(t, 0, 0)
	var log lines
	w := start(t, func(o *edge.Options) {
		on(o)
		o.Logger = slog.New(tracing.Logs(slog.NewTextHandler(&log, nil)))
	})
	c := w.dial(t, nil)
	c.say(`{"id":1,"connect":{"token":"` + token(t, "alice", time.Hour) + `","subscriptions":[{"channel":"chat.a"},{"channel":"chat.secret"},{"channel":"chat.b.secret"}]}}`)
	c.hear("connected")
	c.hear("subscribed")
	c.say(`{"id":2,"subscribe":{"channel":"chat.secret"}}`)
	c.hear("error")
	c.say(`{"id":3,"publish":{"channel":"chat.secret","data":1}}`)
	if refusal := c.hear("error"); strings.Contains(fmt.Sprint(refusal), "rule") {
		t.Errorf("the client was told %v", refusal)
	}
	for _, span := range append(spans.await(t, 3, "client subscribe"), spans.await(t, 1, "client publish chat")...) {
		if attributeOf(span, tracing.RuleKey) != "chat[0].subscribe" || span.Status != (sdk.Status{Code: codes.Error, Description: "POLICY_DENIED"}) {
			t.Errorf("%+v", span)
		}
		if id := span.SpanContext.TraceID().String(); !strings.Contains(log.String(), "rule=chat[0].subscribe trace_id="+id) {
			t.Errorf("the log does not lead to %s: %s", id, log.String())
		}
	}
}

// Clients have so many traces sampled a second, beyond that the edge decides; what they
// send that is no traceparent is ignored.
func TestClientTraces(t *testing.T) {
	t.Parallel()
	spans, on := traces(t, 0, 2)
	w := start(t, on)
	c := w.connect(t, "alice")
	for i := range 20 {
		c.say(fmt.Sprintf(`{"id":%d,"publish":{"channel":"chat.b","data":1},"traceparent":%q}`, 2+i, sampled))
	}
	c.say(`{"id":90,"publish":{"channel":"chat.b","data":1},"traceparent":"nonsense"}`)
	for range 21 {
		c.hear("published")
	}
	if names := spans.names(); names != "client publish chat, client publish chat" {
		t.Errorf("spans %s", names)
	}
}

// A message of a sampled trace that a client had missed shows how it was recovered; at
// most 20 of a replay do.
func TestRecoveredMessagesAreSpans(t *testing.T) {
	t.Parallel()
	spans, on := traces(t, 0, 10)
	w := start(t, on)
	listener := w.connect(t, "listener")
	listener.follow(2, "chat.ring")
	for _, source := range []string{"ring", "store"} {
		var stored []uint64
		name := "chat." + source
		epoch := w.publish(t, "chat."+"other", `0`).Epoch
		from := w.publish(t, "chat.other", `0`).Offset
		for range 25 {
			if source == "ring" {
				stored = append(stored, uint64(w.publish(t, "chat.ring", `"trace `+sampled+`"`).Offset))
				listener.hear("message")
			} else {
				stored = append(stored, uint64(w.publish(t, "chat.store", `"trace `+sampled+`"`).Offset))
			}
		}
		for i, traceparent := range []string{"", sampled} {
			spans.exporter.Reset()
			c := w.connect(t, "alice")
			c.say(fmt.Sprintf(`{"id":7,"traceparent":%q,"subscribe":{"channel":%q,"since":{"epoch":%q,"offset":%d}}}`, traceparent, name, epoch, from))
			if subscribed := c.hear("subscribed"); subscribed["recovered"] != true {
				t.Fatalf("%v", subscribed)
			}
			var told []string
			for range stored {
				told = append(told, c.hear("message")["traceparent"].(string))
			}
			got := spans.await(t, 20, "recover chat")
			command := spans.await(t, 1, "client subscribe")[0]
			if (contextOf(command).TraceID() == traceID) != (i == 1) {
				t.Errorf("the command is in %v", contextOf(command))
			}
			for j, span := range got {
				if attributeOf(span, tracing.SourceKey) != source || attributeOf(span, tracing.OffsetKey) != fmt.Sprint(stored[j]) || told[j] != contextOf(span).Traceparent() ||
					len(span.Links) != 1 || span.Links[0].SpanContext.SpanID() != command.SpanContext.SpanID() || span.Parent.SpanID().String() != "b7ad6b7169203331" {
					t.Errorf("%s: told %s: %+v", source, told[j], span)
				}
			}
			if told[20] != sampled {
				t.Errorf("beyond the bound: %s", told[20])
			}
		}
	}
}

// With connect, a subscription that recovers such a message has a span too.
func TestConnectRecoversMessages(t *testing.T) {
	t.Parallel()
	spans, on := traces(t, 0, 0)
	w := start(t, on)
	at := w.publish(t, "chat.a", `0`)
	w.publish(t, "chat.a", `"trace `+sampled+`"`)
	c := w.dial(t, nil)
	c.say(fmt.Sprintf(`{"id":1,"connect":{"token":%q,"subscriptions":[{"channel":"chat.a","since":{"epoch":%q,"offset":%d}},{"channel":"chat.b"}]}}`,
		token(t, "alice", time.Hour), at.Epoch, at.Offset))
	c.hear("connected")
	c.hear("message")
	command, span := spans.await(t, 1, "client subscribe")[0], spans.await(t, 1, "recover chat")[0]
	if len(span.Links) != 1 || span.Links[0].SpanContext.TraceID() != command.SpanContext.TraceID() || attributeOf(command, "messaging.destination.name") != "chat.a" {
		t.Errorf("%+v of %+v", span, command)
	}
}

// A delivery says how many had no room for it; who then is given the latest message after
// all has a span of that, which is part of the delivery, and is told of it.
func TestWhatSlowConsumersMissIsInTheSpan(t *testing.T) {
	t.Parallel()
	for policy, latest := range map[string]int{"latest": 1, "drop": 0} {
		t.Run(policy, func(t *testing.T) {
			t.Parallel()
			spans, on := traces(t, 0, 0)
			w := start(t, func(o *edge.Options) {
				on(o)
				o.Limits.MaxQueueBytes = slowQueue
			})
			name := policy + ".busy"
			watcher, slow := w.connect(t, "watcher"), w.connect(t, "slow")
			watcher.follow(2, name)
			slow.follow(2, name)
			w.stall(t, watcher, channel.Name(name))
			last := w.publish(t, channel.Name(name), `"trace `+sampled+`"`)
			told := watcher.hear("message")["traceparent"]
			delivery := spans.await(t, 1, "deliver "+policy)[0]
			if inside := contextOf(delivery); told != inside.Traceparent() || attributeOf(delivery, tracing.RecipientsKey) != "1" || attributeOf(delivery, tracing.SlowKey) != "1" {
				t.Errorf("told %v: %+v", told, delivery)
			}
			for !strings.HasPrefix(slow.next(), `{"gap"`) { // it reads again
			}
			if latest == 1 {
				m := slow.hear("message")
				belated := spans.await(t, 1, "recover "+policy)[0]
				if inside := contextOf(belated); m["offset"] != float64(last.Offset) || m["traceparent"] != inside.Traceparent() || belated.Parent.SpanID() != delivery.SpanContext.SpanID() ||
					attributeOf(belated, tracing.SourceKey) != "latest" || attributeOf(belated, "user.id") != "slow" {
					t.Errorf("%v: %+v", m, belated)
				}
			}
			slow.quiet(4)
			spans.await(t, latest, "recover "+policy)
		})
	}
}
