package edge

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/carillon-rt/carillon/services/edge/authorization"
	"github.com/carillon-rt/carillon/services/edge/frame"
	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/message"
)

// ask asks what the user may do.
func (s *session) ask(ctx context.Context, checks ...authorization.Check) ([]authorization.Decision, error) {
	return s.edge.options.Authorizer.Check(ctx, s.grant.Load().subject, checks)
}

// permit asks about all entries at once.
func (s *session) permit(ctx context.Context, entries []*entry) {
	var checks []authorization.Check
	var asked []*entry  // a check each
	var fields []string // to be blamed, a check each
	for _, e := range entries {
		if e.err != nil {
			continue
		}
		for _, c := range e.checks() {
			asked, fields, checks = append(asked, e), append(fields, c.field), append(checks, c.Check)
		}
	}
	if len(checks) == 0 {
		return
	}
	decisions, err := s.ask(ctx, checks...)
	for i, e := range asked {
		switch {
		case e.err != nil: // another of its checks was refused
		case err != nil:
			e.err = err
		default:
			e.err = s.denial(checks[i], decisions[i], fields[i])
		}
	}
}

// fieldCheck is a check with the field that asks for what is checked.
type fieldCheck struct {
	authorization.Check
	field string
}

// checks are what must be allowed for a subscription. One's own inbox, also its past,
// needs no permission.
func (e *entry) checks() []fieldCheck {
	var checks []fieldCheck
	past := authorization.Check{Action: authorization.History, Channel: e.name}
	if !e.own {
		checks = append(checks, fieldCheck{authorization.Check{Action: authorization.Subscribe, Channel: e.name}, "channel"})
	}
	switch {
	case e.own:
	case e.wanted.Since != nil:
		checks = append(checks, fieldCheck{past, "since"})
	case e.wanted.Rewind != nil:
		checks = append(checks, fieldCheck{past, "rewind"})
	}
	if e.wanted.Presence {
		checks = append(checks, fieldCheck{authorization.Check{Action: authorization.Presence, Channel: e.name}, "presence"})
	}
	return checks
}

// denial is the refusal of what a field asks for; nil if it is allowed.
func (s *session) denial(c authorization.Check, d authorization.Decision, field string) error {
	if d.Allowed {
		return nil
	}
	s.edge.metrics.denied(c, d.Rule)
	refusal := fault.New(fault.PolicyDenied, field, "%s", d.Message)
	refusal.Rule = d.Rule
	return refusal
}

// actionName is what the rules call an action.
func actionName(a authorization.Action) string {
	switch a {
	case authorization.Subscribe:
		return "subscribe"
	case authorization.Publish:
		return "publish"
	case authorization.Presence:
		return "presence"
	default:
		return "history"
	}
}

func (s *session) allow(ctx context.Context, action authorization.Action, name channel.Name) error {
	check := authorization.Check{Action: action, Channel: name}
	decisions, err := s.ask(ctx, check)
	if err != nil {
		return err
	}
	return s.denial(check, decisions[0], "channel")
}

// allowPublish asks whether a message may be published: first whatever type it is of,
// and only if that cannot be told is the payload looked into.
func (s *session) allowPublish(ctx context.Context, p message.Publication) error {
	check := authorization.Check{Action: authorization.Publish, Channel: p.Channel}
	decisions, err := s.ask(ctx, check)
	if err != nil {
		return err
	}
	if decisions[0].MessageTypeMatters {
		if check.MessageType, err = messageType(p.Payload); err != nil {
			return err
		}
	}
	if check.MessageType != "" {
		if decisions, err = s.ask(ctx, check); err != nil {
			return err
		}
	}
	return s.denial(check, decisions[0], "channel")
}

// maxTypeBytes bounds the type of a message where rules ask for it.
const maxTypeBytes = 128

// messageType is the member "type" of a payload that is a JSON object, if that is a
// string: as JavaScript reads it, so the last of several, with its escapes decoded.
func messageType(p message.Payload) (string, error) {
	if !p.IsJSON() || len(p.Data) == 0 || p.Data[0] != '{' {
		return "", nil
	}
	var members map[string]json.RawMessage // a struct would take "Type" for it
	if err := json.Unmarshal(p.Data, &members); err != nil {
		return "", fmt.Errorf("reading the type of a payload: %w", err)
	}
	member := members["type"]
	if len(member) == 0 || member[0] != '"' {
		return "", nil
	}
	var name string
	if err := json.Unmarshal(member, &name); err != nil {
		return "", fmt.Errorf("reading the type of a payload: %w", err)
	}
	if len(name) > maxTypeBytes {
		return "", fault.New(fault.FieldInvalid, "data.type", "data.type has %d bytes, more than %d, and a rule asks for it", len(name), maxTypeBytes)
	}
	return name, nil
}

// recheck asks again about the subscriptions of the session, and ends those that are
// allowed no more. What a service has made, and the inbox, end only where the client is
// told of members that it may not see any more: as others do then, they may be made
// again without. If nobody answers all go on, and are checked later.
func (s *session) recheck(ctx context.Context) {
	var subs []*subscription // a check each
	var checks []authorization.Check
	for _, sub := range s.subscriptions {
		name := sub.topic.name
		if name != s.user.Inbox() && !sub.granted {
			subs, checks = append(subs, sub), append(checks, authorization.Check{Action: authorization.Subscribe, Channel: name})
		}
		if sub.spectator != nil {
			subs, checks = append(subs, sub), append(checks, authorization.Check{Action: authorization.Presence, Channel: name})
		}
	}
	if len(checks) == 0 {
		return
	}
	decisions, err := s.ask(ctx, checks...)
	if err != nil {
		s.edge.rechecks.again(s)
		return
	}
	for i, sub := range subs {
		err := s.denial(checks[i], decisions[i], "channel")
		if err == nil || s.subscriptions.of(sub.topic.name) != sub { // another of its checks has ended it
			continue
		}
		refusal := fault.From(err)
		s.logger().Info("subscription ended: it is allowed no more", "user_id", string(s.user), "channel", string(sub.topic.name), "rule", refusal.Rule, "error", refusal)
		s.incident(Incident{Kind: Denied, Reason: refusal.Reason, Rule: refusal.Rule, Message: refusal.Message, Command: "subscribe", Channel: sub.topic.name})
		s.endSubscription(sub, refusal, checks[i].Action == authorization.Presence)
	}
}

// endSubscription ends a subscription and tells the client.
func (s *session) endSubscription(sub *subscription, cause *fault.Error, resubscribe bool) {
	name := sub.topic.name
	var held time.Duration
	if resubscribe { // that takes a moment
		held = s.edge.options.PresenceGrace
	}
	s.leave(sub, held)
	s.reply(0, frame.Unsubscribed{Channel: string(name), Cause: cause, Resubscribe: resubscribe})
}
