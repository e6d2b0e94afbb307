package e2e_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"google.golang.org/grpc/metadata"

	presencev1 "github.com/carillon-rt/carillon/gen/carillon/presence/v1"
	"github.com/carillon-rt/carillon/services/internal/rpc"
)

// onlooker is somebody who is told who is in a channel, and keeps all of it.
type onlooker struct {
	name string

	mu      sync.Mutex
	began   bool // it has a list
	members map[string]bool
	total   int
	told    []news
	changed chan struct{} // closed when there is more
	ended   error
}

// news is one thing that an onlooker was told.
type news struct {
	at   time.Time
	user string
	here bool
}

func (n news) String() string {
	sign := "-"
	if n.here {
		sign = "+"
	}
	return n.at.Format("05.000 ") + sign + n.user
}

func newOnlooker(name string) *onlooker {
	return &onlooker{name: name, members: map[string]bool{}, changed: make(chan struct{})}
}

func (o *onlooker) change(do func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	do()
	close(o.changed)
	o.changed = make(chan struct{})
}

// list puts a whole list in place of what there was.
func (o *onlooker) list(users []string, total int) {
	o.change(func() {
		o.began, o.members, o.total = true, map[string]bool{}, total
		for _, user := range users {
			o.members[user] = true
		}
	})
}

// apply takes changes.
func (o *onlooker) apply(joined, left []string, total int) {
	o.change(func() {
		for _, user := range joined {
			o.members[user] = true
			o.told = append(o.told, news{time.Now(), user, true})
		}
		for _, user := range left {
			delete(o.members, user)
			o.told = append(o.told, news{time.Now(), user, false})
		}
		o.total = total
	})
}

// await waits until the list is just these users.
func (o *onlooker) await(t testing.TB, bound time.Duration, users ...string) {
	t.Helper()
	deadline := time.NewTimer(bound)
	defer deadline.Stop()
	for {
		o.mu.Lock()
		got, total, told, ended, more := slices.Sorted(maps.Keys(o.members)), o.total, slices.Clone(o.told), o.ended, o.changed
		done := o.began && slices.Equal(got, users) && total == len(users)
		o.mu.Unlock()
		if done {
			return
		}
		if ended != nil {
			t.Fatalf("%s has ended: %v", o.name, ended)
		}
		select {
		case <-more:
		case <-deadline.C:
			t.Fatalf("%s has %q of %d, not %q, after %v; it was told %v", o.name, got, total, users, bound, told)
		}
	}
}

// wantSteady wants nobody of some users to have been told of as having left.
func (o *onlooker) wantSteady(t testing.TB, users ...string) {
	t.Helper()
	o.mu.Lock()
	defer o.mu.Unlock()
	if i := slices.IndexFunc(o.told, func(n news) bool { return !n.here && slices.Contains(users, n.user) }); i >= 0 {
		t.Errorf("%s was told that %s left, who did not: %v", o.name, o.told[i].user, o.told)
	}
}

// lastTold is when it was last told that a user is, or is not, there.
func (o *onlooker) lastTold(user string, here bool) time.Time {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, n := range slices.Backward(o.told) {
		if n.user == user && n.here == here {
			return n.at
		}
	}
	return time.Time{}
}

// memberList is the JSON of some members.
type memberList []struct{ UserID string }

func (m memberList) users() []string {
	all := make([]string, len(m))
	for i := range m {
		all[i] = m[i].UserID
	}
	return all
}

// witness subscribes a channel on an edge with presence: true, asks for the list, and
// keeps it as docs/protocol.md says, with a client that shares no code with ours.
func (s *system) witness(t testing.TB, edge, user, channel string) *onlooker {
	t.Helper()
	o := newOnlooker(user + " on " + edge)
	ws, _, err := websocket.Dial(t.Context(), "ws://"+edge+"/v1/ws", &websocket.DialOptions{
		Subprotocols: []string{"carillon.v1.json"}, HTTPHeader: http.Header{"Authorization": {"Bearer " + s.token(t, "user", user)}},
	})
	if err != nil {
		t.Fatalf("%s: %v", o.name, err)
	}
	ws.SetReadLimit(1 << 20)
	for _, frame := range []string{`{"id":1,"connect":{"subscriptions":[{"channel":%q,"presence":true}]}}`, `{"id":2,"presence":{"channel":%q}}`} {
		if err := ws.Write(t.Context(), websocket.MessageText, fmt.Appendf(nil, frame, channel)); err != nil {
			t.Fatalf("%s: %v", o.name, err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	var reading sync.WaitGroup
	reading.Go(func() {
		for {
			_, text, err := ws.Read(ctx)
			if err == nil {
				err = o.frame(text, channel)
			}
			if err != nil {
				o.change(func() { o.ended = err })
				return
			}
		}
	})
	t.Cleanup(func() {
		_ = ws.Close(websocket.StatusNormalClosure, "") // or its edge is gone
		cancel()
		reading.Wait()
	})
	return o
}

// frame takes one frame; those of other channels, and messages, are not its affair.
func (o *onlooker) frame(text []byte, channel string) error {
	var f struct {
		Error     json.RawMessage
		Connected *struct {
			Subscriptions []struct{ Error json.RawMessage }
		}
		Presence *struct {
			Members   memberList
			Total     int
			Truncated bool
		}
		PresenceChanged *struct {
			Channel      string
			Joined, Left memberList
			Total        int
			Truncated    bool
		}
		Unsubscribed *struct{ Channel string }
		Disconnect   json.RawMessage
	}
	if err := json.Unmarshal(text, &f); err != nil {
		return err
	}
	switch {
	case f.Error != nil, f.Disconnect != nil, f.Unsubscribed != nil && f.Unsubscribed.Channel == channel,
		f.Connected != nil && f.Connected.Subscriptions[0].Error != nil:
		return errors.New(string(text))
	case f.Presence != nil:
		o.list(f.Presence.Members.users(), f.Presence.Total)
	case f.PresenceChanged != nil && (f.PresenceChanged.Channel != channel || f.PresenceChanged.Truncated):
		return errors.New(string(text))
	case f.PresenceChanged != nil:
		o.apply(f.PresenceChanged.Joined.users(), f.PresenceChanged.Left.users(), f.PresenceChanged.Total)
	}
	return nil
}

// backend watches a channel with WatchChannel at whichever replica answers, from where
// it was.
func (s *system) backend(t testing.TB, channel string, replicas func() []string) *onlooker {
	t.Helper()
	o := newOnlooker("a backend that watches " + channel)
	ctx, cancel := context.WithCancel(metadata.AppendToOutgoingContext(context.Background(), "authorization", "Bearer "+s.token(t, "service", s.caller)))
	var watching sync.WaitGroup
	watching.Go(func() {
		again := time.NewTicker(5 * pollInterval)
		defer again.Stop()
		token := ""
		for i := 0; ctx.Err() == nil; i++ {
			addresses := replicas()
			_ = o.follow(ctx, addresses[i%len(addresses)], channel, &token) // another replica may do
			select {
			case <-again.C:
			case <-ctx.Done():
			}
		}
	})
	t.Cleanup(func() {
		cancel()
		watching.Wait()
	})
	return o
}

// maxQuiet is how long nothing may come from WatchChannel; the contract says 5 s.
const maxQuiet = 8 * time.Second

// follow is one stream of WatchChannel.
func (o *onlooker) follow(ctx context.Context, replica, channel string, token *string) error {
	conn, err := rpc.Dial([]string{replica}, nil)
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	quiet := time.AfterFunc(maxQuiet, cancel)
	defer quiet.Stop()
	stream, err := presencev1.NewPresenceServiceClient(conn).WatchChannel(ctx, &presencev1.WatchChannelRequest{Channel: channel, ResumeToken: *token})
	var staged []string
	for err == nil {
		var res *presencev1.WatchChannelResponse
		if res, err = stream.Recv(); err != nil {
			break
		}
		quiet.Reset(maxQuiet)
		if snapshot := res.GetSnapshot(); snapshot != nil {
			if staged = append(staged, userIDs(snapshot.GetMembers())...); snapshot.GetComplete() {
				o.list(staged, int(snapshot.GetTotal()))
				staged, *token = nil, res.GetResumeToken()
			}
			continue
		}
		o.apply(userIDs(res.GetChanged().GetJoined()), userIDs(res.GetChanged().GetLeft()), int(res.GetChanged().GetTotal()))
		*token = res.GetResumeToken()
	}
	return err
}

func userIDs(members []*presencev1.Member) []string {
	all := make([]string, len(members))
	for i, m := range members {
		all[i] = m.GetUserId()
	}
	return all
}

// who runs carillon who --watch on a channel at one replica.
func (s *system) who(t testing.TB, channel string, replica string) *process {
	t.Helper()
	return start(t, command{
		name: "carillon who --watch", program: program(t, carillonProgram), environ: s.env,
		arguments: []string{"who", channel, "--watch", "--server", replica, "--token", s.token(t, "service", s.caller)},
	})
}

// listed asks a replica who is in a channel: users and their connections.
func (s *system) listed(t testing.TB, replica, channel string) (map[string]int, error) {
	t.Helper()
	conn, err := rpc.Dial([]string{replica}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+s.token(t, "service", s.caller)), time.Second)
	defer cancel()
	res, err := presencev1.NewPresenceServiceClient(conn).ListMembers(ctx, &presencev1.ListMembersRequest{Channel: channel, PageSize: 1000})
	if err != nil {
		return nil, err
	}
	users := map[string]int{}
	for _, m := range res.GetMembers() {
		users[m.GetUserId()] = int(m.GetConnections())
	}
	if len(users) != int(res.GetTotal()) {
		return nil, fmt.Errorf("%d members of %d", len(users), res.GetTotal())
	}
	return users, nil
}

// awaitListed waits until a replica lists just these users, of one connection each.
func (s *system) awaitListed(t testing.TB, bound time.Duration, replica, channel string, users ...string) {
	t.Helper()
	began := time.Now()
	again := time.NewTicker(pollInterval)
	defer again.Stop()
	for {
		got, err := s.listed(t, replica, channel)
		want := map[string]int{}
		for _, user := range users {
			want[user] = 1
		}
		if err == nil && maps.Equal(got, want) {
			return
		}
		if time.Since(began) > bound {
			t.Fatalf("%s lists %v in %s (%v), not %s, after %v", replica, got, channel, err, strings.Join(users, " "), bound)
		}
		<-again.C
	}
}
