package api_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	sdk "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.uber.org/goleak"

	"github.com/carillon-rt/carillon/services/edge"
	"github.com/carillon-rt/carillon/services/edge/console/api"
	"github.com/carillon-rt/carillon/services/edge/roster"
	"github.com/carillon-rt/carillon/services/internal/auth"
	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/control"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/message"
	"github.com/carillon-rt/carillon/services/internal/namespace"
	"github.com/carillon-rt/carillon/services/internal/tracing/tracingtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// somebody is an edge, a store and presence in which alice is in chat.lobby.
type somebody struct {
	published chan message.Publication
	hold      chan struct{} // Users waits for it, if there is one
}

func (somebody) Traffic(prefix string) []edge.ChannelTraffic {
	all := []edge.ChannelTraffic{
		{Channel: "chat.lobby", Subscribers: 2, Rates: edge.Rates{Messages: 2, Deliveries: 4, Bytes: 400}},
		{Channel: "chat.quiet", Subscribers: 9},
		{Channel: "news.all", Subscribers: 3, Rates: edge.Rates{Messages: 3, Deliveries: 9, Bytes: 90}},
	}
	return slices.DeleteFunc(all, func(c edge.ChannelTraffic) bool { return !strings.HasPrefix(string(c.Channel), prefix) })
}

func (s somebody) Channel(name channel.Name, _ int) (edge.ChannelHere, bool) {
	if name != "chat.lobby" {
		return edge.ChannelHere{}, false
	}
	here := edge.ChannelHere{Users: []edge.UserHere{{User: "alice", Connections: 2}}, Position: message.Position{Epoch: "E", Offset: 2}}
	here.Subscribers = 2
	return here, true
}

func (s somebody) Users(string, int) []edge.UserHere {
	if s.hold != nil {
		<-s.hold
	}
	return []edge.UserHere{{User: "alice", Connections: 2}}
}

func (somebody) OwnerOf(id string) (channel.User, bool) { return "alice", id == "C1" }

func (somebody) Look(_ context.Context, user channel.User, _, _ int) ([]edge.ConnectionHere, int) {
	if user != "alice" {
		return nil, 0
	}
	c := control.Connection{ID: "C1", User: "alice", Address: "203.0.113.7", ConnectedAt: time.UnixMilli(1000), Subscriptions: 1}
	return []edge.ConnectionHere{{Connection: c, QueueBytes: 7, Subscribed: []channel.Name{"chat.lobby"}}}, 1
}

func (somebody) Members(context.Context, channel.Name, int) ([]roster.Member, int, error) {
	return []roster.Member{{User: "alice", Connections: 2, Since: time.UnixMilli(2000)}}, 1, nil
}

func (somebody) User(_ context.Context, user channel.User) (api.Presences, error) {
	if user == "unlucky" {
		return api.Presences{}, fault.Unavailable(fault.PresenceUnavailable, nil, "away")
	}
	return api.Presences{Total: 1, Connections: []api.Elsewhere{{ID: "C9", EdgeID: "other", Since: time.UnixMilli(3000)}}}, nil
}

func (somebody) Bounds(context.Context, channel.Name) (message.Bounds, error) {
	return message.Bounds{Epochs: []message.EpochStart{{Epoch: "E"}}, First: 1, Last: 2}, nil
}

func (somebody) Latest(context.Context, channel.Name, message.Offset, int) (message.Offset, error) {
	return 0, nil
}

func (somebody) Read(_ context.Context, name channel.Name, after message.Offset, _ int) (message.Page, error) {
	all := []*message.Message{
		{
			Channel: name, Offset: 1, Time: time.Now(), Payload: message.Payload{Data: []byte(`{"a":1}`)}, Publisher: "bob",
			Traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
		},
		{Channel: name, Offset: 2, Previous: 1, Time: time.Now(), Payload: message.Payload{Data: []byte(strings.Repeat("é", 4000)), ContentType: "text/plain"}},
	}
	return message.Page{Messages: all[min(int(after), 2):], Reached: 2}, nil
}

func (s somebody) Publish(_ context.Context, p message.Publication) (message.Receipt, error) {
	s.published <- p
	return message.Receipt{Position: message.Position{Epoch: "E", Offset: 3}}, nil
}

// tokens are callers' names.
type tokens struct{}

func (tokens) Verify(_ context.Context, token string) (auth.Identity, error) {
	name, isShort := strings.CutSuffix(token, "-short")
	identity := auth.Identity{Kind: auth.ForCallers, Issuer: "services", Subject: name, ExpiresAt: time.Now().Add(time.Hour)}
	if isShort {
		identity.ExpiresAt = time.Now().Add(300 * time.Millisecond)
	}
	if name == "bad" {
		return identity, fault.New(fault.TokenSignatureInvalid, "", "no")
	}
	return identity, nil
}

type world struct {
	*testing.T

	api    *api.API
	server *httptest.Server
	edge   *somebody
	meter  metric.Meter
	reader *sdk.ManualReader
	spans  func() tracetest.SpanStubs
	stop   func()
	dev    bool
}

func start(t *testing.T, dev bool) *world {
	t.Helper()
	reader := sdk.NewManualReader()
	provider := sdk.NewMeterProvider(sdk.WithReader(reader))
	callers, err := auth.NewCallers([]auth.Caller{
		{Name: "on-call", Console: true, Publish: []string{"chat.{rest...}"}, History: []string{"chat.lobby"}, Presence: []string{"chat.lobby", "user.{id}"}},
		{Name: "onlooker", Console: true},
		{Name: "billing", Publish: []string{"{rest...}"}},
		{Name: "by-certificate", Certificate: "ops-1.example", Console: true, Publish: []string{"chat.{rest...}"}},
		{Name: "backend", Certificate: "backend.example", Publish: []string{"{rest...}"}},
	}, auth.Issuer{Name: "services", For: auth.ForCallers})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{T: t, api: api.New(), edge: &somebody{published: make(chan message.Publication, 100)}, meter: provider.Meter("test"), reader: reader, dev: dev}
	namespaces := namespace.NewSet([]namespace.Namespace{
		{
			Name: "chat", History: &namespace.History{MaxMessages: 10, MaxAge: time.Hour, MaxBytes: 1 << 20}, Presence: true, Partitions: 1, Replicas: 1,
			SlowConsumer: "disconnect", Rate: &namespace.Rate{Messages: 5, Per: time.Second}, Rules: []namespace.Rule{{Channel: "chat.{room}", Subscribe: "true"}},
		}, {Name: "cursor", Ephemeral: true}, {Name: "user", Ephemeral: true},
	})
	options := api.Options{
		Edge: w.edge, Store: w.edge, Presence: w.edge, Namespaces: func() namespace.Set { return namespaces }, Collect: reader.Collect,
		Callers: callers, Verifier: tokens{}, EdgeID: "edge-1", Version: "v1", Logger: slog.New(slog.DiscardHandler), Meter: w.meter,
		TraceURL: "https://jaeger.example/trace/{trace}", Deciders: func() api.Deciders {
			return api.Deciders{Who: api.ByPresence, Replicas: []api.Decider{{Address: "p0:1", Rules: api.RulesSame}, {Address: "p1:1"}}}
		},
	}
	options.Tracer, w.spans = tracingtest.Record(t, 1)
	if dev {
		options.Dev = &auth.Identity{Kind: auth.ForCallers, Issuer: "services", Subject: "on-call"}
	}
	if err := w.api.Open(options); err != nil {
		t.Fatal(err)
	}
	w.server = httptest.NewServer(w.api.Handler())
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan struct{})
	go func() {
		defer close(ran)
		w.api.Run(ctx)
	}()
	w.stop = func() { cancel(); <-ran }
	t.Cleanup(func() {
		w.stop()
		w.server.Close()
		http.DefaultClient.CloseIdleConnections()
	})
	return w
}

// open asks; headers are name, value pairs. A path after POST is posted to.
func (w *world) open(target, body string, headers ...string) *http.Response {
	w.Helper()
	method, path, posted := strings.Cut(target, " ")
	if !posted {
		method, path = http.MethodGet, target
	}
	r, err := http.NewRequestWithContext(w.Context(), method, w.server.URL+api.Prefix+path, strings.NewReader(body))
	if err != nil {
		w.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
		if headers[i] == "Host" {
			r.Host = headers[i+1]
		}
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { _ = response.Body.Close() })
	return response
}

// ask asks as a caller and returns the answer, or the reason of the refusal.
func (w *world) ask(caller, target, body string, headers ...string) (status int, answer map[string]any, reason string) {
	w.Helper()
	if caller != "" {
		headers = append(headers, "Authorization", "Bearer "+caller)
	}
	response := w.open(target, body, headers...)
	text, err := io.ReadAll(response.Body)
	if err != nil || json.Unmarshal(text, &answer) != nil || response.Header.Get("Cache-Control") != "no-store" {
		w.Fatalf("%s: %d %q, %v", target, response.StatusCode, text, err)
	}
	if refusal, ok := answer["error"].(map[string]any); ok {
		reason, _ = refusal["reason"].(string)
	}
	return response.StatusCode, answer, reason
}

func TestWhoMayLook(t *testing.T) {
	t.Parallel()
	w := start(t, false)
	for _, target := range []string{"session", "overview", "channels", "namespaces", "search?q=a", "users/alice", "channels/chat.lobby", "events", "stream", "POST send", "nowhere"} {
		for caller, want := range map[string]string{
			"": "401 TOKEN_MISSING", "bad": "401 TOKEN_SIGNATURE_INVALID", "stranger": "403 CALLER_UNKNOWN", "billing": "403 CALLER_DENIED",
		} {
			if status, answer, reason := w.ask(caller, target, ""); fmt.Sprint(status, " ", reason) != want || len(answer) != 1 {
				t.Errorf("%s as %q: %d %s, want %s", target, caller, status, reason, want)
			}
		}
	}
	status, session, _ := w.ask("on-call", "session", "")
	if status != 200 || session["mode"] != "ops" || session["caller"] != "on-call" || session["tryIt"] != false || session["tokenExpiresAt"] == nil ||
		session["traceUrl"] != "https://jaeger.example/trace/{trace}" || session["deciders"] != "presence" {
		t.Errorf("session: %d %v", status, session)
	}
	if rights := session["rights"].(map[string]any); fmt.Sprint(rights["publish"], rights["history"]) != "[chat.{rest...}] [chat.lobby]" {
		t.Errorf("rights: %v", rights)
	}
	if status, _, reason := w.ask("on-call", "nowhere", ""); status != 404 || reason != "PATH_UNKNOWN" {
		t.Errorf("nowhere: %d %s", status, reason)
	}
	if status, _, _ := w.ask("on-call", "POST session", ""); status != 405 {
		t.Errorf("a POST of what is to be got: %d", status)
	}
}

// In dev whoever is on this machine may look, and no other site's page.
func TestDev(t *testing.T) {
	t.Parallel()
	w := start(t, true)
	origin := w.server.URL
	for _, c := range []struct {
		target  string
		headers []string
		want    int
	}{
		{"session", nil, 200},
		{"session", []string{"Sec-Fetch-Site", "none"}, 200},
		{"session", []string{"Sec-Fetch-Site", "same-origin", "Origin", origin}, 200},
		{"session", []string{"Sec-Fetch-Site", "cross-site"}, 403},
		{"stream", []string{"Sec-Fetch-Site", "same-site"}, 403},
		{"session", []string{"Origin", "http://evil.example"}, 403},
		{"session", []string{"Host", "evil.example"}, 421},
		{"POST send", []string{"Content-Type", "application/json"}, 403},
		{"POST send", []string{"Content-Type", "application/json", "Origin", "http://evil.example"}, 403},
		{"POST send", []string{"Content-Type", "text/plain", "Origin", origin}, 415},
		{"POST send", []string{"Content-Type", "application/json", "Origin", origin}, 200},
	} {
		response := w.open(c.target, `{"channel":"chat.lobby","data":1}`, c.headers...)
		if response.StatusCode != c.want {
			t.Errorf("%s with %q: %d, want %d", c.target, c.headers, response.StatusCode, c.want)
		}
		_ = response.Body.Close()
	}
	if _, session, _ := w.ask("", "session", ""); session["mode"] != "dev" || session["tryIt"] != true {
		t.Errorf("session: %v", session)
	}
}

func TestViews(t *testing.T) {
	t.Parallel()
	w := start(t, false)
	w.api.Incident(edge.Incident{Kind: edge.Denied, Reason: fault.PolicyDenied, Channel: "chat.lobby", User: "alice", Rule: "chat[0].publish", TraceID: "0af7"})
	has := func(caller, target string, parts ...string) {
		t.Helper()
		_, answer, _ := w.ask(caller, target, "")
		text, err := json.Marshal(answer)
		if err != nil {
			t.Fatal(err)
		}
		for _, part := range parts {
			if !strings.Contains(string(text), part) {
				t.Errorf("%s lacks %s: %s", target, part, text)
			}
		}
	}
	has("on-call", "channels?limit=1", `"byDeliveries":[{"bytes":90,"channel":"news.all","deliveries":9,"messages":3,"subscribers":3}]`, `"bySubscribers":[{"bytes":0,"channel":"chat.quiet"`, `"total":3`)
	has("on-call", "namespaces", `"rules":[{"channel":"chat.{room}","history":"","name":"chat[0]"`, `"rate":{"bytes":0,"messages":5,"perMs":1000}`, `"channels":2`, `"subscribers":11`, `"name":"cursor"`)
	has("on-call", "namespaces", `"deciders":{"by":"presence","replicas":[{"address":"p0:1","rules":"same"},{"address":"p1:1"}]}`)
	has("on-call", "search?q=C1", `"connections":[{"connectionId":"C1","user":"alice"}]`, `"channels":[]`)
	has("on-call", "search?q=chat.l", `"channels":[{"channel":"chat.lobby","subscribers":2}]`)
	has("on-call", "users/alice", `"subscriptions":["chat.lobby"]`, `"queueBytes":7`, `"edgeId":"other","here":false`, `"rule":"chat[0].publish"`, `"total":1`)
	has("on-call", "users/unlucky", `"connections":[]`, `"presence":{"error":{"code":"UNAVAILABLE","message":"away","reason":"PRESENCE_UNAVAILABLE","retryAfterMs":1000}}`)
	has("onlooker", "users/alice", `"presence":{"error":{`, `CALLER_DENIED`, `"address":"203.0.113.7"`)
	has("on-call", "channels/chat.lobby", `"rule":"chat[0]"`, `"here":2`, `"members":[{"connections":2,"since":2000,"user":"alice"}]`, `"data":{"a":1}`,
		`"traceId":"0af7651916cd43dd8448eb211c80319c"`, `"truncated":true`, `"traceId":"0af7"`)
	has("onlooker", "channels/chat.lobby", `"members":{"error"`, `"messages":{"error"`, `"last":2`)
	has("on-call", "channels/cursor.a", `"members":null`, `"position":null`, `"messages":null`, `"subscribers":0`)
	has("on-call", "events?user=alice&kind=denied", `"id":1`)
	has("on-call", "events?user=bob", `"events":[]`)
	has("on-call", "events?after=1", `"events":[]`)
	for target, want := range map[string]string{
		"channels/none.x": "404 NAMESPACE_UNKNOWN", "channels/x": "400 CHANNEL_INVALID", "search": "400 FIELD_INVALID", "search?q=a&limit=51": "400 FIELD_INVALID",
		"channels?limit=0": "400 FIELD_INVALID", "events?after=x": "400 FIELD_INVALID", "users/%00": "400 FIELD_INVALID", "stream?after=-1": "400 FIELD_INVALID",
	} {
		if status, _, reason := w.ask("on-call", target, ""); fmt.Sprint(status, " ", reason) != want {
			t.Errorf("%s: %d %s, want %s", target, status, reason, want)
		}
	}
}

func TestSendRefused(t *testing.T) {
	t.Parallel()
	w := start(t, false)
	send := func(caller, body string) (int, map[string]any, string) {
		t.Helper()
		return w.ask(caller, "POST send", body, "Content-Type", "application/json")
	}
	for body, want := range map[string]string{
		`{"channel":"chat.lobby"}`: "400 FIELD_REQUIRED", `{"data":1}`: "400 FIELD_REQUIRED", `{"channel":"news.all","data":1}`: "404 NAMESPACE_UNKNOWN",
		`{"channel":"chat.lobby","user":"a","data":1}`:     "400 FIELD_INVALID",
		`{"channel":"chat.` + strings.Repeat("x", 300<<10): "413 PAYLOAD_TOO_LARGE",
	} {
		if status, _, reason := send("on-call", body); fmt.Sprint(status, " ", reason) != want {
			t.Errorf("%.60s: %d %s, want %s", body, status, reason, want)
		}
	}
	if status, _, reason := send("onlooker", `{"channel":"chat.lobby","data":1}`); status != 403 || reason != "CALLER_DENIED" {
		t.Errorf("who may not: %d %s", status, reason)
	}
	if status, _, reason := send("onlooker", `{"channel":"chat.lobby","dat":1}`); status != 400 || reason != "PAYLOAD_INVALID" {
		t.Errorf("an unknown member: %d %s", status, reason)
	}
	if len(w.edge.published) > 0 {
		t.Fatal("published what was refused")
	}
}

func TestSend(t *testing.T) {
	t.Parallel()
	w := start(t, false)
	send := func(caller, body string) (int, map[string]any, string) {
		t.Helper()
		return w.ask(caller, "POST send", body, "Content-Type", "application/json")
	}
	status, answer, reason := send("on-call", `{"channel":"chat.lobby","data":{"text":"hello"}}`)
	if status != 200 || answer["offset"] != 3. || answer["epoch"] != "E" {
		t.Fatalf("%d %v %s", status, answer, reason)
	}
	p := <-w.edge.published
	if p.Channel != "chat.lobby" || string(p.Payload.Data) != `{"text":"hello"}` || p.Publisher != (message.Publisher{Issuer: "services", Name: "service:on-call"}) || p.ID != answer["messageId"] {
		t.Errorf("published %+v", p)
	}
	refused := 0
	for range 10 {
		if status, _, _ := send("on-call", `{"channel":"chat.lobby","data":1}`); status == http.StatusTooManyRequests {
			refused++
		}
	}
	if refused == 0 {
		t.Error("nobody is held back who sends all the time")
	}
	if _, answer, _ := w.ask("on-call", "events?kind=sent", ""); len(answer["events"].([]any)) != 1+10-refused {
		t.Errorf("%d refused: %v", refused, answer)
	}
}

func TestRequestsAreBounded(t *testing.T) {
	t.Parallel()
	w := start(t, false)
	w.edge.hold = make(chan struct{})
	statuses := make(chan int)
	for range 20 {
		go func() {
			r, _ := http.NewRequestWithContext(context.Background(), http.MethodGet, w.server.URL+api.Prefix+"search?q=a", nil)
			r.Header.Set("Authorization", "Bearer on-call")
			response, err := http.DefaultClient.Do(r)
			if err != nil {
				statuses <- 0
				return
			}
			_ = response.Body.Close()
			statuses <- response.StatusCode
		}()
	}
	counts := map[int]int{}
	for range 4 {
		counts[<-statuses]++
	}
	close(w.edge.hold)
	for range 16 {
		counts[<-statuses]++
	}
	if counts[429] != 4 || counts[200] != 16 {
		t.Errorf("answers %v", counts)
	}
	asked := 0
	for range 200 {
		if status, _, _ := w.ask("on-call", "overview", ""); status == 429 {
			break
		}
		asked++
	}
	if asked > 150 {
		t.Error("nobody is held back who asks all the time")
	}
}

// reading is a stream that is read.
type reading struct {
	t    *testing.T
	text *bufio.Scanner
}

func (r reading) next() (name string, data map[string]any) {
	r.t.Helper()
	for r.text.Scan() {
		switch line := r.text.Text(); {
		case strings.HasPrefix(line, "event: "):
			name = line[len("event: "):]
		case strings.HasPrefix(line, "data: "):
			if err := json.Unmarshal([]byte(line[len("data: "):]), &data); err != nil {
				r.t.Fatal(err)
			}
		case line == "":
			return name, data
		}
	}
	return "", nil
}

// until reads up to an event of that name.
func (r reading) until(want string) map[string]any {
	r.t.Helper()
	for {
		name, data := r.next()
		switch name {
		case want:
			return data
		case "":
			r.t.Fatalf("the stream has ended before %q: %v", want, r.text.Err())
		}
	}
}

func (w *world) read(caller, query string) reading {
	w.Helper()
	response := w.open("stream"+query, "", "Authorization", "Bearer "+caller)
	if response.StatusCode != 200 || response.Header.Get("Content-Type") != "text/event-stream" {
		w.Fatalf("stream: %d %s", response.StatusCode, response.Header.Get("Content-Type"))
	}
	text := bufio.NewScanner(response.Body)
	text.Buffer(nil, 1<<20)
	return reading{w.T, text}
}

func TestStream(t *testing.T) {
	t.Parallel()
	w := start(t, false)
	opened, err := w.meter.Int64Counter("carillon.edge.connections.opened")
	if err != nil {
		t.Fatal(err)
	}
	closes, err := w.meter.Int64Counter("carillon.edge.closes")
	if err != nil {
		t.Fatal(err)
	}
	w.api.Incident(edge.Incident{Kind: edge.Refused, Reason: fault.TokenExpired})
	r := w.read("on-call", "")
	for _, want := range []string{"overview", "events", "channels"} {
		if name, data := r.next(); name != want || data == nil {
			t.Fatalf("%q, want %q", name, want)
		}
	}
	r.until("sample")
	opened.Add(t.Context(), 30)
	closes.Add(t.Context(), 2, metric.WithAttributes(attribute.Int("code", 4450), attribute.String("reason", "slow_consumer")))
	w.api.Incident(edge.Incident{Kind: edge.Denied, Rule: "chat[0].publish", Lasted: time.Second})
	events := r.until("events")["events"].([]any)
	if one := events[0].(map[string]any); len(events) != 1 || one["rule"] != "chat[0].publish" || one["id"] != 2. || one["seconds"] != 1. {
		t.Errorf("events %v", events)
	}
	for {
		last := r.until("sample")
		if of := last["sample"].(map[string]any); of["opened"].(float64) > 0 {
			if of["closed"] != of["opened"] || of["latencyP50"] != nil || of["goroutines"].(float64) < 1 || of["memoryBytes"].(float64) < 1 {
				t.Errorf("sample %v", of)
			}
			if closes := fmt.Sprint(last["window"].(map[string]any)["closes"]); closes != "[map[by:slow_consumer code:4450 count:2]]" {
				t.Errorf("closes %v", closes)
			}
			break
		}
	}
	r.until("channels")

	again := w.read("on-call", "?after=1")
	again.until("overview")
	if events := again.until("events")["events"].([]any); len(events) != 1 {
		t.Errorf("after the first: %v", events)
	}
	w.stop()
	for _, r := range []reading{r, again} {
		if reason := r.until("end")["error"].(map[string]any)["reason"]; reason != "DRAINING" {
			t.Errorf("ended by %v", reason)
		}
	}
	if status, _, reason := w.ask("on-call", "session", ""); status != 503 || reason != "DRAINING" {
		t.Errorf("afterwards: %d %s", status, reason)
	}
}

func TestStreamEndsWithTheToken(t *testing.T) {
	t.Parallel()
	w := start(t, false)
	if reason := w.read("on-call-short", "").until("end")["error"].(map[string]any)["reason"]; reason != "TOKEN_EXPIRED" {
		t.Errorf("ended by %v", reason)
	}
}

func TestStreamsAreBounded(t *testing.T) {
	t.Parallel()
	w := start(t, false)
	for range 32 {
		w.read("on-call", "")
	}
	if status, _, reason := w.ask("on-call", "stream", ""); status != 429 || reason != "RATE_LIMITED" {
		t.Errorf("one more: %d %s", status, reason)
	}
	if status, _, _ := w.ask("on-call", "session", ""); status != 200 {
		t.Errorf("beside the streams: %d", status)
	}
}
