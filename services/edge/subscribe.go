package edge

import (
	"context"
	"sync"
	"time"

	"github.com/carillon-rt/carillon/services/edge/frame"
	"github.com/carillon-rt/carillon/services/edge/socket"
	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/message"
	"github.com/carillon-rt/carillon/services/internal/namespace"
)

// entry is one subscription on its way: checked, allowed and listened to, or failed.
type entry struct {
	wanted    frame.Subscribe
	name      channel.Name
	namespace *namespace.Namespace
	own       bool // it is the user's inbox
	topic     *topic
	begin     beginning // nil: at the topic's position
	err       error
	operation *operation // its own, or that of the subscribe; nil: it is not traced for itself
}

// inboxRewind is how many of the latest messages of its inbox a connection gets that
// does not say where it was (docs/protocol.md).
const inboxRewind = 100

// rewind is how many of the latest messages come where the client does not resume.
func (e *entry) rewind() int {
	switch {
	case e.wanted.Rewind != nil:
		return int(*e.wanted.Rewind)
	case e.wanted.Since == nil && e.own && e.namespace.History != nil:
		return min(inboxRewind, e.namespace.History.MaxMessages)
	default:
		return 0
	}
}

// resumes tells whether there are messages to begin with.
func (e *entry) resumes() bool { return e.wanted.Since != nil || e.rewind() > 0 }

// prepare checks subscriptions, asks for permission once for all of them, and begins to
// listen. What the client has not asked for comes after what it wants: its inbox, then
// the channels that its token claims. Entries without an error hold their topics.
func (s *session) prepare(ctx context.Context, o *operation, wanted []frame.Subscribe, claimed []string) []*entry {
	inbox := s.user.Inbox()
	entries := make([]*entry, 0, len(wanted)+1+len(claimed))
	seen := map[channel.Name]bool{}
	others := 0                // of seen, beside the inbox
	asked := map[string]bool{} // whatever has an entry, good or not
	add := func(w frame.Subscribe) {
		e := s.newEntry(w, others)
		entries, asked[w.Channel] = append(entries, e), true
		switch {
		case e.err != nil:
		case seen[e.name]:
			e.err = fault.New(fault.AlreadySubscribed, "channel", "the channel stands twice in subscriptions")
		default:
			seen[e.name] = true
			if !e.own {
				others++
			}
		}
	}
	for _, w := range wanted {
		add(w)
	}
	if ns, err := s.edge.options.Namespaces.Of(inbox); err == nil && !seen[inbox] {
		entries = append(entries, &entry{wanted: frame.Subscribe{Channel: string(inbox)}, name: inbox, namespace: ns, own: true})
		seen[inbox] = true
	}
	for _, name := range claimed {
		if !asked[name] && !seen[channel.Name(name)] {
			add(frame.Subscribe{Channel: name})
		}
	}
	s.permit(ctx, entries)
	s.listen(ctx, entries)
	if o != nil {
		for _, e := range entries {
			if e.resumes() {
				e.operation = s.edge.spans.quiet()
			}
		}
	}
	s.plan(ctx, entries)
	return entries
}

// newEntry checks what needs nobody else of a subscription that would come to so many
// others beside the inbox.
func (s *session) newEntry(w frame.Subscribe, others int) *entry {
	e := &entry{wanted: w}
	e.name, e.namespace, e.err = s.checkSubscribe(w)
	e.own = e.name == s.user.Inbox()
	if e.err == nil && !e.own && others >= s.edge.options.Limits.MaxSubscriptions {
		e.err = s.tooMany()
	}
	return e
}

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
	if w.Presence && !ns.Presence {
		return "", nil, noPresence("presence", ns)
	}
	if s.subscriptions.of(name) != nil {
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
		if e.err != nil || !e.resumes() {
			continue
		}
		wait.Go(func() {
			from := start{since: e.wanted.Since, most: e.namespace.History.MaxMessages, rewind: e.rewind(), by: e.operation}
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
		s.logRefusal(ctx, refusal)
		return frame.SubscriptionResult{Subscribed: subscribed, Error: refusal}
	}
	s.subscriptions.add(sub)
	s.subscribed.Add(1)
	s.edge.metrics.subscribed(1)
	if e.namespace.Presence {
		s.edge.options.Roster.Join(e.name, s.user)
	}
	if e.wanted.Presence {
		sub.spectator = s.edge.audiences.enter(e.name, s, s.codec, sub.policy != slowDisconnect)
	}
	return frame.SubscriptionResult{Subscribed: subscribed}
}

func (s *session) subscribe(ctx context.Context, o *operation, id uint64, w frame.Subscribe) error {
	e := s.newEntry(w, s.countSubscriptions())
	e.operation = o
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
	if s.subscriptions.of(s.user.Inbox()) != nil {
		n--
	}
	return n
}

func (s *session) unsubscribe(u frame.Unsubscribe) (frame.Event, error) {
	name, err := channel.Parse(u.Channel)
	if err != nil {
		return nil, err
	}
	sub := s.subscriptions.of(name)
	if sub == nil {
		return nil, fault.New(fault.NotSubscribed, "channel", "this connection is not subscribed to the channel")
	}
	s.leave(sub, 0)
	return frame.Unsubscribed{Channel: u.Channel}, nil
}

// evict ends a subscription that the edge cannot keep, unless it has ended already, and
// has the client told that it may subscribe again; it returns at once.
func (s *session) evict(sub *subscription, cause *fault.Error) {
	s.assign(func(context.Context) {
		if s.subscriptions.of(sub.topic.name) == sub {
			s.endSubscription(sub, cause, true)
		}
	})
}

// leave ends a subscription; the user stays a member of the channel for as long as it is
// held.
func (s *session) leave(sub *subscription, held time.Duration) {
	name := sub.topic.name
	if sub.spectator != nil {
		s.edge.audiences.leave(sub.spectator)
	}
	s.edge.hub.unsubscribe(sub)
	s.subscriptions.remove(name)
	s.subscribed.Add(-1)
	s.edge.metrics.subscribed(-1)
	if ns, err := s.edge.options.Namespaces.Of(name); err == nil && ns.Presence {
		s.edge.options.Roster.Leave(name, s.user, held)
	}
}
