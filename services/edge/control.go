package edge

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/carillon-rt/carillon/services/edge/frame"
	"github.com/carillon-rt/carillon/services/edge/socket"
	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/control"
	"github.com/carillon-rt/carillon/services/internal/fault"
)

const (
	// applyTimeout bounds how long the answer to a command waits for the sessions to which
	// it applies.
	applyTimeout = 900 * time.Millisecond
	// controlSkew is by how much the clock of who issues a command may be behind: whoever
	// has connected later than that is not meant by it.
	controlSkew = 5 * time.Second
)

var _ control.Edge = (*Edge)(nil)

// Apply carries a command out. Commands of the past concern the connections of then, but
// for the tokens that they revoke, which stay revoked.
func (e *Edge) Apply(ctx context.Context, c control.Command) (told func() int) {
	now := time.Now()
	count := 0
	switch {
	case !now.Before(c.ExpiresAt):
	case c.Kind == control.DisconnectUser, c.Kind == control.DisconnectConnection:
		count = e.endAll(e.meant(c), c, fault.New(fault.EndedByService, "", "%s", cmp.Or(c.Message, "a service has ended the connection")))
	case c.Kind == control.RevokeTokens:
		e.revocations.add(c, now) // before the index is asked, see enroll
		count = e.endAll(e.revoked(c), c, tokenRevoked(c.Message))
	case c.Kind == control.SubscribeUser:
		return assignAll(ctx, e.meant(c), func(ctx context.Context, s *session) bool { return s.subscribeFor(ctx, c) })
	case c.Kind == control.UnsubscribeUser:
		return assignAll(ctx, e.meant(c), func(_ context.Context, s *session) bool { return s.unsubscribeFor(c) })
	default: // of a later version
	}
	return func() int { return count }
}

// meant are the sessions of a command's user, or the one that it names.
func (e *Edge) meant(c control.Command) []*session {
	if c.User == "" && c.Connection == "" {
		return nil
	}
	return slices.DeleteFunc(e.index.of(c.User), func(s *session) bool {
		return c.Connection != "" && s.id != c.Connection || s.opened.After(c.At.Add(controlSkew))
	})
}

// revoked are the sessions that live by a token which a command revokes.
func (e *Edge) revoked(c control.Command) []*session {
	if c.User == "" {
		return nil
	}
	return slices.DeleteFunc(e.index.of(c.User), func(s *session) bool {
		g := s.grant.Load()
		if c.TokenID != "" {
			return g.tokenID != c.TokenID
		}
		return g.issued > c.IssuedBefore.Unix()
	})
}

// endAll disconnects sessions and counts those that nothing else had ended.
func (e *Edge) endAll(sessions []*session, c control.Command, cause *fault.Error) int {
	count := 0
	for _, s := range sessions {
		if s.end(cause, 0) {
			count++
			s.logger().Info("connection ended by a service", "reason", string(cause.Reason), "user_id", string(s.user), "by", c.By, "message", cause.Message)
		}
	}
	return count
}

// assignAll has sessions do something, each in its turn among the session's commands;
// told counts those that have done it when ctx or applyTimeout ends.
func assignAll(ctx context.Context, sessions []*session, do func(context.Context, *session) bool) (told func() int) {
	type assigned struct {
		*task
		done bool // read after over
	}
	all := make([]*assigned, len(sessions))
	for i, s := range sessions {
		a := &assigned{}
		a.task, _ = s.assign(func(ctx context.Context) { a.done = do(ctx, s) })
		all[i] = a
	}
	return func() (count int) {
		ctx, cancel := context.WithTimeout(ctx, applyTimeout)
		defer cancel()
		for _, a := range all {
			select {
			case <-a.over:
			case <-ctx.Done():
			}
			select {
			case <-a.over:
				if a.done {
					count++
				}
			default:
			}
		}
		return count
	}
}

// subscribeFor makes a subscription that a service wants, and tells whether there is one.
func (s *session) subscribeFor(ctx context.Context, c control.Command) bool {
	if sub := s.subscriptions.of(c.Channel); sub != nil {
		sub.granted = true
		return true
	}
	e := s.newEntry(frame.Subscribe{Channel: string(c.Channel)}, s.countSubscriptions())
	s.listen(ctx, []*entry{e})
	s.enter(ctx, e, func(subscribed frame.Subscribed) socket.Frame { return s.codec.build(0, subscribed) })
	if e.err != nil {
		s.logger().Warn("a subscription that a service wants could not be made", "user_id", string(s.user), "by", c.By, "channel", string(c.Channel), "error", e.err)
		return false
	}
	s.subscriptions.of(e.name).granted = true
	return true
}

// unsubscribeFor ends a subscription for a service, and tells whether there was one. An
// inbox nobody can take away.
func (s *session) unsubscribeFor(c control.Command) bool {
	sub := s.subscriptions.of(c.Channel)
	if sub == nil || c.Channel == s.user.Inbox() {
		return false
	}
	cause := fault.New(fault.EndedByService, "", "%s", cmp.Or(c.Message, "a service has ended the subscription"))
	s.endSubscription(sub, cause, false)
	return true
}

// Connections lists the connections of a user, or of everybody ("").
func (e *Edge) Connections(user channel.User, limit int) (connections []control.Connection, total int) {
	sessions := e.latest(user)
	for _, s := range sessions[:min(limit, len(sessions))] {
		connections = append(connections, s.describe())
	}
	return connections, len(sessions)
}

// latest are the sessions of a user, or of everybody (""), the latest first.
func (e *Edge) latest(user channel.User) []*session {
	sessions := e.index.of(user)
	slices.SortFunc(sessions, func(a, b *session) int {
		return cmp.Or(b.opened.Compare(a.opened), cmp.Compare(a.id, b.id))
	})
	return sessions
}

func (s *session) describe() control.Connection {
	return control.Connection{
		ID: s.id, User: s.user, Address: s.address, ClientName: s.clientName, ClientVersion: s.clientVersion,
		ConnectedAt: s.opened, ExpiresAt: s.grant.Load().expiresAt(), Subscriptions: int(s.subscribed.Load()),
	}
}
