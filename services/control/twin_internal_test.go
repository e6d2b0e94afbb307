package control

import (
	"encoding/json"
	"errors"
	"net/url"
	"strconv"
	"testing"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"github.com/grpc-ecosystem/grpc-gateway/v2/utilities"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	controlv1 "github.com/carillon-rt/carillon/gen/carillon/control/v1"
	"github.com/carillon-rt/carillon/services/internal/fault"
)

// bounded tells whether an error is one that a client may see.
func bounded(err error) bool {
	refused, ok := errors.AsType[*fault.Error](err)
	return ok && refused.Code() == codes.InvalidArgument && len(refused.Message) <= 1024 && len(refused.Field) <= 96
}

// FuzzParse holds the readers of bodies against encoding/json: what they accept is JSON
// of the same fields, and can be sent on.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		"", "{}", "[]", `{"userId":"ann","message":"bye"}`, `{"userId":"\u0061","channel":"a.b","connectionId":"C"}`, `{"connectionId":"C"} x`,
		`{"userId":"ann","tokenId":"t","issuedBefore":1700000000000,"expiresAt":253402300799999}`, `{"expiresAt":01}`, `{"expiresAt":1e3}`,
		`{"userId":"ann","userId":"ann"}`, `{"userId":"\ud800"}`, "{\"userId\":\"\xff\"}", `{"userId":{}}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, request := range []proto.Message{
			&controlv1.DisconnectUserRequest{}, &controlv1.DisconnectConnectionRequest{}, &controlv1.SubscribeUserRequest{},
			&controlv1.UnsubscribeUserRequest{}, &controlv1.RevokeTokensRequest{},
		} {
			known, err := parse(body, request)
			if !known {
				t.Fatalf("%T cannot be read", request)
			}
			if err != nil {
				if !bounded(err) {
					t.Fatalf("parse(%q) = %v, want a bounded INVALID_ARGUMENT", body, err)
				}
				continue
			}
			var want struct {
				UserID, ConnectionID, Channel, TokenID, Message string
				IssuedBefore, ExpiresAt                         int64
			}
			if err := json.Unmarshal(body, &want); err != nil {
				t.Fatalf("parse(%q) accepted what is no JSON: %v", body, err)
			}
			if _, err := proto.Marshal(request); err != nil {
				t.Fatalf("%q cannot be sent: %v", body, err)
			}
			r, ok := request.(*controlv1.RevokeTokensRequest)
			if !ok {
				continue
			}
			if r.GetUserId() != want.UserID || r.GetTokenId() != want.TokenID || r.GetMessage() != want.Message ||
				r.GetIssuedBefore().AsTime().UnixMilli() != want.IssuedBefore || r.GetExpiresAt().AsTime().UnixMilli() != want.ExpiresAt {
				t.Errorf("parse(%q) = %v", body, r)
			}
		}
	})
}

// FuzzQuery holds the check of a query against the gateway's parser: what passes is
// understood whole.
func FuzzQuery(f *testing.F) {
	for _, seed := range []string{"", "userId=ann&limit=5", "limit=01", "limit=1e3", "userId=%ff", "userId=a&userId=b", "user_id=a", "a;b", "%zz"} {
		f.Add(seed)
	}
	query := Twin().Methods["/v1/control/connections"].Query
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
		request := &controlv1.ListConnectionsRequest{}
		if err := runtime.PopulateQueryParameters(request, values, utilities.NewDoubleArray(nil)); err != nil {
			t.Fatalf("Check(%q) lets pass what the gateway refuses: %v", text, err)
		}
		limit := strconv.FormatUint(uint64(request.GetLimit()), 10)
		if request.GetUserId() != values.Get("userId") || values.Has("limit") && limit != values.Get("limit") {
			t.Errorf("%q is understood as %v", text, request)
		}
	})
}
