package publish

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	publishv1 "github.com/carillon-rt/carillon/gen/carillon/publish/v1"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/message"
)

// FuzzParseRequest holds the body's reader against encoding/json: what it accepts is
// JSON, unless the value of data is not and the service will say so, and it reads
// the same fields.
func FuzzParseRequest(f *testing.F) {
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
