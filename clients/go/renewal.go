package carillon

import (
	"context"
	"time"

	clientv1 "github.com/carillon-rt/carillon/gen/carillon/client/v1"
)

// renewal is how a link comes by another token while it lasts: the server says that the
// present one is about to expire, the source of tokens is asked, the answer is shown.
// What fails is tried again until the server closes the connection.
type renewal struct {
	due    time.Time        // when to ask the source; zero: not to
	source chan tokenAnswer // what it answers; nil: it is not asked
	hurry  context.CancelFunc
	shown  struct { // the refresh command under way
		id       uint64 // 0: none
		token    string
		obtained time.Time
	}
}

type tokenAnswer struct {
	token string
	err   error
}

// minRenewalPause is the least time between two attempts.
const minRenewalPause = time.Second

// local is a time of the server by the clock here; zero stays zero.
func (l *link) local(at time.Time) time.Time {
	if at.IsZero() {
		return at
	}
	return at.Add(-l.ahead)
}

// expiring has another token asked for. Users who connected at the same time do not all
// ask at once; and a token of which not half has passed is not replaced yet, so that
// one whose whole life is shorter than the server's notice is not replaced on and on.
func (l *link) expiring(p *clientv1.TokenExpiringPush) {
	if l.options.Token == nil || l.source != nil || l.shown.id != 0 {
		return
	}
	l.expires = l.local(timeOf(p.GetExpiresAt()))
	half := l.obtained.Add(l.expires.Sub(l.obtained) / 2)
	spread := l.jitter(max(time.Until(l.expires)/4, 1))
	l.due = time.Now().Add(max(spread, time.Until(half)))
	l.alarm.Reset(0)
}

// renewDue asks the source when its time has come, and tells when to look again.
func (l *link) renewDue(ctx context.Context) time.Duration {
	if l.due.IsZero() {
		return time.Minute
	}
	if wait := time.Until(l.due); wait > 0 {
		return wait
	}
	l.due = time.Time{}
	asking, cancel := context.WithTimeout(ctx, connectTimeout)
	answer := make(chan tokenAnswer, 1)
	l.source, l.hurry = answer, cancel
	go func() {
		token, err := l.options.Token(asking)
		answer <- tokenAnswer{token, err}
	}()
	return time.Minute
}

// show refreshes the connection with the token that the source gave.
func (l *link) show(ctx context.Context, answer tokenAnswer) {
	l.hurry()
	l.source = nil
	switch {
	case answer.err != nil:
		l.log.Warn("no newer token", "error", answer.err)
		l.renewAgain(0)
	case answer.token == l.token:
		l.log.Debug("the source of tokens has no newer one yet")
		l.renewAgain(0)
	default:
		l.shown.token, l.shown.obtained = answer.token, time.Now()
		l.shown.id = l.send(ctx, refreshCommand(answer.token))
	}
}

// renewAgain has the source asked again, when half of what is left has passed. After the
// end there is nothing to do: the server closes the connection, and the next one needs
// another token anyway.
func (l *link) renewAgain(atLeast time.Duration) {
	if left := time.Until(l.expires); left > 0 {
		l.due = time.Now().Add(max(left/2, minRenewalPause, atLeast))
		l.alarm.Reset(0)
	}
}

// refreshed handles the answer to refresh.
func (l *link) refreshed(f *clientv1.ServerFrame) {
	l.shown.id = 0
	if refusal := f.GetError(); refusal != nil {
		l.log.Warn("the newer token was refused", "error", &Error{refusal})
		l.renewAgain(milliseconds(refusal.GetRetryAfterMs()))
		return
	}
	at := timeOf(f.GetRefreshed().GetExpiresAt())
	l.token, l.obtained, l.expires = l.shown.token, l.shown.obtained, l.local(at)
	l.handle(Refreshed{ExpiresAt: at})
}

// endRenewal waits for a source that is being asked. Its token is for the next
// connection.
func (l *link) endRenewal() {
	if l.source == nil {
		return
	}
	l.hurry()
	if answer := <-l.source; answer.err == nil {
		l.token, l.obtained, l.expires = answer.token, time.Now(), time.Time{}
	}
}
