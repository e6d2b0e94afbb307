package publish_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	clientv1 "github.com/carillon-rt/carillon/gen/carillon/client/v1"
	publishv1 "github.com/carillon-rt/carillon/gen/carillon/publish/v1"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/message"
)

func batchOf(messages ...*publishv1.PublishRequest) *publishv1.PublishBatchRequest {
	return &publishv1.PublishBatchRequest{Messages: messages}
}

// resultRefusal is how one message of several was refused; zero if it was not.
func resultRefusal(e *publishv1.PublishError) refusal {
	if e == nil {
		return refusal{}
	}
	return refusal{
		code: e.GetCode(), reason: strings.TrimPrefix(e.GetReason().String(), "ERROR_REASON_"), field: e.GetField(), message: e.GetMessage(),
	}
}

func TestBatch(t *testing.T) {
	t.Parallel()
	a := start(t, natsStore(t))
	ctx := as(t.Context(), callerToken(t, "billing"))
	messageID := func(id string) func(*publishv1.PublishRequest) {
		return func(r *publishv1.PublishRequest) { r.MessageId = id }
	}
	answer, err := a.client.PublishBatch(ctx, batchOf(
		with(toChannel("chat.a", `1`), messageID("m-1")),
		toChannel("chta.a", `2`),
		with(toChannel("chat.a", `3`), messageID("m-3")),
		toChannel("cursor.a", `4`),
		with(toChannel("chat.a", `1`), messageID("m-1")),
		toChannel("chat.a", `{`),
		with(toChannel("chat.a", `5`), messageID("m-3")),
		with(toChannel("", `6`), func(r *publishv1.PublishRequest) { r.Target = &publishv1.PublishRequest_UserId{UserId: "ann"} }),
		with(toChannel("chat.b", `7`), func(r *publishv1.PublishRequest) { r.ExpectedLastOffset = new(uint64(99)) }),
	))
	if err != nil {
		t.Fatal(err)
	}
	r := answer.GetResults()
	if len(r) != 9 {
		t.Fatalf("%d results", len(r))
	}
	for i, reason := range map[int]fault.Reason{1: fault.NamespaceUnknown, 5: fault.PayloadInvalid, 6: fault.MessageIDReused, 8: fault.ChannelMoved} {
		if got := resultRefusal(r[i].GetError()); got.reason != string(reason) {
			t.Errorf("result %d: %+v, want %s", i, got, reason)
		}
	}
	first, third := r[0].GetPublished(), r[2].GetPublished()
	if first.GetOffset() < 1 || first.GetEpoch() == "" || first.GetDuplicate() || third.GetOffset() <= first.GetOffset() {
		t.Errorf("the first %v, the third %v; want them stored in order", first, third)
	}
	if again := r[4].GetPublished(); again.GetOffset() != first.GetOffset() || !again.GetDuplicate() {
		t.Errorf("the repetition: %v, want a duplicate of %v", r[4], first)
	}
	if r[3].GetPublished() == nil || r[3].GetPublished().GetOffset() != 0 || r[7].GetPublished().GetOffset() == 0 {
		t.Errorf("ephemeral %v, inbox %v", r[3], r[7])
	}
}

func TestMulticast(t *testing.T) {
	t.Parallel()
	a := start(t, natsStore(t))
	ctx := as(t.Context(), callerToken(t, "billing"))
	answer, err := a.client.PublishBatch(ctx, &publishv1.PublishBatchRequest{Multicast: &publishv1.Multicast{
		Channels: []string{"chat.a", "chat", "chat.b", "chat.a"}, UserIds: []string{"ann", "", "bob"},
		Payload: &publishv1.Multicast_Json{Json: ` {"a": 1} `}, Headers: map[string]string{"Kind": "news"}, MessageId: "m",
		Ttl: durationpb.New(time.Minute),
	}})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range answer.GetResults() {
		e := resultRefusal(r.GetError())
		got = append(got, fmt.Sprintf("%t %t %s %s", r.GetPublished().GetOffset() > 0, r.GetPublished().GetDuplicate(), e.reason, e.field))
	}
	want := []string{
		"true false  ", "false false CHANNEL_INVALID channel", "true false  ", "true true  ",
		"true false  ", "false false FIELD_REQUIRED userId", "true false  ",
	}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	for _, request := range []*publishv1.ListMessagesRequest{
		{Target: &publishv1.ListMessagesRequest_Channel{Channel: "chat.b"}}, {Target: &publishv1.ListMessagesRequest_UserId{UserId: "bob"}},
	} {
		page, err := a.history.ListMessages(ctx, request)
		if err != nil || len(page.GetMessages()) != 1 {
			t.Fatalf("%v: %v, %v; want one message", request, page, err)
		}
		if m := page.GetMessages()[0]; m.GetJson() != `{"a":1}` || m.GetHeaders()["Kind"] != "news" || m.GetMessageId() != "m" || m.GetTtl().GetSeconds() != 60 {
			t.Errorf("%v: %v", request, m)
		}
	}
	answer, err = a.client.PublishBatch(ctx, &publishv1.PublishBatchRequest{Multicast: &publishv1.Multicast{
		Channels: []string{"chat.a", "chat"}, Payload: &publishv1.Multicast_Data{Data: []byte{1}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []refusal{
		{invalid, "FIELD_REQUIRED", "contentType", "contentType is required with data"},
		{invalid, "CHANNEL_INVALID", "channel", `channel has 1 tokens; it needs 2 to 16, joined by "."`},
	} {
		if got := resultRefusal(answer.GetResults()[i].GetError()); got != want {
			t.Errorf("bad content, target %d: %+v, want %+v", i, got, want)
		}
	}
}

func TestBadBatches(t *testing.T) {
	t.Parallel()
	a := start(t, never(t))
	ctx := as(t.Context(), callerToken(t, "billing"))
	repeat := func(text, separator string, n int) string {
		return strings.TrimSuffix(strings.Repeat(text+separator, n), separator)
	}
	url := a.url + "/batch"
	for _, test := range []struct {
		name    string
		request *publishv1.PublishBatchRequest // nil where gRPC cannot say it
		body    string
		want    refusal
	}{
		{
			"nothing", batchOf(), `{}`,
			refusal{invalid, "FIELD_REQUIRED", "messages", "messages or multicast is required"},
		},
		{
			"no messages", batchOf(), `{"messages":[ ]}`,
			refusal{invalid, "FIELD_REQUIRED", "messages", "messages or multicast is required"},
		},
		{
			"both", &publishv1.PublishBatchRequest{Messages: []*publishv1.PublishRequest{toChannel("chat.a", "1")}, Multicast: &publishv1.Multicast{}},
			`{"messages":[{}],"multicast":{}}`,
			refusal{invalid, "FIELD_INVALID", "multicast", "messages and multicast exclude each other"},
		},
		{
			"1,001 messages", batchOf(slices.Repeat([]*publishv1.PublishRequest{toChannel("chat.a", "1")}, 1001)...),
			`{"messages":[` + repeat(`{"channel":"chat.a","data":1}`, ",", 1001) + `]}`,
			refusal{invalid, "FIELD_INVALID", "messages", "messages has 1001 entries, more than 1000"},
		},
		{
			"no targets", &publishv1.PublishBatchRequest{Multicast: &publishv1.Multicast{}}, `{"multicast":{}}`,
			refusal{invalid, "FIELD_REQUIRED", "multicast.channels", "multicast.channels or multicast.userIds is required"},
		},
		{
			"1,001 targets", &publishv1.PublishBatchRequest{Multicast: &publishv1.Multicast{
				Channels: slices.Repeat([]string{"chat.a"}, 501), UserIds: slices.Repeat([]string{"a"}, 500),
			}},
			`{"multicast":{"channels":[` + repeat(`"chat.a"`, ",", 501) + `],"userIds":[` + repeat(`"a"`, ",", 500) + `]}}`,
			refusal{invalid, "FIELD_INVALID", "multicast", "multicast has 1001 targets, more than 1000"},
		},
		{"an object for a list", nil, `{"messages":{}}`, refusal{invalid, "FIELD_INVALID", "messages", "messages must be a JSON array"}},
		{"a hole", nil, `{"messages":[{},]}`, refusal{invalid, "FIELD_INVALID", "messages", "messages is not valid JSON: there is no whole value at place 1"}},
		{"no object", nil, `{"messages":[{},7]}`, refusal{invalid, "FIELD_INVALID", "messages[1]", "messages[1] must be a JSON object"}},
		{"unknown field", nil, `{"messages":[{"chanel":""}]}`, refusal{invalid, "FIELD_INVALID", "messages[0].chanel", `there is no field "chanel"`}},
		{"no strings", nil, `{"multicast":{"channels":["a",1]}}`, refusal{invalid, "FIELD_INVALID", "multicast.channels", "channels must hold strings only"}},
		{"expectation of many", nil, `{"multicast":{"expectedLastOffset":1}}`, refusal{invalid, "FIELD_INVALID", "multicast.expectedLastOffset", `there is no field "expectedLastOffset"`}},
	} {
		if test.request != nil {
			_, err := a.client.PublishBatch(ctx, test.request)
			if got := grpcRefusal(err); got != test.want {
				t.Errorf("%s: gRPC\n %+v, want\n %+v", test.name, got, test.want)
			}
		}
		status, _, text := do(t, "POST", url, "Bearer "+callerToken(t, "billing"), test.body)
		if got := httpRefusal(t, text); got != test.want || status != 400 {
			t.Errorf("%s: HTTP %d\n %+v, want\n %+v", test.name, status, got, test.want)
		}
	}
}

// What is wrong with a request is wrong with it in a batch and in a stream too, in the
// same words.
func TestBadMessagesAmongOthers(t *testing.T) {
	t.Parallel()
	a := start(t, never(t))
	splits := map[string]bool{"JSON that tries to close our frame": true, "JSON that tries to close our list": true}
	billing, anywhere := callerToken(t, "billing"), callerToken(t, "anywhere")
	for _, test := range badRequests() {
		token := billing
		if test.grpc.reason == "NAMESPACE_UNKNOWN" {
			token = anywhere
		}
		ctx, want := as(t.Context(), token), test.grpc
		want.code = test.code
		if test.request != nil {
			answer, err := a.client.PublishBatch(ctx, batchOf(test.request))
			if err != nil {
				t.Errorf("%s: %v", test.name, err)
			} else if got := resultRefusal(answer.GetResults()[0].GetError()); got != want {
				t.Errorf("%s: in a batch\n %+v, want\n %+v", test.name, got, want)
			}
			s := open(t, a, ctx)
			s.send(7, test.request)
			if got := s.receive(); got.GetId() != 7 || resultRefusal(got.GetError()) != want {
				t.Errorf("%s: in a stream\n %v, want\n %+v", test.name, got, want)
			}
			s.finish()
		}
		if test.body == "" {
			continue
		}
		if test.http.reason != "" {
			want = test.http
			want.code = test.code
		}
		status, _, text := do(t, "POST", a.url+"/batch", "Bearer "+token, `{"messages":[`+test.body+`]}`)
		if status == 200 {
			var answer struct {
				Results []struct {
					Error struct{ Code, Reason, Field, Message string }
				}
			}
			if err := json.Unmarshal([]byte(text), &answer); err != nil || len(answer.Results) != 1 {
				t.Errorf("%s: %s, %v", test.name, text, err)
			} else if e := answer.Results[0].Error; (refusal{e.Code, e.Reason, e.Field, e.Message}) != want {
				t.Errorf("%s: in a batch over HTTP\n %+v, want\n %+v", test.name, e, want)
			}
			continue
		}
		// Only what makes the body another: what cannot be read as fields.
		got := httpRefusal(t, text)
		if status != 400 || got.code != want.code || !splits[test.name] && (test.request != nil || !strings.HasPrefix(got.field, "messages[0]")) {
			t.Errorf("%s: the batch is refused over HTTP: %d %+v", test.name, status, got)
		}
	}
}

func TestBatchOverHTTP(t *testing.T) {
	t.Parallel()
	replies := map[string]error{
		"chat.down": fault.Unavailable(fault.StoreUnavailable, io.ErrClosedPipe, "not now"),
		"chat.late": context.DeadlineExceeded,
		"chat.odd":  io.ErrClosedPipe,
	}
	a := start(t, storeFunc(func(_ context.Context, p message.Publication) (message.Receipt, error) {
		return message.Receipt{Position: message.Position{Epoch: "e", Offset: 9007199254740991}, Duplicate: p.ID != ""}, replies[string(p.Channel)]
	}))
	token := "Bearer " + callerToken(t, "billing")
	const body = `{"messages":[{"channel":"chat.a","data":{"a":[1,"}]"]},"messageId":"m"},{"channel":"chat.down","data":1},
		{"channel":"chat.late","data":1},{"channel":"chat.odd","data":1},{"userId":"ann","dataBase64":"AA==","contentType":"a/b"},{"channel":"chat.a","data":}]}`
	const want = `{"results":[{"published":{"epoch":"e","offset":9007199254740991,"duplicate":true}},` +
		`{"error":{"code":"UNAVAILABLE","reason":"STORE_UNAVAILABLE","message":"not now","retryAfterMs":1000}},` +
		`{"error":{"code":"DEADLINE_EXCEEDED","reason":"TIMEOUT","message":"the call ended before the message was confirmed"}},` +
		`{"error":{"code":"INTERNAL","reason":"INTERNAL","message":"internal error"}},` +
		`{"published":{"epoch":"e","offset":9007199254740991,"duplicate":false}},` +
		`{"error":{"code":"INVALID_ARGUMENT","reason":"PAYLOAD_INVALID","message":"data is not valid JSON: unexpected end of JSON input","field":"data"}}]}`
	status, header, text := do(t, "POST", a.url+"/batch", token, body)
	if status != 200 || text != want || header.Get("Content-Type") != "application/json" {
		t.Errorf("%d\n%s\nwant 200\n%s", status, text, want)
	}
	status, _, text = do(t, "POST", a.url+"/batch", token, `{"multicast":{"channels":["chat.a"],"userIds":["ann"],"data":"x","ttl":"1.5s"}}`)
	if want := `{"results":[{"published":{"epoch":"e","offset":9007199254740991,"duplicate":false}},{"published":{"epoch":"e","offset":9007199254740991,"duplicate":false}}]}`; status != 200 || text != want {
		t.Errorf("multicast: %d %s", status, text)
	}
	if log := a.log.String(); !strings.Contains(log, "a message of a call failed") || !strings.Contains(log, "io: read/write on closed pipe") {
		t.Errorf("the log does not say why messages failed:\n%s", log)
	}
}

func TestUnauthenticated(t *testing.T) {
	t.Parallel()
	a := start(t, never(t))
	want := refusal{"UNAUTHENTICATED", "TOKEN_MISSING", "", "no token: send the header authorization: Bearer <JWT>"}
	_, batch := a.client.PublishBatch(t.Context(), batchOf(toChannel("chat.a", "1")))
	_, list := a.history.ListMessages(t.Context(), &publishv1.ListMessagesRequest{Target: &publishv1.ListMessagesRequest_Channel{Channel: "chat.a"}})
	_, purge := a.history.PurgeChannel(t.Context(), &publishv1.PurgeChannelRequest{Target: &publishv1.PurgeChannelRequest_Channel{Channel: "chat.a"}})
	opened, err := a.client.PublishStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, stream := opened.Recv()
	for name, err := range map[string]error{"batch": batch, "list": list, "purge": purge, "stream": stream} {
		if got := grpcRefusal(err); got != want {
			t.Errorf("%s: %+v", name, got)
		}
	}
	base := strings.TrimSuffix(a.url, "/publish")
	for url, method := range map[string]string{"/publish/batch": "POST", "/purge": "POST", "/messages?limit=x": "GET"} {
		status, _, text := do(t, method, base+url, "", "{}")
		if got := httpRefusal(t, text); got != want || status != 401 {
			t.Errorf("%s: %d %+v", url, status, got)
		}
	}
}

// Every reason of the contract passes through a result, with its code.
func TestReasonsOfResults(t *testing.T) {
	t.Parallel()
	var reason fault.Reason
	a := start(t, storeFunc(func(context.Context, message.Publication) (message.Receipt, error) {
		return message.Receipt{}, &fault.Error{Reason: reason, Message: "no", Field: "f", RetryAfter: 1500 * time.Microsecond}
	}))
	ctx := as(t.Context(), callerToken(t, "billing"))
	for number, name := range clientv1.ErrorReason_name {
		if number == 0 {
			continue
		}
		reason = fault.Reason(strings.TrimPrefix(name, "ERROR_REASON_"))
		answer, err := a.client.PublishBatch(ctx, batchOf(toChannel("chat.a", "1")))
		if err != nil {
			t.Fatal(err)
		}
		e := answer.GetResults()[0].GetError()
		if int32(e.GetReason()) != number || e.GetCode() != (&fault.Error{Reason: reason}).CodeName() || e.GetField() != "f" || e.GetRetryAfterMs() != 2 {
			t.Errorf("%s: %v", reason, e)
		}
	}
}
