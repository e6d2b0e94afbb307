package e2e_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"go.opentelemetry.io/otel/propagation"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	carillon "github.com/carillon-rt/carillon/clients/go"
	publishv1 "github.com/carillon-rt/carillon/gen/carillon/publish/v1"
)

// traced is a system of all roles, each under a name of its own, that keeps the traces
// which others have sampled, and what fails.
type traced struct {
	*system
	traces
}

func startTraced(t testing.TB) *traced {
	t.Helper()
	s := &traced{traces: startTraces(t)}
	address := reserve(t)
	startNATS(t, t.TempDir(), address)
	c := newCluster(t, address)
	c.narrow(t)
	c.environ = append(c.environ, "CARILLON_TELEMETRY_ENDPOINT="+s.Endpoint(), "CARILLON_TELEMETRY_SAMPLE_RATIO=0", "CARILLON_TELEMETRY_CLIENT_TRACES=100")
	named := func(name string) string { return "--telemetry.service-name=" + name }
	presence := c.start(t, "presence", named("presence"))
	told := presences(presence.address(t, "presence"))
	all := []*process{
		presence, c.start(t, "publish", named("publish")),
		c.start(t, "edge", told, named("edge-0")), c.start(t, "edge", told, named("edge-1")),
	}
	for _, p := range all {
		p.ready(t)
	}
	s.system = c.system(t, all...)
	return s
}

// limited is a context for what is to be done soon.
func limited(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// tracedUser is a session that traces what it does, and the messages that it was given.
type tracedUser struct {
	*carillon.Session

	provider *sdk.TracerProvider
	messages chan carillon.Message
}

// follow starts a session of a user who follows a channel on an edge, from a position
// where there is one, and waits until it does. It is a service of the user's name.
func (s *traced) follow(t testing.TB, edge int, user, channel string, from ...carillon.Position) *tracedUser {
	t.Helper()
	u := &tracedUser{provider: provider(t, s, user), messages: make(chan carillon.Message, 100)}
	options := carillon.SessionOptions{
		URLs: []string{"ws://" + s.edges[edge] + "/v1/ws"}, Token: func(context.Context) (string, error) { return s.token(t, "user", user), nil },
		Channels: []string{channel}, From: map[string]carillon.Position{}, TracerProvider: u.provider,
	}
	for _, position := range from {
		options.From[channel] = position
	}
	subscribed := make(chan struct{}, 1)
	var err error
	u.Session, err = carillon.NewSession(options, func(event carillon.Event) {
		switch e := event.(type) {
		case carillon.Subscribed:
			if e.Channel == channel {
				subscribed <- struct{}{}
			}
		case carillon.Message:
			u.messages <- e
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- u.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	select {
	case <-subscribed:
	case <-time.After(patience):
		t.Fatalf("%s is not subscribed", user)
	}
	return u
}

// wantJSON wants the next message of a user to be this.
func (u *tracedUser) wantJSON(t testing.TB, text string) carillon.Message {
	t.Helper()
	select {
	case m := <-u.messages:
		if m.GetJson() != text {
			t.Fatalf("%s came, want %s", m.GetJson(), text)
		}
		return m
	case <-time.After(patience):
		t.Fatalf("%s has not come", text)
	}
	panic("unreachable")
}

// call publishes as a caller, from where ctx stands.
func (s *traced) call(ctx context.Context, t testing.TB, caller string, request *publishv1.PublishRequest) (*publishv1.PublishResponse, error) {
	t.Helper()
	conn, err := grpc.NewClient(s.publishers[0], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	carrier := propagation.MapCarrier{"authorization": "Bearer " + s.token(t, "service", caller)}
	propagation.TraceContext{}.Inject(ctx, carrier)
	return publishv1.NewPublishServiceClient(conn).Publish(metadata.NewOutgoingContext(ctx, metadata.New(carrier)), request)
}

func publication(channel, id string) *publishv1.PublishRequest {
	return &publishv1.PublishRequest{
		Target: &publishv1.PublishRequest_Channel{Channel: channel}, MessageId: id, Payload: &publishv1.PublishRequest_Json{Json: `"whisper"`},
	}
}

// aboutMessage is what every span says that is about a message.
func aboutMessage(channel, id string, offset uint64) map[string]string {
	return map[string]string{"messaging.destination.name": channel, "messaging.message.id": id, "carillon.offset": fmt.Sprint(offset)}
}

// messageSpans are the names of spans that are about one message, in namespace chat.
var messageSpans = []string{"publish chat", "send chat", "deliver chat", "recover chat", "receive chat"}

// What is published has one trace, whoever publishes it, from there to every client that
// handles it; what is recovered and what is refused shows there too. The same is asked of
// a collector in the test and, with -jaeger, of Jaeger's API.
func TestTraces(t *testing.T) {
	t.Parallel()
	s := startTraced(t)
	t.Run("from a client", s.fromClient) // first: it looks for what else has left spans
	t.Run("from a caller", s.fromCaller)
	t.Run("recovered", s.recovered)
	t.Run("a caller is denied", s.callerDenied)
	t.Run("a client is denied", s.clientDenied)
}

// That clients connect, subscribe and stay leaves no span.
func (s *traced) fromClient(t *testing.T) {
	alice, bob, carol := s.follow(t, 0, "alice", "chat.a"), s.follow(t, 1, "bob", "chat.a"), s.follow(t, 1, "carol", "chat.a")
	began := time.Now()
	receipt, err := alice.Publish(limited(t), carillon.Publication{Channel: "chat.a", JSON: `"whisper"`, MessageID: "m1"})
	if err != nil {
		t.Fatal(err)
	}
	for _, user := range []*tracedUser{alice, bob, carol} {
		user.wantJSON(t, `"whisper"`)
	}
	id := s.awaitFound(t, "alice", "publish chat", map[string]string{"messaging.message.id": "m1"})
	s.wantTrace(t, id, began, aboutMessage("chat.a", "m1", receipt.Position.Offset), `
	publish chat PRODUCER of alice
		client publish chat SERVER of edge-0 user.id=alice
			authorize INTERNAL of edge-0 user.id=alice
				carillon.authz.v1.AuthorizationService/CheckPermissions CLIENT of edge-0
					carillon.authz.v1.AuthorizationService/CheckPermissions SERVER of presence
			send chat PRODUCER of edge-0 user.id=alice
				deliver chat CONSUMER of edge-0 carillon.recipients=1
					receive chat CONSUMER of alice
				deliver chat CONSUMER of edge-1 carillon.recipients=2
					receive chat CONSUMER of bob
					receive chat CONSUMER of carol`)
	for _, service := range []string{"publish", "presence", "edge-0", "edge-1"} {
		for _, other := range s.Find(t, service, "", nil) {
			if other != id {
				t.Errorf("%s has sent spans of something else: %s", service, tree(s.Trace(t, other)))
			}
		}
	}
}

// awaitFound waits until there is one trace, and no more, that is found so.
func (s *traced) awaitFound(t testing.TB, service, name string, attributes map[string]string) string {
	t.Helper()
	var found []string
	eventually(t, fmt.Sprintf("%s of %s with %v", name, service, attributes), func() error {
		if found = s.Find(t, service, name, attributes); len(found) != 1 {
			return fmt.Errorf("found %q, want one trace", found)
		}
		return nil
	})
	return found[0]
}

// wantTrace wants a trace to look so, its times to be in order, and all that is about its
// message to have these attributes.
func (s *traced) wantTrace(t testing.TB, id string, began time.Time, attributes map[string]string, drawn string) {
	t.Helper()
	spans := awaitTrace(t, s, id, drawn)
	wantOrder(t, spans, began)
	for _, span := range spans {
		if slices.Contains(messageSpans, span.Name) && !has(span, attributes) {
			t.Errorf("%s of %s has %v, want %v", span.Name, span.Service, span.Attributes, attributes)
		}
	}
}

func (s *traced) fromCaller(t *testing.T) {
	alice, bob := s.follow(t, 0, "alice", "chat.b"), s.follow(t, 1, "bob", "chat.b")
	began := time.Now()
	ctx, checkout := provider(t, s, "shop").Tracer("e2e").Start(limited(t), "checkout", trace.WithSpanKind(trace.SpanKindClient))
	receipt, err := s.call(ctx, t, "backend", publication("chat.b", "m2"))
	checkout.End()
	if err != nil {
		t.Fatal(err)
	}
	for _, user := range []*tracedUser{alice, bob} {
		if m := user.wantJSON(t, `"whisper"`); trace.SpanContextFromContext(m.In(t.Context())).TraceID() != checkout.SpanContext().TraceID() {
			t.Error("who handles the message is not told of its trace")
		}
	}
	s.wantTrace(t, checkout.SpanContext().TraceID().String(), began, aboutMessage("chat.b", "m2", receipt.GetOffset()), `
	checkout CLIENT of shop
		carillon.publish.v1.PublishService/Publish SERVER of publish user.id=service:backend
			send chat PRODUCER of publish user.id=service:backend
				deliver chat CONSUMER of edge-0 carillon.recipients=1
					receive chat CONSUMER of alice
				deliver chat CONSUMER of edge-1 carillon.recipients=1
					receive chat CONSUMER of bob`)
}

// A message that a client has missed shows in its trace how the client got it: from the
// ring of an edge that follows the channel, or from the store; and that goes back to the
// command that asked for it, of which else there would be no trace.
func (s *traced) recovered(t *testing.T) {
	alice := s.follow(t, 0, "alice", "chat.c")
	first, err := alice.Publish(limited(t), carillon.Publication{Channel: "chat.c", JSON: `"first"`})
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	ctx, note := alice.provider.Tracer("e2e").Start(limited(t), "note")
	missed, err := alice.Publish(ctx, carillon.Publication{Channel: "chat.c", JSON: `"missed"`, MessageID: "m3"})
	note.End()
	if err != nil {
		t.Fatal(err)
	}
	alice.wantJSON(t, `"first"`)
	alice.wantJSON(t, `"missed"`)
	for edge := range s.edges {
		s.follow(t, edge, "bob", "chat.c", first.Position).wantJSON(t, `"missed"`)
	}
	id := note.SpanContext().TraceID().String()
	s.wantTrace(t, id, began, aboutMessage("chat.c", "m3", missed.Position.Offset), `
	note INTERNAL of alice
		publish chat PRODUCER of alice
			client publish chat SERVER of edge-0 user.id=alice
				send chat PRODUCER of edge-0 user.id=alice
					deliver chat CONSUMER of edge-0 carillon.recipients=1
						receive chat CONSUMER of alice
					recover chat CONSUMER of edge-0 user.id=bob carillon.recovery.source=ring
						receive chat CONSUMER of bob
					recover chat CONSUMER of edge-1 user.id=bob carillon.recovery.source=store
						receive chat CONSUMER of bob`)
	for _, span := range s.Trace(t, id) {
		if span.Name != "recover chat" {
			continue
		}
		if len(span.Links) != 1 {
			t.Fatalf("recovered by %s, with the links %q", span.Service, span.Links)
		}
		awaitTrace(t, s, span.Links[0], "\n\tclient subscribe SERVER of "+span.Service+" user.id=bob")
	}
}

// What is refused is kept though its caller has not sampled it, and of that only what
// failed.
func (s *traced) callerDenied(t *testing.T) {
	began := time.Now()
	unsampled := func() (context.Context, string) {
		of := sdk.NewTracerProvider(sdk.WithSampler(sdk.NeverSample()))
		ctx, span := of.Tracer("e2e").Start(limited(t), "checkout")
		defer span.End() // it is recorded nowhere; what is called below it may come after
		return ctx, span.SpanContext().TraceID().String()
	}
	ctx, fine := unsampled()
	if _, err := s.call(ctx, t, "narrow", publication("chat.d", "")); err != nil {
		t.Fatal(err)
	}
	ctx, denied := unsampled()
	if _, err := s.call(ctx, t, "narrow", publication("news.today", "")); err == nil {
		t.Fatal("not denied")
	}
	wantOrder(t, awaitTrace(t, s, denied, `
	… carillon.publish.v1.PublishService/Publish SERVER of publish failed=CALLER_DENIED user.id=service:narrow carillon.rule=callers[1].publish
		send news PRODUCER of publish failed=CALLER_DENIED carillon.rule=callers[1].publish`), began)
	if spans := s.Trace(t, fine); len(spans) != 0 {
		t.Errorf("not sampled, nothing failed, and there is %s", tree(spans))
	}
}

// Whoever looks for a rule, or for a user, finds what it denied.
func (s *traced) clientDenied(t *testing.T) {
	alice := s.follow(t, 0, "alice", "chat.e")
	began := time.Now()
	ctx, note := alice.provider.Tracer("e2e").Start(limited(t), "note")
	_, err := alice.Publish(ctx, carillon.Publication{Channel: "news.today", JSON: "1"})
	note.End()
	if !refusedAs(err, "PERMISSION_DENIED", "POLICY_DENIED") {
		t.Fatal(err)
	}
	wantOrder(t, awaitTrace(t, s, note.SpanContext().TraceID().String(), `
	note INTERNAL of alice
		publish news PRODUCER of alice failed=POLICY_DENIED
			client publish news SERVER of edge-0 failed=POLICY_DENIED user.id=alice carillon.rule=news[0].publish
				authorize INTERNAL of edge-0 failed=POLICY_DENIED user.id=alice carillon.rule=news[0].publish
					carillon.authz.v1.AuthorizationService/CheckPermissions CLIENT of edge-0
						carillon.authz.v1.AuthorizationService/CheckPermissions SERVER of presence`), began)

	c := s.connect(t, s.edges[1], "bob") // who traces nothing
	if err := c.subscribe(t, "user.alice"); !refusedAs(err, "PERMISSION_DENIED", "POLICY_DENIED") {
		t.Fatal(err)
	}
	id := s.awaitFound(t, "edge-1", "client subscribe", map[string]string{"user.id": "bob", "carillon.rule": "user[0].subscribe"})
	wantOrder(t, awaitTrace(t, s, id, `
	client subscribe SERVER of edge-1 failed=POLICY_DENIED user.id=bob carillon.rule=user[0].subscribe
		authorize INTERNAL of edge-1 failed=POLICY_DENIED user.id=bob carillon.rule=user[0].subscribe`), began)
}
