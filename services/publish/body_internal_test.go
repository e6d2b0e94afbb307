package publish

import (
	"encoding/json"
	"errors"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"github.com/grpc-ecosystem/grpc-gateway/v2/utilities"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	publishv1 "github.com/carillon-rt/carillon/gen/carillon/publish/v1"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/message"
)

// FuzzParsePublish holds the body's reader against encoding/json: what it accepts is
// JSON, unless the value of data is not and the service will say so, and it reads
// the same fields.
func FuzzParsePublish(f *testing.F) {
	for _, seed := range []string{
		"", "{}", "[]", `{"channel":"chat.lobby","data":{"a":[1,"}]"]}}`, `{"channel":"a.b","data":"\\\"","messageId":"m"} `,
		`{"userId":"\u0061nn","dataBase64":"AA==","contentType":"a/b","headers":{"a":"b","c":"d"}}`,
		`{"channel":"a.b","data":{"a":1}}],{"x":1`, `{"channel":"a.b","data":[}`, `{"channel":"a.b","data":1,"headers":{"a":"b",}}`,
		"{\"channel\":\"a.b\",\"data\":1}\x00", `{"data":1,"data":2}`, `{"channel":"a.b","data":` + strings.Repeat("[", 100),
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		request := &publishv1.PublishRequest{}
		if err := parsePublish(body, request); err != nil {
			refused, ok := errors.AsType[*fault.Error](err)
			if !ok || refused.Code() != codes.InvalidArgument || len(refused.Message) > 1024 || len(refused.Field) > 64 {
				t.Fatalf("parsePublish(%q) = %v, want a bounded INVALID_ARGUMENT", body, err)
			}
			return
		}
		if content, ok := request.GetPayload().(*publishv1.PublishRequest_Json); ok {
			if _, err := message.JSON("data", []byte(content.Json)); err != nil {
				return
			}
		}
		want := map[string]json.RawMessage{}
		if err := json.Unmarshal(body, &want); err != nil {
			t.Fatalf("parsePublish(%q) accepted what is no JSON: %v", body, err)
		}
		if data, ok := want["data"]; ok && string(data) != request.GetJson() {
			t.Errorf("data = %q, want %q", request.GetJson(), data)
		}
		for name, got := range map[string]string{
			"channel": request.GetChannel(), "userId": request.GetUserId(), "messageId": request.GetMessageId(), "contentType": request.GetContentType(),
		} {
			var s string
			if raw, ok := want[name]; ok && (json.Unmarshal(raw, &s) != nil || s != got) {
				t.Errorf("%s = %q, want %q", name, got, s)
			}
		}
		var headers map[string]string
		if raw, ok := want["headers"]; ok && (json.Unmarshal(raw, &headers) != nil || len(headers) != len(request.GetHeaders())) {
			t.Errorf("headers = %q, want %q", request.GetHeaders(), raw)
		}
	})
}

// FuzzParseBatch holds the reader of batches against encoding/json: where every data is
// JSON, what it accepts is, with as many messages and targets.
func FuzzParseBatch(f *testing.F) {
	for _, seed := range []string{
		"", "{}", `{"messages":[]}`, `{"messages":[{"channel":"a.b","data":{"a":[1,"}]"]}},{"userId":"ann","dataBase64":"AA==","contentType":"a/b"}]}`,
		`{"messages":[{},]}`, `{"messages":[,{}]}`, `{"messages":[{}] ,"multicast":{"channels":["a.b","\u0061"],"userIds":[],"data":1,"ttl":"1.5s"}}`,
		`{"messages":[{"data":[}]},{"data":1}]}`, `{"multicast":{"channels":["a" "b"]}}`, `{"multicast":{"data":"]}","headers":{"a":"b"}}}`,
		`{"messages":[{"expectedLastOffset":9007199254740991,"expectedEpoch":"e","ttl":"60s"}]}`, `{"messages":[{"data":1}]}]`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		request := &publishv1.PublishBatchRequest{}
		if err := parseBatch(body, request); err != nil {
			refused, ok := errors.AsType[*fault.Error](err)
			if !ok || refused.Code() != codes.InvalidArgument || len(refused.Message) > 1024 || len(refused.Field) > 96 {
				t.Fatalf("parseBatch(%q) = %v, want a bounded INVALID_ARGUMENT", body, err)
			}
			return
		}
		contents := []string{request.GetMulticast().GetJson()}
		for _, m := range request.GetMessages() {
			contents = append(contents, m.GetJson())
		}
		for _, content := range contents {
			if _, err := message.JSON("data", []byte(content)); err != nil && content != "" {
				return
			}
		}
		var want struct {
			Messages  []struct{ Data json.RawMessage }
			Multicast struct{ Channels, UserIDs []string }
		}
		if !json.Valid(body) {
			if strings.Contains(string(body), "data") { // of which one may be empty, as the service will say
				return
			}
			t.Fatalf("parseBatch(%q) accepted what is no JSON", body)
		}
		if err := json.Unmarshal(body, &want); err != nil {
			t.Fatalf("parseBatch(%q) accepted other types: %v", body, err)
		}
		m := request.GetMulticast()
		if len(want.Messages) != len(request.GetMessages()) || len(want.Multicast.Channels) != len(m.GetChannels()) || len(want.Multicast.UserIDs) != len(m.GetUserIds()) {
			t.Errorf("parseBatch(%q) = %v", body, request)
		}
	})
}

// FuzzCheckQuery holds the check of a query against the gateway's parser: what passes is
// understood whole.
func FuzzCheckQuery(f *testing.F) {
	for _, seed := range []string{
		"", "channel=chat.a&limit=5&newestFirst=true&after.epoch=e&after.offset=7", "userId=%20&before.offset=9007199254740991&before.epoch=",
		"channel=%ff", "a;b", "limit=01", "limit=0+", "limit=1e3", "channel=a&channel=b", "newest_first=true", "after=1", "after.offset=18446744073709551616", "%zz",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, query string) {
		if err := messagesQuery.Check(query); err != nil {
			refused, ok := errors.AsType[*fault.Error](err)
			if !ok || refused.Code() != codes.InvalidArgument || len(refused.Message) > 1024 || len(refused.Field) > 64 {
				t.Fatalf("Check(%q) = %v, want a bounded INVALID_ARGUMENT", query, err)
			}
			return
		}
		values, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		request := &publishv1.ListMessagesRequest{}
		if err := runtime.PopulateQueryParameters(request, values, utilities.NewDoubleArray(nil)); err != nil {
			t.Fatalf("Check(%q) lets pass what the gateway refuses: %v", query, err)
		}
		if _, err := proto.Marshal(request); err != nil {
			t.Fatalf("%q cannot be sent: %v", query, err)
		}
		for name, got := range map[string]string{
			"channel": request.GetChannel(), "userId": request.GetUserId(), "after.epoch": request.GetAfter().GetEpoch(), "before.epoch": request.GetBefore().GetEpoch(),
			"limit": number(uint64(request.GetLimit())), "after.offset": number(request.GetAfter().GetOffset()), "before.offset": number(request.GetBefore().GetOffset()),
			"newestFirst": strconv.FormatBool(request.GetNewestFirst()),
		} {
			if want := values.Get(name); values.Has(name) && want != got {
				t.Errorf("%q: %s is %q, want %q", query, name, got, want)
			}
		}
	})
}

func number(n uint64) string { return strconv.FormatUint(n, 10) }
