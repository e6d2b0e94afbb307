package control_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	controlv1 "github.com/carillon-rt/carillon/gen/carillon/control/v1"
	commands "github.com/carillon-rt/carillon/services/internal/control"
	"github.com/carillon-rt/carillon/services/internal/fault"
)

// method is a call of a method over gRPC, the same request over HTTP, and the command
// that both become, which is kept for so long.
type method struct {
	call       func() (answered, error)
	path, body string
	want       commands.Command
	keep       time.Duration
}

// methods are calls by ctx's caller.
func methods(ctx context.Context, client controlv1.ControlServiceClient) []method {
	const day, year = 24 * time.Hour, 365 * 24 * time.Hour
	issued, expires := time.Unix(1_700_000_000, 0), time.Now().Add(time.Hour).Truncate(time.Millisecond)
	return []method{
		{
			func() (answered, error) {
				return client.DisconnectUser(ctx, &controlv1.DisconnectUserRequest{UserId: "ann", Message: "bye"})
			},
			"disconnect-user", `{"userId":"ann","message":"bye"}`,
			commands.Command{Kind: commands.DisconnectUser, User: "ann", Message: "bye"},
			day,
		},
		{
			func() (answered, error) {
				return client.DisconnectConnection(ctx, &controlv1.DisconnectConnectionRequest{ConnectionId: "C1"})
			},
			"disconnect-connection", `{"connectionId":"C1"}`,
			commands.Command{Kind: commands.DisconnectConnection, Connection: "C1"},
			day,
		},
		{
			func() (answered, error) {
				return client.SubscribeUser(ctx, &controlv1.SubscribeUserRequest{UserId: "ann", Channel: "user.ann", ConnectionId: "C1"})
			},
			"subscribe-user", `{"userId":"ann","channel":"user.ann","connectionId":"C1"}`,
			commands.Command{Kind: commands.SubscribeUser, User: "ann", Channel: "user.ann", Connection: "C1"},
			day,
		},
		{
			func() (answered, error) {
				return client.UnsubscribeUser(ctx, &controlv1.UnsubscribeUserRequest{UserId: "ann", Channel: "user.bob"})
			},
			"unsubscribe-user", ` { "channel" : "user.bob" , "userId" : "\u0061nn" } `,
			commands.Command{Kind: commands.UnsubscribeUser, User: "ann", Channel: "user.bob"},
			day,
		},
		{
			func() (answered, error) {
				return client.RevokeTokens(ctx, &controlv1.RevokeTokensRequest{UserId: "ann", TokenId: "t", ExpiresAt: timestamppb.New(expires)})
			},
			"revoke-tokens", fmt.Sprintf(`{"userId":"ann","tokenId":"t","expiresAt":%d}`, expires.UnixMilli()),
			commands.Command{Kind: commands.RevokeTokens, User: "ann", TokenID: "t"},
			time.Hour,
		},
		{
			func() (answered, error) {
				return client.RevokeTokens(ctx, &controlv1.RevokeTokensRequest{UserId: "ann", IssuedBefore: timestamppb.New(issued.Add(999 * time.Millisecond)), Message: "m"})
			},
			"revoke-tokens", `{"userId":"ann","issuedBefore":1700000000999,"message":"m"}`,
			commands.Command{Kind: commands.RevokeTokens, User: "ann", IssuedBefore: issued, Message: "m"},
			year,
		},
	}
}

// Each method becomes the same command over gRPC and over HTTP.
func TestMethodsBecomeCommands(t *testing.T) {
	t.Parallel()
	a := start(t, everything)
	seen := time.Now().Add(-5 * time.Second).Truncate(time.Millisecond)
	a.issuer.outcome = commands.Outcome{
		Sequence: 7, Edges: []commands.EdgeResult{{EdgeID: "A", Connections: 2}, {EdgeID: "B"}},
		Unreachable: []commands.Unreachable{{EdgeID: "C", LastSeen: seen}},
	}
	done := fmt.Sprintf(`{"edges":[{"edgeId":"A","connections":2},{"edgeId":"B","connections":0}],"unreachable":[{"edgeId":"C","lastSeen":%d}]}`, seen.UnixMilli())
	for _, test := range methods(as(t.Context(), "billing"), a.client) {
		answer, err := test.call()
		if err != nil {
			t.Errorf("%s: %v", test.path, err)
			continue
		}
		if len(answer.GetEdges()) != 2 || answer.GetEdges()[0].GetConnections() != 2 || !answer.GetUnreachable()[0].GetLastSeen().AsTime().Equal(seen) {
			t.Errorf("%s: %v", test.path, answer)
		}
		overGRPC := a.issuer.take(t)
		if status, text := a.do(t, "billing", test.path, test.body); status != 200 || text != done {
			t.Errorf("%s over HTTP: %d %s, want %s", test.path, status, text, done)
		}
		for how, got := range map[string]commands.Command{"gRPC": overGRPC, "HTTP": a.issuer.take(t)} {
			if got.By != "billing" || !near(got.At, time.Now()) || !near(got.ExpiresAt, got.At.Add(test.keep)) || !got.IssuedBefore.Equal(test.want.IssuedBefore) {
				t.Errorf("%s over %s: %+v", test.path, how, got)
			}
			got.By, got.At, got.ExpiresAt, got.IssuedBefore = "", time.Time{}, time.Time{}, test.want.IssuedBefore
			if got != test.want {
				t.Errorf("%s over %s: %+v, want %+v", test.path, how, got, test.want)
			}
		}
	}
	if text := a.log.String(); !strings.Contains(text, `msg="control command" kind=disconnect_user by=billing user_id=ann`) ||
		!strings.Contains(text, "message=bye sequence=7 connections=2 edges=2 unreachable=1") || strings.Count(text, "control command") != 12 {
		t.Errorf("the log says\n%s", text)
	}
}

// answered is what every command's answer has.
type answered interface {
	GetEdges() []*controlv1.EdgeResult
	GetUnreachable() []*controlv1.UnreachableEdge
}

// Without a token id or a time all tokens of until now are revoked, to the second.
func TestRevokeTokensOfUntilNow(t *testing.T) {
	t.Parallel()
	a := start(t, everything)
	if _, err := a.client.RevokeTokens(as(t.Context(), "billing"), &controlv1.RevokeTokensRequest{UserId: "ann"}); err != nil {
		t.Fatal(err)
	}
	got := a.issuer.take(t)
	if !near(got.IssuedBefore, time.Now()) || got.IssuedBefore.After(time.Now()) || got.IssuedBefore.Nanosecond() != 0 {
		t.Errorf("issued before %v", got.IssuedBefore)
	}
	// What nobody answered is told as lists, over HTTP too.
	if status, text := a.do(t, "billing", "revoke-tokens", `{"userId":"ann"}`); status != 200 || text != `{"edges":[],"unreachable":[]}` {
		t.Errorf("%d %s", status, text)
	}
}

func TestListConnections(t *testing.T) {
	t.Parallel()
	a := start(t, everything)
	at := time.UnixMilli(1_700_000_000_123)
	a.issuer.list = commands.List{
		Total: 5, Unreachable: []commands.Unreachable{{EdgeID: "B", LastSeen: at}},
		Connections: []commands.Located{
			{EdgeID: "A", Connection: commands.Connection{
				ID: "C1", User: "ann", Address: "192.0.2.1", ClientName: "<js>", ClientVersion: "1", ConnectedAt: at, ExpiresAt: at.Add(time.Hour), Subscriptions: 3,
			}},
			{EdgeID: "A", Connection: commands.Connection{ID: "C2", User: "bob", Address: "2001:db8::1", ConnectedAt: at}},
		},
	}
	list, err := a.client.ListConnections(as(t.Context(), "billing"), &controlv1.ListConnectionsRequest{UserId: "ann", Limit: 2})
	if err != nil {
		t.Fatal(err)
	}
	first, second := list.GetConnections()[0], list.GetConnections()[1]
	if list.GetTotal() != 5 || first.GetConnectionId() != "C1" || first.GetEdgeId() != "A" || first.GetSubscriptions() != 3 ||
		!first.GetExpiresAt().AsTime().Equal(at.Add(time.Hour)) || second.GetExpiresAt() != nil || list.GetUnreachable()[0].GetEdgeId() != "B" {
		t.Errorf("%v", list)
	}
	const want = `{"connections":[` +
		`{"connectionId":"C1","edgeId":"A","userId":"ann","address":"192.0.2.1","clientName":"<js>","clientVersion":"1","connectedAt":1700000000123,"expiresAt":1700003600123,"subscriptions":3},` +
		`{"connectionId":"C2","edgeId":"A","userId":"bob","address":"2001:db8::1","connectedAt":1700000000123,"subscriptions":0}],` +
		`"total":5,"unreachable":[{"edgeId":"B","lastSeen":1700000000123}]}`
	if status, text := a.do(t, "billing", "connections", ""); status != 200 || text != want {
		t.Errorf("%d %s\nwant %s", status, text, want)
	}
	a.issuer.list = commands.List{}
	if status, text := a.do(t, "billing", "connections?limit=1000&userId=%2Bann", ""); status != 200 || text != `{"connections":[],"total":0,"unreachable":[]}` {
		t.Errorf("%d %s", status, text)
	}
	if got := fmt.Sprint(a.issuer.asked); got != "[{ann 2} { 100} {+ann 1000}]" {
		t.Errorf("asked for %s", got)
	}
}

// What is refused is refused alike over gRPC and HTTP, and nothing is issued.
func TestRefusals(t *testing.T) {
	t.Parallel()
	a := start(t, grants{[]string{"DisconnectUser", "SubscribeUser", "UnsubscribeUser", "RevokeTokens"}, []string{"chat.lobby", "user.ann"}})
	disconnect := func(caller, user, message string) func() error {
		return func() error {
			_, err := a.client.DisconnectUser(as(t.Context(), caller), &controlv1.DisconnectUserRequest{UserId: user, Message: message})
			return err
		}
	}
	subscribe := func(user, name string) func() error {
		return func() error {
			_, err := a.client.SubscribeUser(as(t.Context(), "billing"), &controlv1.SubscribeUserRequest{UserId: user, Channel: name})
			return err
		}
	}
	revoke := func(r *controlv1.RevokeTokensRequest) func() error {
		return func() error {
			r.UserId = "ann"
			_, err := a.client.RevokeTokens(as(t.Context(), "billing"), r)
			return err
		}
	}
	in := func(d time.Duration) *timestamppb.Timestamp { return timestamppb.New(time.Now().Add(d)) }
	ms := func(d time.Duration) int64 { return time.Now().Add(d).UnixMilli() }
	const year = 365 * 24 * time.Hour
	long := strings.Repeat("x", 257)
	for _, test := range []struct {
		name               string
		call               func() error
		caller, path, body string
		status             int
		want               refusal
	}{
		{"unknown caller", disconnect("nobody", "ann", ""), "nobody", "disconnect-user", `{"userId":"ann"}`, 403, refusal{"CALLER_UNKNOWN", "", `the token is good, but no caller "nobody" is configured`}},
		{"method not granted", func() error {
			_, err := a.client.DisconnectConnection(as(t.Context(), "billing"), &controlv1.DisconnectConnectionRequest{ConnectionId: "C"})
			return err
		}, "billing", "disconnect-connection", `{"connectionId":"C"}`, 403, refusal{"CALLER_DENIED", "", `the caller "billing" may not use DisconnectConnection`}},
		{"list not granted", func() error {
			_, err := a.client.ListConnections(as(t.Context(), "billing"), &controlv1.ListConnectionsRequest{})
			return err
		}, "billing", "connections", "", 403, refusal{"CALLER_DENIED", "", `the caller "billing" may not use ListConnections`}},
		{"no user", disconnect("billing", "", ""), "billing", "disconnect-user", `{}`, 400, refusal{"FIELD_REQUIRED", "userId", "userId is required"}},
		{"bad user", disconnect("billing", "a\nb", ""), "billing", "disconnect-user", `{"userId":"a\nb"}`, 400, refusal{"FIELD_INVALID", "userId", "userId must be UTF-8 without control characters"}},
		{"long message", disconnect("billing", "ann", long), "billing", "disconnect-user", `{"userId":"ann","message":"` + long + `"}`, 400, refusal{"FIELD_INVALID", "message", "message must be at most 256 bytes"}},
		{"no channel", subscribe("ann", ""), "billing", "subscribe-user", `{"userId":"ann"}`, 400, refusal{"FIELD_REQUIRED", "channel", "channel is required"}},
		{"wildcard", subscribe("ann", "chat.*"), "billing", "subscribe-user", `{"userId":"ann","channel":"chat.*"}`, 400, refusal{"CHANNEL_INVALID", "channel", `channel has the byte '*'; a token is printable ASCII without space, ".", "*", ">", '"' and "\"`}},
		{"unknown namespace", subscribe("ann", "chta.a"), "billing", "subscribe-user", `{"userId":"ann","channel":"chta.a"}`, 404, refusal{"NAMESPACE_UNKNOWN", "channel", `there is no namespace "chta"`}},
		{"channel not granted", subscribe("ann", "chat.secret"), "billing", "subscribe-user", `{"userId":"ann","channel":"chat.secret"}`, 403, refusal{"CALLER_DENIED", "channel", `the caller "billing" may not subscribe users to this channel`}},
		{"inbox", func() error {
			_, err := a.client.UnsubscribeUser(as(t.Context(), "billing"), &controlv1.UnsubscribeUserRequest{UserId: "ann", Channel: "user.ann"})
			return err
		}, "billing", "unsubscribe-user", `{"userId":"ann","channel":"user.ann"}`, 400, refusal{"FIELD_INVALID", "channel", "channel is the user's own inbox, which is always subscribed"}},
		{"all tokens and one", revoke(&controlv1.RevokeTokensRequest{TokenId: "t", IssuedBefore: in(-time.Hour)}), "billing", "revoke-tokens", `{"userId":"ann","tokenId":"t","issuedBefore":1}`, 400, refusal{"FIELD_INVALID", "issuedBefore", "tokenId and issuedBefore are two choices; send one"}},
		{"tokens of the future", revoke(&controlv1.RevokeTokensRequest{IssuedBefore: in(time.Hour)}), "billing", "revoke-tokens", fmt.Sprintf(`{"userId":"ann","issuedBefore":%d}`, ms(time.Hour)), 400, refusal{"FIELD_INVALID", "issuedBefore", "issuedBefore lies ahead; tokens of the future cannot be revoked"}},
		{"forgotten at once", revoke(&controlv1.RevokeTokensRequest{ExpiresAt: in(-time.Second)}), "billing", "revoke-tokens", `{"userId":"ann","expiresAt":0}`, 400, refusal{"FIELD_INVALID", "expiresAt", "expiresAt has passed"}},
		{"kept for too long", revoke(&controlv1.RevokeTokensRequest{ExpiresAt: in(year + time.Minute)}), "billing", "revoke-tokens", fmt.Sprintf(`{"userId":"ann","expiresAt":%d}`, ms(year+time.Minute)), 400, refusal{"FIELD_INVALID", "expiresAt", "expiresAt must be at most 365 days ahead"}},
		{"before 1970", revoke(&controlv1.RevokeTokensRequest{IssuedBefore: &timestamppb.Timestamp{Seconds: -1}}), "", "", "", 0, refusal{"FIELD_INVALID", "issuedBefore", "issuedBefore is not a time since 1970"}},
	} {
		if got := grpcRefusal(test.call()); got != test.want {
			t.Errorf("%s:\n %+v, want\n %+v", test.name, got, test.want)
		}
		if test.path == "" {
			continue
		}
		status, text := a.do(t, test.caller, test.path, test.body)
		if got := httpRefusal(t, text); got != test.want || status != test.status {
			t.Errorf("%s over HTTP: %d\n %+v, want %d\n %+v", test.name, status, got, test.status, test.want)
		}
	}
	if len(a.issuer.got) > 0 || len(a.issuer.asked) > 0 || strings.Contains(a.log.String(), "control command") {
		t.Errorf("issued %+v, asked %+v", a.issuer.got, a.issuer.asked)
	}
}

// What only HTTP can say is refused by name too.
func TestBadBodiesAndQueries(t *testing.T) {
	t.Parallel()
	a := start(t, everything)
	for _, test := range []struct {
		path, body string
		status     int
		want       refusal
	}{
		{"disconnect-user", `{"user_id":"ann"}`, 400, refusal{"FIELD_INVALID", "user_id", `there is no field "user_id"`}},
		{"disconnect-user", `{"userId":7}`, 400, refusal{"FIELD_INVALID", "userId", "userId must be a string"}},
		{"disconnect-user", `{"userId":"ann","userId":"bob"}`, 400, refusal{"FIELD_INVALID", "userId", `"userId" stands twice`}},
		{"disconnect-user", `ann`, 400, refusal{"FIELD_INVALID", "", "the body must be a JSON object"}},
		{"disconnect-user", `{"userId":"ann"`, 400, refusal{"FIELD_INVALID", "userId", `the body is not valid JSON: it ends within "userId"`}},
		{"disconnect-user", `{"data":"ann"`, 400, refusal{"FIELD_INVALID", "data", `the body is not valid JSON: it ends within "data"`}},
		{"revoke-tokens", `{"userId":"ann","issuedBefore":"2026-01-01T00:00:00Z"}`, 400, refusal{"FIELD_INVALID", "issuedBefore", "issuedBefore must be a time in Unix milliseconds, a whole number"}},
		{"revoke-tokens", `{"userId":"ann","expiresAt":253402300800000}`, 400, refusal{"FIELD_INVALID", "expiresAt", "expiresAt must be a time in Unix milliseconds, a whole number"}},
		{"connections?limit=1001", "", 400, refusal{"FIELD_INVALID", "limit", "limit must be less than or equal to 1000"}},
		{"connections?limit=-1", "", 400, refusal{"FIELD_INVALID", "limit", "limit must be a whole number that is not negative"}},
		{"connections?user_id=ann", "", 400, refusal{"FIELD_INVALID", "user_id", `there is no parameter "user_id"`}},
		{"connections?userId=ann&userId=bob", "", 400, refusal{"FIELD_INVALID", "userId", `"userId" stands twice`}},
		{"connections?userId=%ff", "", 400, refusal{"FIELD_INVALID", "userId", "userId is not valid UTF-8"}},
		{"connections", "{}", 405, refusal{"NOT_SUPPORTED", "", "POST is not supported here; use GET"}},
		{"disconnect-user", "", 405, refusal{"NOT_SUPPORTED", "", "GET is not supported here; use POST"}},
		{"explode", "{}", 404, refusal{"PATH_UNKNOWN", "", `there is no path "/v1/control/explode"; publish with POST /v1/publish`}},
	} {
		status, text := a.do(t, "billing", test.path, test.body)
		if got := httpRefusal(t, text); got != test.want || status != test.status {
			t.Errorf("%s %s: %d\n %+v, want %d\n %+v", test.path, test.body, status, got, test.status, test.want)
		}
	}
	if status, text := a.do(t, "", "disconnect-user", `{"userId":"ann"}`); status != 401 || httpRefusal(t, text).reason != "TOKEN_MISSING" {
		t.Errorf("without a token: %d %s", status, text)
	}
}

func TestCommandsThatCannotBeStored(t *testing.T) {
	t.Parallel()
	a := start(t, everything)
	a.issuer.err = fault.Unavailable(fault.ControlUnavailable, errors.New("nats: timeout"), "the command cannot be stored now")
	want := refusal{"CONTROL_UNAVAILABLE", "", "the command cannot be stored now"}
	_, err := a.client.DisconnectUser(as(t.Context(), "billing"), &controlv1.DisconnectUserRequest{UserId: "ann"})
	if got := grpcRefusal(err); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	status, text := a.do(t, "billing", "disconnect-user", `{"userId":"ann"}`)
	if got := httpRefusal(t, text); got != want || status != 503 || !strings.Contains(text, `"retryAfterMs":1000`) {
		t.Errorf("%d %s", status, text)
	}
	status, text = a.do(t, "billing", "connections", "")
	if got := httpRefusal(t, text); got != want || status != 503 {
		t.Errorf("%d %s", status, text)
	}
	if strings.Contains(a.log.String(), "control command") {
		t.Errorf("the log says that it was done:\n%s", a.log)
	}
}
