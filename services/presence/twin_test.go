package presence

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"github.com/grpc-ecosystem/grpc-gateway/v2/utilities"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	presencev1 "github.com/carillon-rt/carillon/gen/carillon/presence/v1"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/rpc"
	"github.com/carillon-rt/carillon/services/internal/twin"
)

// oracle is a PresenceService that says what it was given, and writes down what it was
// asked.
type oracle struct {
	presencev1.UnimplementedPresenceServiceServer
	asked   []proto.Message
	members *presencev1.ListMembersResponse
	counts  *presencev1.CountMembersResponse
	user    *presencev1.GetUserResponse
	err     error
}

func (o *oracle) ListMembers(_ context.Context, req *presencev1.ListMembersRequest) (*presencev1.ListMembersResponse, error) {
	o.asked = append(o.asked, req)
	return o.members, o.err
}

func (o *oracle) CountMembers(_ context.Context, req *presencev1.CountMembersRequest) (*presencev1.CountMembersResponse, error) {
	o.asked = append(o.asked, req)
	return o.counts, o.err
}

func (o *oracle) GetUser(_ context.Context, req *presencev1.GetUserRequest) (*presencev1.GetUserResponse, error) {
	o.asked = append(o.asked, req)
	return o.user, o.err
}

// twinOf serves the twin of an oracle.
func twinOf(t *testing.T, o *oracle) http.Handler {
	t.Helper()
	logger := slog.New(slog.DiscardHandler)
	anyone := func(ctx context.Context, _ string) (context.Context, error) { return ctx, nil }
	server := rpc.NewServer(rpc.Options{Logger: logger, Authenticate: map[string]rpc.Authenticator{MembersService: anyone}})
	presencev1.RegisterPresenceServiceServer(server, o)
	memory := rpc.NewMemory()
	ctx, cancel := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := server.Serve(ctx, memory); err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	conn, err := memory.Dial(nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		cancel()
		serving.Wait()
	})
	handler, err := twin.New(nil, logger, Twin(conn))
	if err != nil {
		t.Fatal(err)
	}
	return handler
}

type exchange struct {
	method, path, body string
	oracle             oracle
	asked              proto.Message
	status             int
	want               string
}

// exchanges are what curl asks, what gRPC is then asked and says, and what curl gets.
func exchanges() map[string]exchange {
	at := &timestamppb.Timestamp{Seconds: 1_700_000_000, Nanos: 123_000_000}
	return map[string]exchange{
		"members": {
			"GET", "/v1/presence/members?channel=chat.a&pageSize=2&pageToken=dQ", "",
			oracle{members: &presencev1.ListMembersResponse{
				Members: []*presencev1.Member{{UserId: "ann", Connections: 2, Since: at, Info: `{"name":"<A>"}`}, {UserId: "bob", Since: at}}, Total: 3, NextPageToken: "Ym9i",
			}},
			&presencev1.ListMembersRequest{Channel: "chat.a", PageSize: 2, PageToken: "dQ"}, 200,
			`{"members":[{"userId":"ann","connections":2,"since":1700000000123,"info":{"name":"<A>"}},{"userId":"bob","connections":0,"since":1700000000123}],"total":3,"nextPageToken":"Ym9i"}`,
		},
		"nobody": {
			"GET", "/v1/presence/members?channel=chat.a", "",
			oracle{members: &presencev1.ListMembersResponse{}},
			&presencev1.ListMembersRequest{Channel: "chat.a"}, 200, `{"members":[],"total":0}`,
		},
		"counts": {
			"POST", "/v1/presence/count", `{"channels":["chat.a","chat.b"]}`,
			oracle{counts: &presencev1.CountMembersResponse{Counts: []*presencev1.ChannelCount{{Channel: "chat.a", Members: 2, Connections: 3}, {Channel: "chat.b"}}}},
			&presencev1.CountMembersRequest{Channels: []string{"chat.a", "chat.b"}}, 200,
			`{"counts":[{"channel":"chat.a","members":2,"connections":3},{"channel":"chat.b","members":0,"connections":0}]}`,
		},
		"a user who is online": {
			"GET", "/v1/presence/user?userId=ann", "",
			oracle{user: &presencev1.GetUserResponse{UserId: "ann", Online: true, Total: 1, Connections: []*presencev1.UserConnection{{ConnectionId: "C", EdgeId: "E", Since: at, Info: `"i"`}}}},
			&presencev1.GetUserRequest{UserId: "ann"}, 200,
			`{"userId":"ann","online":true,"connections":[{"connectionId":"C","edgeId":"E","since":1700000000123,"info":"i"}],"total":1}`,
		},
		"a user who is not": {
			"GET", "/v1/presence/user?userId=ann", "",
			oracle{user: &presencev1.GetUserResponse{UserId: "ann", LastSeen: at}},
			&presencev1.GetUserRequest{UserId: "ann"}, 200, `{"userId":"ann","online":false,"connections":[],"total":0,"lastSeen":1700000000123}`,
		},
		"refused by the service": {
			"GET", "/v1/presence/members?channel=chat.a", "",
			oracle{err: fault.New(fault.CallerDenied, "channel", "the caller may not")},
			&presencev1.ListMembersRequest{Channel: "chat.a"}, 403, `{"error":{"code":"PERMISSION_DENIED","reason":"CALLER_DENIED","message":"the caller may not","field":"channel"}}`,
		},
		"a parameter of no method": {
			"GET", "/v1/presence/user?channel=chat.a", "",
			oracle{},
			nil, 400,
			`{"error":{"code":"INVALID_ARGUMENT","reason":"FIELD_INVALID","message":"there is no parameter \"channel\"","field":"channel"}}`,
		},
		"too large a page": {
			"GET", "/v1/presence/members?channel=chat.a&pageSize=1001", "",
			oracle{},
			nil, 400,
			`{"error":{"code":"INVALID_ARGUMENT","reason":"FIELD_INVALID","message":"pageSize is 1001, more than 1000","field":"pageSize"}}`,
		},
		"a field of no request": {
			"POST", "/v1/presence/count", `{"channel":"chat.a"}`,
			oracle{},
			nil, 400,
			`{"error":{"code":"INVALID_ARGUMENT","reason":"FIELD_INVALID","message":"there is no field \"channel\"","field":"channel"}}`,
		},
		"no watching": {
			"GET", "/v1/presence/watch?channel=chat.a", "",
			oracle{},
			nil, 404,
			`{"error":{"code":"NOT_FOUND","reason":"PATH_UNKNOWN","message":"there is no path \"/v1/presence/watch\"; publish with POST /v1/publish"}}`,
		},
	}
}

// What curl asks is what gRPC is asked, and the answers say the same.
func TestTwin(t *testing.T) {
	t.Parallel()
	for name, tt := range exchanges() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			handler := twinOf(t, &tt.oracle)
			request := httptest.NewRequest(tt.method, tt.path, strings.NewReader(tt.body))
			request.Header.Set("Authorization", "Bearer any")
			answer := httptest.NewRecorder()
			handler.ServeHTTP(answer, request)
			if got := strings.TrimSpace(answer.Body.String()); answer.Code != tt.status || got != tt.want {
				t.Errorf("%d %s\nwant %d %s", answer.Code, got, tt.status, tt.want)
			}
			switch {
			case tt.asked == nil && len(tt.oracle.asked) > 0:
				t.Errorf("the service was asked %v", tt.oracle.asked)
			case tt.asked != nil && (len(tt.oracle.asked) != 1 || !proto.Equal(tt.oracle.asked[0], tt.asked)):
				t.Errorf("the service was asked %v, want %v", tt.oracle.asked, tt.asked)
			}
		})
	}
}

// bounded tells whether an error is one that a client may see.
func bounded(err error) bool {
	refused, ok := errors.AsType[*fault.Error](err)
	return ok && refused.Code() == codes.InvalidArgument && len(refused.Message) <= 1024 && len(refused.Field) <= 96
}

// FuzzParse holds the reader of a body against encoding/json: what it accepts is JSON of
// the same field, and can be sent on.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{"", "{}", "[]", `{"channels":["a.b"]}`, `{"channels":[]}`, `{"channels":"a"}`, `{"channels":["\ud800"]}`, "{\"channels\":[\"\xff\"]}", `{"channels":[1]} x`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		request := &presencev1.CountMembersRequest{}
		known, err := parse(body, request)
		if !known {
			t.Fatalf("%T cannot be read", request)
		}
		if err != nil {
			if !bounded(err) {
				t.Fatalf("parse(%q) = %v, want a bounded INVALID_ARGUMENT", body, err)
			}
			return
		}
		var want struct{ Channels []string }
		if err := json.Unmarshal(body, &want); err != nil {
			t.Fatalf("parse(%q) accepted what is no JSON: %v", body, err)
		}
		if _, err := proto.Marshal(request); err != nil || !slices.Equal(request.GetChannels(), want.Channels) {
			t.Fatalf("parse(%q) = %v, %v", body, request, err)
		}
	})
}

// FuzzQuery holds the check of a query against the gateway's parser: what passes is
// understood whole.
func FuzzQuery(f *testing.F) {
	for _, seed := range []string{"", "channel=chat.a&pageSize=5&pageToken=x", "pageSize=01", "pageSize=1e3", "channel=%ff", "channel=a&channel=b", "page_size=1", "a;b", "%zz"} {
		f.Add(seed)
	}
	query := Twin(nil).Methods["/v1/presence/members"].Query
	f.Fuzz(func(t *testing.T, text string) {
		if err := query.Check(text); err != nil {
			if !bounded(err) {
				t.Fatalf("Check(%q) = %v, want a bounded INVALID_ARGUMENT", text, err)
			}
			return
		}
		values, err := url.ParseQuery(text)
		if err != nil {
			t.Fatal(err)
		}
		request := &presencev1.ListMembersRequest{}
		if err := runtime.PopulateQueryParameters(request, values, utilities.NewDoubleArray(nil)); err != nil {
			t.Fatalf("Check(%q) lets pass what the gateway refuses: %v", text, err)
		}
		if request.GetChannel() != values.Get("channel") || request.GetPageToken() != values.Get("pageToken") {
			t.Errorf("%q is understood as %v", text, request)
		}
	})
}
