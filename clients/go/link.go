package carillon

import (
	"context"
	"errors"
	"time"

	"google.golang.org/protobuf/proto"

	clientv1 "github.com/carillon-rt/carillon/gen/carillon/client/v1"
)

// link is one connection of a session, from connected to its end.
type link struct {
	*Session

	client *Client
	asked  map[uint64]string // subscribe commands under way: their channels
	looks  map[uint64]string // presence commands under way: their channels
	alarm  *time.Timer       // rings when something may be due
	pinged time.Time         // when a ping was sent that nothing has followed; zero: none
	said   *clientv1.DisconnectPush
	ahead  time.Duration // what the server's clock is ahead of the one here

	lookAfter time.Time     // no presence command before
	lookPace  time.Duration // between two; 0: the server has not found them too fast
	renewal
}

const (
	// What connect holds at most. Edges take frames of 64 KiB and 512 entries unless told
	// otherwise; other channels are subscribed one by one.
	maxConnectBytes   = 48 << 10
	maxConnectEntries = 500
	// maxAsked bounds the subscribe commands under way, of which an edge takes 64.
	maxAsked = 16
)

// errSilent ends a connection whose server says nothing.
var errSilent = errors.New("carillon: the server does not answer")

// entries are those of connect. Channels for which it has no room are due at once.
func (s *Session) entries() []*clientv1.SubscribeCommand {
	var entries []*clientv1.SubscribeCommand
	size := 0
	for _, name := range s.names {
		sub := s.channels[name]
		if sub.ended {
			continue
		}
		*sub = subscription{unasked: sub.unasked}
		command := s.subscribeCommand(name)
		size += proto.Size(command) + 4 // tag and length
		if size > maxConnectBytes || len(entries) == maxConnectEntries {
			sub.retry = time.Now()
			continue
		}
		entries = append(entries, command)
	}
	return entries
}

func (s *Session) subscribeCommand(name string) *clientv1.SubscribeCommand {
	command := &clientv1.SubscribeCommand{Channel: name, Presence: s.presence[name] && !s.channels[name].watch.refused}
	if at := s.position(name); at.Epoch != "" && !s.channels[name].fresh {
		command.Since = &clientv1.Position{Epoch: at.Epoch, Offset: at.Offset}
	}
	return command
}

// run handles what comes until the connection ends.
func (l *link) run(ctx context.Context, url string) *Ending {
	connected := l.client.Connected()
	l.handle(Connected{
		URL: url, ConnectionID: connected.GetConnectionId(), UserID: connected.GetUserId(), ExpiresAt: timeOf(connected.GetExpiresAt()),
	})
	for _, result := range connected.GetSubscriptions() {
		if refusal := result.GetError(); refusal != nil {
			l.refused(refusal.GetChannel(), refusal.GetError())
		} else {
			l.subscribed(result.GetSubscribed(), true)
		}
	}
	for {
		select {
		case <-ctx.Done():
			l.goodbye()
			return nil
		case f, open := <-l.client.Pushes():
			if !open {
				return endingOf(l.client.Err(), l.said)
			}
			l.take(f)
		case answer := <-l.source:
			l.show(ctx, answer)
		case <-l.alarm.C:
			next, alive := l.watch(ctx)
			if !alive {
				l.client.abort()
				return &Ending{Err: errSilent}
			}
			l.alarm.Reset(min(next, l.subscribeDue(ctx), l.lookDue(ctx), l.renewDue(ctx)))
		}
	}
}

// goodbye closes the connection, politely but not for long.
func (l *link) goodbye() {
	impatience := time.AfterFunc(goodbyeTimeout, l.client.stop)
	defer impatience.Stop()
	_ = l.client.Close() // it ends either way
}

// watch pings a server that has been silent for too long, and tells whether it lives
// and when to look again.
func (l *link) watch(ctx context.Context) (next time.Duration, alive bool) {
	heartbeat := milliseconds(l.client.Connected().GetHeartbeatMs())
	silence := l.client.silence()
	switch {
	case heartbeat == 0:
		return time.Minute, true
	case silence < heartbeat:
		l.pinged = time.Time{}
		return heartbeat - silence, true
	case l.pinged.IsZero():
		l.pinged = time.Now()
		l.send(ctx, &clientv1.ClientFrame{Command: &clientv1.ClientFrame_Ping{Ping: &clientv1.PingCommand{}}})
		return pongTimeout, true
	default:
		waited := time.Since(l.pinged)
		return pongTimeout - waited, waited < pongTimeout
	}
}

// send sends a command whose reply comes as a push; 0 if the connection is broken, as
// its reader will notice too.
func (l *link) send(ctx context.Context, command *clientv1.ClientFrame) uint64 {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	id, err := l.client.post(ctx, command)
	if err != nil {
		return 0
	}
	return id
}

// subscribeDue subscribes the channels whose time has come, and tells when to look
// again.
func (l *link) subscribeDue(ctx context.Context) time.Duration {
	next := time.Minute
	for _, name := range l.names {
		sub := l.channels[name]
		if sub.retry.IsZero() {
			continue
		}
		if wait := time.Until(sub.retry); wait > 0 {
			next = min(next, wait)
			continue
		}
		if len(l.asked) >= maxAsked { // a reply looks again
			break
		}
		sub.retry = time.Time{}
		id := l.send(ctx, &clientv1.ClientFrame{Command: &clientv1.ClientFrame_Subscribe{Subscribe: l.subscribeCommand(name)}})
		if id == 0 {
			break
		}
		l.asked[id] = name
	}
	return next
}

// take handles one frame.
func (l *link) take(f *clientv1.ServerFrame) {
	if name, ok := l.asked[f.GetId()]; ok {
		delete(l.asked, f.GetId())
		l.alarm.Reset(0)
		if refusal := f.GetError(); refusal != nil {
			l.refused(name, refusal)
			return
		}
	}
	if name, ok := l.looks[f.GetId()]; ok {
		delete(l.looks, f.GetId())
		l.alarm.Reset(0)
		l.members(name, f)
		return
	}
	if l.shown.id != 0 && f.GetId() == l.shown.id {
		l.refreshed(f)
		return
	}
	switch event := f.GetEvent().(type) {
	case *clientv1.ServerFrame_Message:
		l.message(event.Message)
	case *clientv1.ServerFrame_Gap:
		l.gap(event.Gap)
	case *clientv1.ServerFrame_Position:
		l.moved(event.Position)
	case *clientv1.ServerFrame_Subscribed:
		l.subscribed(event.Subscribed, f.GetId() != 0)
	case *clientv1.ServerFrame_Unsubscribed:
		l.unsubscribed(event.Unsubscribed)
	case *clientv1.ServerFrame_PresenceChanged:
		l.presenceChanged(event.PresenceChanged)
	case *clientv1.ServerFrame_TokenExpiring:
		l.expiring(event.TokenExpiring)
	case *clientv1.ServerFrame_Disconnect:
		l.said = event.Disconnect
	}
}

func (l *link) message(m *clientv1.MessagePush) {
	at := l.position(m.GetChannel())
	span := startReceive(l.tracer, m)
	l.handle(Message{MessagePush: m, Epoch: at.Epoch, span: span.SpanContext()})
	span.End()
	if m.GetOffset() > at.Offset {
		l.setPosition(m.GetChannel(), Position{at.Epoch, m.GetOffset()})
	}
}

func (l *link) gap(g *clientv1.GapPush) {
	l.handle(Gap{Channel: g.GetChannel(), Epoch: g.GetEpoch(), From: g.GetFrom(), To: g.GetTo(), Reason: g.GetReason()})
	if at := (Position{g.GetEpoch(), g.GetTo()}); at.isAfter(l.position(g.GetChannel())) {
		l.setPosition(g.GetChannel(), at)
	}
}

func (l *link) moved(p *clientv1.PositionPush) {
	at := Position{p.GetEpoch(), p.GetOffset()}
	for _, name := range p.GetChannels() {
		if at.isAfter(l.position(name)) {
			l.handle(Moved{Channel: name, Position: at})
			l.setPosition(name, at)
		}
	}
}

// isAfter tells whether a position that the server gives takes the place of one that
// is kept. In another epoch it does, wherever it is; an ephemeral channel has none.
func (p Position) isAfter(kept Position) bool {
	return p.Epoch != "" && (p.Epoch != kept.Epoch || p.Offset > kept.Offset)
}

// subscribed handles the beginning of a subscription, whoever asked for it.
func (l *link) subscribed(e *clientv1.SubscribedEvent, ours bool) {
	name := e.GetChannel()
	sub := l.known(name)
	*sub = subscription{unasked: sub.unasked, watch: sub.watch}
	since, at := l.position(name), Position{e.GetEpoch(), e.GetOffset()}
	if since == (Position{}) || e.GetRecovered() || at == since {
		l.handle(Subscribed{Channel: name, Position: at, Recovered: since != Position{}})
	} else {
		l.handle(Reset{Channel: name, Since: since, Position: at})
	}
	l.setPosition(name, at)
	l.watching(name, ours)
}

// unsubscribed handles the end of a subscription, or that the server could not make one.
func (l *link) unsubscribed(e *clientv1.UnsubscribedEvent) {
	refusal := &clientv1.ErrorReply{Code: e.GetCode(), Reason: e.GetReason(), Message: "the server has ended the subscription"}
	wait := l.schedule(e.GetChannel(), refusal, e.GetResubscribe())
	l.watching(e.GetChannel(), false)
	l.channels[e.GetChannel()].ended = !e.GetResubscribe()
	l.handle(Refused{Channel: e.GetChannel(), Err: &Error{refusal}, Retry: wait, Ended: !e.GetResubscribe()})
}

// refused handles that a channel was not subscribed.
func (l *link) refused(name string, refusal *clientv1.ErrorReply) {
	if refusal.GetReason() == clientv1.ErrorReason_ERROR_REASON_ALREADY_SUBSCRIBED { // by the server, which has told
		return
	}
	denied := refusal.GetReason() == clientv1.ErrorReason_ERROR_REASON_POLICY_DENIED
	without := denied || refusal.GetReason() == clientv1.ErrorReason_ERROR_REASON_PRESENCE_DISABLED
	switch sub := l.want(name); {
	case denied && refusal.GetField() == "since" && !sub.fresh:
		sub.fresh, sub.retry = true, time.Now() // what the user may not read of the past is a Reset
		l.alarm.Reset(0)
		return
	case without && refusal.GetField() == "presence" && l.presence[name] && !sub.watch.refused:
		l.unwatched(name, refusal)
		return
	}
	l.handle(Refused{Channel: name, Err: &Error{refusal}, Retry: l.schedule(name, refusal, passes(refusal))})
}

// passes tells whether the same command can succeed later.
func passes(refusal *clientv1.ErrorReply) bool {
	switch refusal.GetCode() {
	case "UNAVAILABLE", "DEADLINE_EXCEEDED", "INTERNAL":
		return true
	default:
		return refusal.GetReason() == clientv1.ErrorReason_ERROR_REASON_RATE_LIMITED
	}
}

// schedule has a channel subscribed again, if that has a use, and tells when.
func (l *link) schedule(name string, refusal *clientv1.ErrorReply, again bool) time.Duration {
	sub := l.known(name)
	sub.retry = time.Time{}
	if !again {
		return 0
	}
	wait := max(milliseconds(refusal.GetRetryAfterMs()), l.jitter(backoff(sub.failures)), time.Millisecond)
	sub.failures++
	sub.retry = time.Now().Add(wait)
	l.alarm.Reset(0)
	return wait
}
