package e2e_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	publishv1 "github.com/carillon-rt/carillon/gen/carillon/publish/v1"
	"github.com/carillon-rt/carillon/services/internal/telemetry/telemetrytest"
)

const publishService = "carillon.publish.v1.PublishService/"

// tracedPublishing is a publish role whose spans are collected: of traces that begin there
// all, of others those that their callers have sampled.
type tracedPublishing struct {
	*system
	collector *telemetrytest.Collector
	client    publishv1.PublishServiceClient
}

func startTracedPublishing(t *testing.T) *tracedPublishing {
	t.Helper()
	address := reserve(t)
	startNATS(t, t.TempDir(), address)
	c := newCluster(t, address)
	c.narrow(t)
	p := &tracedPublishing{collector: telemetrytest.New(t)}
	role := c.start(t, "publish", "--telemetry.endpoint="+p.collector.Endpoint(), "--telemetry.sample-ratio=1")
	role.ready(t)
	p.system = c.system(t, role)
	conn, err := grpc.NewClient(p.publishers[0], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	p.client = publishv1.NewPublishServiceClient(conn)
	return p
}

// as is a context for calls of a caller that are part of a trace; "": of none.
func (p *tracedPublishing) as(t *testing.T, caller, traceparent string) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+p.token(t, "service", caller))
	if traceparent != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "traceparent", traceparent)
	}
	return ctx
}

// Of a traceparent the ids.
func traceOf(traceparent string) string { return traceparent[3:35] }
func spanOf(traceparent string) string  { return traceparent[36:52] }

// madeUp is the n-th trace of a caller.
func madeUp(n int, sampled string) string { return fmt.Sprintf("00-%032x-%016x-%s", n, n, sampled) }

func secretMessage(channel, traceparent string) *publishv1.PublishRequest {
	return &publishv1.PublishRequest{
		Target: &publishv1.PublishRequest_Channel{Channel: channel}, Traceparent: traceparent,
		Payload: &publishv1.PublishRequest_Json{Json: `"whisper"`}, MessageId: traceparent,
	}
}

// chain wants of a trace spans of these names, each the child of the one before it, the
// first that of the caller's, and returns them.
func (p *tracedPublishing) chain(t *testing.T, traceparent string, names ...string) []telemetrytest.Span {
	t.Helper()
	spans := p.collector.AwaitTrace(t, traceOf(traceparent), names...)
	parent := spanOf(traceparent)
	var found []telemetrytest.Span
	for _, name := range names {
		i := slices.IndexFunc(spans, func(s telemetrytest.Span) bool { return s.Name == name && s.Parent == parent })
		if i < 0 {
			t.Fatalf("there is no %q whose parent is %s: %+v", name, parent, spans)
		}
		if before := len(found) - 1; before >= 0 && (spans[i].Start.Before(found[before].Start) || spans[i].End.After(found[before].End)) {
			t.Errorf("%q is not within %q: %+v", name, found[before].Name, spans)
		}
		found, parent = append(found, spans[i]), spans[i].ID
	}
	return found
}

func TestPublishesAreTraced(t *testing.T) {
	t.Parallel()
	p := startTracedPublishing(t)
	t.Run("unary", p.unary)
	t.Run("HTTP", p.http)
	t.Run("batch", p.batch)
	t.Run("stream", p.stream)
	t.Run("denied", p.denied)
	for _, span := range p.collector.Spans() {
		for key, value := range span.Attributes {
			if strings.Contains(value, "whisper") || strings.Contains(value, "eyJ") {
				t.Errorf("%s has %s: %s", span.Name, key, value)
			}
		}
		if span.Trace == traceOf(madeUp(9, "00")) {
			t.Errorf("not sampled, and recorded: %+v", span)
		}
	}
	p.collector.AwaitMetric(t, "carillon.rpc.calls")
	p.collector.AwaitMetric(t, "carillon.publish.bytes")
	p.collector.AwaitMetric(t, "carillon.nats.connected")
}

func (p *tracedPublishing) unary(t *testing.T) {
	if _, err := p.client.Publish(p.as(t, "backend", madeUp(9, "00")), secretMessage("chat.lobby", "")); err != nil {
		t.Fatal(err)
	}
	if _, err := p.client.Publish(p.as(t, "backend", madeUp(1, "01")), secretMessage("chat.lobby", "")); err != nil {
		t.Fatal(err)
	}
	spans := p.chain(t, madeUp(1, "01"), publishService+"Publish", "send chat")
	call, send := spans[0], spans[1]
	if call.Kind != "SERVER" || call.Failed != "" || call.Attributes["rpc.response.status_code"] != "OK" || call.Attributes["user.id"] != "service:backend" {
		t.Errorf("the call: %+v", call)
	}
	if a := send.Attributes; send.Kind != "PRODUCER" || a["messaging.destination.name"] != "chat.lobby" || a["carillon.offset"] == "" ||
		a["carillon.epoch"] == "" || a["messaging.message.body.size"] != "9" || a["user.id"] != "service:backend" {
		t.Errorf("the message: %+v", send)
	}
	// Nobody has said of what it is part: a trace of its own.
	if _, err := p.client.Publish(p.as(t, "backend", ""), secretMessage("news.today", "")); err != nil {
		t.Fatal(err)
	}
	news := p.collector.Await(t, "the news", func(s telemetrytest.Span) bool { return s.Name == "send news" })
	root := p.collector.AwaitTrace(t, news.Trace, publishService+"Publish")[0]
	if root.Parent != "" || news.Parent != root.ID {
		t.Errorf("%+v within %+v", news, root)
	}
}

func (p *tracedPublishing) http(t *testing.T) {
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+p.publishersHTTP[0]+"/v1/publish",
		strings.NewReader(`{"channel":"chat.lobby","data":"whisper"}`))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+p.token(t, "service", "backend"))
	request.Header.Set("Traceparent", madeUp(2, "01"))
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(response.Body)
	_ = response.Body.Close()
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("%s %s: %v", response.Status, body, err)
	}
	p.chain(t, madeUp(2, "01"), publishService+"Publish", "send chat")
}

// Each message of a batch is a span; one with a trace of its own is of that, with a link
// to the call's.
func (p *tracedPublishing) batch(t *testing.T) {
	answer, err := p.client.PublishBatch(p.as(t, "narrow", madeUp(3, "01")), &publishv1.PublishBatchRequest{Messages: []*publishv1.PublishRequest{
		secretMessage("chat.lobby", ""), secretMessage("chat.lobby", madeUp(4, "01")), secretMessage("news.today", ""),
	}})
	if err != nil || answer.GetResults()[2].GetError() == nil || answer.GetResults()[1].GetError() != nil {
		t.Fatalf("%v %v", answer, err)
	}
	p.chain(t, madeUp(3, "01"), publishService+"PublishBatch", "send chat")
	own := p.chain(t, madeUp(4, "01"), "send chat")[0]
	if !slices.Equal(own.Links, []string{traceOf(madeUp(3, "01"))}) {
		t.Errorf("links %v", own.Links)
	}
	refused := p.chain(t, madeUp(3, "01"), publishService+"PublishBatch", "send news")[1]
	if refused.Failed != "CALLER_DENIED" || refused.Attributes["carillon.rule"] != "callers[1].publish" {
		t.Errorf("the refused one: %+v", refused)
	}
}

// Messages of a stream are traces of their own, or of whoever made them, that go back to
// the stream's.
func (p *tracedPublishing) stream(t *testing.T) {
	stream, err := p.client.PublishStream(p.as(t, "backend", madeUp(5, "01")))
	if err != nil {
		t.Fatal(err)
	}
	for id, traceparent := range []string{"", madeUp(6, "01")} {
		if err := stream.Send(&publishv1.PublishStreamRequest{Id: uint64(id + 1), Message: secretMessage("cursor.doc", traceparent)}); err != nil {
			t.Fatal(err)
		}
		if answer, err := stream.Recv(); err != nil || answer.GetError() != nil {
			t.Fatalf("%v %v", answer, err)
		}
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != io.EOF {
		t.Fatal(err)
	}
	p.chain(t, madeUp(5, "01"), publishService+"PublishStream")
	back := []string{traceOf(madeUp(5, "01"))}
	if own := p.chain(t, madeUp(6, "01"), "send cursor")[0]; !slices.Equal(own.Links, back) {
		t.Errorf("links %v", own.Links)
	}
	p.collector.Await(t, "a trace of its own", func(s telemetrytest.Span) bool {
		return s.Name == "send cursor" && s.Parent == "" && slices.Equal(s.Links, back)
	})
}

// What is refused is recorded though nobody samples it, with the rule, which stands in
// the log too, and the trace.
func (p *tracedPublishing) denied(t *testing.T) {
	if _, err := p.client.Publish(p.as(t, "narrow", madeUp(7, "00")), secretMessage("news.today", "")); err == nil {
		t.Fatal("not denied")
	}
	call := p.chain(t, madeUp(7, "00"), publishService+"Publish")[0]
	if call.Failed != "CALLER_DENIED" || call.Attributes["carillon.rule"] != "callers[1].publish" || call.Attributes["error.type"] != "CALLER_DENIED" ||
		call.Attributes["rpc.response.status_code"] != "PERMISSION_DENIED" {
		t.Errorf("%+v", call)
	}
	p.ops[0].line(t, &p.ops[0].stderr, `"rule":"callers[1].publish"`, `"trace_id":"`+traceOf(madeUp(7, "00"))+`"`)
}
