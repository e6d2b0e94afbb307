package publish_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	publishv1 "github.com/carillon-rt/carillon/gen/carillon/publish/v1"
	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/message"
)

func listOf(channel string) *publishv1.ListMessagesRequest {
	return &publishv1.ListMessagesRequest{Target: &publishv1.ListMessagesRequest_Channel{Channel: channel}}
}

func purgeOf(channel string) *publishv1.PurgeChannelRequest {
	return &publishv1.PurgeChannelRequest{Target: &publishv1.PurgeChannelRequest_Channel{Channel: channel}}
}

// messages is the URL of the HTTP twin of ListMessages.
func (a *api) messages(query string) string {
	return strings.TrimSuffix(a.url, "/publish") + "/messages?" + query
}

func (a *api) publish(t *testing.T, request *publishv1.PublishRequest) *publishv1.PublishResponse {
	t.Helper()
	answer, err := a.client.Publish(as(t.Context(), callerToken(t, "billing")), request)
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

// What was published is listed as it was published.
func TestListMessages(t *testing.T) {
	t.Parallel()
	a := start(t, natsStore(t))
	token := callerToken(t, "billing")
	ctx := as(t.Context(), token)
	before := time.Now().Add(-time.Second)
	first := a.publish(t, with(toChannel("chat.a", ` {"<a>": 1} `), func(r *publishv1.PublishRequest) {
		r.Headers, r.MessageId, r.Ttl = map[string]string{"Kind": "x"}, "m-1", durationpb.New(90*time.Second+time.Millisecond)
	}))
	second := a.publish(t, with(toChannel("chat.a", ""), func(r *publishv1.PublishRequest) {
		r.Payload, r.ContentType = &publishv1.PublishRequest_Data{Data: []byte{0, 255}}, "image/png"
	}))
	page, err := a.history.ListMessages(ctx, listOf("chat.a"))
	if err != nil || len(page.GetMessages()) != 2 || page.GetMore() || page.GetEpoch() != first.GetEpoch() {
		t.Fatalf("%v, %v", page, err)
	}
	for i, want := range []*publishv1.StoredMessage{
		{
			Offset: first.GetOffset(), Payload: &publishv1.StoredMessage_Json{Json: `{"<a>":1}`}, MessageId: "m-1", Publisher: "service:billing",
			Headers: map[string]string{"Kind": "x"}, Ttl: durationpb.New(91 * time.Second),
		},
		{Offset: second.GetOffset(), Payload: &publishv1.StoredMessage_Data{Data: []byte{0, 255}}, ContentType: "image/png", Publisher: "service:billing"},
	} {
		got := page.GetMessages()[i]
		if at := got.GetTime().AsTime(); at.Before(before) || at.After(time.Now().Add(time.Second)) {
			t.Errorf("message %d is of %v", i, at)
		}
		want.Time = got.GetTime()
		if !proto.Equal(got, want) {
			t.Errorf("message %d is %v, want %v", i, got, want)
		}
	}
	status, _, text := do(t, "GET", a.messages("channel=chat.a"), "Bearer "+token, "")
	at := func(i int) int64 { return page.GetMessages()[i].GetTime().AsTime().UnixMilli() }
	want := fmt.Sprintf(`{"epoch":%q,"messages":[{"offset":%d,"time":%d,"data":{"<a>":1},"messageId":"m-1","publisher":"service:billing","headers":{"Kind":"x"},"ttl":"91s"},`+
		`{"offset":%d,"time":%d,"dataBase64":"AP8=","contentType":"image/png","publisher":"service:billing"}],"more":false}`,
		page.GetEpoch(), first.GetOffset(), at(0), second.GetOffset(), at(1))
	if status != 200 || text != want {
		t.Errorf("over HTTP %d\n%s\nwant 200\n%s", status, text, want)
	}
}

// Pages are the same over gRPC and over HTTP; that they are right is for
// services/internal/history to test.
func TestPages(t *testing.T) {
	t.Parallel()
	a := start(t, natsStore(t))
	token := callerToken(t, "billing")
	var offsets []uint64
	epoch := ""
	for i := range 60 {
		stored := a.publish(t, toChannel("chat.a", fmt.Sprint(i)))
		offsets, epoch = append(offsets, stored.GetOffset()), stored.GetEpoch()
	}
	at := func(i int) *publishv1.Position { return &publishv1.Position{Epoch: epoch, Offset: offsets[i]} }
	for _, test := range []struct {
		name           string
		request        *publishv1.ListMessagesRequest
		first, last, n int
		more           bool
	}{
		{"everything", &publishv1.ListMessagesRequest{Limit: 1000}, 0, 59, 60, false},
		{"by default", &publishv1.ListMessagesRequest{}, 0, 49, 50, true},
		{"after", &publishv1.ListMessagesRequest{After: at(49)}, 50, 59, 10, false},
		{"between", &publishv1.ListMessagesRequest{After: at(9), Before: at(20), Limit: 5}, 10, 14, 5, true},
		{"the newest", &publishv1.ListMessagesRequest{NewestFirst: true, Limit: 3}, 59, 57, 3, true},
		{"the newest before", &publishv1.ListMessagesRequest{NewestFirst: true, Before: at(2)}, 1, 0, 2, false},
		{"from the beginning", &publishv1.ListMessagesRequest{After: &publishv1.Position{Epoch: epoch}, Limit: 1}, 0, 0, 1, true},
	} {
		test.request.Target = listOf("chat.a").GetTarget()
		page, err := a.history.ListMessages(as(t.Context(), token), test.request)
		if err != nil {
			t.Fatal(err)
		}
		query := url.Values{"channel": {"chat.a"}}
		if test.request.GetLimit() > 0 {
			query.Set("limit", fmt.Sprint(test.request.GetLimit()))
		}
		if test.request.GetNewestFirst() {
			query.Set("newestFirst", "true")
		}
		for name, p := range map[string]*publishv1.Position{"after": test.request.GetAfter(), "before": test.request.GetBefore()} {
			if p != nil {
				query.Set(name+".epoch", p.GetEpoch())
				query.Set(name+".offset", fmt.Sprint(p.GetOffset()))
			}
		}
		status, _, text := do(t, "GET", a.messages(query.Encode()), "Bearer "+token, "")
		var twin struct {
			Messages []struct {
				Offset uint64
				Data   int
			}
			More bool
		}
		if err := json.Unmarshal([]byte(text), &twin); err != nil || status != 200 {
			t.Fatalf("%s: %d %s, %v", test.name, status, text, err)
		}
		n := len(twin.Messages)
		if n != test.n || twin.Messages[0].Data != test.first || twin.Messages[n-1].Data != test.last || twin.More != test.more {
			t.Errorf("%s: %s; want %d to %d, %d of them, more %t", test.name, text, test.first, test.last, test.n, test.more)
		}
		if !slices.EqualFunc(page.GetMessages(), twin.Messages, func(m *publishv1.StoredMessage, twin struct {
			Offset uint64
			Data   int
		},
		) bool {
			return m.GetOffset() == twin.Offset
		}) || page.GetMore() != twin.More {
			t.Errorf("%s: gRPC %v, HTTP %s", test.name, page, text)
		}
	}
}

func TestPurge(t *testing.T) {
	t.Parallel()
	a := start(t, natsStore(t))
	token := callerToken(t, "billing")
	ctx := as(t.Context(), token)
	last := a.publish(t, toChannel("chat.a", "1"))
	other := a.publish(t, toChannel("chat.b", "1"))
	purged, err := a.history.PurgeChannel(ctx, purgeOf("chat.a"))
	if err != nil || purged.GetEpoch() != last.GetEpoch() || purged.GetOffset() <= last.GetOffset() {
		t.Fatalf("purge = %v, %v; want an offset after %d", purged, err, last.GetOffset())
	}
	after := a.publish(t, toChannel("chat.a", "2"))
	page, err := a.history.ListMessages(ctx, listOf("chat.a"))
	if err != nil || len(page.GetMessages()) != 1 || page.GetMessages()[0].GetOffset() != after.GetOffset() || after.GetOffset() <= purged.GetOffset() {
		t.Errorf("after the purge at %d: %v, %v; want only %d", purged.GetOffset(), page, err, after.GetOffset())
	}
	if page, err := a.history.ListMessages(ctx, listOf("chat.b")); err != nil || len(page.GetMessages()) != 1 || page.GetMessages()[0].GetOffset() != other.GetOffset() {
		t.Errorf("another channel: %v, %v", page, err)
	}
	a.publish(t, with(toChannel("", "1"), func(r *publishv1.PublishRequest) { r.Target = &publishv1.PublishRequest_UserId{UserId: "a.b"} }))
	base := strings.TrimSuffix(a.url, "/publish")
	status, _, text := do(t, "POST", base+"/purge", "Bearer "+token, `{"userId":"a.b"}`)
	var twin struct {
		Epoch  string
		Offset uint64
	}
	if err := json.Unmarshal([]byte(text), &twin); err != nil || status != 200 || twin.Epoch == "" || twin.Offset != 2 {
		t.Errorf("over HTTP: %d %s", status, text)
	}
	if status, _, text = do(t, "GET", a.messages("userId=a.b"), "Bearer "+token, ""); status != 200 || text != `{"epoch":"`+twin.Epoch+`","messages":[],"more":false}` {
		t.Errorf("the inbox after it: %d %s", status, text)
	}
}

// A message whose TTL has passed is not listed, and retries of it are duplicates still.
func TestListAfterTTL(t *testing.T) {
	t.Parallel()
	a := start(t, natsStore(t))
	short := with(toChannel("chat.a", "1"), func(r *publishv1.PublishRequest) { r.Ttl, r.MessageId = durationpb.New(time.Second), "m" })
	first := a.publish(t, short)
	ctx := as(t.Context(), callerToken(t, "billing"))
	for deadline := time.Now().Add(10 * time.Second); ; {
		page, err := a.history.ListMessages(ctx, listOf("chat.a"))
		if err != nil || time.Now().After(deadline) {
			t.Fatalf("%v, %v; want nothing after a second", page, err)
		}
		if len(page.GetMessages()) == 0 && !page.GetMore() {
			break
		}
		<-time.After(20 * time.Millisecond)
	}
	if again := a.publish(t, short); again.GetOffset() != first.GetOffset() || !again.GetDuplicate() {
		t.Errorf("a retry after the ttl: %v, want a duplicate of %v", again, first)
	}
}

// The channel moves on, so an expectation holds once.
func TestExpectedLastOffset(t *testing.T) {
	t.Parallel()
	a := start(t, natsStore(t))
	token := "Bearer " + callerToken(t, "billing")
	publish := func(last uint64, epoch string) (int, string) {
		status, _, text := a.post(t, token, fmt.Sprintf(`{"channel":"chat.a","data":1,"expectedLastOffset":%d,"expectedEpoch":%q}`, last, epoch))
		return status, text
	}
	status, text := publish(0, "")
	var stored struct {
		Epoch  string
		Offset uint64
	}
	if err := json.Unmarshal([]byte(text), &stored); err != nil || status != 200 {
		t.Fatalf("into an empty channel: %d %s", status, text)
	}
	if status, text = publish(0, ""); status != 400 || httpRefusal(t, text).reason != "CHANNEL_MOVED" || httpRefusal(t, text).field != "expectedLastOffset" {
		t.Errorf("again: %d %s", status, text)
	}
	if status, text = publish(stored.Offset, "another"); status != 400 || httpRefusal(t, text).reason != "CHANNEL_MOVED" || httpRefusal(t, text).field != "expectedEpoch" {
		t.Errorf("of another epoch: %d %s", status, text)
	}
	if status, text = publish(stored.Offset, stored.Epoch); status != 200 {
		t.Errorf("after the last: %d %s", status, text)
	}
}

// silent is a store without messages, which must not be purged.
type silent struct {
	storeFunc
	t *testing.T
}

func (silent) Bounds(context.Context, channel.Name) (message.Bounds, error) {
	return message.Bounds{Epochs: []message.EpochStart{{Epoch: "e", First: 1}}, First: 1}, nil
}

func (s silent) Purge(context.Context, channel.Name) (message.Position, error) {
	s.t.Error("purged")
	return message.Position{}, nil
}

func TestBadHistoryRequests(t *testing.T) {
	t.Parallel()
	a := start(t, silent{never(t), t})
	base := strings.TrimSuffix(a.url, "/publish")
	target := func(name string) *publishv1.ListMessagesRequest {
		if user, ok := strings.CutPrefix(name, "@"); ok {
			return &publishv1.ListMessagesRequest{Target: &publishv1.ListMessagesRequest_UserId{UserId: user}}
		}
		return listOf(name)
	}
	const denied, ephemeral = "PERMISSION_DENIED", `the namespace "cursor" is ephemeral and keeps no messages`
	for _, test := range []struct {
		name, caller, target string
		code                 string
		list, purge          refusal // without code; purge as list where it is zero
		status               int
	}{
		{"empty channel", "billing", "", invalid, refusal{reason: "FIELD_REQUIRED", field: "channel", message: "channel is required"}, refusal{}, 400},
		{"one-token channel", "billing", "chat", invalid, refusal{reason: "CHANNEL_INVALID", field: "channel", message: `channel has 1 tokens; it needs 2 to 16, joined by "."`}, refusal{}, 400},
		{"unknown namespace", "anywhere", "chta.a", "NOT_FOUND", refusal{reason: "NAMESPACE_UNKNOWN", field: "channel", message: `there is no namespace "chta"`}, refusal{}, 404},
		{"ephemeral", "billing", "cursor.a", invalid, refusal{reason: "FIELD_INVALID", field: "channel", message: ephemeral}, refusal{}, 400},
		{
			"may only publish", "narrow", "chat.lobby", denied,
			refusal{reason: "CALLER_DENIED", field: "channel", message: `the caller "narrow" may not read the history of this channel`},
			refusal{reason: "CALLER_DENIED", field: "channel", message: `the caller "narrow" may not purge this channel`},
			403,
		},
		{
			"may only publish to an inbox", "narrow", "@ann", denied,
			refusal{reason: "CALLER_DENIED", field: "userId", message: `the caller "narrow" may not read the history of this channel`},
			refusal{reason: "CALLER_DENIED", field: "userId", message: `the caller "narrow" may not purge this channel`},
			403,
		},
		{"unknown caller", "nobody", "chat.a", denied, refusal{reason: "CALLER_UNKNOWN", message: `the token is good, but no caller "nobody" is configured`}, refusal{}, 403},
	} {
		token := callerToken(t, test.caller)
		ctx := as(t.Context(), token)
		test.list.code = test.code
		if test.purge.reason == "" {
			test.purge = test.list
		}
		test.purge.code = test.code
		_, err := a.history.ListMessages(ctx, target(test.target))
		if got := grpcRefusal(err); got != test.list {
			t.Errorf("%s: list\n %+v, want\n %+v", test.name, got, test.list)
		}
		purge, field, name := purgeOf(test.target), "channel", test.target
		if user, ok := strings.CutPrefix(test.target, "@"); ok {
			purge.Target, field, name = &publishv1.PurgeChannelRequest_UserId{UserId: user}, "userId", user
		}
		_, err = a.history.PurgeChannel(ctx, purge)
		if got := grpcRefusal(err); got != test.purge {
			t.Errorf("%s: purge\n %+v, want\n %+v", test.name, got, test.purge)
		}
		status, _, text := do(t, "GET", a.messages(url.Values{field: {name}}.Encode()), "Bearer "+token, "")
		if got := httpRefusal(t, text); got != test.list || status != test.status {
			t.Errorf("%s: list over HTTP %d %+v", test.name, status, got)
		}
		status, _, text = do(t, "POST", base+"/purge", "Bearer "+token, fmt.Sprintf(`{%q:%q}`, field, name))
		if got := httpRefusal(t, text); got != test.purge || status != test.status {
			t.Errorf("%s: purge over HTTP %d %+v", test.name, status, got)
		}
	}
}

// The contract's bounds hold over gRPC too.
func TestLimitOfAPage(t *testing.T) {
	t.Parallel()
	a := start(t, silent{never(t), t})
	request := listOf("chat.a")
	request.Limit = 1001
	_, err := a.history.ListMessages(as(t.Context(), callerToken(t, "billing")), request)
	want := refusal{invalid, "FIELD_INVALID", "limit", "limit must be less than or equal to 1000"}
	if got := grpcRefusal(err); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

func TestBadQueries(t *testing.T) {
	t.Parallel()
	a := start(t, silent{never(t), t})
	base := strings.TrimSuffix(a.url, "/publish")
	token := "Bearer " + callerToken(t, "billing")
	const epoch = "the epoch is not one of the channel, or ended before the offset"
	for _, test := range []struct {
		method, url, body string
		status            int
		want              refusal
	}{
		{"GET", a.messages(""), "", 400, refusal{invalid, "FIELD_REQUIRED", "channel", "channel or userId is required"}},
		{"GET", a.messages("channel=chat.a&userId=ann"), "", 400, refusal{invalid, "FIELD_INVALID", "userId", "channel and userId are two targets; send one"}},
		{"GET", a.messages("channel=chat.a&channel=chat.b"), "", 400, refusal{invalid, "FIELD_INVALID", "channel", `"channel" stands twice`}},
		{"GET", a.messages("channel=%ff.a"), "", 400, refusal{invalid, "FIELD_INVALID", "channel", "channel is not valid UTF-8"}},
		{"GET", a.messages("chanel=chat.a"), "", 400, refusal{invalid, "FIELD_INVALID", "chanel", `there is no parameter "chanel"`}},
		{"GET", a.messages("channel=chat.a&newest_first=true"), "", 400, refusal{invalid, "FIELD_INVALID", "newest_first", `there is no parameter "newest_first"`}},
		{"GET", a.messages("channel=chat.a&newestFirst=yes"), "", 400, refusal{invalid, "FIELD_INVALID", "newestFirst", "newestFirst must be true or false"}},
		{"GET", a.messages("channel=chat.a&limit=-1"), "", 400, refusal{invalid, "FIELD_INVALID", "limit", "limit must be a whole number that is not negative"}},
		{"GET", a.messages("channel=chat.a&limit=1001"), "", 400, refusal{invalid, "FIELD_INVALID", "limit", "limit must be less than or equal to 1000"}},
		{"GET", a.messages("channel=chat.a&limit=99999999999"), "", 400, refusal{invalid, "FIELD_INVALID", "limit", "limit must be less than or equal to 1000"}},
		{"GET", a.messages("channel=chat.a&after.offset=x"), "", 400, refusal{invalid, "FIELD_INVALID", "after.offset", "after.offset must be a whole number that is not negative"}},
		{"GET", a.messages("channel=chat.a&after.offset=9007199254740992"), "", 400, refusal{invalid, "FIELD_INVALID", "after.offset", "after.offset must be less than or equal to 9007199254740991"}},
		{"GET", a.messages("channel=chat.a&after.offset=1"), "", 400, refusal{invalid, "FIELD_INVALID", "after", "after: " + epoch}},
		{"GET", a.messages("channel=chat.a&before.epoch=other"), "", 400, refusal{invalid, "FIELD_INVALID", "before", "before: " + epoch}},
		{"GET", a.messages("channel=chat.a&after.epoch=" + strings.Repeat("e", 65)), "", 400, refusal{invalid, "FIELD_INVALID", "after.epoch", "after.epoch must be at most 64 bytes"}},
		{"GET", a.messages("a;b"), "", 400, refusal{invalid, "FIELD_INVALID", "", "the query is malformed"}},
		{"POST", a.messages("channel=chat.a"), "{}", 405, refusal{"UNIMPLEMENTED", "NOT_SUPPORTED", "", "POST is not supported here; use GET"}},
		{"GET", base + "/purge", "", 405, refusal{"UNIMPLEMENTED", "NOT_SUPPORTED", "", "GET is not supported here; use POST"}},
		{"POST", base + "/purge", `{}`, 400, refusal{invalid, "FIELD_REQUIRED", "channel", "channel or userId is required"}},
		{"POST", base + "/purge", `{"channel":"chat.a","userId":"a"}`, 400, refusal{invalid, "FIELD_INVALID", "userId", "channel and userId are two targets; send one"}},
		{"POST", base + "/purge", `{"channel":"chat.a","data":1}`, 400, refusal{invalid, "FIELD_INVALID", "data", `there is no field "data"`}},
		{"POST", base + "/purge", `chat.a`, 400, refusal{invalid, "FIELD_INVALID", "", "the body must be a JSON object"}},
	} {
		status, header, text := do(t, test.method, test.url, token, test.body)
		if got := httpRefusal(t, text); got != test.want || status != test.status || header.Get("Content-Type") != "application/json" {
			t.Errorf("%s %s: %d %+v, want %d\n %+v", test.method, test.url, status, got, test.status, test.want)
		}
		if allow := header.Get("Allow"); (status == 405) != (allow != "") || allow == test.method {
			t.Errorf("%s %s: Allow %q", test.method, test.url, allow)
		}
	}
}

func TestHistoryMetrics(t *testing.T) {
	t.Parallel()
	a := start(t, natsStore(t))
	ctx := as(t.Context(), callerToken(t, "billing"))
	for _, channel := range []string{"chat.a", "chat", "cursor.a", "chat.a"} {
		_, _ = a.history.ListMessages(ctx, listOf(channel))
	}
	_, _ = a.history.PurgeChannel(ctx, purgeOf("chat.a"))
	_, _ = a.client.PublishBatch(ctx, batchOf(toChannel("chat.a", "1"), toChannel("chat.a", "{"), toChannel("nope.a", "1")))
	got := a.measured()
	for name, want := range map[string]int64{
		"carillon.publish.history{namespace=chat,outcome=listed}": 2, "carillon.publish.history{namespace=chat,outcome=purged}": 1,
		"carillon.publish.history{namespace=,outcome=channel_invalid}": 1, "carillon.publish.history{namespace=cursor,outcome=field_invalid}": 1,
		"carillon.publish.history.duration{namespace=chat}": 3, "carillon.publish.messages{namespace=chat,outcome=stored}": 1,
		"carillon.publish.messages{namespace=chat,outcome=payload_invalid}": 1, "carillon.publish.messages{namespace=,outcome=namespace_unknown}": 1,
	} {
		if got[name] != want {
			t.Errorf("%s = %d, want %d; all: %v", name, got[name], want, got)
		}
	}
}
