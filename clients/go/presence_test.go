package carillon

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	clientv1 "github.com/carillon-rt/carillon/gen/carillon/client/v1"
)

const (
	presenceUnavailable = clientv1.ErrorReason_ERROR_REASON_PRESENCE_UNAVAILABLE
)

func attending(users ...string) []*clientv1.Member {
	var members []*clientv1.Member
	for _, user := range users {
		members = append(members, &clientv1.Member{UserId: user, Connections: 1})
	}
	return members
}

func usersOf(members []Member) string {
	var users []string
	for _, m := range members {
		users = append(users, m.UserID)
	}
	return strings.Join(users, " ")
}

// look wants the presence command for a channel, and returns its id.
func (p *peer) look(channel string) uint64 {
	p.t.Helper()
	f := p.read()
	if f.GetPresence().GetChannel() != channel {
		p.t.Fatalf("%v, want the members of %s to be asked for", f, channel)
	}
	return f.GetId()
}

// listed answers it; a total of 0 is the number of users.
func (p *peer) listed(id uint64, channel string, total int, users ...string) {
	p.t.Helper()
	reply := &clientv1.PresenceReply{Channel: channel, Members: attending(users...), Total: uint32(len(users))}
	if total > 0 {
		reply.Total, reply.Truncated = uint32(total), true
	}
	p.send(&clientv1.ServerFrame{Id: id, Event: &clientv1.ServerFrame_Presence{Presence: reply}})
}

func (p *peer) changed(push *clientv1.PresenceChangedPush) {
	p.t.Helper()
	p.send(&clientv1.ServerFrame{Event: &clientv1.ServerFrame_PresenceChanged{PresenceChanged: push}})
}

func presenceRefusal(channel string, reason clientv1.ErrorReason) *clientv1.SubscriptionResult {
	return &clientv1.SubscriptionResult{Result: &clientv1.SubscriptionResult_Error{Error: &clientv1.SubscriptionError{
		Channel: channel, Error: &clientv1.ErrorReply{Code: "PERMISSION_DENIED", Reason: reason, Field: "presence"},
	}}}
}

// watchOne is a session that knows who is in chat.a: alice and bob.
func watchOne(t *testing.T, play func(*testing.T, *stage, *peer)) {
	t.Helper()
	perform(t, SessionOptions{Channels: []string{"chat.a"}, Presence: []string{"chat.a"}}, func(t *testing.T, s *stage) {
		p, _ := s.accept()
		p.connected(made(subscribedAt("chat.a", "E", 4)))
		want[Connected](s)
		want[Subscribed](s)
		p.listed(p.look("chat.a"), "chat.a", 0, "alice", "bob")
		want[Members](s)
		play(t, s, p)
		p.cut()
	})
}

// A list is asked for when the subscription has been made, and what is pushed before it
// comes is in it.
func TestMembers(t *testing.T) {
	t.Parallel()
	options := SessionOptions{Channels: []string{"chat.a", "chat.b"}, Presence: []string{"chat.a"}, Info: ` {"name": "Alice"} `}
	perform(t, options, func(t *testing.T, s *stage) {
		p, connect := s.accept()
		equal(t, connect.GetInfo(), `{"name":"Alice"}`)
		equal(t, connect.GetSubscriptions()[0].GetPresence(), true)
		equal(t, connect.GetSubscriptions()[1].GetPresence(), false)
		p.connected(made(subscribedAt("chat.a", "E", 4)), made(subscribedAt("chat.b", "E", 4)))
		want[Connected](s)
		want[Subscribed](s)
		want[Subscribed](s)
		id := p.look("chat.a")
		p.changed(&clientv1.PresenceChangedPush{Channel: "chat.a", Joined: attending("bob"), Total: 2})
		at := time.Unix(1_700_000_000, 0)
		p.send(&clientv1.ServerFrame{Id: id, Event: &clientv1.ServerFrame_Presence{Presence: &clientv1.PresenceReply{
			Channel: "chat.a", Total: 2, Members: []*clientv1.Member{
				{UserId: "alice", Connections: 2, Since: timestamppb.New(at), Info: `{"name":"Alice"}`}, {UserId: "bob"},
			},
		}}})
		equal(t, want[Members](s), Members{Channel: "chat.a", Total: 2, Members: []Member{
			{UserID: "alice", Connections: 2, Since: at.UTC(), Info: `{"name":"Alice"}`}, {UserID: "bob"},
		}})
		p.changed(&clientv1.PresenceChangedPush{Channel: "chat.a", Joined: attending("carol"), Left: attending("bob", "dave"), Total: 2})
		equal(t, want[PresenceChanged](s), PresenceChanged{
			Channel: "chat.a", Joined: []Member{{UserID: "carol", Connections: 1}}, Left: []string{"bob", "dave"}, Total: 2,
		})
		s.quiet(heartbeat / 2) // nobody asks again
		p.cut()
		want[Disconnected](s)
		p, _ = s.accept()
		p.connected(made(recoveredAt("chat.a", "E", 4)), made(recoveredAt("chat.b", "E", 4)))
		want[Connected](s)
		want[Subscribed](s)
		want[Subscribed](s)
		p.changed(&clientv1.PresenceChangedPush{Channel: "chat.a", Left: attending("alice"), Total: 1})
		p.listed(p.look("chat.a"), "chat.a", 0, "carol")
		equal(t, usersOf(want[Members](s).Members), "carol")
		s.goodbye(p)
	})
}

// Where the user may not see who is there, or nobody knows, the channel is followed
// without, and the next connection tries again.
func TestPresenceRefused(t *testing.T) {
	t.Parallel()
	for _, reason := range []clientv1.ErrorReason{denied, clientv1.ErrorReason_ERROR_REASON_PRESENCE_DISABLED} {
		perform(t, SessionOptions{Channels: []string{"chat.a"}, Presence: []string{"chat.a"}, From: map[string]Position{"chat.a": {"E", 5}}}, func(t *testing.T, s *stage) {
			p, _ := s.accept()
			p.connected(presenceRefusal("chat.a", reason))
			want[Connected](s)
			refused := want[PresenceRefused](s)
			equal(t, []any{refused.Channel, refused.Err.GetReason(), refused.Retry}, []any{"chat.a", reason, time.Duration(0)})
			f := p.read()
			since(t, f.GetSubscribe(), "chat.a", "E", 5)
			equal(t, f.GetSubscribe().GetPresence(), false)
			p.event(f.GetId(), recoveredAt("chat.a", "E", 5))
			want[Subscribed](s)
			s.quiet(heartbeat / 2) // no list is asked for
			p.changed(&clientv1.PresenceChangedPush{Channel: "chat.a", Joined: attending("bob"), Total: 2})
			s.quiet(time.Second)
			p.cut()
			want[Disconnected](s)
			p, connect := s.accept()
			equal(t, connect.GetSubscriptions()[0].GetPresence(), true)
			p.connected(made(recoveredAt("chat.a", "E", 5)))
			want[Connected](s)
			want[Subscribed](s)
			p.listed(p.look("chat.a"), "chat.a", 0, "alice")
			want[Members](s)
			s.goodbye(p)
		})
	}
}

// A permission that ends takes the subscription with it, which is made again without.
func TestPresenceIsAllowedNoLonger(t *testing.T) {
	t.Parallel()
	watchOne(t, func(t *testing.T, s *stage, p *peer) {
		p.event(0, &clientv1.UnsubscribedEvent{Channel: "chat.a", Code: "PERMISSION_DENIED", Reason: denied, Resubscribe: true})
		want[Refused](s)
		f := p.read()
		equal(t, f.GetSubscribe().GetPresence(), true)
		p.event(f.GetId(), presenceRefusal("chat.a", denied).GetError().GetError())
		want[PresenceRefused](s)
		f = p.read()
		equal(t, f.GetSubscribe().GetPresence(), false)
		p.event(f.GetId(), presenceRefusal("chat.a", denied).GetError().GetError()) // nonsense, and no reason to ask on and on
		equal(t, want[Refused](s).Retry, time.Duration(0))
		s.quiet(heartbeat / 2)
	})
}

// A subscription that the server makes has no presence: what would be told of it could
// not be kept right.
func TestPresenceOfTheServersSubscriptions(t *testing.T) {
	t.Parallel()
	watchOne(t, func(t *testing.T, s *stage, p *peer) {
		p.event(0, &clientv1.UnsubscribedEvent{Channel: "chat.a", Code: "PERMISSION_DENIED", Reason: denied})
		want[Refused](s)
		p.event(0, recoveredAt("chat.a", "E", 4))
		want[Subscribed](s)
		p.changed(&clientv1.PresenceChangedPush{Channel: "chat.a", Joined: attending("bob"), Total: 2}) // was on its way
		s.quiet(heartbeat / 2)
	})
}

// A list that cannot be had is asked for again, or not, as the refusal says.
func TestRefusedLists(t *testing.T) {
	t.Parallel()
	channels := []string{"chat.a", "chat.b", "chat.c"}
	perform(t, SessionOptions{Channels: channels, Presence: channels}, func(t *testing.T, s *stage) {
		p, _ := s.accept()
		p.connected(made(subscribedAt("chat.a", "E", 4)), made(subscribedAt("chat.b", "E", 4)), made(subscribedAt("chat.c", "E", 4)))
		want[Connected](s)
		for range channels {
			want[Subscribed](s)
		}
		a, b, c := p.look("chat.a"), p.look("chat.b"), p.look("chat.c")
		p.event(a, refuse("UNAVAILABLE", presenceUnavailable, 100*time.Millisecond))
		p.event(b, refuse("RESOURCE_EXHAUSTED", rateLimited, 3*time.Second))
		p.event(c, refuse("PERMISSION_DENIED", denied, 0))
		began := time.Now()
		for _, want3 := range []struct {
			channel string
			reason  clientv1.ErrorReason
			retry   time.Duration
		}{{"chat.a", presenceUnavailable, firstBackoff}, {"chat.b", rateLimited, 3 * time.Second}, {"chat.c", denied, 0}} {
			refused := want[PresenceRefused](s)
			equal(t, []any{refused.Channel, refused.Err.GetReason(), refused.Retry}, []any{want3.channel, want3.reason, want3.retry})
		}
		p.changed(&clientv1.PresenceChangedPush{Channel: "chat.c", Joined: attending("bob"), Total: 2})
		a = p.look("chat.a") // an empty bucket is everybody's
		equal(t, time.Since(began), 3*time.Second)
		b = p.look("chat.b")
		p.event(a, refuse("UNAVAILABLE", presenceUnavailable, 0))
		equal(t, want[PresenceRefused](s).Retry, 2*firstBackoff)
		p.listed(b, "chat.b", 0, "alice")
		want[Members](s)
		p.listed(p.look("chat.a"), "chat.a", 0, "alice")
		want[Members](s)
		s.quiet(heartbeat / 2)
		p.cut()
	})
}

// A list that a push has made wrong is asked for again, once and not at once; one that
// is too long to be had, only when it may have become shorter.
func TestTruncatedChanges(t *testing.T) {
	t.Parallel()
	push := func(truncated bool) *clientv1.PresenceChangedPush {
		return &clientv1.PresenceChangedPush{Channel: "chat.a", Joined: attending("carol"), Total: 2000, Truncated: truncated}
	}
	watchOne(t, func(t *testing.T, s *stage, p *peer) {
		began := time.Now()
		p.changed(push(true))
		equal(t, want[PresenceChanged](s).Truncated, true)
		p.changed(push(true))
		want[PresenceChanged](s)
		p.changed(push(false)) // does not make it right
		want[PresenceChanged](s)
		id := p.look("chat.a")
		equal(t, time.Since(began), lookSpread)
		p.changed(push(true))
		want[PresenceChanged](s)
		p.listed(id, "chat.a", 2000, "alice")
		equal(t, want[Members](s).Truncated, true)

		for range 3 {
			p.changed(push(true))
			want[PresenceChanged](s)
		}
		s.quiet(heartbeat / 2)
		p.changed(push(false))
		want[PresenceChanged](s)
		id = p.look("chat.a")
		p.changed(push(false)) // has nobody ask twice
		want[PresenceChanged](s)
		p.listed(id, "chat.a", 0, "alice")
		equal(t, want[Members](s).Truncated, false)
		s.quiet(heartbeat / 2)
	})
}

// However many channels there are, few lists are asked for at once.
func TestManyLists(t *testing.T) {
	t.Parallel()
	var channels []string
	var results []*clientv1.SubscriptionResult
	for i := range 30 {
		channels = append(channels, fmt.Sprint("chat.", i))
		results = append(results, made(subscribedAt(channels[i], "E", 0)))
	}
	perform(t, SessionOptions{Channels: channels, Presence: channels}, func(t *testing.T, s *stage) {
		p, _ := s.accept()
		p.connected(results...)
		want[Connected](s)
		for range channels {
			want[Subscribed](s)
		}
		asked := make(chan *clientv1.ClientFrame, len(channels))
		go func() {
			for range channels {
				asked <- p.read()
			}
		}()
		for i, name := range channels {
			synctest.Wait()
			equal(t, len(asked), min(maxLooks, len(channels)-i))
			f := <-asked
			equal(t, f.GetPresence().GetChannel(), name)
			p.listed(f.GetId(), name, 0, "alice")
			equal(t, want[Members](s).Channel, name)
		}
		s.goodbye(p)
	})
}

func TestPresenceOptions(t *testing.T) {
	t.Parallel()
	long := `"` + strings.Repeat("x", maxInfoBytes) + `"`
	for name, options := range map[string]SessionOptions{
		"not followed": {Presence: []string{"chat.a"}}, "no JSON": {Info: "{"}, "two values": {Info: "1 2"}, "too long": {Info: long},
	} {
		options.URLs = []string{"ws://one"}
		if _, err := NewSession(options, func(Event) {}); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := NewSession(SessionOptions{URLs: []string{"ws://one"}, Info: "\n " + long[:maxInfoBytes-1] + `"`}, nil); err != nil {
		t.Error(err)
	}
}

// Where lists keep becoming wrong they are asked for less and less often, until one has
// stayed right.
func TestListsThatDoNotStayWhole(t *testing.T) {
	t.Parallel()
	watchOne(t, func(t *testing.T, s *stage, p *peer) {
		for i, wait := range []time.Duration{lookSpread, lookSpread, lookSpread, 4 * time.Second, 8 * time.Second, lookSpread} {
			began := time.Now()
			p.changed(&clientv1.PresenceChangedPush{Channel: "chat.a", Total: 2, Truncated: true})
			want[PresenceChanged](s)
			id := p.look("chat.a")
			equal(t, time.Since(began), wait)
			p.listed(id, "chat.a", 0, "alice", "bob")
			want[Members](s)
			if i == 4 {
				p.changed(&clientv1.PresenceChangedPush{Channel: "chat.a", Left: attending("bob"), Total: 1})
				want[PresenceChanged](s)
			}
		}
	})
}

// What is told of the members of a channel after its subscription has ended is not of
// the one that follows.
func TestLateLists(t *testing.T) {
	t.Parallel()
	perform(t, SessionOptions{Channels: []string{"chat.a"}, Presence: []string{"chat.a"}}, func(t *testing.T, s *stage) {
		p, _ := s.accept()
		p.connected(made(subscribedAt("chat.a", "E", 4)))
		want[Connected](s)
		want[Subscribed](s)
		id := p.look("chat.a")
		p.event(0, &clientv1.UnsubscribedEvent{Channel: "chat.a", Code: "UNAVAILABLE", Reason: unavailable, Resubscribe: true})
		want[Refused](s)
		p.listed(id, "chat.a", 0, "alice")
		p.changed(&clientv1.PresenceChangedPush{Channel: "chat.a", Joined: attending("bob"), Total: 2})
		f := p.read()
		p.event(f.GetId(), recoveredAt("chat.a", "E", 4))
		want[Subscribed](s)
		p.listed(p.look("chat.a"), "chat.a", 0, "bob")
		equal(t, usersOf(want[Members](s).Members), "bob")
		s.goodbye(p)
	})
}

// A channel that has shrunk is told by a push that is truncated still: what it has no names
// for is to be asked for, also if nothing changes any more.
func TestAChannelThatHasShrunk(t *testing.T) {
	t.Parallel()
	push := func(total uint32) *clientv1.PresenceChangedPush {
		return &clientv1.PresenceChangedPush{Channel: "chat.a", Total: total, Truncated: true}
	}
	watchOne(t, func(t *testing.T, s *stage, p *peer) {
		p.changed(push(1001))
		want[PresenceChanged](s)
		p.listed(p.look("chat.a"), "chat.a", 1001, "alice")
		want[Members](s)
		p.changed(push(1001))
		want[PresenceChanged](s)
		s.quiet(heartbeat / 2)
		p.changed(push(900))
		want[PresenceChanged](s)
		p.listed(p.look("chat.a"), "chat.a", 900, "alice") // not small enough yet
		want[Members](s)
		p.changed(push(2))
		want[PresenceChanged](s)
		p.listed(p.look("chat.a"), "chat.a", 0, "alice", "bob")
		equal(t, want[Members](s).Truncated, false)
		s.quiet(heartbeat / 2)
	})
}

// Who follows as many channels as an edge allows gets all lists, at the rate that it allows:
// a hundred refusals would end the connection, and the next one the same.
func TestMoreListsThanTheRate(t *testing.T) {
	t.Parallel()
	const most, perSecond = 50, 5 // of docs/protocol.md
	var channels []string
	var results []*clientv1.SubscriptionResult
	for i := range 128 {
		channels = append(channels, fmt.Sprint("chat.", i))
		results = append(results, made(subscribedAt(channels[i], "E", 0)))
	}
	perform(t, SessionOptions{Channels: channels, Presence: channels}, func(t *testing.T, s *stage) {
		p, _ := s.accept()
		p.connected(results...)
		want[Connected](s)
		for range channels {
			want[Subscribed](s)
		}
		over := make(chan struct{})
		defer close(over)
		go func() {
			for {
				select {
				case <-s.events:
				case <-over:
					return
				}
			}
		}()
		tokens, filled, refused := float64(most-1), time.Now(), 0
		for listed := 0; listed < len(channels); {
			f := p.read()
			name := f.GetPresence().GetChannel()
			if name == "" {
				t.Fatalf("%v after %d lists", f, listed)
			}
			tokens = min(most, tokens+perSecond*time.Since(filled).Seconds())
			if filled = time.Now(); tokens < 1 {
				if refused++; refused > most/2 {
					t.Fatalf("%d refusals for %d lists", refused, listed)
				}
				p.event(f.GetId(), refuse("RESOURCE_EXHAUSTED", rateLimited, time.Duration((1-tokens)/perSecond*float64(time.Second))))
				continue
			}
			tokens--
			listed++
			p.listed(f.GetId(), name, 0, "alice")
		}
		p.cut()
	})
}
