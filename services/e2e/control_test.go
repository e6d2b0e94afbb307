package e2e_test

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	carillon "github.com/carillon-rt/carillon/clients/go"
	clientv1 "github.com/carillon-rt/carillon/gen/carillon/client/v1"
)

// commanded is what the Control API answers, in JSON.
type commanded struct {
	Edges []struct {
		EdgeID      string
		Connections int
	}
	Unreachable []struct {
		EdgeID   string
		LastSeen int64
	}
	Connections []struct{ ConnectionID, EdgeID, UserID, Address, ClientName string }
	Total       int
}

// concerned is how many connections a command concerned on all edges.
func (c commanded) concerned() (count int) {
	for _, e := range c.Edges {
		count += e.Connections
	}
	return count
}

// command sends a command to the Control API over HTTP; without a body it asks.
func (s *system) command(t testing.TB, path string, body map[string]any) commanded {
	t.Helper()
	method, text := http.MethodGet, ""
	if body != nil {
		method, text = http.MethodPost, encode(t, body)
	}
	r, err := http.NewRequestWithContext(t.Context(), method, "http://"+last(s.publishersHTTP)+"/v1/control/"+path, strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+s.token(t, "service", s.caller))
	response, err := httpClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	if response.StatusCode != http.StatusOK {
		t.Fatalf("%s %s: %d %s", path, text, response.StatusCode, answer)
	}
	var c commanded
	decode(t, string(answer), &c)
	return c
}

// ended waits until a connection is ended, and returns what the server said.
func (c client) ended(t testing.TB) *clientv1.DisconnectPush {
	t.Helper()
	for {
		if said := c.next(t).GetDisconnect(); said != nil {
			return said
		}
	}
}

// refusedAt connects a user and returns why that is refused.
func (s *system) refusedAt(t testing.TB, edge, user string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, err := carillon.Dial(ctx, carillon.Options{URL: "ws://" + edge + "/v1/ws", Token: s.token(t, "user", user)})
	if err == nil {
		_ = c.Close()
	}
	return err
}

// testControl has a service do to the connections of a user, on every edge, all that it
// can.
func testControl(t *testing.T, s *system) {
	const user, other, room = "commanded", "left alone", "chat.commanded"
	edges := len(s.edges)
	bystander := s.connect(t, first(s.edges), other, room)
	near, far := s.connect(t, first(s.edges), user), s.connect(t, last(s.edges), user)

	listed := s.command(t, "connections?userId="+user, nil)
	if listed.Total != 2 || len(listed.Connections) != 2 || listed.Connections[0].ClientName != "e2e" || listed.Connections[0].UserID != user || listed.Unreachable == nil {
		t.Errorf("listed %+v", listed)
	}

	subscribed := s.command(t, "subscribe-user", map[string]any{"userId": user, "channel": room})
	if subscribed.concerned() != 2 || len(subscribed.Edges) != edges || len(subscribed.Unreachable) > 0 {
		t.Errorf("subscribed %+v", subscribed)
	}
	s.say(t, last(s.publishers), room, "one")
	for _, c := range []client{near, far, bystander} {
		c.wantMessage(t, room, `{"text":"one"}`)
	}
	if unsubscribed := s.command(t, "unsubscribe-user", map[string]any{"userId": user, "channel": room}); unsubscribed.concerned() != 2 {
		t.Errorf("unsubscribed %+v", unsubscribed)
	}
	for _, c := range []client{near, far} {
		if end := c.next(t).GetUnsubscribed(); end.GetChannel() != room || end.GetReason().String() != "ERROR_REASON_ENDED_BY_SERVICE" || end.GetResubscribe() {
			t.Errorf("%v", end)
		}
	}

	gone := s.command(t, "disconnect-connection", map[string]any{"connectionId": near.Connected().GetConnectionId()})
	if said := near.ended(t); said.GetReason().String() != "ERROR_REASON_ENDED_BY_SERVICE" || gone.concerned() != 1 {
		t.Errorf("%v; %+v", said, gone)
	}
	gone = s.command(t, "disconnect-user", map[string]any{"userId": user, "message": "come back later"})
	if said := far.ended(t); said.GetMessage() != "come back later" || gone.concerned() != 1 || len(gone.Edges) != edges {
		t.Errorf("%v; %+v", said, gone)
	}

	near, far = s.connect(t, first(s.edges), user), s.connect(t, last(s.edges), user)
	began := time.Now()
	s.grpcurl(t, first(s.publishers), "carillon.control.v1.ControlService/RevokeTokens", map[string]any{"user_id": user})
	for _, c := range []client{near, far} {
		if said := c.ended(t); said.GetReason().String() != "ERROR_REASON_TOKEN_REVOKED" {
			t.Errorf("%v", said)
		}
	}
	t.Logf("a revoked user was off %d edges within %v, the start of grpcurl included", edges, time.Since(began))
	for _, edge := range s.edges {
		if err := s.refusedAt(t, edge, user); !refusedAs(err, "UNAUTHENTICATED", "TOKEN_REVOKED") {
			t.Errorf("a revoked token: %v", err)
		}
	}
	s.say(t, first(s.publishers), room, "two")
	bystander.wantMessage(t, room, `{"text":"two"}`)
}

// An edge that was killed is named, and one that is started in its place knows what was
// revoked meanwhile before it lets anybody in.
func TestAnEdgeThatWasAwayKnowsWhatWasRevoked(t *testing.T) {
	t.Parallel()
	address := reserve(t)
	startNATS(t, t.TempDir(), address)
	c := newCluster(t, address)
	presence, publisher := c.start(t, "presence"), c.start(t, "publish")
	told := presences(presence.address(t, "presence"))
	staying, leaving := c.start(t, "edge", told), c.start(t, "edge", told)
	for _, p := range []*process{presence, publisher, staying, leaving} {
		p.ready(t)
	}
	s := c.system(t, presence, publisher, staying, leaving)
	s.connect(t, s.edges[1], "revoked")
	if known := s.command(t, "disconnect-user", map[string]any{"userId": "nobody"}); len(known.Edges) != 2 {
		t.Errorf("%+v", known)
	}
	leaving.kill(t)
	revoked := s.command(t, "revoke-tokens", map[string]any{"userId": "revoked"})
	if len(revoked.Edges) != 1 || len(revoked.Unreachable) != 1 || time.Since(time.UnixMilli(revoked.Unreachable[0].LastSeen)) > time.Minute {
		t.Errorf("%+v", revoked)
	}
	started := c.start(t, "edge", told).ready(t)
	if err := s.refusedAt(t, started.address(t, "edge"), "revoked"); !refusedAs(err, "UNAUTHENTICATED", "TOKEN_REVOKED") {
		t.Errorf("a revoked token: %v", err)
	}
	if again := s.command(t, "disconnect-user", map[string]any{"userId": "nobody"}); len(again.Edges) != 2 || len(again.Unreachable) != 1 {
		t.Errorf("%+v", again)
	}
}
