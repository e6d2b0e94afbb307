package crowd

import (
	"context"
	"errors"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	clientv1 "github.com/carillon-rt/carillon/gen/carillon/client/v1"
	presencev1 "github.com/carillon-rt/carillon/gen/carillon/presence/v1"
)

// hall is a small system that tells the truth: two edges and a replica that share
// what they know. Fields say what is broken in it.
type hall struct {
	presencev1.UnimplementedPresenceServiceServer

	sticky  bool // who says goodbye stays
	blinks  bool // who is told of has left and joined again
	mute    bool // watchers are told nothing
	grace   time.Duration
	patient time.Duration // until a silent connection is given up

	mu       sync.Mutex
	rooms    map[string]map[string]int // connections by user; 0: held
	held     map[[2]string]time.Time   // by room and user, until when without a connection
	clients  map[*client]struct{}
	watchers map[chan *presencev1.WatchChannelResponse]string
	running  sync.WaitGroup
	timers   []*time.Timer
}

// client is a connection at an edge.
type client struct {
	ws     *websocket.Conn
	user   string
	rooms  map[string]bool // with presence?
	writes sync.Mutex
}

func (c *client) write(f *clientv1.ServerFrame) {
	data, _ := proto.Marshal(f) // it can be written
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	c.writes.Lock()
	defer c.writes.Unlock()
	_ = c.ws.Write(ctx, websocket.MessageBinary, data) // it may be gone
}

func newHall() *hall {
	return &hall{
		grace: testBounds.Grace, patient: testBounds.Noticed / 2, rooms: map[string]map[string]int{}, held: map[[2]string]time.Time{}, clients: map[*client]struct{}{},
		watchers: map[chan *presencev1.WatchChannelResponse]string{},
	}
}

// serve starts two edges and a replica.
func (h *hall) serve(t *testing.T) (edges, replicas []Place) {
	t.Helper()
	for _, name := range []string{"edge-1", "edge-2"} {
		server := httptest.NewServer(http.HandlerFunc(h.accept))
		t.Cleanup(server.Close)
		edges = append(edges, Place{name, "ws" + strings.TrimPrefix(server.URL, "http")})
	}
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	presencev1.RegisterPresenceServiceServer(server, h)
	h.running.Go(func() { _ = server.Serve(listener) })
	t.Cleanup(func() {
		server.Stop()
		h.running.Wait()
		h.mu.Lock()
		defer h.mu.Unlock()
		for _, timer := range h.timers {
			timer.Stop()
		}
	})
	return edges, []Place{{"presence-1", listener.Addr().String()}}
}

func (h *hall) accept(w http.ResponseWriter, r *http.Request) {
	h.running.Add(1) // the server does not wait for it
	defer h.running.Done()
	ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{subprotocol}})
	if err != nil {
		return
	}
	c := &client{ws: ws, user: strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "), rooms: map[string]bool{}}
	h.mu.Lock()
	h.clients[c] = struct{}{}
	h.mu.Unlock()
	for err == nil {
		err = h.command(c)
	}
	held := h.grace
	if websocket.CloseStatus(err) == websocket.StatusNormalClosure || errors.Is(err, context.DeadlineExceeded) {
		held = 0
	}
	h.mu.Lock()
	delete(h.clients, c)
	for room := range c.rooms {
		h.leave(room, c.user, held)
	}
	h.mu.Unlock()
	_ = ws.CloseNow()
}

// command carries out one command.
func (h *hall) command(c *client) error {
	ctx, cancel := context.WithTimeout(context.Background(), h.patient)
	defer cancel()
	_, data, err := c.ws.Read(ctx)
	if err != nil {
		return errors.Join(err, ctx.Err())
	}
	var f clientv1.ClientFrame
	if err := proto.Unmarshal(data, &f); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	answer := &clientv1.ServerFrame{Id: f.GetId()}
	switch command := f.GetCommand().(type) {
	case *clientv1.ClientFrame_Connect:
		connected := &clientv1.ConnectedReply{}
		for _, s := range command.Connect.GetSubscriptions() {
			connected.Subscriptions = append(connected.Subscriptions, &clientv1.SubscriptionResult{Result: &clientv1.SubscriptionResult_Subscribed{Subscribed: h.subscribe(c, s)}})
		}
		answer.Event = &clientv1.ServerFrame_Connected{Connected: connected}
	case *clientv1.ClientFrame_Subscribe:
		answer.Event = &clientv1.ServerFrame_Subscribed{Subscribed: h.subscribe(c, command.Subscribe)}
	case *clientv1.ClientFrame_Unsubscribe:
		room := command.Unsubscribe.GetChannel()
		delete(c.rooms, room)
		h.leave(room, c.user, 0)
		answer.Event = &clientv1.ServerFrame_Unsubscribed{Unsubscribed: &clientv1.UnsubscribedEvent{Channel: room}}
	case *clientv1.ClientFrame_Presence:
		list := &clientv1.PresenceReply{Channel: command.Presence.GetChannel()}
		for _, user := range slices.Sorted(maps.Keys(h.rooms[list.GetChannel()])) {
			list.Members = append(list.Members, &clientv1.Member{UserId: user})
		}
		list.Total = uint32(len(list.GetMembers()))
		answer.Event = &clientv1.ServerFrame_Presence{Presence: list}
	default:
		answer.Event = &clientv1.ServerFrame_Pong{Pong: &clientv1.PongReply{}}
	}
	c.write(answer)
	return nil
}

// The rest wants h.mu held, but for the methods of the replica.

func (h *hall) subscribe(c *client, s *clientv1.SubscribeCommand) *clientv1.SubscribedEvent {
	room := s.GetChannel()
	if h.rooms[room] == nil {
		h.rooms[room] = map[string]int{}
	}
	_, was := h.rooms[room][c.user]
	h.rooms[room][c.user]++
	if !was {
		h.tell(room, []string{c.user}, nil)
	} else if h.blinks {
		h.tell(room, nil, []string{c.user})
		h.tell(room, []string{c.user}, nil)
	}
	c.rooms[room] = s.GetPresence()
	return &clientv1.SubscribedEvent{Channel: room}
}

func (h *hall) leave(room, user string, held time.Duration) {
	seat := [2]string{room, user}
	if until := time.Now().Add(held); held > 0 && until.After(h.held[seat]) {
		h.held[seat] = until
	}
	h.rooms[room][user]--
	if h.rooms[room][user] > 0 || held == 0 && h.sticky {
		return
	}
	gone := func() {
		if n, is := h.rooms[room][user]; is && n == 0 && !time.Now().Before(h.held[seat]) {
			delete(h.rooms[room], user)
			h.tell(room, nil, []string{user})
		}
	}
	if held = time.Until(h.held[seat]); held <= 0 {
		gone()
		return
	}
	h.timers = append(h.timers, time.AfterFunc(held, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		gone()
	}))
}

// tell tells everybody who watches a room.
func (h *hall) tell(room string, joined, left []string) {
	if h.mute {
		return
	}
	push := &clientv1.PresenceChangedPush{Channel: room, Total: uint32(len(h.rooms[room]))}
	changed := &presencev1.MembersChanged{Total: push.GetTotal()}
	for _, user := range joined {
		push.Joined = append(push.Joined, &clientv1.Member{UserId: user})
		changed.Joined = append(changed.Joined, &presencev1.Member{UserId: user})
	}
	for _, user := range left {
		push.Left = append(push.Left, &clientv1.Member{UserId: user})
		changed.Left = append(changed.Left, &presencev1.Member{UserId: user})
	}
	for c := range h.clients {
		if c.rooms[room] {
			c.write(&clientv1.ServerFrame{Event: &clientv1.ServerFrame_PresenceChanged{PresenceChanged: push}})
		}
	}
	for to, watched := range h.watchers {
		if watched == room {
			to <- &presencev1.WatchChannelResponse{Event: &presencev1.WatchChannelResponse_Changed{Changed: changed}}
		}
	}
}

func (h *hall) ListMembers(_ context.Context, request *presencev1.ListMembersRequest) (*presencev1.ListMembersResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	page := &presencev1.ListMembersResponse{}
	for _, user := range slices.Sorted(maps.Keys(h.rooms[request.GetChannel()])) {
		switch {
		case user <= request.GetPageToken():
		case len(page.GetMembers()) == int(request.GetPageSize()):
			page.NextPageToken = page.GetMembers()[len(page.GetMembers())-1].GetUserId()
		default:
			page.Members = append(page.Members, &presencev1.Member{UserId: user})
		}
	}
	return page, nil
}

func (h *hall) CountMembers(_ context.Context, request *presencev1.CountMembersRequest) (*presencev1.CountMembersResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	answer := &presencev1.CountMembersResponse{}
	for _, room := range request.GetChannels() {
		answer.Counts = append(answer.Counts, &presencev1.ChannelCount{Channel: room, Members: uint32(len(h.rooms[room]))})
	}
	return answer, nil
}

func (h *hall) WatchChannel(request *presencev1.WatchChannelRequest, stream grpc.ServerStreamingServer[presencev1.WatchChannelResponse]) error {
	told := make(chan *presencev1.WatchChannelResponse, 10_000)
	h.mu.Lock()
	snapshot := &presencev1.MembersSnapshot{Complete: true}
	for _, user := range slices.Sorted(maps.Keys(h.rooms[request.GetChannel()])) {
		snapshot.Members = append(snapshot.Members, &presencev1.Member{UserId: user})
	}
	snapshot.Total = uint32(len(snapshot.GetMembers()))
	h.watchers[told] = request.GetChannel()
	h.mu.Unlock()
	defer func() {
		h.mu.Lock()
		delete(h.watchers, told)
		h.mu.Unlock()
	}()
	if err := stream.Send(&presencev1.WatchChannelResponse{Event: &presencev1.WatchChannelResponse_Snapshot{Snapshot: snapshot}}); err != nil {
		return err
	}
	for {
		select {
		case step := <-told:
			if err := stream.Send(step); err != nil {
				return err
			}
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}
