package carillon

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	clientv1 "github.com/carillon-rt/carillon/gen/carillon/client/v1"
)

// A server that says nothing for the time that it told is asked, and given up when it
// does not answer.
func TestDeadConnection(t *testing.T) {
	t.Parallel()
	perform(t, SessionOptions{Channels: []string{"chat.a"}}, func(t *testing.T, s *stage) {
		p, _ := s.accept()
		p.connected(made(subscribedAt("chat.a", "E", 0)))
		want[Connected](s)
		want[Subscribed](s)
		began := time.Now()
		for range 3 { // it lives
			f := p.read()
			if f.GetPing() == nil {
				t.Fatal(f)
			}
			p.event(f.GetId(), &clientv1.PongReply{})
		}
		equal(t, time.Since(began).Round(time.Millisecond), 3*heartbeat)
		p.message("chat.a", 1) // anything counts
		want[Message](s)
		s.quiet(heartbeat - time.Second)
		p.message("chat.a", 2)
		want[Message](s)
		began = time.Now()
		if f := p.read(); f.GetPing() == nil {
			t.Fatal(f)
		}
		equal(t, time.Since(began).Round(time.Millisecond), heartbeat)
		lost := want[Disconnected](s)
		equal(t, time.Since(began).Round(time.Millisecond), heartbeat+pongTimeout)
		equal(t, lost.Err.Err, errSilent)
		p.cut()
	})
}

// The server's own pings show that it lives.
func TestServerPings(t *testing.T) {
	t.Parallel()
	perform(t, SessionOptions{}, func(t *testing.T, s *stage) {
		p, _ := s.accept()
		p.connected()
		want[Connected](s)
		reading := p.ws.CloseRead(t.Context()) // a command would end it
		for range 10 {
			s.quiet(heartbeat - time.Second)
			if err := p.ws.Ping(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if reading.Err() != nil {
			t.Error("the session said something")
		}
		p.cut()
	})
}

// Where the handler is slow the session stops reading, holds no more than its buffer,
// and does not take the silence for the server's.
func TestSlowHandler(t *testing.T) {
	t.Parallel()
	const buffer, all = 8, 100
	perform(t, SessionOptions{Channels: []string{"chat.a"}, Buffer: buffer}, func(t *testing.T, s *stage) {
		p, _ := s.accept()
		p.connected(made(subscribedAt("chat.a", "E", 0)))
		want[Connected](s)
		want[Subscribed](s)
		sent := make(chan uint64, all)
		go func() {
			for n := range uint64(all) {
				p.message("chat.a", n+1)
				sent <- n + 1
			}
		}()
		synctest.Wait()
		if most := buffer + 3; len(sent) > most { // with the handler, the reader, the pipe
			t.Errorf("%d messages were taken, want at most %d", len(sent), most)
		}
		time.Sleep(10 * heartbeat)
		for n := range uint64(all) {
			equal(t, want[Message](s).GetOffset(), n+1)
		}
		s.goodbye(p)
	})
}

// A channel that is refused is asked for again when that has a use.
func TestRefusedChannels(t *testing.T) {
	t.Parallel()
	perform(t, SessionOptions{Channels: []string{"chat.a", "chat.b", "chat.c"}, From: map[string]Position{"chat.a": {"E", 5}}}, func(t *testing.T, s *stage) {
		p, _ := s.accept()
		p.connected(
			refusal("chat.a", "UNAVAILABLE", unavailable, 3*time.Second),
			refusal("chat.b", "PERMISSION_DENIED", denied, 0),
			refusal("chat.c", "ALREADY_EXISTS", clientv1.ErrorReason_ERROR_REASON_ALREADY_SUBSCRIBED, 0),
		)
		want[Connected](s)
		refused := want[Refused](s)
		equal(t, []any{refused.Channel, refused.Err.GetReason(), refused.Retry}, []any{"chat.a", unavailable, 3 * time.Second})
		refused = want[Refused](s)
		equal(t, []any{refused.Channel, refused.Err.GetReason(), refused.Retry}, []any{"chat.b", denied, time.Duration(0)})
		for _, wait := range []time.Duration{3 * time.Second, time.Second, 2 * time.Second} {
			began := time.Now()
			f := p.read()
			equal(t, time.Since(began), wait)
			since(t, f.GetSubscribe(), "chat.a", "E", 5)
			if wait != 2*time.Second {
				p.event(f.GetId(), refuse("UNAVAILABLE", unavailable, 0))
				want[Refused](s)
			} else {
				p.event(f.GetId(), recoveredAt("chat.a", "E", 5))
				equal(t, want[Subscribed](s).Recovered, true)
			}
		}
		s.quiet(heartbeat / 2) // nobody asks for chat.b again
		p.cut()
		want[Disconnected](s)
		p, connect := s.accept() // but with a new connection
		equal(t, len(connect.GetSubscriptions()), 3)
		p.connected()
		want[Connected](s)
		s.goodbye(p)
	})
}

// A subscription that the server ends is made again from where it was; one that it
// could not make, the inbox, from now on.
func TestUnsubscribed(t *testing.T) {
	t.Parallel()
	perform(t, SessionOptions{Channels: []string{"chat.a", "chat.b"}}, func(t *testing.T, s *stage) {
		p, _ := s.accept()
		p.connected(made(subscribedAt("chat.a", "E", 4)), made(subscribedAt("chat.b", "E", 4)))
		want[Connected](s)
		want[Subscribed](s)
		want[Subscribed](s)
		p.message("chat.a", 6)
		want[Message](s)
		p.event(0, &clientv1.UnsubscribedEvent{Channel: "chat.a", Code: "UNAVAILABLE", Reason: unavailable, Resubscribe: true})
		ended := want[Refused](s)
		equal(t, []any{ended.Channel, ended.Err.GetReason(), ended.Retry}, []any{"chat.a", unavailable, firstBackoff})
		f := p.read()
		since(t, f.GetSubscribe(), "chat.a", "E", 6)
		p.event(f.GetId(), subscribedAt("chat.a", "F", 2))
		equal(t, want[Reset](s), Reset{"chat.a", Position{"E", 6}, Position{"F", 2}})

		p.event(0, &clientv1.UnsubscribedEvent{Channel: "user.alice", Code: "UNAVAILABLE", Reason: unavailable, Resubscribe: true})
		equal(t, want[Refused](s).Channel, "user.alice")
		f = p.read()
		since(t, f.GetSubscribe(), "user.alice", "", 0)
		p.event(f.GetId(), subscribedAt("user.alice", "E", 1))
		want[Subscribed](s)

		s.goodbye(p)
	})
}

// A subscription that the server has ended for good is not made again, with another
// connection neither, until the server makes it.
func TestUnsubscribedForGood(t *testing.T) {
	t.Parallel()
	perform(t, SessionOptions{Channels: []string{"chat.a", "chat.b"}}, func(t *testing.T, s *stage) {
		p, _ := s.accept()
		p.connected(made(subscribedAt("chat.a", "E", 4)), made(subscribedAt("chat.b", "E", 4)))
		want[Connected](s)
		want[Subscribed](s)
		want[Subscribed](s)
		p.event(0, &clientv1.UnsubscribedEvent{Channel: "chat.a", Code: "PERMISSION_DENIED", Reason: denied})
		ended := want[Refused](s)
		equal(t, []any{ended.Channel, ended.Err.GetReason(), ended.Retry, ended.Ended}, []any{"chat.a", denied, time.Duration(0), true})
		p.event(0, &clientv1.UnsubscribedEvent{Channel: "chat.claimed", Code: "PERMISSION_DENIED", Reason: denied}) // never was
		equal(t, want[Refused](s).Ended, true)
		s.quiet(heartbeat / 2)
		p.cut()
		want[Disconnected](s)
		p, connect := s.accept()
		equal(t, len(connect.GetSubscriptions()), 1)
		since(t, connect.GetSubscriptions()[0], "chat.b", "E", 4)
		p.connected(made(recoveredAt("chat.b", "E", 4)))
		want[Connected](s)
		want[Subscribed](s)
		p.event(0, subscribedAt("chat.a", "E", 9)) // a service has changed its mind
		equal(t, want[Reset](s), Reset{"chat.a", Position{"E", 4}, Position{"E", 9}})
		p.cut()
		want[Disconnected](s)
		p, connect = s.accept()
		since(t, connect.GetSubscriptions()[0], "chat.a", "E", 9)
		p.connected()
		want[Connected](s)
		s.goodbye(p)
	})
}

// Where a user may follow a channel but not read its past, the channel is followed, and
// what may have been missed is a Reset. The next connection asks again.
func TestNoHistory(t *testing.T) {
	t.Parallel()
	noSince := func() *clientv1.ErrorReply {
		return &clientv1.ErrorReply{Code: "PERMISSION_DENIED", Reason: denied, Field: "since"}
	}
	perform(t, SessionOptions{From: map[string]Position{"chat.a": {"E", 5}}}, func(t *testing.T, s *stage) {
		p, connect := s.accept()
		since(t, connect.GetSubscriptions()[0], "chat.a", "E", 5)
		p.connected(&clientv1.SubscriptionResult{Result: &clientv1.SubscriptionResult_Error{
			Error: &clientv1.SubscriptionError{Channel: "chat.a", Error: noSince()},
		}})
		want[Connected](s)
		f := p.read()
		since(t, f.GetSubscribe(), "chat.a", "", 0)
		p.event(f.GetId(), subscribedAt("chat.a", "E", 8))
		equal(t, want[Reset](s), Reset{"chat.a", Position{"E", 5}, Position{"E", 8}})
		p.message("chat.a", 9)
		want[Message](s)

		p.event(0, &clientv1.UnsubscribedEvent{Channel: "chat.a", Code: "UNAVAILABLE", Reason: unavailable, Resubscribe: true})
		want[Refused](s)
		f = p.read()
		since(t, f.GetSubscribe(), "chat.a", "E", 9)
		p.event(f.GetId(), noSince())
		f = p.read()
		since(t, f.GetSubscribe(), "chat.a", "", 0)
		p.event(f.GetId(), noSince()) // nonsense, and no reason to ask on and on
		equal(t, want[Refused](s).Retry, 0)
		s.quiet(heartbeat / 2)
		p.cut()
		want[Disconnected](s)
		p, connect = s.accept()
		since(t, connect.GetSubscriptions()[0], "chat.a", "E", 9)
		p.connected(made(recoveredAt("chat.a", "E", 9)))
		want[Connected](s)
		equal(t, want[Subscribed](s).Recovered, true)
		s.goodbye(p)
	})
}

// Channels for which connect has no room are subscribed one by one, few at a time.
func TestManyChannels(t *testing.T) {
	t.Parallel()
	const all = 700
	var channels []string
	from := map[string]Position{}
	for i := range all {
		name := fmt.Sprintf("chat.%0250d", i) // the longest that there are
		channels = append(channels, name)
		from[name] = Position{fmt.Sprintf("%064d", i), 1<<53 - 1}
	}
	perform(t, SessionOptions{Channels: channels, From: from, Buffer: 2 * all}, func(t *testing.T, s *stage) {
		p, connect := s.accept()
		if size := proto.Size(connect); size > maxConnectBytes || size < maxConnectBytes-1000 {
			t.Errorf("connect has %d bytes", size)
		}
		var results []*clientv1.SubscriptionResult
		made := map[string]bool{}
		for _, entry := range connect.GetSubscriptions() {
			results = append(results, &clientv1.SubscriptionResult{Result: &clientv1.SubscriptionResult_Subscribed{
				Subscribed: recoveredAt(entry.GetChannel(), entry.GetSince().GetEpoch(), entry.GetSince().GetOffset()),
			}})
			made[entry.GetChannel()] = true
		}
		p.connected(results...)
		want[Connected](s)
		for range results {
			want[Subscribed](s)
		}
		asked := make(chan *clientv1.ClientFrame, all)
		go func() {
			for range all - len(results) {
				asked <- p.read()
			}
		}()
		for len(made) < all {
			synctest.Wait()
			if want := min(maxAsked, all-len(made)); len(asked) != want {
				t.Fatalf("%d are asked for at once, want %d", len(asked), want)
			}
			f := <-asked
			command := f.GetSubscribe()
			made[command.GetChannel()] = true
			p.event(f.GetId(), recoveredAt(command.GetChannel(), command.GetSince().GetEpoch(), command.GetSince().GetOffset()))
			want[Subscribed](s)
		}
		s.goodbye(p)
	})
}
