package publish_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	publishv1 "github.com/carillon-rt/carillon/gen/carillon/publish/v1"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/message"
	"github.com/carillon-rt/carillon/services/internal/rpc"
	"github.com/carillon-rt/carillon/services/internal/twin"
	"github.com/carillon-rt/carillon/services/publish"
)

func TestPublish(t *testing.T) {
	t.Parallel()
	store := &recorder{store: natsStore(t)}
	a := start(t, store)
	ctx := as(t.Context(), callerToken(t, "billing"))
	first, err := a.client.Publish(ctx, &publishv1.PublishRequest{
		Target:    &publishv1.PublishRequest_Channel{Channel: "chat.lobby"},
		Payload:   &publishv1.PublishRequest_Json{Json: ` { "text" : "hello" } `},
		Headers:   map[string]string{"Kind": "greeting"},
		MessageId: "m-1",
	})
	if err != nil {
		t.Fatal(err)
	}
	if first.GetOffset() < 1 || first.GetEpoch() == "" || first.GetDuplicate() {
		t.Errorf("first = %v, want an offset and an epoch", first)
	}
	status, _, text := a.post(t, "Bearer "+callerToken(t, "billing"),
		`{"channel":"chat.lobby","data":{"text":"hello"},"headers":{"Kind":"greeting"},"messageId":"m-1"}`)
	want := fmt.Sprintf(`{"epoch":%q,"offset":%d,"duplicate":true}`, first.GetEpoch(), first.GetOffset())
	if status != 200 || text != want {
		t.Errorf("the same over HTTP = %d %s, want 200 %s", status, text, want)
	}
	for i, got := range store.published() {
		if got.Channel != "chat.lobby" || string(got.Payload.Data) != `{"text":"hello"}` || !got.Payload.IsJSON() || got.ID != "m-1" ||
			got.Headers["Kind"] != "greeting" || got.Publisher != (message.Publisher{Issuer: "services", Name: "service:billing"}) {
			t.Errorf("publication %d = %+v", i, got)
		}
	}
}

func TestPublishToAUser(t *testing.T) {
	t.Parallel()
	store := &recorder{store: natsStore(t)}
	a := start(t, store)
	_, err := a.client.Publish(as(t.Context(), callerToken(t, "billing")), &publishv1.PublishRequest{
		Target: &publishv1.PublishRequest_UserId{UserId: "ann.b@example"}, Payload: &publishv1.PublishRequest_Json{Json: "null"},
	})
	if err != nil {
		t.Fatal(err)
	}
	status, _, text := a.post(t, "Bearer "+callerToken(t, "billing"),
		`{"userId":"ann.b@example","dataBase64":"AP8=","contentType":"image/png"}`)
	if status != 200 || !strings.Contains(text, `"duplicate":false`) {
		t.Errorf("bytes over HTTP = %d %s", status, text)
	}
	got := store.published()
	if got[0].Channel != "user.ann%2Eb@example" || string(got[0].Payload.Data) != "null" {
		t.Errorf("JSON = %+v, want null for the inbox", got[0])
	}
	if got[1].Channel != "user.ann%2Eb@example" || string(got[1].Payload.Data) != "\x00\xff" || got[1].Payload.ContentType != "image/png" {
		t.Errorf("bytes = %+v, want image/png for the inbox", got[1])
	}
}

func TestPublishInAnEphemeralNamespace(t *testing.T) {
	t.Parallel()
	store := &recorder{store: natsStore(t)}
	a := start(t, store)
	const want = `{"epoch":"","offset":0,"duplicate":false}`
	for range 2 { // the same id is no duplicate: there is nothing to compare with
		status, header, text := a.post(t, "Bearer "+callerToken(t, "billing"), `{"channel":"cursor.doc","data":[1,2],"messageId":"m"}`)
		if status != 200 || text != want || header.Get("Content-Type") != "application/json" {
			t.Errorf("publish = %d %q %s, want %s", status, header.Get("Content-Type"), text, want)
		}
	}
	if got := store.published()[0]; got.ID != "m" {
		t.Errorf("id = %q, want it passed on", got.ID)
	}
}

func TestErrorsOfTheStore(t *testing.T) {
	t.Parallel()
	var refusal error
	a := start(t, storeFunc(func(context.Context, message.Publication) (message.Receipt, error) {
		return message.Receipt{}, refusal
	}))
	token := callerToken(t, "billing")
	for _, test := range []struct {
		refusal error
		status  int
		body    string
		retry   string
	}{
		{
			fault.Unavailable(fault.StoreUnavailable, io.ErrClosedPipe, "messages cannot be stored now"), 503,
			`{"error":{"code":"UNAVAILABLE","reason":"STORE_UNAVAILABLE","message":"messages cannot be stored now","retryAfterMs":1000}}`, "1",
		},
		{
			&fault.Error{Reason: fault.RateLimited, Message: "slow down", RetryAfter: 1500 * time.Millisecond}, 429,
			`{"error":{"code":"RESOURCE_EXHAUSTED","reason":"RATE_LIMITED","message":"slow down","retryAfterMs":1500}}`, "2",
		},
		{
			fault.New(fault.MessageIDReused, "messageId", "reused"), 409,
			`{"error":{"code":"ALREADY_EXISTS","reason":"MESSAGE_ID_REUSED","message":"reused","field":"messageId"}}`, "",
		},
		{io.ErrClosedPipe, 500, `{"error":{"code":"INTERNAL","reason":"INTERNAL","message":"internal error"}}`, ""},
		{context.DeadlineExceeded, 504, `{"error":{"code":"DEADLINE_EXCEEDED","reason":"TIMEOUT","message":"the deadline of the call passed"}}`, ""},
	} {
		refusal = test.refusal
		status, header, text := a.post(t, "Bearer "+token, `{"channel":"chat.lobby","data":1}`)
		if status != test.status || text != test.body+"\n" || header.Get("Retry-After") != test.retry {
			t.Errorf("%v = %d %sRetry-After %q, want %d %s %q", test.refusal, status, text, header.Get("Retry-After"), test.status, test.body, test.retry)
		}
	}
}

// What never reached the gRPC server is not in its log.
func TestServerAway(t *testing.T) {
	t.Parallel()
	memory := rpc.NewMemory()
	if err := memory.Close(); err != nil {
		t.Fatal(err)
	}
	conn, err := memory.Dial(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var log bytes.Buffer
	handler, err := twin.New(conn, slog.New(slog.NewTextHandler(&log, nil)), publish.Twin())
	if err != nil {
		t.Fatal(err)
	}
	request := httptest.NewRequest(http.MethodPost, "/v1/publish", strings.NewReader(`{"channel":"chat.lobby","data":1}`))
	request.Header.Set("Authorization", "Bearer x")
	answer := httptest.NewRecorder()
	handler.ServeHTTP(answer, request)
	if got := httpRefusal(t, answer.Body.String()); answer.Code != 503 || got.reason != "STORE_UNAVAILABLE" {
		t.Errorf("%d %+v, want 503 STORE_UNAVAILABLE", answer.Code, got)
	}
	if text := log.String(); !strings.Contains(text, "reason=STORE_UNAVAILABLE") || !strings.Contains(text, "cause=") {
		t.Errorf("the log does not say why:\n%s", text)
	}
}

func TestStopLetsARequestFinish(t *testing.T) {
	t.Parallel()
	started, finish := make(chan struct{}), make(chan struct{})
	a := start(t, storeFunc(func(ctx context.Context, _ message.Publication) (message.Receipt, error) {
		close(started)
		<-finish
		return message.Receipt{Position: message.Position{Epoch: "e", Offset: 3}}, ctx.Err()
	}))
	go func() {
		<-started
		a.stop()
		close(finish)
	}()
	status, _, text := a.post(t, "Bearer "+callerToken(t, "billing"), `{"channel":"chat.lobby","data":1}`)
	if want := `{"epoch":"e","offset":3,"duplicate":false}`; status != 200 || text != want {
		t.Errorf("the running request = %d %s, want %s", status, text, want)
	}
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	a := start(t, natsStore(t))
	ctx := as(t.Context(), callerToken(t, "anywhere"))
	for _, channel := range []string{"chat.lobby", "chat.lobby", "nowhere.lobby", "chat", "chat.*"} {
		_, _ = a.client.Publish(ctx, &publishv1.PublishRequest{
			Target: &publishv1.PublishRequest_Channel{Channel: channel}, Payload: &publishv1.PublishRequest_Json{Json: "1"}, MessageId: "m",
		})
	}
	want := map[string]int64{
		"carillon.publish.bytes{namespace=chat}": 1, "carillon.publish.duration{namespace=chat}": 2, "carillon.publish.duration{namespace=}": 3,
		"carillon.publish.messages{namespace=,outcome=channel_invalid}": 2, "carillon.publish.messages{namespace=,outcome=namespace_unknown}": 1,
		"carillon.publish.messages{namespace=chat,outcome=duplicate}": 1, "carillon.publish.messages{namespace=chat,outcome=stored}": 1,
	}
	if got := a.measured(); !maps.Equal(got, want) {
		t.Errorf("metrics %v, want %v", got, want)
	}
}

func TestLogHasNoSecrets(t *testing.T) {
	t.Parallel()
	a := start(t, storeFunc(func(context.Context, message.Publication) (message.Receipt, error) {
		return message.Receipt{}, io.ErrClosedPipe
	}))
	token := callerToken(t, "billing")
	for _, body := range []string{`{"channel":"chat.lobby","data":"top secret"}`, `{"channel":"chat.lobby","data":"top secret`} {
		a.post(t, "Bearer "+token, body)
	}
	a.post(t, "Basic "+token, `{"channel":"chat.lobby","data":"top secret"}`)
	text := a.log.String()
	if strings.Contains(text, token) || strings.Contains(text, "top secret") {
		t.Errorf("the log has a token or a payload:\n%s", text)
	}
	for _, want := range []string{"reason=INTERNAL", "caller=billing", "peer=127.0.0.1 ", "reason=PAYLOAD_INVALID", "reason=TOKEN_MALFORMED"} {
		if !strings.Contains(text, want) {
			t.Errorf("the log has no %s:\n%s", want, text)
		}
	}
}

func BenchmarkPublish(b *testing.B) {
	receipt := message.Receipt{Position: message.Position{Epoch: "e", Offset: 1}}
	a := start(b, storeFunc(func(context.Context, message.Publication) (message.Receipt, error) { return receipt, nil }))
	ctx := as(b.Context(), callerToken(b, "billing"))
	request := &publishv1.PublishRequest{
		Target:    &publishv1.PublishRequest_Channel{Channel: "chat.lobby"},
		Payload:   &publishv1.PublishRequest_Json{Json: `{"text":"hello, hello, hello"}`},
		MessageId: "m-1",
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := a.client.Publish(ctx, request); err != nil {
			b.Fatal(err)
		}
	}
}
