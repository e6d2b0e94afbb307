package e2e_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	carillon "github.com/carillon-rt/carillon/clients/go"
	"github.com/carillon-rt/carillon/services/internal/telemetry/telemetrytest"
	"github.com/carillon-rt/carillon/services/internal/tracing"
)

// startTraced starts presence and two edges, which trace what their clients trace, and
// what fails.
func startTraced(t testing.TB) (*system, *telemetrytest.Collector) {
	t.Helper()
	collector := telemetrytest.New(t)
	address := reserve(t)
	startNATS(t, t.TempDir(), address)
	c := newCluster(t, address)
	c.environ = append(c.environ, "CARILLON_TELEMETRY_ENDPOINT="+collector.Endpoint(), "CARILLON_TELEMETRY_SAMPLE_RATIO=0", "CARILLON_TELEMETRY_CLIENT_TRACES=100")
	presence := c.start(t, "presence")
	told := presences(presence.address(t, "presence"))
	all := []*process{presence, c.start(t, "edge", told), c.start(t, "edge", told)}
	for _, p := range all {
		p.ready(t)
	}
	return c.system(t, all...), collector
}

// tracedUser is a session that traces what it does, and the messages that it was given.
type tracedUser struct {
	*carillon.Session

	messages chan carillon.Message
}

// followTraced starts a session of a user who follows chat.traced on an edge, and waits until it
// does.
func (s *system) followTraced(t testing.TB, edge, user string, provider *sdk.TracerProvider) *tracedUser {
	t.Helper()
	f := &tracedUser{messages: make(chan carillon.Message, 100)}
	subscribed := make(chan struct{}, 1)
	var err error
	f.Session, err = carillon.NewSession(carillon.SessionOptions{
		URLs: []string{"ws://" + edge + "/v1/ws"}, Token: func(context.Context) (string, error) { return s.token(t, "user", user), nil },
		Channels: []string{"chat.traced"}, TracerProvider: provider,
	}, func(event carillon.Event) {
		switch e := event.(type) {
		case carillon.Subscribed:
			if e.Channel == "chat.traced" {
				subscribed <- struct{}{}
			}
		case carillon.Message:
			f.messages <- e
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- f.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	select {
	case <-subscribed:
	case <-time.After(patience):
		t.Fatalf("%s is not subscribed", user)
	}
	return f
}

// A client's publish is one trace: the client, the edge that takes it, the store, each
// edge that delivers it, and each client that handles it; one span each, within each
// other's times. That they are connected leaves none.
func TestATraceFromClientToClient(t *testing.T) {
	t.Parallel()
	s, collector := startTraced(t)
	exporter := tracetest.NewInMemoryExporter()
	provider := sdk.NewTracerProvider(sdk.WithSyncer(exporter))
	alice := s.followTraced(t, s.edges[0], "alice", provider)
	bob := s.followTraced(t, s.edges[1], "bob", provider)
	carol := s.followTraced(t, s.edges[1], "carol", provider)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := alice.Publish(ctx, carillon.Publication{Channel: "chat.traced", JSON: `{"secret":"payload"}`, MessageID: "m1"}); err != nil {
		t.Fatal(err)
	}
	for _, f := range []*tracedUser{alice, bob, carol} {
		select {
		case <-f.messages:
		case <-ctx.Done():
			t.Fatal("no message")
		}
	}
	ours := map[string]tracetest.SpanStub{} // by the ids of their parents, and the publish
	eventually(t, "the clients' spans", func() error {
		for _, span := range exporter.GetSpans() {
			ours[span.Parent.SpanID().String()] = span
		}
		if n := len(exporter.GetSpans()); n < 4 {
			return fmt.Errorf("%d spans, want 4", n)
		}
		return nil
	})
	publish := ours["0000000000000000"]
	trace := publish.SpanContext.TraceID().String()
	delivers := func(spans []telemetrytest.Span) []telemetrytest.Span {
		return slices.DeleteFunc(slices.Clone(spans), func(span telemetrytest.Span) bool { return span.Name != "deliver chat" })
	}
	var spans []telemetrytest.Span
	eventually(t, "the edges' spans", func() error {
		spans = collector.AwaitTrace(t, trace, "client publish chat", "send chat", "deliver chat")
		if n := len(delivers(spans)); n != 2 {
			return fmt.Errorf("%d deliveries, want 2", n)
		}
		return nil
	})
	one := func(name string) telemetrytest.Span {
		i := slices.IndexFunc(spans, func(span telemetrytest.Span) bool { return span.Name == name })
		return spans[i]
	}
	command, send := one("client publish chat"), one("send chat")
	if publish.Name != "publish chat" || command.Parent != publish.SpanContext.SpanID().String() || command.Kind != "SERVER" || command.Attributes["user.id"] != "alice" ||
		send.Parent != command.ID || send.Kind != "PRODUCER" || send.Attributes["messaging.message.id"] != "m1" {
		t.Errorf("%+v\n%+v\n%+v", publish, command, send)
	}
	if publish.StartTime.After(command.Start) || command.Start.After(send.Start) || send.End.After(command.End) {
		t.Errorf("times: %v, %v, %v-%v, %v", publish.StartTime, command.Start, send.Start, send.End, command.End)
	}
	recipients := map[string]bool{}
	for _, deliver := range delivers(spans) {
		recipients[deliver.Instance] = true
		receive, received := ours[deliver.ID]
		if deliver.Parent != send.ID || deliver.Kind != "CONSUMER" || !received || receive.Name != "receive chat" || receive.SpanContext.TraceID().String() != trace ||
			deliver.Start.Before(send.Start) || receive.StartTime.Before(deliver.Start) {
			t.Errorf("%+v\nhandled as %+v", deliver, receive)
		}
		if want := map[bool]string{true: "1", false: "2"}[deliver.Instance == command.Instance]; deliver.Attributes["carillon.recipients"] != want {
			t.Errorf("%s recipients, want %s: %+v", deliver.Attributes["carillon.recipients"], want, deliver)
		}
	}
	if len(recipients) != 2 {
		t.Errorf("delivered by %v", recipients)
	}
	for _, span := range collector.Spans() {
		if span.Trace != trace {
			t.Errorf("a span of something else: %+v", span)
		}
	}
}

// A message that a client has missed shows in its trace how the client got it: from the
// ring of an edge that follows the channel, or from the store.
func TestATraceShowsRecovery(t *testing.T) {
	t.Parallel()
	s, collector := startTraced(t)
	provider := sdk.NewTracerProvider(sdk.WithSyncer(tracetest.NewInMemoryExporter()))
	alice := s.followTraced(t, s.edges[0], "alice", provider)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	first, err := alice.Publish(ctx, carillon.Publication{Channel: "chat.traced", JSON: "1"})
	if err != nil {
		t.Fatal(err)
	}
	caller := tracing.New(provider, 1).Start(tracing.Context{})
	where := caller.Context()
	if _, err := alice.Publish(where.In(ctx), carillon.Publication{Channel: "chat.traced", JSON: "2"}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		<-alice.messages
	}
	for i, source := range []string{"ring", "store"} {
		c := s.connect(t, s.edges[i], "bob")
		if answer, err := c.Resume(ctx, "chat.traced", first.Position.Epoch, first.Position.Offset); err != nil || !answer.GetRecovered() {
			t.Fatalf("%v, %v", answer, err)
		}
		got := tracing.Parse(c.next(t).GetMessage().GetTraceparent())
		span := collector.Await(t, "the recovery from the "+source, func(span telemetrytest.Span) bool {
			return span.Name == "recover chat" && span.Attributes["carillon.recovery.source"] == source
		})
		if span.Trace != where.TraceID() || got.TraceID() != span.Trace || span.Kind != "CONSUMER" || span.Attributes["user.id"] != "bob" || len(span.Links) != 1 {
			t.Errorf("%+v", span)
		}
		command := collector.Await(t, "the command", func(command telemetrytest.Span) bool { return command.Trace == span.Links[0] })
		if command.Name != "client subscribe" || command.Attributes["carillon.connection.id"] != c.Connected().GetConnectionId() {
			t.Errorf("%+v", command)
		}
	}
}

// What is denied is there with the rule, although nobody has sampled it.
func TestATraceShowsDenials(t *testing.T) {
	t.Parallel()
	s, collector := startTraced(t)
	c := s.connect(t, s.edges[0], "alice")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := c.Publish(ctx, "news.today", "1", ""); !refusedAs(err, "PERMISSION_DENIED", "POLICY_DENIED") {
		t.Fatal(err)
	}
	if _, err := c.Subscribe(ctx, "user.bob"); !refusedAs(err, "PERMISSION_DENIED", "POLICY_DENIED") {
		t.Fatal(err)
	}
	for name, rule := range map[string]string{"client publish news": "news[0].publish", "client subscribe": "user[0].subscribe"} {
		span := collector.Await(t, name, func(span telemetrytest.Span) bool { return span.Name == name })
		if span.Failed != "POLICY_DENIED" || span.Attributes["carillon.rule"] != rule || span.Attributes["user.id"] != "alice" {
			t.Errorf("%+v", span)
		}
	}
}
