package carillon

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"reflect"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	clientv1 "github.com/carillon-rt/carillon/gen/carillon/client/v1"
)

// stage is a session, and the edges that it meets: each connection is handed to the
// test, which plays the edge. Everything is in memory, so that the clock can be that of
// a synctest bubble.
type stage struct {
	t       *testing.T
	options SessionOptions
	session *Session
	instead atomic.Pointer[httpAnswer] // of a handshake
	peers   chan *peer
	events  chan Event
	ended   chan error
	tokens  atomic.Int64
	ahead   time.Duration // what the edges' clocks are
	stop    context.CancelFunc
}

// now is the edges' time.
func (s *stage) now() time.Time { return time.Now().Add(s.ahead) }

// perform runs a test in a bubble with a session that follows channels. Every wait is
// as long as it can be, and the session's events wait for the test.
func perform(t *testing.T, options SessionOptions, play func(*testing.T, *stage)) {
	t.Helper()
	stageOf(t, options, func(s *stage) {
		if options.Token == nil {
			s.options.Token = func(context.Context) (string, error) {
				return fmt.Sprint("token", s.tokens.Add(1)), nil
			}
		}
	}, play)
}

// performAnonymously is perform for a session without tokens.
func performAnonymously(t *testing.T, options SessionOptions, play func(*testing.T, *stage)) {
	t.Helper()
	stageOf(t, options, func(*stage) {}, play)
}

func stageOf(t *testing.T, options SessionOptions, prepare func(*stage), play func(*testing.T, *stage)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := &stage{t: t, peers: make(chan *peer), events: make(chan Event), ended: make(chan error, 1)}
		if options.URLs == nil {
			options.URLs = []string{"ws://one"}
		}
		options.HTTPClient = &http.Client{Transport: s}
		s.options = options
		prepare(s)
		ctx, cancel := context.WithCancel(t.Context())
		s.stop = cancel
		session, err := NewSession(s.options, func(e Event) {
			select {
			case s.events <- e:
			case <-ctx.Done():
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		session.turn = 0
		session.jitter = func(most time.Duration) time.Duration { return most }
		s.session = session
		go func() { s.ended <- session.Run(ctx) }()
		play(t, s)
		cancel()
		<-s.ended
	})
}

// RoundTrip is the way of a handshake from the session to an edge.
func (s *stage) RoundTrip(r *http.Request) (*http.Response, error) {
	near, far := net.Pipe()
	w := hijacker{httptest.NewRecorder(), far}
	if instead := s.instead.Load(); instead != nil {
		if instead.retryAfter != "" {
			w.Header().Set("Retry-After", instead.retryAfter)
		}
		w.WriteHeader(instead.status)
		_, _ = w.WriteString(instead.body)
		return w.Result(), nil
	}
	ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{Subprotocol}})
	if err != nil {
		return nil, err
	}
	ws.SetReadLimit(64 << 10)
	p := &peer{stage: s, ws: ws, url: "ws://" + r.URL.Host, token: r.Header.Get("Authorization")}
	select {
	case s.peers <- p:
	case <-r.Context().Done():
		_ = ws.CloseNow()
		return nil, r.Context().Err()
	}
	response := w.Result()
	response.Body = near
	return response, nil
}

// httpAnswer is what a handshake gets that is refused.
type httpAnswer struct {
	status     int
	body       string
	retryAfter string
}

// answer has handshakes refused from now on; with status 0, not any more.
func (s *stage) answer(status int, body string) {
	if status == 0 {
		s.instead.Store(nil)
	} else {
		s.instead.Store(&httpAnswer{status: status, body: body})
	}
}

type hijacker struct {
	*httptest.ResponseRecorder

	conn net.Conn
}

func (h hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return h.conn, bufio.NewReadWriter(bufio.NewReader(h.conn), bufio.NewWriter(h.conn)), nil
}

// want waits for the session's next event.
func want[E Event](s *stage) E {
	s.t.Helper()
	select {
	case event := <-s.events:
		e, ok := event.(E)
		if !ok {
			s.t.Fatalf("%T %+v, want %T", event, event, e)
		}
		return e
	case err := <-s.ended:
		s.t.Fatalf("the session ended: %v", err)
	case <-time.After(time.Hour):
		s.t.Fatal("nothing happens")
	}
	panic("unreachable")
}

// quiet wants that nothing happens for a time.
func (s *stage) quiet(d time.Duration) {
	s.t.Helper()
	select {
	case event := <-s.events:
		s.t.Fatalf("%T %+v", event, event)
	case <-time.After(d):
	}
}

// peer is the edge's end of a connection.
type peer struct {
	*stage

	ws    *websocket.Conn
	url   string
	token string
}

// accept waits for the next connection and its connect command.
func (s *stage) accept() (*peer, *clientv1.ConnectCommand) {
	s.t.Helper()
	select {
	case p := <-s.peers:
		f := p.read()
		if f.GetConnect() == nil || f.GetId() == 0 {
			s.t.Fatalf("%v, want connect", f)
		}
		return p, f.GetConnect()
	case event := <-s.events:
		s.t.Fatalf("%T %+v, want a connection", event, event)
	case <-time.After(time.Hour):
		s.t.Fatal("nobody connects")
	}
	panic("unreachable")
}

func (p *peer) read() *clientv1.ClientFrame {
	p.t.Helper()
	_, data, err := p.ws.Read(p.t.Context())
	if err != nil {
		p.t.Fatal(err)
	}
	var f clientv1.ClientFrame
	if err := proto.Unmarshal(data, &f); err != nil {
		p.t.Fatal(err)
	}
	return &f
}

func (p *peer) send(f *clientv1.ServerFrame) {
	p.t.Helper()
	data, err := proto.Marshal(f)
	if err != nil {
		p.t.Fatal(err)
	}
	if err := p.ws.Write(p.t.Context(), websocket.MessageBinary, data); err != nil {
		p.t.Fatal(err)
	}
}

const (
	heartbeat = 25 * time.Second
	lifetime  = 24 * time.Second // of a token
)

// connected answers connect, whose id is 1.
func (p *peer) connected(results ...*clientv1.SubscriptionResult) {
	p.t.Helper()
	p.send(&clientv1.ServerFrame{Id: 1, Event: &clientv1.ServerFrame_Connected{Connected: &clientv1.ConnectedReply{
		ConnectionId: "C", UserId: "alice", ExpiresAt: timestamppb.New(p.now().Add(lifetime)), ServerTime: timestamppb.New(p.now()), HeartbeatMs: uint32(heartbeat.Milliseconds()),
		MaxFrameBytes: 64 << 10, Subscriptions: results,
	}}})
}

func (p *peer) event(id uint64, event any) {
	p.t.Helper()
	f := &clientv1.ServerFrame{Id: id}
	switch e := event.(type) {
	case *clientv1.SubscribedEvent:
		f.Event = &clientv1.ServerFrame_Subscribed{Subscribed: e}
	case *clientv1.UnsubscribedEvent:
		f.Event = &clientv1.ServerFrame_Unsubscribed{Unsubscribed: e}
	case *clientv1.PositionPush:
		f.Event = &clientv1.ServerFrame_Position{Position: e}
	case *clientv1.GapPush:
		f.Event = &clientv1.ServerFrame_Gap{Gap: e}
	case *clientv1.DisconnectPush:
		f.Event = &clientv1.ServerFrame_Disconnect{Disconnect: e}
	case *clientv1.ErrorReply:
		f.Event = &clientv1.ServerFrame_Error{Error: e}
	case *clientv1.PublishedReply:
		f.Event = &clientv1.ServerFrame_Published{Published: e}
	case *clientv1.TokenExpiringPush:
		f.Event = &clientv1.ServerFrame_TokenExpiring{TokenExpiring: e}
	case *clientv1.RefreshedReply:
		f.Event = &clientv1.ServerFrame_Refreshed{Refreshed: e}
	case *clientv1.PongReply:
		f.Event = &clientv1.ServerFrame_Pong{Pong: e}
	default:
		p.t.Fatalf("%T", event)
	}
	p.send(f)
}

func (p *peer) message(channel string, offset uint64) {
	p.t.Helper()
	p.send(&clientv1.ServerFrame{Event: &clientv1.ServerFrame_Message{Message: &clientv1.MessagePush{
		Channel: channel, Offset: offset, Payload: &clientv1.MessagePush_Json{Json: "1"},
	}}})
}

// cut ends the connection without a word.
func (p *peer) cut() { _ = p.ws.CloseNow() }

// leave ends it with a close frame, as a server does.
func (p *peer) leave(code websocket.StatusCode) {
	p.t.Helper()
	if err := p.ws.Close(code, "reason"); err != nil {
		p.t.Error(err)
	}
}

// goodbye waits for the session's.
func (s *stage) goodbye(p *peer) {
	s.t.Helper()
	s.stop()
	_, _, err := p.ws.Read(context.Background())
	if websocket.CloseStatus(err) != websocket.StatusNormalClosure {
		s.t.Errorf("the session's goodbye: %v", err)
	}
	_ = p.ws.CloseNow()
}

func subscribedAt(channel, epoch string, offset uint64) *clientv1.SubscribedEvent {
	return &clientv1.SubscribedEvent{Channel: channel, Epoch: epoch, Offset: offset}
}

func recoveredAt(channel, epoch string, offset uint64) *clientv1.SubscribedEvent {
	return &clientv1.SubscribedEvent{Channel: channel, Epoch: epoch, Offset: offset, Recovered: true}
}

func made(e *clientv1.SubscribedEvent) *clientv1.SubscriptionResult {
	return &clientv1.SubscriptionResult{Result: &clientv1.SubscriptionResult_Subscribed{Subscribed: e}}
}

func refusal(channel, code string, reason clientv1.ErrorReason, after time.Duration) *clientv1.SubscriptionResult {
	return &clientv1.SubscriptionResult{Result: &clientv1.SubscriptionResult_Error{Error: &clientv1.SubscriptionError{
		Channel: channel, Error: refuse(code, reason, after),
	}}}
}

func refuse(code string, reason clientv1.ErrorReason, after time.Duration) *clientv1.ErrorReply {
	return &clientv1.ErrorReply{Code: code, Reason: reason, RetryAfterMs: uint32(after.Milliseconds())}
}

func equal[T any](t *testing.T, got, want T) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("%+v, want %+v", got, want)
	}
}

// since is what a command resumes from.
func since(t *testing.T, c *clientv1.SubscribeCommand, channel, epoch string, offset uint64) {
	t.Helper()
	if got := c.GetSince(); c.GetChannel() != channel || got.GetEpoch() != epoch || got.GetOffset() != offset || (got == nil) != (epoch == "") {
		t.Fatalf("%v, want %s since %s/%d", c, channel, epoch, offset)
	}
}

var errNoToken = errors.New("the source of tokens is dry")
