package proxies_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"strings"
	"testing"

	"github.com/coder/websocket"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	carillon "github.com/carillon-rt/carillon/clients/go"
	authzv1 "github.com/carillon-rt/carillon/gen/carillon/authz/v1"
	controlv1 "github.com/carillon-rt/carillon/gen/carillon/control/v1"
	presencev1 "github.com/carillon-rt/carillon/gen/carillon/presence/v1"
	publishv1 "github.com/carillon-rt/carillon/gen/carillon/publish/v1"
)

const traceID = "4bf92f3577b34da6a3ce929d0e0e4736"

// journey is what people and backends do in a channel that nobody has used, all of it
// through the load balancer.
func journey(t *testing.T, s *system, f front, channel string) {
	ctx, cancel := s.caller(t)
	defer cancel()
	conn := f.dial(t)
	publish := publishv1.NewPublishServiceClient(conn)
	alice := f.connect(t, s, "alice", "", channel)

	// One message by each way in.
	traced := metadata.AppendToOutgoingContext(ctx, "traceparent", "00-"+traceID+"-00f067aa0ba902b7-01")
	first, err := publish.Publish(traced, said(channel, "1"))
	if err != nil {
		t.Fatal(err)
	}
	batch, err := publish.PublishBatch(ctx, &publishv1.PublishBatchRequest{Messages: []*publishv1.PublishRequest{said(channel, "2")}})
	if err != nil || batch.GetResults()[0].GetPublished() == nil {
		t.Fatalf("PublishBatch: %v, %v", batch, err)
	}
	streamed(t, ctx, publish, channel)
	if status, text := f.ask(t, ctx, http.MethodPost, "/v1/publish", `{"channel":"`+channel+`","data":4}`); status != http.StatusOK {
		t.Fatalf("POST /v1/publish: %d %s", status, text)
	}
	if _, err := alice.Publish(ctx, channel, "5", ""); err != nil {
		t.Fatal(err)
	}
	for want := range 5 {
		m := next(t, alice, channel)
		if m.GetJson() != fmt.Sprint(want+1) {
			t.Errorf("message %s, want %d", m.GetJson(), want+1)
		}
		if want == 0 && !strings.Contains(m.GetTraceparent(), traceID) {
			t.Errorf("traceparent %q: the trace of the caller was lost on its way", m.GetTraceparent())
		}
	}

	// Who comes back, on any edge, gets what was missed.
	bob := f.connect(t, s, "bob", "")
	resumed, err := bob.Resume(ctx, channel, first.GetEpoch(), first.GetOffset())
	if err != nil || !resumed.GetRecovered() {
		t.Fatalf("resume: %v, %v", resumed, err)
	}
	for want := 2; want <= 5; want++ {
		if m := next(t, bob, channel); m.GetJson() != fmt.Sprint(want) {
			t.Errorf("resumed with %s, want %d", m.GetJson(), want)
		}
	}

	history, err := publishv1.NewHistoryServiceClient(conn).ListMessages(ctx, &publishv1.ListMessagesRequest{Target: &publishv1.ListMessagesRequest_Channel{Channel: channel}})
	if err != nil || len(history.GetMessages()) != 5 {
		t.Errorf("ListMessages: %v, %v", history, err)
	}
	if status, text := f.ask(t, ctx, http.MethodGet, "/v1/messages?channel="+channel, ""); status != http.StatusOK || strings.Count(text, `"offset"`) < 5 {
		t.Errorf("GET /v1/messages: %d %s", status, text)
	}
	attended(t, s, f, conn, alice, channel)
}

func said(channel, text string) *publishv1.PublishRequest {
	return &publishv1.PublishRequest{Target: &publishv1.PublishRequest_Channel{Channel: channel}, Payload: &publishv1.PublishRequest_Json{Json: text}}
}

// streamed publishes the third message over a stream.
func streamed(t *testing.T, ctx context.Context, publish publishv1.PublishServiceClient, channel string) {
	t.Helper()
	stream, err := publish.PublishStream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&publishv1.PublishStreamRequest{Id: 1, Message: said(channel, "3")}); err != nil {
		t.Fatal(err)
	}
	if answer, err := stream.Recv(); err != nil || answer.GetPublished() == nil {
		t.Fatalf("PublishStream: %v, %v", answer, err)
	}
	if err := stream.CloseSend(); err != nil {
		t.Error(err)
	}
	if _, err := stream.Recv(); err != io.EOF {
		t.Errorf("the end of PublishStream: %v", err)
	}
}

// attended asks who is in the channel, in every way there is.
func attended(t *testing.T, s *system, f front, conn *grpc.ClientConn, alice *carillon.Client, channel string) {
	t.Helper()
	ctx, cancel := s.caller(t)
	defer cancel()
	people := presencev1.NewPresenceServiceClient(conn)
	eventually(t, "both are members", func(context.Context) error {
		list, err := people.ListMembers(ctx, &presencev1.ListMembersRequest{Channel: channel})
		if err != nil || list.GetTotal() != 2 {
			return fmt.Errorf("%v: %w", list, err)
		}
		return nil
	})
	watch, err := people.WatchChannel(ctx, &presencev1.WatchChannelRequest{Channel: channel})
	if err != nil {
		t.Fatal(err)
	}
	if told, err := watch.Recv(); err != nil || told.GetSnapshot().GetTotal() != 2 {
		t.Errorf("WatchChannel: %v, %v", told, err)
	}
	eventually(t, "the JSON API knows both", func(context.Context) error {
		if status, text := f.ask(t, ctx, http.MethodGet, "/v1/presence/members?channel="+channel, ""); status != http.StatusOK || !strings.Contains(text, `"bob"`) {
			return fmt.Errorf("%d %s", status, text)
		}
		return nil
	})
	if here, err := alice.Presence(ctx, channel); err != nil || here.GetTotal() != 2 {
		t.Errorf("presence over WebSocket: %v, %v", here, err)
	}
}

// ask asks the JSON API as the backend whom ctx names.
func (f front) ask(t *testing.T, ctx context.Context, method, path, body string) (int, string) {
	t.Helper()
	request, err := http.NewRequestWithContext(ctx, method, f.json+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	sent, _ := metadata.FromOutgoingContext(ctx)
	request.Header["Authorization"] = sent.Get("authorization")
	return answered(t, f, request)
}

func answered(t *testing.T, f front, request *http.Request) (int, string) {
	t.Helper()
	response, err := f.httpClient("").Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(text)
}

// closed is what no way leads to.
func closed(t *testing.T, s *system, f front) {
	web := strings.TrimSuffix(strings.Replace(f.websocket, "ws", "http", 1), "/v1/ws")
	for _, url := range []string{
		web + "/", web + "/console/", web + "/metrics", web + "/readyz", web + "/healthz", web + "/debug/pprof/", web + "/v1/publish", web + "/v1/ws/",
		f.json + "/", f.json + "/metrics", f.json + "/console/", f.json + "/v1/ws", f.json + "/v1/other",
	} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		if status, text := answered(t, f, request); status != http.StatusNotFound {
			t.Errorf("%s: %d %.100s", url, status, text)
		}
	}
	ctx, cancel := s.caller(t)
	defer cancel()
	conn := f.dial(t)
	_, err := authzv1.NewAuthorizationServiceClient(conn).CheckPermissions(ctx, &authzv1.CheckPermissionsRequest{})
	if status.Code(err) != codes.Unimplemented {
		t.Errorf("CheckPermissions, which is for roles: %v", err)
	}
	report, err := presencev1.NewPresenceReportServiceClient(conn).Report(ctx)
	if err == nil {
		_, err = report.Recv()
	}
	if status.Code(err) != codes.Unimplemented {
		t.Errorf("Report, which is for roles: %v", err)
	}
}

const crowd = 200

// addressed connects many, each from an address of its own: the edges know them by it, and
// each has half of them.
func addressed(t *testing.T, s *system, f front) {
	before := connections(t)
	for i := range crowd {
		f.connect(t, s, fmt.Sprint("crowd", i), fmt.Sprintf("10.77.1.%d", i+1))
	}
	after := connections(t)
	t.Logf("connections of the edges: %v, before that %v", after, before)
	if spread := math.Abs(after[0] - after[1]); after[0]+after[1] < crowd || spread > 4 {
		t.Errorf("connections of the edges: %v", after)
	}
	ctx, cancel := s.caller(t)
	defer cancel()
	list, err := controlv1.NewControlServiceClient(f.dial(t)).ListConnections(ctx, &controlv1.ListConnectionsRequest{Limit: 1000})
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, c := range list.GetConnections() {
		if number, ok := strings.CutPrefix(c.GetUserId(), "crowd"); ok {
			var i int
			if _, err := fmt.Sscan(number, &i); err != nil {
				t.Fatal(err)
			}
			// By the PROXY protocol the port is known too.
			if want := fmt.Sprintf("10.77.1.%d", i+1); c.GetAddress() != want && !strings.HasPrefix(c.GetAddress(), want+":") {
				t.Errorf("%s has the address %s, want %s", c.GetUserId(), c.GetAddress(), want)
			}
			found++
		}
	}
	if found != crowd {
		t.Errorf("%d of %d are listed, and unreachable %v", found, crowd, list.GetUnreachable())
	}
}

// connections of each edge, once they are all counted.
func connections(t *testing.T) []float64 {
	t.Helper()
	var counts []float64
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for _, edge := range []string{"edge-0", "edge-1"} {
		n, err := metric(ctx, edge, "carillon_edge_connections")
		if err != nil {
			t.Fatal(err)
		}
		counts = append(counts, n)
	}
	return counts
}

// forged says of a client what it is not: nobody believes it.
func forged(t *testing.T, s *system, f front) {
	token, err := s.tokens.Client(t.Context(), "forger")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := s.caller(t)
	defer cancel()
	ws, _, err := websocket.Dial(ctx, f.websocket, &websocket.DialOptions{
		HTTPClient: f.httpClient("10.77.2.1"),
		HTTPHeader: http.Header{"Authorization": {"Bearer " + token}, "X-Forwarded-For": {"192.0.2.1, 10.78.0.2"}, "Forwarded": {"for=192.0.2.1"}, "X-Real-Ip": {"192.0.2.1"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer ws.CloseNow()
	if err := ws.Write(ctx, websocket.MessageText, []byte(`{"id":1,"connect":{}}`)); err != nil {
		t.Fatal(err)
	}
	if _, text, err := ws.Read(ctx); err != nil || !json.Valid(text) {
		t.Fatalf("%s, %v", text, err)
	}
	list, err := controlv1.NewControlServiceClient(f.dial(t)).ListConnections(ctx, &controlv1.ListConnectionsRequest{UserId: "forger"})
	if err != nil || len(list.GetConnections()) != 1 || list.GetConnections()[0].GetAddress() != "10.77.2.1" {
		t.Errorf("ListConnections: %v, %v", list, err)
	}
}
