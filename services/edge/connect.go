package edge

import (
	"context"
	"crypto/subtle"
	"time"

	"github.com/carillon-rt/carillon/services/edge/frame"
	"github.com/carillon-rt/carillon/services/edge/socket"
	"github.com/carillon-rt/carillon/services/internal/auth"
	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/fault"
)

// maxEntries bounds connect.subscriptions, each of which gets an answer, where fewer
// subscriptions may be made.
const maxEntries = 512

// maxClientBytes bounds the name and the version of the client's software.
const maxClientBytes = 64

// authenticate settles who the client is from the tokens that it sent.
func (s *session) authenticate(ctx context.Context, token string) (auth.Identity, error) {
	shown := s.credential
	s.credential = nil
	switch {
	case shown == nil && token != "":
		identity, refusal := s.edge.verify(ctx, token)
		if refusal != nil {
			return auth.Identity{}, refusal.At("token")
		}
		return identity, nil
	case shown == nil && s.edge.options.Credentials.AnonymousPrefix != "":
		return auth.NewAnonymous(s.edge.options.Credentials.AnonymousPrefix), nil
	case shown == nil:
		return auth.Identity{}, fault.New(fault.TokenMissing, "token", "no token: send one in the handshake or in connect.token")
	case token != "" && subtle.ConstantTimeCompare([]byte(token), []byte(shown.token)) == 0:
		return auth.Identity{}, fault.New(fault.TokensDisagree, "token", "connect.token is not the token of the handshake")
	case !shown.identity.ExpiresAt.IsZero() && !time.Now().Before(shown.identity.ExpiresAt): // since the handshake
		return auth.Identity{}, fault.New(fault.TokenExpired, "token", "the token has expired")
	default:
		return shown.identity, nil
	}
}

// connect authenticates the connection and makes its first subscriptions.
func (s *session) connect(ctx context.Context, o *operation, id uint64, c frame.Connect) error {
	if err := s.checkConnect(c); err != nil {
		return err
	}
	info, err := clientInfo(c.Info)
	if err != nil {
		return err
	}
	identity, err := s.authenticate(ctx, c.Token)
	if err != nil {
		return err
	}
	if refusal := s.edge.gate.welcome(s, channel.User(identity.Subject)); refusal != nil {
		return refusal
	}
	s.clientName, s.clientVersion, s.info = c.ClientName, c.ClientVersion, info
	if refusal := s.edge.enroll(s, identity); refusal != nil {
		return refusal.At("token")
	}
	s.present(identity)

	entries := s.prepare(ctx, o, c.Subscriptions, identity.Channels)
	s.socket.Cork()
	results := make([]frame.SubscriptionResult, len(c.Subscriptions))
	for i, entry := range entries[:len(c.Subscriptions)] {
		results[i] = s.enter(ctx, entry, nil)
	}
	for _, entry := range entries[len(c.Subscriptions):] {
		s.enterUnasked(ctx, entry)
	}
	limits := &s.edge.options.Limits
	now := time.Now()
	s.settle(id)
	s.connected.Store(true) // before the client hears of it: its next frame may be a ping
	s.socket.Uncork(s.codec.build(id, frame.Connected{
		ConnectionID: s.id, UserID: string(s.user), ExpiresAt: identity.ExpiresAt, ServerTime: now,
		Heartbeat: limits.PingInterval, MaxFrameBytes: limits.MaxFrameBytes, Subscriptions: results,
	}))
	for _, entry := range entries {
		s.endEntry(o, entry)
	}
	s.remind(s.grant.Load(), now)
	s.edge.dues.hasten(s, s.demand(s.grant.Load(), now))
	s.debug("connected", "user_id", string(s.user), "client", c.ClientName, "client_version", c.ClientVersion)
	return nil
}

// checkConnect checks what needs nobody else.
func (s *session) checkConnect(c frame.Connect) error {
	if s.grant.Load() != nil {
		return fault.New(fault.AlreadyConnected, "connect", "this connection has said connect already")
	}
	if len(c.ClientName) > maxClientBytes {
		return fault.New(fault.FieldInvalid, "client.name", "client.name has %d bytes, more than %d", len(c.ClientName), maxClientBytes)
	}
	if len(c.ClientVersion) > maxClientBytes {
		return fault.New(fault.FieldInvalid, "client.version", "client.version has %d bytes, more than %d", len(c.ClientVersion), maxClientBytes)
	}
	if most := max(maxEntries, s.edge.options.Limits.MaxSubscriptions+1); len(c.Subscriptions) > most {
		return fault.New(fault.SubscriptionLimit, "subscriptions", "subscriptions has %d entries, more than %d", len(c.Subscriptions), most)
	}
	return nil
}

// enterUnasked makes a subscription that the client has not asked for, and tells it so,
// or why there is none.
func (s *session) enterUnasked(ctx context.Context, e *entry) {
	result := s.enter(ctx, e, func(subscribed frame.Subscribed) socket.Frame { return s.codec.build(0, subscribed) })
	if result.Error != nil {
		s.send(s.codec.build(0, frame.Unsubscribed{Channel: e.wanted.Channel, Cause: result.Error, Resubscribe: result.Error.RetryAfter > 0}))
	}
}
