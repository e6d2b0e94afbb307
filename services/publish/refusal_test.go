package publish_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/protobuf/types/known/durationpb"

	publishv1 "github.com/carillon-rt/carillon/gen/carillon/publish/v1"
	"github.com/carillon-rt/carillon/services/internal/auth"
	"github.com/carillon-rt/carillon/services/internal/message"
	"github.com/carillon-rt/carillon/services/publish"
)

func toChannel(name, json string) *publishv1.PublishRequest {
	return &publishv1.PublishRequest{
		Target: &publishv1.PublishRequest_Channel{Channel: name}, Payload: &publishv1.PublishRequest_Json{Json: json},
	}
}

func with(r *publishv1.PublishRequest, change func(*publishv1.PublishRequest)) *publishv1.PublishRequest {
	change(r)
	return r
}

// never is a store that must not be reached.
func never(t *testing.T) storeFunc {
	return func(_ context.Context, p message.Publication) (message.Receipt, error) {
		t.Errorf("stored a publication to %s", p.Channel)
		return message.Receipt{}, nil
	}
}

// badRequest is a request that must be refused, over gRPC and over HTTP.
type badRequest struct {
	name    string
	request *publishv1.PublishRequest // nil where gRPC cannot say it
	body    string                    // empty where HTTP cannot say it
	code    string
	grpc    refusal // without code
	http    refusal // without code; as grpc where it is zero
	status  int
}

const invalid = "INVALID_ARGUMENT"

func channelBody(name string) string { return `{"channel":"` + name + `","data":1}` }

func dataBody(data string) string { return `{"channel":"chat.lobby","data":` + data + `}` }

func badTargets() []badRequest {
	user := func(id string) *publishv1.PublishRequest {
		return with(toChannel("", "1"), func(r *publishv1.PublishRequest) { r.Target = &publishv1.PublishRequest_UserId{UserId: id} })
	}
	return []badRequest{
		{
			"no target", with(toChannel("", "1"), func(r *publishv1.PublishRequest) { r.Target = nil }), `{"data":1}`, invalid,
			refusal{reason: "FIELD_REQUIRED", field: "target", message: "channel or userId is required"},
			refusal{reason: "FIELD_REQUIRED", field: "channel", message: "channel or userId is required"},
			400,
		},
		{
			"two targets", nil, `{"channel":"chat.lobby","userId":"ann","data":1}`, invalid,
			refusal{},
			refusal{reason: "FIELD_INVALID", field: "userId", message: "channel and userId are two targets; send one"},
			400,
		},
		{
			"empty user", user(""), `{"userId":"","data":1}`, invalid,
			refusal{reason: "FIELD_REQUIRED", field: "userId", message: "userId is required"},
			refusal{},
			400,
		},
		{
			"user with a control character", user("a\nb"), `{"userId":"a\nb","data":1}`, invalid,
			refusal{reason: "FIELD_INVALID", field: "userId", message: "userId must be UTF-8 without control characters"},
			refusal{},
			400,
		},
		{
			"user of 129 bytes", user(strings.Repeat("u", 129)), `{"userId":"` + strings.Repeat("u", 129) + `","data":1}`, invalid,
			refusal{reason: "FIELD_INVALID", field: "userId", message: "userId must be at most 128 bytes"},
			refusal{},
			400,
		},
	}
}

func badChannels() []badRequest {
	const tokenRule = `; a token is printable ASCII without space, ".", "*", ">", '"' and "\"`
	return []badRequest{
		{
			"unknown namespace", toChannel("chta.lobby", "1"), channelBody("chta.lobby"), "NOT_FOUND",
			refusal{reason: "NAMESPACE_UNKNOWN", field: "channel", message: `there is no namespace "chta"`},
			refusal{},
			404,
		},
		{
			"denied pattern", toChannel("cursor.a.b", "1"), channelBody("cursor.a.b"), "PERMISSION_DENIED",
			refusal{reason: "CALLER_DENIED", field: "channel", message: `the caller "billing" may not publish to this channel`},
			refusal{},
			403,
		},
		{
			"empty channel", toChannel("", "1"), channelBody(""), invalid,
			refusal{reason: "FIELD_REQUIRED", field: "channel", message: "channel is required"},
			refusal{},
			400,
		},
		{
			"one-token channel", toChannel("chat", "1"), channelBody("chat"), invalid,
			refusal{reason: "CHANNEL_INVALID", field: "channel", message: `channel has 1 tokens; it needs 2 to 16, joined by "."`},
			refusal{},
			400,
		},
		{
			"wildcard", toChannel("chat.*", "1"), channelBody("chat.*"), invalid,
			refusal{reason: "CHANNEL_INVALID", field: "channel", message: `channel has the byte '*'` + tokenRule},
			refusal{},
			400,
		},
		{
			"full wildcard", toChannel("chat.>", "1"), channelBody("chat.>"), invalid,
			refusal{reason: "CHANNEL_INVALID", field: "channel", message: `channel has the byte '>'` + tokenRule},
			refusal{},
			400,
		},
		{
			"control character", toChannel("chat.a\x00b", "1"), channelBody(`chat.a\u0000b`), invalid,
			refusal{reason: "CHANNEL_INVALID", field: "channel", message: `channel has the byte '\x00'` + tokenRule},
			refusal{},
			400,
		},
		{
			"300 bytes", toChannel("chat."+strings.Repeat("x", 295), "1"), channelBody("chat." + strings.Repeat("x", 295)), invalid,
			refusal{reason: "CHANNEL_INVALID", field: "channel", message: "channel must be at most 255 bytes"},
			refusal{},
			400,
		},
	}
}

func badBytes() []badRequest {
	bytesOf := func(n int, contentType string) *publishv1.PublishRequest {
		return with(toChannel("chat.lobby", ""), func(r *publishv1.PublishRequest) {
			r.Payload, r.ContentType = &publishv1.PublishRequest_Data{Data: make([]byte, n)}, contentType
		})
	}
	base64Of := func(n int) string { return base64.StdEncoding.EncodeToString(make([]byte, n)) }
	return []badRequest{
		{
			"2 MiB of bytes", bytesOf(2<<20, "image/png"), `{"channel":"chat.lobby","contentType":"image/png","dataBase64":"` + base64Of(2<<20) + `"}`, invalid,
			refusal{reason: "PAYLOAD_TOO_LARGE", field: "data", message: "data has 2097152 bytes, more than 262144"},
			refusal{reason: "PAYLOAD_TOO_LARGE", field: "dataBase64", message: "dataBase64 has 2097152 bytes, more than 262144"},
			400,
		},
		{
			"bytes without a content type", bytesOf(1, ""), `{"channel":"chat.lobby","dataBase64":"AA=="}`, invalid,
			refusal{reason: "FIELD_REQUIRED", field: "contentType", message: "contentType is required with data"},
			refusal{reason: "FIELD_REQUIRED", field: "contentType", message: "contentType is required with dataBase64"},
			400,
		},
		{
			"bytes with a broken content type", bytesOf(1, "a/b\n"), `{"channel":"chat.lobby","dataBase64":"AA==","contentType":"a/b\n"}`, invalid,
			refusal{reason: "FIELD_INVALID", field: "contentType", message: "contentType must be a media type such as image/png, at most 128 bytes"},
			refusal{},
			400,
		},
	}
}

func badJSON() []badRequest {
	deep := strings.Repeat("[", 5000) + strings.Repeat("]", 5000)
	deeper := strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000)
	big := `"` + strings.Repeat("x", 2<<20) + `"`
	return []badRequest{
		{
			"no payload", with(toChannel("chat.lobby", ""), func(r *publishv1.PublishRequest) { r.Payload = nil }), `{"channel":"chat.lobby"}`, invalid,
			refusal{reason: "FIELD_REQUIRED", field: "payload", message: "json or data is required"},
			refusal{reason: "FIELD_REQUIRED", field: "data", message: "data or dataBase64 is required"},
			400,
		},
		{
			"two payloads", nil, `{"channel":"chat.lobby","data":1,"dataBase64":"AA=="}`, invalid,
			refusal{},
			refusal{reason: "FIELD_INVALID", field: "dataBase64", message: "data and dataBase64 are two payloads; send one"},
			400,
		},
		{
			"broken JSON", toChannel("chat.lobby", `{"a":}`), dataBody(`{"a":}`), invalid,
			refusal{reason: "PAYLOAD_INVALID", field: "json", message: "json is not valid JSON: invalid character '}' looking for beginning of value"},
			refusal{reason: "PAYLOAD_INVALID", field: "data", message: "data is not valid JSON: invalid character '}' looking for beginning of value"},
			400,
		},
		{
			"empty JSON", toChannel("chat.lobby", ""), dataBody(""), invalid,
			refusal{reason: "PAYLOAD_INVALID", field: "json", message: "json is not valid JSON: unexpected end of JSON input"},
			refusal{reason: "PAYLOAD_INVALID", field: "data", message: "data is not valid JSON: unexpected end of JSON input"},
			400,
		},
		{
			"two JSON values", toChannel("chat.lobby", "1 2"), dataBody("1 2"), invalid,
			refusal{reason: "PAYLOAD_INVALID", field: "json", message: "json is not valid JSON: invalid character '2' after top-level value"},
			refusal{reason: "PAYLOAD_INVALID", field: "data", message: "data is not valid JSON: invalid character '2' after top-level value"},
			400,
		},
		{
			"5,000-deep JSON", toChannel("chat.lobby", deep), dataBody(deep), invalid,
			refusal{reason: "PAYLOAD_TOO_DEEP", field: "json", message: "json is nested 5000 levels deep, more than 64"},
			refusal{reason: "PAYLOAD_TOO_DEEP", field: "data", message: "data is nested 5000 levels deep, more than 64"},
			400,
		},
		{
			"100,000-deep JSON", toChannel("chat.lobby", deeper), dataBody(deeper), invalid,
			refusal{reason: "PAYLOAD_TOO_DEEP", field: "json", message: "json is nested 100000 levels deep, more than 64"},
			refusal{reason: "PAYLOAD_TOO_DEEP", field: "data", message: "data is nested 100000 levels deep, more than 64"},
			400,
		},
		{
			"JSON that tries to close our frame", toChannel("chat.lobby", `{"a":1}}],{"x":1`), dataBody(`{"a":1}}],{"x":1`), invalid,
			refusal{reason: "PAYLOAD_INVALID", field: "json", message: "json is not valid JSON: invalid character '}' after top-level value"},
			refusal{reason: "FIELD_INVALID", message: "the body has something after its JSON object"},
			400,
		},
		{
			"JSON that tries to close our list", toChannel("chat.lobby", `{"a":1}],"x":2`), dataBody(`{"a":1}],"x":2`), invalid,
			refusal{reason: "PAYLOAD_INVALID", field: "json", message: "json is not valid JSON: invalid character ']' after top-level value"},
			refusal{reason: "FIELD_INVALID", message: `the body is not valid JSON: after "data" comes neither a comma nor the end of the object`},
			400,
		},
		{
			"2 MiB", toChannel("chat.lobby", big), dataBody(big), invalid,
			refusal{reason: "PAYLOAD_TOO_LARGE", field: "json", message: "json has 2097154 bytes, more than 262144"},
			refusal{reason: "PAYLOAD_TOO_LARGE", field: "data", message: "data has 2097154 bytes, more than 262144"},
			400,
		},
		{
			"JSON not in UTF-8", nil, dataBody("\"\xff\""), invalid,
			refusal{},
			refusal{reason: "PAYLOAD_INVALID", field: "data", message: "data is not valid UTF-8"},
			400,
		},
		{
			"JSON with a content type", with(toChannel("chat.lobby", "1"), func(r *publishv1.PublishRequest) { r.ContentType = "application/json" }),
			`{"channel":"chat.lobby","data":1,"contentType":"application/json"}`, invalid,
			refusal{reason: "FIELD_INVALID", field: "contentType", message: "contentType belongs to data; json has none"},
			refusal{reason: "FIELD_INVALID", field: "contentType", message: "contentType belongs to dataBase64; data is JSON"},
			400,
		},
	}
}

func badAttributes() []badRequest {
	header := func(name, value string) *publishv1.PublishRequest {
		return with(toChannel("chat.lobby", "1"), func(r *publishv1.PublishRequest) { r.Headers = map[string]string{name: value} })
	}
	messageID := func(id string) *publishv1.PublishRequest {
		return with(toChannel("chat.lobby", "1"), func(r *publishv1.PublishRequest) { r.MessageId = id })
	}
	return []badRequest{
		{
			"Nats-* header", header("Nats-Msg-Id", "x"), `{"channel":"chat.lobby","data":1,"headers":{"Nats-Msg-Id":"x"}}`, invalid,
			refusal{reason: "HEADER_INVALID", field: "headers", message: `header name "Nats-Msg-Id" is reserved: it begins with "nats-"`},
			refusal{},
			400,
		},
		{
			"header with a line break", header("Kind", "a\r\nNats-Msg-Id: x"), `{"channel":"chat.lobby","data":1,"headers":{"Kind":"a\r\nNats-Msg-Id: x"}}`, invalid,
			refusal{reason: "HEADER_INVALID", field: "headers", message: `header "Kind" has a value with a line break or a byte that is not printable ASCII`},
			refusal{},
			400,
		},
		{
			"header name with a line break", header("a\nb", "x"), `{"channel":"chat.lobby","data":1,"headers":{"a\nb":"x"}}`, invalid,
			refusal{reason: "HEADER_INVALID", field: "headers", message: `header name "a\nb" is not a token (RFC 9110, 5.6.2)`},
			refusal{},
			400,
		},
		{
			"headers of 5 KiB", header("Kind", strings.Repeat("x", 5<<10)), `{"channel":"chat.lobby","data":1,"headers":{"Kind":"` + strings.Repeat("x", 5<<10) + `"}}`, invalid,
			refusal{reason: "HEADER_INVALID", field: "headers", message: "headers have 5124 bytes, more than 4096"},
			refusal{},
			400,
		},
		{
			"message id with a space", messageID("a b"), `{"channel":"chat.lobby","data":1,"messageId":"a b"}`, invalid,
			refusal{reason: "FIELD_INVALID", field: "messageId", message: "messageId does not match regex pattern `^[!-~]*$`"},
			refusal{},
			400,
		},
		{
			"message id of 129 bytes", messageID(strings.Repeat("m", 129)), `{"channel":"chat.lobby","data":1,"messageId":"` + strings.Repeat("m", 129) + `"}`, invalid,
			refusal{reason: "FIELD_INVALID", field: "messageId", message: "messageId must be at most 128 bytes"},
			refusal{},
			400,
		},
	}
}

func badConditions() []badRequest {
	lasting := func(channel string, ttl *durationpb.Duration) *publishv1.PublishRequest {
		return with(toChannel(channel, "1"), func(r *publishv1.PublishRequest) { r.Ttl = ttl })
	}
	expecting := func(channel string, last *uint64, epoch string) *publishv1.PublishRequest {
		return with(toChannel(channel, "1"), func(r *publishv1.PublishRequest) { r.ExpectedLastOffset, r.ExpectedEpoch = last, epoch })
	}
	body := func(channel, fields string) string { return `{"channel":"` + channel + `","data":1,` + fields + `}` }
	return []badRequest{
		{
			"ttl of nothing", lasting("chat.lobby", durationpb.New(0)), body("chat.lobby", `"ttl":"0s"`), invalid,
			refusal{reason: "FIELD_INVALID", field: "ttl", message: "ttl must be greater than 0s and less than or equal to 31536000s"},
			refusal{},
			400,
		},
		{
			"ttl of more than a year", lasting("chat.lobby", durationpb.New(8761*time.Hour)), body("chat.lobby", `"ttl":"31539600s"`), invalid,
			refusal{reason: "FIELD_INVALID", field: "ttl", message: "ttl must be greater than 0s and less than or equal to 31536000s"},
			refusal{},
			400,
		},
		{
			"ttl in two directions", lasting("chat.lobby", &durationpb.Duration{Seconds: 1, Nanos: -1}), "", invalid,
			refusal{reason: "FIELD_INVALID", field: "ttl", message: "ttl is not a valid duration"},
			refusal{},
			400,
		},
		{
			"ttl in minutes", nil, body("chat.lobby", `"ttl":"5m"`), invalid,
			refusal{},
			refusal{reason: "FIELD_INVALID", field: "ttl", message: `ttl must be a string of seconds such as "60s"`},
			400,
		},
		{
			"ttl as a number", nil, body("chat.lobby", `"ttl":60`), invalid,
			refusal{},
			refusal{reason: "FIELD_INVALID", field: "ttl", message: `ttl must be a string of seconds such as "60s"`},
			400,
		},
		{
			"ttl in an ephemeral namespace", lasting("cursor.doc", durationpb.New(time.Minute)), body("cursor.doc", `"ttl":"60s"`), invalid,
			refusal{reason: "FIELD_INVALID", field: "ttl", message: `ttl: the namespace "cursor" is ephemeral and keeps no messages`},
			refusal{},
			400,
		},
		{
			"expected epoch alone", expecting("chat.lobby", nil, "e"), body("chat.lobby", `"expectedEpoch":"e"`), invalid,
			refusal{reason: "FIELD_INVALID", field: "expectedEpoch", message: "expectedEpoch belongs to expectedLastOffset, which is not there"},
			refusal{},
			400,
		},
		{
			"expectation in an ephemeral namespace", expecting("cursor.doc", new(uint64(0)), ""), body("cursor.doc", `"expectedLastOffset":0`), invalid,
			refusal{reason: "FIELD_INVALID", field: "expectedLastOffset", message: `expectedLastOffset: the namespace "cursor" is ephemeral and has no positions`},
			refusal{},
			400,
		},
		{
			"expected offset beyond 2^53", expecting("chat.lobby", new(uint64(1<<53)), ""), body("chat.lobby", `"expectedLastOffset":9007199254740992`), invalid,
			refusal{reason: "FIELD_INVALID", field: "expectedLastOffset", message: "expectedLastOffset must be less than or equal to 9007199254740991"},
			refusal{},
			400,
		},
		{
			"expected offset as a text", nil, body("chat.lobby", `"expectedLastOffset":"0"`), invalid,
			refusal{},
			refusal{reason: "FIELD_INVALID", field: "expectedLastOffset", message: "expectedLastOffset must be a whole number that is not negative"},
			400,
		},
		{
			"expected offset with a fraction", nil, body("chat.lobby", `"expectedLastOffset":1.5`), invalid,
			refusal{},
			refusal{reason: "FIELD_INVALID", field: "expectedLastOffset", message: "expectedLastOffset must be a whole number that is not negative"},
			400,
		},
	}
}

// badRequests are all of them.
func badRequests() []badRequest {
	return slices.Concat(badTargets(), badChannels(), badJSON(), badBytes(), badAttributes(), badConditions())
}

func TestBadRequests(t *testing.T) {
	t.Parallel()
	a := start(t, never(t))
	token := callerToken(t, "billing")
	anywhere := callerToken(t, "anywhere")
	for _, test := range badRequests() {
		token := token
		if test.grpc.reason == "NAMESPACE_UNKNOWN" { // not because of the patterns
			token = anywhere
		}
		want := test.grpc
		want.code = test.code
		if test.request != nil {
			_, err := a.client.Publish(as(t.Context(), token), test.request)
			if got := grpcRefusal(err); want.reason != "" && got != want {
				t.Errorf("%s: gRPC\n %+v, want\n %+v", test.name, got, want)
			}
		}
		if test.body == "" {
			continue
		}
		if test.http.reason != "" {
			want = test.http
			want.code = test.code
		}
		status, header, text := a.post(t, "Bearer "+token, test.body)
		if got := httpRefusal(t, text); got != want || status != test.status || header.Get("Content-Type") != "application/json" {
			t.Errorf("%s: HTTP %d (want %d) %s\n %+v, want\n %+v", test.name, status, test.status, header.Get("Content-Type"), got, want)
		}
	}
}

func TestBadTokens(t *testing.T) {
	t.Parallel()
	a := start(t, never(t))
	hour, past := time.Now().Add(time.Hour).Unix(), time.Now().Add(-time.Minute)
	hs256 := func(key string, claims jwt.MapClaims) string {
		return "Bearer " + sign(t, jwt.SigningMethodHS256, []byte(key), claims)
	}
	caller := jwt.MapClaims{"sub": "billing", "aud": auth.CallerAudience, "exp": hour}
	const how = ": send the header authorization: Bearer <JWT>"
	for _, test := range []struct {
		name, authorization string
		want                refusal
		status              int
	}{
		{"no token", "", refusal{"UNAUTHENTICATED", "TOKEN_MISSING", "", "no token" + how}, 401},
		{"another scheme", "Basic YTpi", refusal{"UNAUTHENTICATED", "TOKEN_MALFORMED", "", "the authorization header is not a bearer token" + how}, 401},
		{"no JWT", "Bearer abc", refusal{"UNAUTHENTICATED", "TOKEN_MALFORMED", "", `the token is not a JWT: three parts of base64url, joined by "."`}, 401},
		{
			"expired", hs256(secret, jwt.MapClaims{"sub": "billing", "aud": auth.CallerAudience, "exp": past.Unix()}),
			refusal{"UNAUTHENTICATED", "TOKEN_EXPIRED", "", "the token expired at " + past.UTC().Format(time.RFC3339)},
			401,
		},
		{
			"wrong key", hs256(strings.Repeat("k", 32), caller),
			refusal{"UNAUTHENTICATED", "TOKEN_SIGNATURE_INVALID", "", "the token's signature does not match the issuer's key"},
			401,
		},
		{
			"alg none", "Bearer " + sign(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, caller),
			refusal{"UNAUTHENTICATED", "TOKEN_ALGORITHM_NOT_ALLOWED", "", "the token's alg is not one of ES256 ES384 ES512 EdDSA HS256 HS384 HS512 PS256 PS384 PS512 RS256 RS384 RS512"},
			401,
		},
		{
			"another algorithm", "Bearer " + sign(t, jwt.SigningMethodHS512, []byte(secret), caller),
			refusal{"UNAUTHENTICATED", "TOKEN_ALGORITHM_NOT_ALLOWED", "", "the issuer's tokens are signed with HS256, not HS512"},
			401,
		},
		{
			"wrong audience", hs256(secret, jwt.MapClaims{"sub": "billing", "aud": "elsewhere", "exp": hour}),
			refusal{"UNAUTHENTICATED", "TOKEN_AUDIENCE_INVALID", "", "this is a client's token; a caller's, whose aud holds carillon-api, is wanted here"},
			401,
		},
		{
			"a user's token", hs256(secret, jwt.MapClaims{"sub": "ann", "exp": hour}),
			refusal{"UNAUTHENTICATED", "TOKEN_AUDIENCE_INVALID", "", "this is a client's token; a caller's, whose aud holds carillon-api, is wanted here"},
			401,
		},
		{
			"a role's token", hs256(secret, jwt.MapClaims{"sub": "edge", "aud": auth.RoleAudience, "exp": hour}),
			refusal{"UNAUTHENTICATED", "TOKEN_AUDIENCE_INVALID", "", "this is a role's token (aud carillon-role); a caller's is wanted here"},
			401,
		},
		{
			"unknown caller", hs256(secret, jwt.MapClaims{"sub": "nobody", "aud": auth.CallerAudience, "exp": hour}),
			refusal{"PERMISSION_DENIED", "CALLER_UNKNOWN", "", `the token is good, but no caller "nobody" is configured`},
			403,
		},
		{
			"denied", "Bearer " + callerToken(t, "narrow"),
			refusal{"PERMISSION_DENIED", "CALLER_DENIED", "channel", `the caller "narrow" may not publish to this channel`},
			403,
		},
	} {
		ctx := t.Context()
		if test.authorization != "" {
			ctx = metadata.AppendToOutgoingContext(ctx, "authorization", test.authorization)
		}
		_, err := a.client.Publish(ctx, toChannel("chat.other", "1"))
		if got := grpcRefusal(err); got != test.want {
			t.Errorf("%s: gRPC\n %+v, want\n %+v", test.name, got, test.want)
		}
		status, header, text := a.post(t, test.authorization, `{"channel":"chat.other","data":1}`)
		if got := httpRefusal(t, text); got != test.want || status != test.status {
			t.Errorf("%s: HTTP %d\n %+v, want %d\n %+v", test.name, status, got, test.status, test.want)
		}
		if challenge := header.Get("Www-Authenticate"); (status == 401) != strings.HasPrefix(challenge, "Bearer ") {
			t.Errorf("%s: WWW-Authenticate %q", test.name, challenge)
		}
	}
}

func TestDeniedInbox(t *testing.T) {
	t.Parallel()
	a := start(t, never(t))
	_, err := a.client.Publish(as(t.Context(), callerToken(t, "narrow")),
		&publishv1.PublishRequest{Target: &publishv1.PublishRequest_UserId{UserId: "ann"}, Payload: &publishv1.PublishRequest_Json{Json: "1"}})
	want := refusal{"PERMISSION_DENIED", "CALLER_DENIED", "userId", `the caller "narrow" may not publish to this channel`}
	if got := grpcRefusal(err); got != want {
		t.Errorf("denied inbox: %+v, want %+v", got, want)
	}
}

// TestBadBodies has what only HTTP can get wrong.
func TestBadBodies(t *testing.T) {
	t.Parallel()
	a := start(t, never(t))
	token := "Bearer " + callerToken(t, "billing")
	path := func(p string) string { return strings.TrimSuffix(a.url, "/v1/publish") + p }
	long := strings.Repeat("x", 100)
	for _, test := range []struct {
		name, method, url, body string
		status                  int
		want                    refusal
	}{
		{"empty", "POST", a.url, "", 400, refusal{"INVALID_ARGUMENT", "FIELD_INVALID", "", "the body is empty; it must be a JSON object"}},
		{"an array", "POST", a.url, `[{"channel":"chat.lobby","data":1}]`, 400, refusal{"INVALID_ARGUMENT", "FIELD_INVALID", "", "the body must be a JSON object"}},
		{"a form", "POST", a.url, `channel=chat.lobby&data=1`, 400, refusal{"INVALID_ARGUMENT", "FIELD_INVALID", "", "the body must be a JSON object"}},
		{"nothing in it", "POST", a.url, ` {} `, 400, refusal{"INVALID_ARGUMENT", "FIELD_REQUIRED", "channel", "channel or userId is required"}},
		{"unknown field", "POST", a.url, `{"chanel":"chat.lobby","data":1}`, 400, refusal{"INVALID_ARGUMENT", "FIELD_INVALID", "chanel", `there is no field "chanel"`}},
		{"proto's name", "POST", a.url, `{"user_id":"ann","data":1}`, 400, refusal{"INVALID_ARGUMENT", "FIELD_INVALID", "user_id", `there is no field "user_id"`}},
		{"proto's json", "POST", a.url, `{"channel":"chat.lobby","json":"1"}`, 400, refusal{"INVALID_ARGUMENT", "FIELD_INVALID", "json", `there is no field "json"`}},
		{"long unknown field", "POST", a.url, `{"` + long + `":1}`, 400, refusal{"INVALID_ARGUMENT", "FIELD_INVALID", long[:64], `there is no field "` + long[:64] + `"`}},
		{"a field twice", "POST", a.url, `{"channel":"chat.lobby","ch\u0061nnel":"chat.other","data":1}`, 400, refusal{"INVALID_ARGUMENT", "FIELD_INVALID", "channel", `"channel" stands twice`}},
		{"channel of a wrong type", "POST", a.url, `{"channel":1,"data":1}`, 400, refusal{"INVALID_ARGUMENT", "FIELD_INVALID", "channel", "channel must be a string"}},
		{"null channel", "POST", a.url, `{"channel":null,"data":1}`, 400, refusal{"INVALID_ARGUMENT", "FIELD_INVALID", "channel", "channel must be a string"}},
		{"channel not in UTF-8", "POST", a.url, "{\"channel\":\"chat.\xff\",\"data\":1}", 400, refusal{"INVALID_ARGUMENT", "FIELD_INVALID", "channel", "channel is not valid UTF-8"}},
		{"channel with a raw line break", "POST", a.url, "{\"channel\":\"chat.\n\",\"data\":1}", 400, refusal{"INVALID_ARGUMENT", "FIELD_INVALID", "channel", "channel is not a JSON string"}},
		{"headers of a wrong type", "POST", a.url, `{"channel":"chat.lobby","data":1,"headers":["a"]}`, 400, refusal{"INVALID_ARGUMENT", "FIELD_INVALID", "headers", "headers must be a JSON object"}},
		{"a header of a wrong type", "POST", a.url, `{"channel":"chat.lobby","data":1,"headers":{"a":1}}`, 400, refusal{"INVALID_ARGUMENT", "FIELD_INVALID", "headers", `headers must hold strings, and "a" is none`}},
		{"a header twice", "POST", a.url, `{"channel":"chat.lobby","data":1,"headers":{"a":"1","a":"2"}}`, 400, refusal{"INVALID_ARGUMENT", "HEADER_INVALID", "headers", `header "a" stands twice`}},
		{"no base64", "POST", a.url, `{"channel":"chat.lobby","dataBase64":"_-","contentType":"a/b"}`, 400, refusal{"INVALID_ARGUMENT", "FIELD_INVALID", "dataBase64", "dataBase64 is not base64 (RFC 4648 section 4, padded)"}},
		{"bytes after it", "POST", a.url, `{"channel":"chat.lobby","data":1} {}`, 400, refusal{"INVALID_ARGUMENT", "FIELD_INVALID", "", "the body has something after its JSON object"}},
		{"a zero byte after it", "POST", a.url, "{\"channel\":\"chat.lobby\",\"data\":1}\x00", 400, refusal{"INVALID_ARGUMENT", "FIELD_INVALID", "", "the body has something after its JSON object"}},
		{"cut within data", "POST", a.url, `{"channel":"chat.lobby","data":{"a":1`, 400, refusal{"INVALID_ARGUMENT", "PAYLOAD_INVALID", "data", `the body is not valid JSON: it ends within "data"`}},
		{"cut within channel", "POST", a.url, `{"channel":"chat.lob`, 400, refusal{"INVALID_ARGUMENT", "FIELD_INVALID", "channel", `the body is not valid JSON: it ends within "channel"`}},
		{"cut after a field", "POST", a.url, `{"channel":"chat.lobby"`, 400, refusal{"INVALID_ARGUMENT", "FIELD_INVALID", "channel", `the body is not valid JSON: it ends within "channel"`}},
		{"no colon", "POST", a.url, `{"channel" "chat.lobby"}`, 400, refusal{"INVALID_ARGUMENT", "FIELD_INVALID", "", `the body is not valid JSON: "channel" is not followed by a colon`}},
		{"a comma too many", "POST", a.url, `{"data":1,}`, 400, refusal{"INVALID_ARGUMENT", "FIELD_INVALID", "", "the body is not valid JSON: a field name in quotes is missing at byte 10"}},
		{"more than 4 MiB", "POST", a.url, strings.Repeat(" ", 4<<20) + "{}", 413, refusal{"INVALID_ARGUMENT", "PAYLOAD_TOO_LARGE", "", "the body has more than 4194304 bytes"}},
		{"wrong method", "GET", a.url, "", 405, refusal{"UNIMPLEMENTED", "NOT_SUPPORTED", "", "GET is not supported here; use POST"}},
		{"unknown path", "POST", path("/v1/publisch"), "{}", 404, refusal{"NOT_FOUND", "PATH_UNKNOWN", "", `there is no path "/v1/publisch"; publish with POST /v1/publish`}},
		{"root", "GET", path("/"), "", 404, refusal{"NOT_FOUND", "PATH_UNKNOWN", "", `there is no path "/"; publish with POST /v1/publish`}},
	} {
		status, header, text := do(t, test.method, test.url, token, test.body)
		if got := httpRefusal(t, text); got != test.want || status != test.status || header.Get("Content-Type") != "application/json" {
			t.Errorf("%s: %d %+v, want %d\n %+v", test.name, status, got, test.status, test.want)
		}
		if allow := header.Get("Allow"); (status == 405) != (allow == "POST") {
			t.Errorf("%s: Allow %q", test.name, allow)
		}
	}
}

// TestHostileHeaders sends what the gateway would turn into metadata.
func TestHostileHeaders(t *testing.T) {
	t.Parallel()
	a := start(t, storeFunc(func(context.Context, message.Publication) (message.Receipt, error) {
		return message.Receipt{Position: message.Position{Epoch: "e", Offset: 45}}, nil
	}))
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, a.url, bytes.NewReader([]byte(`{"channel":"chat.lobby","data":1}`)))
	if err != nil {
		t.Fatal(err)
	}
	request.Host = "spoofed.example"
	for name, value := range map[string]string{
		"Authorization": "Bearer " + callerToken(t, "billing"), "Grpc-Timeout": "never", "Grpc-Metadata-Authorization": "Bearer x",
		"X-Forwarded-For": "6.6.6.6", "X-Http-Method-Override": "DELETE", "Content-Type": "application/x-www-form-urlencoded",
		"Tracestate": strings.Repeat("x", 8<<10), "Te": "trailers", "Accept": "text/html",
	} {
		request.Header.Set(name, value)
	}
	request.Header["Traceparent"] = slices.Repeat([]string{"x"}, 400) // as metadata more than the gRPC server takes
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"epoch":"e","offset":45,"duplicate":false}`
	if response.StatusCode != 200 || string(text) != want || response.Header.Get("Content-Type") != "application/json" {
		t.Errorf("publish = %d %q %s, want %s", response.StatusCode, response.Header.Get("Content-Type"), text, want)
	}
	if log := a.log.String(); strings.Contains(log, "6.6.6.6") || !strings.Contains(log, "peer=127.0.0.1") {
		t.Errorf("the log has a peer of the client's choice:\n%s", log)
	}
}

// What is not a token's character does not become "no token" on the way.
func TestTokenNotInASCII(t *testing.T) {
	t.Parallel()
	a := start(t, never(t))
	for _, token := range []string{"Bearer \xff\xfe", "Bearer tökén", "Bearer a\tb"} {
		status, _, text := a.post(t, token, `{"channel":"chat.lobby","data":1}`)
		if got := httpRefusal(t, text); status != 401 || got.reason != "TOKEN_MALFORMED" {
			t.Errorf("%q: %d %+v, want 401 TOKEN_MALFORMED", token, status, got)
		}
	}
}

// A trace's lines arrive as one (RFC 9110, 5.3); what cannot be metadata does not.
func TestTraceHeaders(t *testing.T) {
	t.Parallel()
	got := make(chan metadata.MD, 1)
	a := start(t, storeFunc(func(ctx context.Context, _ message.Publication) (message.Receipt, error) {
		incoming, _ := metadata.FromIncomingContext(ctx)
		got <- incoming
		return message.Receipt{}, nil
	}))
	for _, test := range []struct {
		lines, want []string
	}{
		{[]string{"a=1"}, []string{"a=1"}},
		{[]string{"a=1", "b=2"}, []string{"a=1,b=2"}},
		{[]string{strings.Repeat("x", 512)}, []string{strings.Repeat("x", 512)}},
		{[]string{strings.Repeat("x", 300), strings.Repeat("y", 300)}, nil},
		{[]string{"a=1", "\xff"}, nil},
		{nil, nil},
	} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, a.url, strings.NewReader(`{"channel":"chat.lobby","data":1}`))
		if err != nil {
			t.Fatal(err)
		}
		request.Header = http.Header{"Authorization": {"Bearer " + callerToken(t, "billing")}, "Tracestate": test.lines}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		if err := response.Body.Close(); err != nil || response.StatusCode != 200 {
			t.Fatalf("%.20q: %d, %v", test.lines, response.StatusCode, err)
		}
		if state := (<-got).Get("tracestate"); !slices.Equal(state, test.want) {
			t.Errorf("%.20q arrived as %.20q, want %.20q", test.lines, state, test.want)
		}
	}
}

func TestReflectionAndHealth(t *testing.T) {
	t.Parallel()
	a := start(t, never(t))
	health, err := healthv1.NewHealthClient(a.conn).Check(t.Context(), &healthv1.HealthCheckRequest{Service: publish.PublishService})
	if err != nil || health.GetStatus() != healthv1.HealthCheckResponse_NOT_SERVING {
		t.Errorf("health = %v %v, want NOT_SERVING until the role says otherwise", health, err)
	}
	stream, err := reflectionv1.NewServerReflectionClient(a.conn).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&reflectionv1.ServerReflectionRequest{
		MessageRequest: &reflectionv1.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: publish.PublishService + ".Publish"},
	}); err != nil {
		t.Fatal(err)
	}
	answer, err := stream.Recv()
	if err != nil || len(answer.GetFileDescriptorResponse().GetFileDescriptorProto()) == 0 {
		t.Errorf("reflection = %v %v, want the file of the method", answer, err)
	}
	if err := stream.CloseSend(); err != nil {
		t.Error(err)
	}
}
