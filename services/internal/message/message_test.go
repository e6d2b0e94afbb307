package message_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/message"
)

func TestJSONCompacts(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		" {\n \"a\" : [ 1 , 2.50 ] }\n": `{"a":[1,2.50]}`, "null": "null", "9007199254740993": "9007199254740993",
		`"</script> & \u2028"`: `"</script> & \u2028"`, `"[[["`: `"[[["`, `"\\\"]"`: `"\\\"]"`,
		strings.Repeat("[", 64) + strings.Repeat("]", 64): strings.Repeat("[", 64) + strings.Repeat("]", 64),
	} {
		p, err := message.JSON("json", []byte(text))
		if err != nil || string(p.Data) != want || !p.IsJSON() {
			t.Errorf("%q: %q, %v", text, p.Data, err)
		}
	}
}

func TestJSONRefuses(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, text, want string }{
		{"broken", `{"a":`, "PAYLOAD_INVALID (json): json is not valid JSON: unexpected end of JSON input"},
		{"closes our frame", `{"a":1}}],{"x":{}`, "PAYLOAD_INVALID (json): json is not valid JSON: invalid character '}' after top-level value"},
		{"two values", `1 2`, "PAYLOAD_INVALID (json): json is not valid JSON: invalid character '2' after top-level value"},
		{"empty", ``, "PAYLOAD_INVALID (json): json is not valid JSON: unexpected end of JSON input"},
		{"not UTF-8", "\"\xff\"", "PAYLOAD_INVALID (json): json is not valid UTF-8"},
		{"raw control character", "\"\x00\"", `PAYLOAD_INVALID (json): json is not valid JSON: invalid character '\x00' in string literal`},
		{"5,000 deep", strings.Repeat("[", 5000) + strings.Repeat("]", 5000), "PAYLOAD_TOO_DEEP (json): json is nested 5000 levels deep, more than 64"},
		{"2 MiB", `"` + strings.Repeat("a", 2<<20-2) + `"`, "PAYLOAD_TOO_LARGE (json): json has 2097152 bytes, more than 262144"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := message.JSON("json", []byte(tt.text))
			if err == nil || err.Error() != tt.want {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
		})
	}
}

func TestBytes(t *testing.T) {
	t.Parallel()
	p, err := message.Bytes("data", []byte{0, 1}, "image/png; x=y")
	if err != nil || p.IsJSON() || p.ContentType != "image/png; x=y" {
		t.Errorf("%+v, %v", p, err)
	}
	for contentType, want := range map[string]fault.Reason{
		"": fault.FieldRequired, "png": fault.FieldInvalid, "no type": fault.FieldInvalid, "a/b\r\nX: y": fault.FieldInvalid, "a/" + strings.Repeat("b", 127): fault.FieldInvalid,
	} {
		if _, err := message.Bytes("data", nil, contentType); err == nil || fault.From(err).Reason != want || fault.From(err).Field != "contentType" {
			t.Errorf("%q: %v", contentType, err)
		}
	}
}

func TestCheckHeaders(t *testing.T) {
	t.Parallel()
	if err := message.CheckHeaders(map[string]string{"X-Tenant": "a b", "content-language": "de"}); err != nil {
		t.Error(err)
	}
	many := map[string]string{}
	for i := range 33 {
		many["h"+strings.Repeat("x", i)] = ""
	}
	tests := []struct {
		name    string
		headers map[string]string
		want    string
	}{
		{"NATS's", map[string]string{"Nats-Msg-Id": "x"}, `HEADER_INVALID (headers): header name "Nats-Msg-Id" is reserved: it begins with "nats-"`},
		{"NATS's in lower case", map[string]string{"nats-sequence": "1"}, `HEADER_INVALID (headers): header name "nats-sequence" is reserved: it begins with "nats-"`},
		{"ours", map[string]string{"CARILLON-Publisher": "x"}, `HEADER_INVALID (headers): header name "CARILLON-Publisher" is reserved: it begins with "carillon-"`},
		{"trace context", map[string]string{"traceparent": "x"}, `HEADER_INVALID (headers): header name "traceparent" is reserved: send it as gRPC metadata or HTTP header`},
		{"line break", map[string]string{"x": "a\r\nNats-Msg-Id: y"}, `HEADER_INVALID (headers): header "x" has a value with a line break or a byte that is not printable ASCII`},
		{"no name", map[string]string{"": "a"}, `HEADER_INVALID (headers): header name "" is not a token (RFC 9110, 5.6.2)`},
		{"colon in the name", map[string]string{"a:b": "a"}, `HEADER_INVALID (headers): header name "a:b" is not a token (RFC 9110, 5.6.2)`},
		{"too many", many, "HEADER_INVALID (headers): headers has 33 entries, more than 32"},
		{"too large", map[string]string{"x": strings.Repeat("a", 4096)}, "HEADER_INVALID (headers): headers have 4097 bytes, more than 4096"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if err := message.CheckHeaders(tt.headers); err == nil || err.Error() != tt.want {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
		})
	}
}

func TestCheckID(t *testing.T) {
	t.Parallel()
	for id, ok := range map[string]bool{"": true, "a-1": true, strings.Repeat("a", 128): true, strings.Repeat("a", 129): false, "a b": false, "ä": false, "a\n": false} {
		if err := message.CheckID(id); (err == nil) != ok {
			t.Errorf("%q: %v", id, err)
		}
	}
}

func FuzzJSON(f *testing.F) {
	for _, seed := range []string{`{"a":[1,"x"]}`, `"\u0000"`, "[[", `{"a":1}}`, "\"\\\""} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := message.JSON("json", text)
		if err != nil {
			return
		}
		if !json.Valid(p.Data) || !json.Valid([]byte(`{"data":`+string(p.Data)+`}`)) {
			t.Errorf("%q became %q", text, p.Data)
		}
	})
}
