package frame_test

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	clientv1 "github.com/carillon-rt/carillon/gen/carillon/client/v1"
	"github.com/carillon-rt/carillon/services/edge/frame"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/message"
)

// commands are the same commands in both codecs: JSON as clients write it, and the
// proto in its text-like JSON, from which the test makes the binary.
var commands = []struct {
	name, json, proto string
	want              frame.Command
}{
	{
		"connect",
		`{"id":1,"connect":{"token":"t","client":{"name":"web","version":"1"},"subscriptions":[{"channel":"chat.a","since":{"epoch":"e","offset":41}},{"channel":"chat.b"}]}}`,
		`{"id":1,"connect":{"token":"t","client":{"name":"web","version":"1"},"subscriptions":[{"channel":"chat.a","since":{"epoch":"e","offset":41}},{"channel":"chat.b"}]}}`,
		frame.Command{ID: 1, Body: frame.Connect{Token: "t", ClientName: "web", ClientVersion: "1", Subscriptions: []frame.Subscribe{
			{Channel: "chat.a", Since: &message.Position{Epoch: "e", Offset: 41}}, {Channel: "chat.b"},
		}}},
	},
	{"subscribe", `{"id":2,"subscribe":{"channel":"chat.a"}}`, `{"id":2,"subscribe":{"channel":"chat.a"}}`, frame.Command{ID: 2, Body: frame.Subscribe{Channel: "chat.a"}}},
	{"subscribe with presence", `{"id":2,"subscribe":{"channel":"chat.a","presence":true}}`, `{"id":2,"subscribe":{"channel":"chat.a","presence":true}}`, frame.Command{ID: 2, Body: frame.Subscribe{Channel: "chat.a", Presence: true}}},
	{"connect with info", `{"id":1,"connect":{"info":{"name":"A"}}}`, `{"id":1,"connect":{"info":"{\"name\":\"A\"}"}}`, frame.Command{ID: 1, Body: frame.Connect{Info: []byte(`{"name":"A"}`)}}},
	{"unknown fields are ignored", `{"id":2,"subscribe":{"channel":"chat.a","later":true}}`, `{"id":2,"subscribe":{"channel":"chat.a"}}`, frame.Command{ID: 2, Body: frame.Subscribe{Channel: "chat.a"}}},
	{"unsubscribe", `{"id":3,"unsubscribe":{"channel":"chat.a"}}`, `{"id":3,"unsubscribe":{"channel":"chat.a"}}`, frame.Command{ID: 3, Body: frame.Unsubscribe{Channel: "chat.a"}}},
	{
		"publish JSON", `{"id":4,"publish":{"channel":"chat.a","data":{"a": 1},"messageId":"m"}}`, `{"id":4,"publish":{"channel":"chat.a","json":"{\"a\": 1}","messageId":"m"}}`,
		frame.Command{ID: 4, Body: frame.Publish{Channel: "chat.a", JSON: []byte(`{"a": 1}`), MessageID: "m"}},
	},
	{
		"publish null", `{"id":4,"publish":{"channel":"chat.a","data":null}}`, `{"id":4,"publish":{"channel":"chat.a","json":"null"}}`,
		frame.Command{ID: 4, Body: frame.Publish{Channel: "chat.a", JSON: []byte(`null`)}},
	},
	{
		"publish bytes", `{"id":4,"publish":{"channel":"chat.a","dataBase64":"AAE=","contentType":"image/png"}}`, `{"id":4,"publish":{"channel":"chat.a","data":"AAE=","contentType":"image/png"}}`,
		frame.Command{ID: 4, Body: frame.Publish{Channel: "chat.a", Data: []byte{0, 1}, ContentType: "image/png"}},
	},
	{
		"publish no bytes", `{"id":4,"publish":{"channel":"chat.a","dataBase64":"","contentType":"image/png"}}`, `{"id":4,"publish":{"channel":"chat.a","data":"","contentType":"image/png"}}`,
		frame.Command{ID: 4, Body: frame.Publish{Channel: "chat.a", Data: []byte{}, ContentType: "image/png"}},
	},
	{"publish nothing", `{"id":4,"publish":{"channel":"chat.a"}}`, `{"id":4,"publish":{"channel":"chat.a"}}`, frame.Command{ID: 4, Body: frame.Publish{Channel: "chat.a"}}},
	{"presence", `{"id":5,"presence":{"channel":"chat.a"}}`, `{"id":5,"presence":{"channel":"chat.a"}}`, frame.Command{ID: 5, Body: frame.Presence{Channel: "chat.a"}}},
	{
		"rewind", `{"id":2,"subscribe":{"channel":"chat.a","rewind":{"count":3}}}`, `{"id":2,"subscribe":{"channel":"chat.a","rewind":{"count":3}}}`,
		frame.Command{ID: 2, Body: frame.Subscribe{Channel: "chat.a", Rewind: new(int64(3))}},
	},
	{
		"history", `{"id":6,"history":{"channel":"chat.a","after":{"epoch":"e","offset":3},"before":{"epoch":"e","offset":9},"limit":5,"newestFirst":true}}`,
		`{"id":6,"history":{"channel":"chat.a","after":{"epoch":"e","offset":3},"before":{"epoch":"e","offset":9},"limit":5,"newestFirst":true}}`,
		frame.Command{ID: 6, Body: frame.History{
			Channel: "chat.a", After: &message.Position{Epoch: "e", Offset: 3}, Before: &message.Position{Epoch: "e", Offset: 9}, Limit: 5, NewestFirst: true,
		}},
	},
	{
		"part of a trace", `{"traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01","id":8,"publish":{"channel":"chat.a","data":1}}`,
		`{"id":"8","traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01","publish":{"channel":"chat.a","json":"1"}}`,
		frame.Command{ID: 8, Traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", Body: frame.Publish{Channel: "chat.a", JSON: []byte("1")}},
	},
	{"refresh", `{"id":7,"refresh":{"token":"t"}}`, `{"id":"7","refresh":{"token":"t"}}`, frame.Command{ID: 7, Body: frame.Refresh{Token: "t"}}},
	{"ping", `{"id":9007199254740991,"ping":{}}`, `{"id":"9007199254740991","ping":{}}`, frame.Command{ID: frame.MaxID, Body: frame.Ping{}}},
}

func binary(t *testing.T, text string) []byte {
	t.Helper()
	var f clientv1.ClientFrame
	if err := protojson.Unmarshal([]byte(text), &f); err != nil {
		t.Fatal(err)
	}
	data, err := proto.Marshal(&f)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestDecode(t *testing.T) {
	t.Parallel()
	for _, tt := range commands {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if got, err := (frame.JSON{}).Decode([]byte(tt.json)); err != nil || !reflect.DeepEqual(got, tt.want) {
				t.Errorf("JSON: %+v, %v", got, err)
			}
			if got, err := (frame.Protobuf{}).Decode(binary(t, tt.proto)); err != nil || !reflect.DeepEqual(got, tt.want) {
				t.Errorf("protobuf: %+v, %v", got, err)
			}
		})
	}
}

// What has no usable id cannot be answered: the connection is closed 4400.
func TestDecodeWithoutID(t *testing.T) {
	t.Parallel()
	const noID = "FRAME_MALFORMED: the frame has no usable id: a positive integer of at most 9007199254740991"
	for text, want := range map[string]string{
		``:                                      "FRAME_MALFORMED: the frame is not a JSON object: unexpected end of JSON input",
		`not json`:                              "FRAME_MALFORMED: the frame is not a JSON object: invalid character 'o' in literal null (expecting 'u')",
		`[]`:                                    "FRAME_MALFORMED: the frame is not a JSON object: it is a JSON array",
		"{\"id\":1,\"ping\":{},\"x\":\"\xff\"}": "FRAME_MALFORMED: the frame is not valid UTF-8",
		`{"ping":{}}`:                           noID,
		`{"id":0,"ping":{}}`:                    noID,
		`{"id":-1,"ping":{}}`:                   noID,
		`{"id":1.5,"ping":{}}`:                  noID,
		`{"id":"1","ping":{}}`:                  noID,
		`{"id":9007199254740992,"ping":{}}`:     noID,
		`{"ID":1,"ping":{}}`:                    noID,
		strings.Repeat(`{"a":`, 20000) + `1`:    "FRAME_MALFORMED: the frame is not a JSON object: invalid character '{' exceeded max depth",
		`{"id":1,"publish":{"data":1}}{"id":2}`: "FRAME_MALFORMED: the frame is not a JSON object: invalid character '{' after top-level value",
	} {
		if _, err := (frame.JSON{}).Decode([]byte(text)); err == nil || err.Error() != want {
			t.Errorf("%.40q\ngot  %v\nwant %s", text, err, want)
		}
	}
	truncated := binary(t, `{"id":2,"subscribe":{"channel":"chat.a"}}`)
	for name, data := range map[string][]byte{"truncated": truncated[:len(truncated)-1], "empty": nil, "text": []byte(`{"id":1}`)} {
		if _, err := (frame.Protobuf{}).Decode(data); fault.From(err).Reason != fault.FrameMalformed {
			t.Errorf("protobuf %s: %v", name, err)
		}
	}
}

func TestDecodeRefusesWithID(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`{"id":1}`:                           "COMMAND_UNKNOWN: the frame names no command that this server knows",
		`{"id":1,"dance":{}}`:                `COMMAND_UNKNOWN (dance): there is no command "dance"`,
		`{"id":1,"ping":{},"dance":{}}`:      `FRAME_MALFORMED: the frame has 2 fields beside id, such as "dance" and "ping"; it needs exactly one, the command`,
		`{"id":1,"traceparent":5,"ping":{}}`: "FIELD_INVALID (traceparent): traceparent is not a text of at most 55 bytes",
		`{"id":1,"publish":{},"traceparent":"` + strings.Repeat("0", 56) + `"}`: "FIELD_INVALID (traceparent): traceparent is not a text of at most 55 bytes",
		`{"id":1,"subscribe":5}`:                                                       "FIELD_INVALID (subscribe): subscribe must be an object",
		`{"id":1,"subscribe":null}`:                                                    "FIELD_INVALID (subscribe): subscribe must be an object",
		`{"id":1,"subscribe":{"channel":5}}`:                                           "FIELD_INVALID (channel): channel cannot be a JSON number",
		`{"id":1,"subscribe":{"channel":"chat.a","rewind":3}}`:                         "FIELD_INVALID (rewind): rewind cannot be a JSON number",
		`{"id":1,"subscribe":{"channel":"chat.a","since":{"offset":-1}}}`:              "FIELD_INVALID (since.offset): since.offset cannot be a JSON number -1",
		`{"id":1,"publish":{"channel":"chat.a","dataBase64":"A","contentType":"a/b"}}`: "PAYLOAD_INVALID (dataBase64): dataBase64 is not standard base64 with padding (RFC 4648, 4)",
		`{"id":1,"publish":{"channel":"chat.a","data":1,"dataBase64":""}}`:             "FIELD_INVALID (dataBase64): data and dataBase64 exclude each other",
	} {
		command, err := frame.JSON{}.Decode([]byte(text))
		refusal, ok := command.Body.(*fault.Error)
		if err != nil || !ok || command.ID != 1 || refusal.Error() != want {
			t.Errorf("%s\ngot  %+v, %v\nwant %s", text, command, err, want)
		}
	}
	command, err := frame.Protobuf{}.Decode(binary(t, `{"id":7}`))
	if refusal, ok := command.Body.(*fault.Error); err != nil || !ok || refusal.Reason != fault.CommandUnknown {
		t.Errorf("%+v, %v", command, err)
	}
}

var at = time.UnixMilli(1_700_000_000_123)

// events are all that a server can say, and what clients read of it.
var events = []struct {
	name  string
	id    uint64
	event frame.Event
	json  string
	proto string // protojson of the same
}{
	{
		"connected", 1,
		frame.Connected{
			ConnectionID: "c", UserID: `a"b`, ExpiresAt: at, ServerTime: at, Heartbeat: 25 * time.Second, MaxFrameBytes: 65536,
			Subscriptions: []frame.SubscriptionResult{
				{Subscribed: frame.Subscribed{Channel: "chat.a", Position: message.Position{Epoch: "e", Offset: 3}}},
				{Subscribed: frame.Subscribed{Channel: "cursor.a"}},
				{Subscribed: frame.Subscribed{Channel: "x"}, Error: fault.New(fault.ChannelInvalid, "channel", "no")},
			},
		},
		`{"id":1,"connected":{"connectionId":"c","userId":"a\"b","expiresAt":1700000000123,"serverTime":1700000000123,"heartbeatMs":25000,"maxFrameBytes":65536,"subscriptions":[` +
			`{"channel":"chat.a","epoch":"e","offset":3,"recovered":false},{"channel":"cursor.a"},{"channel":"x","error":{"code":"INVALID_ARGUMENT","reason":"CHANNEL_INVALID","message":"no","field":"channel"}}]}}`,
		`{"id":"1","connected":{"connectionId":"c","userId":"a\"b","expiresAt":"2023-11-14T22:13:20.123Z","serverTime":"2023-11-14T22:13:20.123Z","heartbeatMs":25000,"maxFrameBytes":65536,"subscriptions":[` +
			`{"subscribed":{"channel":"chat.a","epoch":"e","offset":"3"}},{"subscribed":{"channel":"cursor.a"}},{"error":{"channel":"x","error":{"code":"INVALID_ARGUMENT","reason":"ERROR_REASON_CHANNEL_INVALID","message":"no","field":"channel"}}}]}}`,
	},
	{
		"subscribed", 2,
		frame.Subscribed{Channel: "chat.a", Position: message.Position{Epoch: "e", Offset: 0}, Recovered: true},
		`{"id":2,"subscribed":{"channel":"chat.a","epoch":"e","offset":0,"recovered":true}}`,
		`{"id":"2","subscribed":{"channel":"chat.a","epoch":"e","recovered":true}}`,
	},
	{"unsubscribed", 3, frame.Unsubscribed{Channel: "chat.a"}, `{"id":3,"unsubscribed":{"channel":"chat.a"}}`, `{"id":"3","unsubscribed":{"channel":"chat.a"}}`},
	{
		"unsubscribed by the server", 0,
		frame.Unsubscribed{Channel: "chat.a", Cause: fault.New(fault.PolicyDenied, "", "no"), Resubscribe: true},
		`{"unsubscribed":{"channel":"chat.a","code":"PERMISSION_DENIED","reason":"POLICY_DENIED","resubscribe":true}}`,
		`{"unsubscribed":{"channel":"chat.a","code":"PERMISSION_DENIED","reason":"ERROR_REASON_POLICY_DENIED","resubscribe":true}}`,
	},
	{
		"published", 4,
		frame.Published{Receipt: message.Receipt{Position: message.Position{Epoch: "e", Offset: 45}, Duplicate: true}},
		`{"id":4,"published":{"epoch":"e","offset":45,"duplicate":true}}`, `{"id":"4","published":{"epoch":"e","offset":"45","duplicate":true}}`,
	},
	{"published, ephemeral", 4, frame.Published{}, `{"id":4,"published":{"duplicate":false}}`, `{"id":"4","published":{}}`},
	{
		"presence", 5,
		frame.Members{Channel: "chat.a", Members: []frame.Member{{UserID: "alice", Connections: 2, Since: at}}, Total: 7},
		`{"id":5,"presence":{"channel":"chat.a","members":[{"userId":"alice","connections":2,"since":1700000000123}],"total":7,"truncated":true}}`,
		`{"id":"5","presence":{"channel":"chat.a","members":[{"userId":"alice","connections":2,"since":"2023-11-14T22:13:20.123Z"}],"total":7,"truncated":true}}`,
	},
	{
		"presence with info", 5,
		frame.Members{Channel: "chat.a", Members: []frame.Member{{UserID: "alice", Connections: 0, Since: at, Info: `{"name":"<A>"}`}}, Total: 1},
		`{"id":5,"presence":{"channel":"chat.a","members":[{"userId":"alice","connections":0,"since":1700000000123,"info":{"name":"<A>"}}],"total":1,"truncated":false}}`,
		`{"id":"5","presence":{"channel":"chat.a","members":[{"userId":"alice","since":"2023-11-14T22:13:20.123Z","info":"{\"name\":\"<A>\"}"}],"total":1}}`,
	},
	{
		"presence changed", 0,
		frame.PresenceChanged{
			Channel: "chat.a", Joined: []frame.Member{{UserID: "alice", Connections: 1, Since: at, Info: "7"}},
			Left: []frame.Member{{UserID: "bob"}}, Total: 9, Truncated: true,
		},
		`{"presenceChanged":{"channel":"chat.a","joined":[{"userId":"alice","connections":1,"since":1700000000123,"info":7}],"left":[{"userId":"bob"}],"total":9,"truncated":true}}`,
		`{"presenceChanged":{"channel":"chat.a","joined":[{"userId":"alice","connections":1,"since":"2023-11-14T22:13:20.123Z","info":"7"}],"left":[{"userId":"bob"}],"total":9,"truncated":true}}`,
	},
	{"presence unchanged", 0, frame.PresenceChanged{Channel: "chat.a"}, `{"presenceChanged":{"channel":"chat.a","joined":[],"left":[],"total":0,"truncated":false}}`, `{"presenceChanged":{"channel":"chat.a"}}`},
	{"presence of nobody", 5, frame.Members{Channel: "chat.a"}, `{"id":5,"presence":{"channel":"chat.a","members":[],"total":0,"truncated":false}}`, `{"id":"5","presence":{"channel":"chat.a"}}`},
	{
		"history", 6,
		frame.Past{Channel: "chat.a", Epoch: "e", More: true, Messages: []*message.Message{
			{Channel: "chat.a", Offset: 7, Time: at, Payload: message.Payload{Data: []byte(`"<x>"`)}},
		}},
		`{"id":6,"history":{"channel":"chat.a","epoch":"e","messages":[{"channel":"chat.a","offset":7,"time":1700000000123,"data":"<x>"}],"more":true}}`,
		`{"id":"6","history":{"channel":"chat.a","epoch":"e","messages":[{"channel":"chat.a","offset":"7","time":"2023-11-14T22:13:20.123Z","json":"\"<x>\""}],"more":true}}`,
	},
	{"refreshed", 7, frame.Refreshed{ExpiresAt: at}, `{"id":7,"refreshed":{"expiresAt":1700000000123}}`, `{"id":"7","refreshed":{"expiresAt":"2023-11-14T22:13:20.123Z"}}`},
	{"token expiring", 0, frame.TokenExpiring{ExpiresAt: at}, `{"tokenExpiring":{"expiresAt":1700000000123}}`, `{"tokenExpiring":{"expiresAt":"2023-11-14T22:13:20.123Z"}}`},
	{"pong", 8, frame.Pong{}, `{"id":8,"pong":{}}`, `{"id":"8","pong":{}}`},
	{
		"error", 9,
		frame.Refused{Error: &fault.Error{Reason: fault.RateLimited, Message: "<slow> & steady", RetryAfter: 1500 * time.Microsecond}},
		`{"id":9,"error":{"code":"RESOURCE_EXHAUSTED","reason":"RATE_LIMITED","message":"<slow> & steady","retryAfterMs":2}}`,
		`{"id":"9","error":{"code":"RESOURCE_EXHAUSTED","reason":"ERROR_REASON_RATE_LIMITED","message":"<slow> & steady","retryAfterMs":2}}`,
	},
	{
		"message", 0,
		frame.Message{Message: &message.Message{
			Channel: "chat.a", Offset: 7, Time: at, Payload: message.Payload{Data: []byte(`{"a":"</script>"}`)}, ID: `"m\`, Publisher: "Zoë", Headers: map[string]string{"x": `y"`},
			Traceparent: "stored",
		}, Traceparent: "told"},
		`{"message":{"channel":"chat.a","offset":7,"time":1700000000123,"data":{"a":"</script>"},"messageId":"\"m\\","publisher":"Zoë","headers":{"x":"y\""},"traceparent":"told"}}`,
		`{"message":{"channel":"chat.a","offset":"7","time":"2023-11-14T22:13:20.123Z","json":"{\"a\":\"</script>\"}","messageId":"\"m\\","publisher":"Zoë","headers":{"x":"y\""},"traceparent":"told"}}`,
	},
	{
		"ephemeral bytes", 0,
		frame.Message{Message: &message.Message{Channel: "cursor.a", Time: at, Payload: message.Payload{Data: []byte{0, 1}, ContentType: "image/png"}}},
		`{"message":{"channel":"cursor.a","time":1700000000123,"dataBase64":"AAE=","contentType":"image/png"}}`,
		`{"message":{"channel":"cursor.a","time":"2023-11-14T22:13:20.123Z","data":"AAE=","contentType":"image/png"}}`,
	},
	{
		"gap", 0,
		frame.Gap{Channel: "chat.a", Epoch: "e", From: 3, To: 9, Reason: fault.MessagesMissed},
		`{"gap":{"channel":"chat.a","epoch":"e","from":3,"to":9,"reason":"MESSAGES_MISSED"}}`,
		`{"gap":{"channel":"chat.a","epoch":"e","from":"3","to":"9","reason":"ERROR_REASON_MESSAGES_MISSED"}}`,
	},
	{
		"gap, ephemeral", 0,
		frame.Gap{Channel: "cursor.a", Reason: fault.SlowConsumer},
		`{"gap":{"channel":"cursor.a","reason":"SLOW_CONSUMER"}}`,
		`{"gap":{"channel":"cursor.a","reason":"ERROR_REASON_SLOW_CONSUMER"}}`,
	},
	{
		"position", 0,
		frame.Position{Position: message.Position{Epoch: "e", Offset: 9}, Channels: []string{"chat.a", "chat.b"}},
		`{"position":{"epoch":"e","offset":9,"channels":["chat.a","chat.b"]}}`,
		`{"position":{"epoch":"e","offset":"9","channels":["chat.a","chat.b"]}}`,
	},
	{
		"disconnect", 0,
		frame.Disconnect{Cause: fault.New(fault.Draining, "", "stopping"), ReconnectAfter: 3 * time.Second},
		`{"disconnect":{"code":"UNAVAILABLE","reason":"DRAINING","message":"stopping","reconnectAfterMs":3000}}`,
		`{"disconnect":{"code":"UNAVAILABLE","reason":"ERROR_REASON_DRAINING","message":"stopping","reconnectAfterMs":3000}}`,
	},
}

func TestAppend(t *testing.T) {
	t.Parallel()
	for _, tt := range events {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			text := frame.JSON{}.Append([]byte("x"), tt.id, tt.event)
			if got := strings.TrimPrefix(string(text), "x"); got != tt.json || !json.Valid([]byte(got)) {
				t.Errorf("JSON\ngot  %s\nwant %s", got, tt.json)
			}
			var got, want clientv1.ServerFrame
			if err := proto.Unmarshal(frame.Protobuf{}.Append(nil, tt.id, tt.event), &got); err != nil {
				t.Fatal(err)
			}
			if err := protojson.Unmarshal([]byte(tt.proto), &want); err != nil {
				t.Fatal(err)
			}
			if !proto.Equal(&got, &want) {
				t.Errorf("protobuf\ngot  %v\nwant %v", &got, &want)
			}
		})
	}
}

// Every kind of event stands in the table above, so no codec can panic at one.
func TestEventsAreComplete(t *testing.T) {
	t.Parallel()
	covered := map[string]bool{}
	for _, tt := range events {
		var f clientv1.ServerFrame
		if err := proto.Unmarshal(frame.Protobuf{}.Append(nil, tt.id, tt.event), &f); err != nil {
			t.Fatal(err)
		}
		fields := f.ProtoReflect().Descriptor().Oneofs().ByName("event")
		covered[string(f.ProtoReflect().WhichOneof(fields).Name())] = true
	}
	all := (&clientv1.ServerFrame{}).ProtoReflect().Descriptor().Oneofs().ByName("event").Fields()
	for i := range all.Len() {
		if name := string(all.Get(i).Name()); !covered[name] {
			t.Errorf("no event makes %s", name)
		}
	}
}

func FuzzDecodeJSON(f *testing.F) {
	for _, tt := range commands {
		f.Add([]byte(tt.json))
	}
	f.Fuzz(func(t *testing.T, data []byte) { checkDecode(t, frame.JSON{}, data) })
}

func FuzzDecodeProtobuf(f *testing.F) {
	f.Add([]byte{8, 1})
	f.Add([]byte{8, 2, 0x1a, 8, 0x0a, 6, 'c', 'h', 'a', 't', '.', 'a'})
	f.Fuzz(func(t *testing.T, data []byte) { checkDecode(t, frame.Protobuf{}, data) })
}

func checkDecode(t *testing.T, codec frame.Codec, data []byte) {
	command, err := codec.Decode(data)
	if err != nil {
		if fault.From(err).Reason != fault.FrameMalformed {
			t.Errorf("error %v", err)
		}
		return
	}
	if command.ID == 0 || command.ID > frame.MaxID || command.Body == nil {
		t.Errorf("decoded %+v", command)
	}
	if refusal, ok := command.Body.(*fault.Error); ok { // must be fit to be told
		codec.Append(nil, command.ID, frame.Refused{Error: refusal})
	}
}

func BenchmarkAppendMessage(b *testing.B) {
	event := frame.Message{Message: &message.Message{Channel: "chat.a", Offset: 7, Time: at, Payload: message.Payload{Data: []byte(`{"text":"hello"}`)}, Publisher: "alice"}}
	for _, codec := range frame.Codecs() {
		b.Run(codec.Subprotocol(), func(b *testing.B) {
			b.ReportAllocs()
			buffer := make([]byte, 0, 1024)
			for b.Loop() {
				buffer = codec.Append(buffer[:0], 0, event)
			}
		})
	}
}
