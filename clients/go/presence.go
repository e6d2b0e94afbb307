package carillon

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"time"

	clientv1 "github.com/carillon-rt/carillon/gen/carillon/client/v1"
)

// Member is a user in a channel.
type Member struct {
	// UserID is the user.
	UserID string
	// Connections is how many of the user's are subscribed; 0: the last was lost a short
	// while ago, and the user is expected back.
	Connections int
	// Since is when the first of them subscribed.
	Since time.Time
	// Info is what the user's token, or else its client, says of the user: a JSON text, or
	// empty.
	Info string
}

// Members says who is in a channel of SessionOptions.Presence, in place of whatever was
// said of that before. It comes after each Subscribed and Reset, and again where the
// changes were too many to be told one by one.
type Members struct {
	Channel string
	// Members are in order of UserID.
	Members []Member
	// Total is the number of members, also where the list is shorter.
	Total int
	// Truncated says that it is.
	Truncated bool
}

// PresenceChanged says who is a member of a channel now, and who is not, of those for
// whom that may have changed. It may repeat what is known: a member who has joined, a
// user never heard of who has left. It comes only after Members.
type PresenceChanged struct {
	Channel string
	Joined  []Member
	Left    []string
	// Total is the number of all members.
	Total int
	// Truncated says that Joined and Left are a sample: what was known of the channel is
	// not right any more, but for Total. Where it can be right again, Members follows.
	Truncated bool
}

// PresenceRefused says that nobody tells who is in a channel, which is followed all the
// same.
type PresenceRefused struct {
	Channel string
	// Err says why.
	Err *Error
	// Retry is how long the session waits before it asks again; 0: until it connects again.
	Retry time.Duration
}

func (Members) event()         {}
func (PresenceChanged) event() {}
func (PresenceRefused) event() {}

// SubscribeOption is more that a subscription asks for.
type SubscribeOption func(*clientv1.SubscribeCommand)

// WithPresence also has pushes of presence_changed come. To keep a list of members, ask
// for Presence when the subscription is made, and apply what is pushed after the reply.
func WithPresence() SubscribeOption {
	return func(c *clientv1.SubscribeCommand) { c.Presence = true }
}

// maxInfoBytes bounds the info of a connect command (client.proto).
const maxInfoBytes = 1024

// checkInfo compacts what a client says of its user.
func checkInfo(info string) (string, error) {
	if info == "" {
		return "", nil
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, []byte(info)); err != nil {
		return "", fmt.Errorf("carillon: info is not JSON: %w", err)
	}
	if compact.Len() > maxInfoBytes {
		return "", fmt.Errorf("carillon: info has %d bytes, more than %d", compact.Len(), maxInfoBytes)
	}
	return compact.String(), nil
}

// watch is whether, and how well, a session knows who is in a channel.
type watch struct {
	refused  bool      // to this user, with this connection
	on       bool      // the subscription has presence
	known    bool      // a list has come since it was made
	whole    bool      // and is right, with what was pushed since
	look     time.Time // when to ask for a list; zero: not to
	failures int       // in a row, of getting one that stays whole
}

// maxLooks bounds the presence commands under way, so that few meet an empty bucket.
const maxLooks = 4

// maxLookPace bounds the wait between two presence commands where the server has said how
// long a bucket takes to have room for one.
const maxLookPace = time.Second

// lookSpread is at least the time over which clients ask again that were all told at
// once that their lists are not right any more.
const lookSpread = 2 * time.Second

// watching begins with each subscription. A list is asked for only now, so that no
// change is missed between the two.
func (l *link) watching(name string, ours bool) {
	sub := l.channels[name]
	sub.watch = watch{refused: sub.watch.refused}
	if ours && l.presence[name] && !sub.watch.refused {
		sub.watch.on, sub.watch.look = true, time.Now()
		l.alarm.Reset(0)
	}
}

// lookDue asks for the lists whose time has come, and tells when to look again.
func (l *link) lookDue(ctx context.Context) time.Duration {
	next := time.Minute
	if wait := time.Until(l.lookAfter); wait > 0 {
		return min(next, wait)
	}
	for _, name := range l.options.Presence {
		w := &l.channels[name].watch
		if w.look.IsZero() {
			continue
		}
		if wait := time.Until(w.look); wait > 0 {
			next = min(next, wait)
			continue
		}
		if len(l.looks) >= maxLooks { // a reply looks again
			break
		}
		w.look = time.Time{}
		id := l.send(ctx, &clientv1.ClientFrame{Command: &clientv1.ClientFrame_Presence{Presence: &clientv1.PresenceCommand{Channel: name}}})
		if id == 0 {
			break
		}
		l.looks[id] = name
		if l.lookPace > 0 {
			l.lookAfter = time.Now().Add(l.lookPace)
			return min(next, l.lookPace)
		}
	}
	return next
}

// lookAgain has a list asked for after a part of a time.
func (l *link) lookAgain(w *watch, within time.Duration) {
	w.look = time.Now().Add(max(l.jitter(within), time.Millisecond))
	w.failures++
	l.alarm.Reset(0)
}

// members handles the reply to a presence command.
func (l *link) members(name string, f *clientv1.ServerFrame) {
	w := &l.channels[name].watch
	if !w.on { // the subscription has ended meanwhile
		return
	}
	if refusal := f.GetError(); refusal != nil {
		l.lookRefused(name, w, refusal)
		return
	}
	reply := f.GetPresence()
	w.known, w.whole = true, !reply.GetTruncated()
	if w.whole {
		w.look = time.Time{}
	}
	l.handle(Members{Channel: name, Members: membersOf(reply.GetMembers()), Total: int(reply.GetTotal()), Truncated: reply.GetTruncated()})
}

func (l *link) lookRefused(name string, w *watch, refusal *clientv1.ErrorReply) {
	var wait time.Duration
	if passes(refusal) {
		wait = max(milliseconds(refusal.GetRetryAfterMs()), l.jitter(backoff(w.failures)), time.Millisecond)
		w.failures++
		w.look = time.Now().Add(wait)
	}
	if refusal.GetReason() == clientv1.ErrorReason_ERROR_REASON_RATE_LIMITED { // the others would meet the same
		l.lookAfter = time.Now().Add(wait)
		l.lookPace = min(max(l.lookPace, milliseconds(refusal.GetRetryAfterMs())), maxLookPace)
	}
	l.alarm.Reset(0)
	l.handle(PresenceRefused{Channel: name, Err: &Error{refusal}, Retry: wait})
}

// maxWhole is how many members a channel has at most of which an edge lists all
// (docs/protocol.md).
const maxWhole = 1000

// presenceChanged handles a push. In a channel that is too large for a whole list each
// is truncated, and asking would bring no more. Where one is not, or tells of fewer, the
// channel has become smaller.
func (l *link) presenceChanged(p *clientv1.PresenceChangedPush) {
	sub := l.channels[p.GetChannel()]
	if sub == nil || !sub.watch.known { // else the list that comes has it
		return
	}
	w := &sub.watch
	event := PresenceChanged{Channel: p.GetChannel(), Joined: membersOf(p.GetJoined()), Total: int(p.GetTotal()), Truncated: p.GetTruncated()}
	for _, m := range p.GetLeft() {
		event.Left = append(event.Left, m.GetUserId())
	}
	l.handle(event)
	switch {
	case w.whole && !p.GetTruncated():
		w.failures = 0
	case !w.whole && p.GetTruncated() && p.GetTotal() > maxWhole:
	case w.look.IsZero():
		l.lookAgain(w, max(lookSpread, backoff(w.failures)))
		fallthrough
	default:
		w.whole = false
	}
}

// unwatched has a channel subscribed without presence, which was refused.
func (l *link) unwatched(name string, refusal *clientv1.ErrorReply) {
	sub := l.want(name)
	sub.watch = watch{refused: true}
	sub.retry = time.Now()
	l.alarm.Reset(0)
	l.handle(PresenceRefused{Channel: name, Err: &Error{refusal}})
}

func membersOf(members []*clientv1.Member) []Member {
	var all []Member
	for _, m := range members {
		all = append(all, Member{UserID: m.GetUserId(), Connections: int(m.GetConnections()), Since: timeOf(m.GetSince()), Info: m.GetInfo()})
	}
	return all
}
