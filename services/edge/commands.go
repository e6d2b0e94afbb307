package edge

import (
	"context"
	"crypto/subtle"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/carillon-rt/carillon/services/edge/authorization"
	"github.com/carillon-rt/carillon/services/edge/frame"
	"github.com/carillon-rt/carillon/services/edge/socket"
	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/message"
	"github.com/carillon-rt/carillon/services/internal/namespace"
)

// maxEntries bounds connect.subscriptions, each of which gets an answer, where fewer
// subscriptions may be made.
const maxEntries = 512

// maxClientBytes bounds the name and the version of the client's software.
const maxClientBytes = 64

// handle does one command. A nil event means that the reply has been queued.
func (s *session) handle(ctx context.Context, command frame.Command) (frame.Event, error) {
	if unknown, ok := command.Body.(*fault.Error); ok {
		return nil, unknown
	}
	if connect, ok := command.Body.(frame.Connect); ok {
		return nil, s.connect(ctx, command.ID, connect)
	}
	if s.subject == nil {
		return nil, fault.New(fault.ConnectRequired, "", "the first frame must be connect")
	}
	switch body := command.Body.(type) {
	case frame.Ping:
		return frame.Pong{}, nil
	case frame.Subscribe:
		return nil, s.subscribe(ctx, command.ID, body)
	case frame.Unsubscribe:
		return s.unsubscribe(body)
	case frame.Publish:
		return s.publish(ctx, body)
	case frame.Presence:
		return s.presence(ctx, body)
	case frame.History:
		return s.history(ctx, body)
	default:
		return nil, fmt.Errorf("no handler of %T", body)
	}
}

// authenticate settles who the client is from the tokens that it sent.
func (s *session) authenticate(ctx context.Context, token string) error {
	switch {
	case token == "" && s.credential.token == "":
		return fault.New(fault.TokenMissing, "token", "no token: send one in the handshake or in connect.token")
	case s.credential.token == "":
		identity, err := s.edge.options.Verifier.Verify(ctx, token)
		if err != nil {
			return fault.From(err).At("token")
		}
		s.identity = identity
	case token != "" && subtle.ConstantTimeCompare([]byte(token), []byte(s.credential.token)) == 0:
		return fault.New(fault.TokensDisagree, "token", "connect.token is not the token of the handshake")
	default:
		s.identity = s.credential.identity
	}
	s.credential = credential{}
	return nil
}

// connect authenticates the connection and makes its first subscriptions.
func (s *session) connect(ctx context.Context, id uint64, c frame.Connect) error {
	if s.subject != nil {
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
	if err := s.authenticate(ctx, c.Token); err != nil {
		return err
	}
	s.authenticated.Store(true)
	s.user = channel.User(s.identity.Subject)
	s.subject = authorization.NewSubject(s.identity)
	s.identity.Claims = nil // the subject has them, in less memory
	s.subscriptions = map[channel.Name]*subscription{}

	entries := s.prepare(ctx, c.Subscriptions)
	s.socket.Cork()
	results := make([]frame.SubscriptionResult, len(c.Subscriptions))
	for i, entry := range entries[:len(c.Subscriptions)] {
		results[i] = s.enter(ctx, entry, nil)
	}
	for _, inbox := range entries[len(c.Subscriptions):] {
		result := s.enter(ctx, inbox, func(subscribed frame.Subscribed) socket.Frame { return s.codec.build(0, subscribed) })
		if result.Error != nil { // which the client did not ask for, so it cannot know
			s.send(s.codec.build(0, frame.Unsubscribed{Channel: inbox.wanted.Channel, Cause: result.Error, Resubscribe: result.Error.RetryAfter > 0}))
		}
	}
	limits := &s.edge.options.Limits
	s.settle(id)
	s.socket.Uncork(s.codec.build(id, frame.Connected{
		ConnectionID: s.id, UserID: string(s.user), ExpiresAt: s.identity.ExpiresAt, ServerTime: time.Now(),
		Heartbeat: limits.PingInterval, MaxFrameBytes: limits.MaxFrameBytes, Subscriptions: results,
	}))
	s.expires.Store(s.identity.ExpiresAt.Unix())
	s.logger.Debug("connected", "user_id", string(s.user), "client", c.ClientName, "client_version", c.ClientVersion)
	return nil
}

// entry is one subscription on its way: checked, allowed and listened to, or failed.
type entry struct {
	wanted    frame.Subscribe
	name      channel.Name
	namespace *namespace.Namespace
	topic     *topic
	begin     beginning // nil: at the topic's position
	err       error
}

// inboxRewind is how many of the latest messages of its inbox a connection gets that
// does not say where it was (docs/protocol.md).
const inboxRewind = 100

// rewind is how many of the latest messages come where the client does not resume.
func (e *entry) rewind() int {
	switch {
	case e.wanted.Rewind != nil:
		return int(*e.wanted.Rewind)
	case e.wanted.Since == nil && e.name.Namespace() == channel.InboxNamespace && e.namespace.History != nil:
		return min(inboxRewind, e.namespace.History.MaxMessages)
	default:
		return 0
	}
}

// prepare checks subscriptions, asks for permission once for all of them, and
// begins to listen. Where the inbox is not among them it comes as one entry more.
// Entries without an error hold their topics.
func (s *session) prepare(ctx context.Context, wanted []frame.Subscribe) []*entry {
	inbox := s.user.Inbox()
	entries := make([]*entry, 0, len(wanted)+1)
	seen := map[channel.Name]bool{}
	others := 0 // of seen, beside the inbox
	for _, w := range wanted {
		e := &entry{wanted: w}
		entries = append(entries, e)
		e.name, e.namespace, e.err = s.checkSubscribe(w)
		switch {
		case e.err != nil:
		case seen[e.name]:
			e.err = fault.New(fault.AlreadySubscribed, "channel", "the channel stands twice in subscriptions")
		case e.name != inbox && others >= s.edge.options.Limits.MaxSubscriptions:
			e.err = s.tooMany()
		default:
			seen[e.name] = true
			if e.name != inbox {
				others++
			}
		}
	}
	if ns, err := s.edge.options.Namespaces.Of(inbox); err == nil && !seen[inbox] {
		entries = append(entries, &entry{wanted: frame.Subscribe{Channel: string(inbox)}, name: inbox, namespace: ns})
	}
	s.permit(ctx, entries)
	s.listen(ctx, entries)
	s.plan(ctx, entries)
	return entries
}

// checkSubscribe checks what needs nobody else.
func (s *session) checkSubscribe(w frame.Subscribe) (channel.Name, *namespace.Namespace, error) {
	name, err := channel.Parse(w.Channel)
	if err != nil {
		return "", nil, err
	}
	ns, err := s.edge.options.Namespaces.Of(name)
	if err != nil {
		return "", nil, err
	}
	if err := checkPosition("since", w.Since, ns); err != nil {
		return "", nil, err
	}
	if err := checkRewind(w.Rewind, ns); err != nil {
		return "", nil, err
	}
	if _, subscribed := s.subscriptions[name]; subscribed {
		return "", nil, fault.New(fault.AlreadySubscribed, "channel", "this connection is subscribed to the channel already")
	}
	return name, ns, nil
}

// checkPosition checks a position that a client gives; nil is none.
func checkPosition(field string, p *message.Position, ns *namespace.Namespace) error {
	switch {
	case p == nil:
		return nil
	case ns.Ephemeral:
		return fault.New(fault.FieldInvalid, field, "%s: the namespace %q is ephemeral and has no positions", field, ns.Name)
	case len(p.Epoch) > maxClientBytes || p.Offset > frame.MaxID:
		return fault.New(fault.FieldInvalid, field, "%s: epoch has at most %d bytes, offset is at most %d", field, maxClientBytes, uint64(frame.MaxID))
	}
	return nil
}

func checkRewind(count *int64, ns *namespace.Namespace) error {
	switch {
	case count == nil:
		return nil
	case ns.Ephemeral:
		return fault.New(fault.FieldInvalid, "rewind", "rewind: the namespace %q is ephemeral and keeps no messages", ns.Name)
	case *count < 1 || *count > int64(ns.History.MaxMessages):
		return fault.New(fault.FieldInvalid, "rewind.count", "rewind.count must be within 1 and %d, the max_messages of the namespace %q", ns.History.MaxMessages, ns.Name)
	}
	return nil
}

func (s *session) tooMany() error {
	return fault.New(fault.SubscriptionLimit, "channel", "a connection has at most %d subscriptions", s.edge.options.Limits.MaxSubscriptions)
}

// permit asks about all entries at once. One's own inbox needs no permission.
func (s *session) permit(ctx context.Context, entries []*entry) {
	var asked []*entry
	var checks []authorization.Check
	for _, e := range entries {
		if e.err == nil && e.name != s.user.Inbox() {
			asked = append(asked, e)
			checks = append(checks, authorization.Check{Action: authorization.Subscribe, Channel: e.name})
		}
	}
	if len(asked) == 0 {
		return
	}
	decisions, err := s.edge.options.Authorizer.Check(ctx, s.subject, checks)
	for i, e := range asked {
		if err != nil {
			e.err = err
		} else {
			e.err = denial(decisions[i])
		}
	}
}

func denial(d authorization.Decision) error {
	if d.Allowed {
		return nil
	}
	refusal := fault.New(fault.PolicyDenied, "channel", "%s", d.Message)
	if d.Rule != "" {
		refusal.Cause = fmt.Errorf("rule %s", d.Rule)
	}
	return refusal
}

// listen acquires the topics of all entries side by side.
func (s *session) listen(ctx context.Context, entries []*entry) {
	var wait sync.WaitGroup
	for _, e := range entries {
		if e.err == nil {
			wait.Go(func() { e.topic, e.err = s.edge.hub.acquire(ctx, e.name) })
		}
	}
	wait.Wait()
}

// plan asks the store, side by side, for what the entries need that do not begin at
// their topic's position.
func (s *session) plan(ctx context.Context, entries []*entry) {
	var wait sync.WaitGroup
	for _, e := range entries {
		if e.err != nil || e.wanted.Since == nil && e.rewind() == 0 {
			continue
		}
		wait.Go(func() {
			from := start{since: e.wanted.Since, most: e.namespace.History.MaxMessages, rewind: e.rewind()}
			if e.begin, e.err = s.edge.hub.plan(ctx, s, e.topic, from); e.err != nil {
				s.edge.hub.release(e.topic)
			}
		})
	}
	wait.Wait()
}

// enter makes a prepared subscription and reports what became of it. announce, if
// not nil, makes the frame that goes before the channel's first message.
func (s *session) enter(ctx context.Context, e *entry, announce func(frame.Subscribed) socket.Frame) frame.SubscriptionResult {
	var sub *subscription
	subscribed := frame.Subscribed{Channel: e.wanted.Channel}
	tell := func(at message.Position, recovered bool) {
		subscribed.Position, subscribed.Recovered = at, recovered
		if announce != nil {
			s.send(announce(subscribed))
		}
	}
	switch {
	case e.err != nil:
	case e.begin == nil:
		sub = e.topic.subscribe(s, tell)
	default:
		if sub, e.err = e.begin(ctx, tell); e.err != nil {
			s.edge.hub.release(e.topic)
		}
	}
	if e.err != nil {
		refusal := fault.From(e.err)
		s.logRefusal(refusal)
		return frame.SubscriptionResult{Subscribed: subscribed, Error: refusal}
	}
	s.subscriptions[e.name] = sub
	if e.namespace.Presence {
		s.edge.options.Roster.Join(e.name, s.user)
	}
	return frame.SubscriptionResult{Subscribed: subscribed}
}

func (s *session) subscribe(ctx context.Context, id uint64, w frame.Subscribe) error {
	e := &entry{wanted: w}
	if e.name, e.namespace, e.err = s.checkSubscribe(w); e.err != nil {
		return e.err
	}
	if e.name != s.user.Inbox() && s.countSubscriptions() >= s.edge.options.Limits.MaxSubscriptions {
		return s.tooMany()
	}
	s.permit(ctx, []*entry{e})
	if e.err == nil {
		e.topic, e.err = s.edge.hub.acquire(ctx, e.name)
	}
	s.plan(ctx, []*entry{e})
	if e.err != nil {
		return e.err
	}
	s.enter(ctx, e, func(subscribed frame.Subscribed) socket.Frame {
		s.settle(id)
		return s.codec.build(id, subscribed)
	})
	return e.err
}

// countSubscriptions counts the channels beside the inbox.
func (s *session) countSubscriptions() int {
	n := len(s.subscriptions)
	if _, ok := s.subscriptions[s.user.Inbox()]; ok {
		n--
	}
	return n
}

func (s *session) unsubscribe(u frame.Unsubscribe) (frame.Event, error) {
	name, err := channel.Parse(u.Channel)
	if err != nil {
		return nil, err
	}
	sub, ok := s.subscriptions[name]
	if !ok {
		return nil, fault.New(fault.NotSubscribed, "channel", "this connection is not subscribed to the channel")
	}
	s.leave(name, sub)
	return frame.Unsubscribed{Channel: u.Channel}, nil
}

// evicted ends a subscription that the edge cannot keep, unless it has ended already.
func (s *session) evicted(end evicted) {
	name := end.subscription.topic.name
	if s.subscriptions[name] != end.subscription {
		return
	}
	s.leave(name, end.subscription)
	s.reply(0, frame.Unsubscribed{Channel: string(name), Cause: end.cause, Resubscribe: true})
}

func (s *session) leave(name channel.Name, sub *subscription) {
	s.edge.hub.unsubscribe(sub)
	delete(s.subscriptions, name)
	if ns, err := s.edge.options.Namespaces.Of(name); err == nil && ns.Presence {
		s.edge.options.Roster.Leave(name, s.user)
	}
}

func (s *session) publish(ctx context.Context, p frame.Publish) (frame.Event, error) {
	name, err := s.channelIn(p.Channel)
	if err != nil {
		return nil, err
	}
	publication := message.Publication{
		Channel: name, ID: p.MessageID,
		Publisher: message.Publisher{Issuer: s.identity.Issuer, Name: string(s.user)},
	}
	if err := message.CheckID(p.MessageID); err != nil {
		return nil, err
	}
	if publication.Payload, err = payloadOf(p); err != nil {
		return nil, err
	}
	if err := s.unresolved.admit(name, publication.ID, time.Now()); err != nil {
		return nil, err
	}
	receipt, err := s.store(ctx, publication)
	s.unresolved.settle(name, publication.ID, err, time.Now())
	if err != nil {
		return nil, err
	}
	return frame.Published{Receipt: receipt}, nil
}

// store stores a publication, if the client may publish it.
func (s *session) store(ctx context.Context, p message.Publication) (message.Receipt, error) {
	if err := s.allow(ctx, authorization.Publish, p.Channel); err != nil {
		return message.Receipt{}, err
	}
	return s.edge.hub.broker.Publish(ctx, p)
}

func payloadOf(p frame.Publish) (message.Payload, error) {
	switch {
	case p.JSON == nil && p.Data == nil:
		return message.Payload{}, fault.New(fault.FieldRequired, "data", "data is required")
	case p.JSON != nil && p.ContentType != "":
		return message.Payload{}, fault.New(fault.FieldInvalid, "contentType", "contentType is for data that is not JSON")
	case p.JSON != nil:
		return message.JSON("data", p.JSON)
	default:
		return message.Bytes("dataBase64", p.Data, p.ContentType)
	}
}

func (s *session) presence(ctx context.Context, p frame.Presence) (frame.Event, error) {
	name, err := s.channelIn(p.Channel)
	if err != nil {
		return nil, err
	}
	if ns := s.edge.options.Namespaces[name.Namespace()]; !ns.Presence {
		return nil, fault.New(fault.PresenceDisabled, "channel", "the namespace %q keeps no presence", ns.Name)
	}
	if err := s.allow(ctx, authorization.Presence, name); err != nil {
		return nil, err
	}
	members, total, err := s.edge.options.Roster.Members(ctx, name, maxMembers)
	if err != nil {
		return nil, err
	}
	reply := frame.Members{Channel: p.Channel, Members: make([]frame.Member, 0, len(members)), Total: total}
	for _, m := range members {
		reply.Members = append(reply.Members, frame.Member{UserID: string(m.User), Connections: m.Connections, Since: m.Since})
	}
	return reply, nil
}

// maxMembers bounds the list in a presence reply, which says if it is not all.
const maxMembers = 1000

// channelIn checks a channel's name and that its namespace exists.
func (s *session) channelIn(text string) (channel.Name, error) {
	name, err := channel.Parse(text)
	if err != nil {
		return "", err
	}
	_, err = s.edge.options.Namespaces.Of(name)
	return name, err
}

func (s *session) allow(ctx context.Context, action authorization.Action, name channel.Name) error {
	decisions, err := s.edge.options.Authorizer.Check(ctx, s.subject, []authorization.Check{{Action: action, Channel: name}})
	if err != nil {
		return err
	}
	return denial(decisions[0])
}

// namespaceOf is the first token of what may not be a valid channel.
func namespaceOf(text string) string {
	first, _, _ := strings.Cut(text, ".")
	return first
}
