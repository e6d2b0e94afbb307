package api

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/carillon-rt/carillon/services/edge"
	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/history"
	"github.com/carillon-rt/carillon/services/internal/message"
	"github.com/carillon-rt/carillon/services/internal/namespace"
	"github.com/carillon-rt/carillon/services/internal/tracing"
)

// Bounds of what is told of a user or a channel.
const (
	maxConnections   = 100
	maxSubscriptions = 200
	maxUsers         = 100
	maxMembers       = 100
	maxMessages      = 20
	// pageBytes is the size of the messages beyond which there are fewer.
	pageBytes = 256 << 10
	// maxShownBytes is how much of a message is shown.
	maxShownBytes = 4 << 10
)

func usersFound(users []edge.UserHere) []userFound {
	all := make([]userFound, len(users))
	for i, u := range users {
		all[i] = userFound{u.User, u.Connections}
	}
	return all
}

func (a *API) channelsFound(prefix string, limit int) []channelFound {
	here := a.options.Edge.Traffic(prefix)
	slices.SortFunc(here, func(a, b edge.ChannelTraffic) int { return cmp.Compare(a.Channel, b.Channel) })
	all := []channelFound{}
	for _, c := range here[:min(limit, len(here))] {
		all = append(all, channelFound{c.Channel, c.Subscribers})
	}
	return all
}

type person struct {
	User        channel.User `json:"user"`
	Connections []connection `json:"connections"`
	Total       int          `json:"total"`
	Presence    any          `json:"presence"` // presences, or a refusal
	Events      []event      `json:"events"`
}

type connection struct {
	ID                string         `json:"connectionId"`
	Address           string         `json:"address"`
	ClientName        string         `json:"clientName,omitempty"`
	ClientVersion     string         `json:"clientVersion,omitempty"`
	ConnectedAt       int64          `json:"connectedAt"`
	ExpiresAt         int64          `json:"expiresAt,omitempty"`
	QueueBytes        int            `json:"queueBytes"`
	Subscriptions     []channel.Name `json:"subscriptions"`
	SubscriptionCount int            `json:"subscriptionCount"`
}

type presences struct {
	Online      bool        `json:"online"`
	Total       int         `json:"total"`
	LastSeen    int64       `json:"lastSeen,omitempty"`
	Connections []elsewhere `json:"connections"`
}

type elsewhere struct {
	ID     string `json:"connectionId"`
	EdgeID string `json:"edgeId"`
	Since  int64  `json:"since"`
	Here   bool   `json:"here"`
}

// part is a value, or why there is none.
func part[T any](value T, err error) any {
	if err != nil {
		return told(err)
	}
	return value
}

// user answers users/{user}.
func (a *API) user(r *request) (any, error) {
	user, err := channel.ParseUser(r.PathValue("user"))
	if err != nil {
		return nil, err
	}
	p := person{User: user, Connections: []connection{}}
	here, total := a.options.Edge.Look(r.Context(), user, maxConnections, maxSubscriptions)
	p.Total = total
	for _, c := range here {
		shown := connection{
			ID: c.ID, Address: c.Address, ClientName: c.ClientName, ClientVersion: c.ClientVersion, ConnectedAt: c.ConnectedAt.UnixMilli(),
			QueueBytes: c.QueueBytes, Subscriptions: c.Subscribed, SubscriptionCount: c.Connection.Subscriptions,
		}
		if shown.Subscriptions == nil {
			shown.Subscriptions = []channel.Name{}
		}
		if !c.ExpiresAt.IsZero() {
			shown.ExpiresAt = c.ExpiresAt.UnixMilli()
		}
		p.Connections = append(p.Connections, shown)
	}
	p.Presence = part(a.presencesOf(r.Context(), r.caller.Subject, user))
	p.Events = a.events.newest(0, partListed, func(e *event) bool { return e.User == user }).Events
	return p, nil
}

func (a *API) presencesOf(ctx context.Context, caller string, user channel.User) (presences, error) {
	if err := a.options.Callers.MayList(caller, user.Inbox()); err != nil {
		return presences{}, err
	}
	known, err := a.options.Presence.User(ctx, user)
	p := presences{Online: known.Total > 0, Total: known.Total, Connections: []elsewhere{}}
	if !known.LastSeen.IsZero() {
		p.LastSeen = known.LastSeen.UnixMilli()
	}
	for _, c := range known.Connections {
		p.Connections = append(p.Connections, elsewhere{c.ID, c.EdgeID, c.Since.UnixMilli(), c.EdgeID == a.options.EdgeID})
	}
	return p, err
}

type place struct {
	Channel     channel.Name `json:"channel"`
	Namespace   string       `json:"namespace"`
	Rule        string       `json:"rule,omitempty"`
	Subscribers int          `json:"subscribers"`
	Users       []userFound  `json:"users"`
	Rates       rates        `json:"rates"`
	Members     any          `json:"members"`  // members, null, or a refusal
	Position    any          `json:"position"` // position, null, or a refusal
	Messages    any          `json:"messages"` // messages, null, or a refusal
	Events      []event      `json:"events"`
}

type members struct {
	Members []member `json:"members"`
	Total   int      `json:"total"`
}

type member struct {
	User        channel.User `json:"user"`
	Connections int          `json:"connections"`
	Since       int64        `json:"since"`
}

type position struct {
	Epoch message.Epoch   `json:"epoch"`
	First message.Offset  `json:"first"`
	Last  message.Offset  `json:"last"`
	Here  *message.Offset `json:"here,omitempty"`
}

type messages struct {
	Messages []stored `json:"messages"`
	More     bool     `json:"more"`
}

type stored struct {
	Offset      message.Offset    `json:"offset"`
	Time        int64             `json:"time"`
	Publisher   string            `json:"publisher,omitempty"`
	ID          string            `json:"id,omitempty"`
	ContentType string            `json:"contentType"`
	Size        int               `json:"size"`
	Data        json.RawMessage   `json:"data,omitempty"`
	Text        string            `json:"text,omitempty"`
	Base64      string            `json:"base64,omitempty"`
	Preview     string            `json:"preview,omitempty"`
	Truncated   bool              `json:"truncated,omitempty"`
	Headers     map[string]string `json:"headers,omitempty"`
	TraceID     string            `json:"traceId,omitempty"`
}

// channel answers channels/{channel}.
func (a *API) channel(r *request) (any, error) {
	name, err := channel.Parse(r.PathValue("channel"))
	if err != nil {
		return nil, err
	}
	ns, err := a.options.Namespaces().Of(name)
	if err != nil {
		return nil, err
	}
	here, listening := a.options.Edge.Channel(name, maxUsers)
	p := place{
		Channel: name, Namespace: ns.Name, Rule: ruleOf(ns, name), Subscribers: here.Subscribers,
		Users: usersFound(here.Users), Rates: ratesOf(here.Rates),
		Events: a.events.newest(0, partListed, func(e *event) bool { return e.Channel == name }).Events,
	}
	if ns.Presence {
		p.Members = part(a.membersOf(r.Context(), r.caller.Subject, name))
	}
	if !ns.Ephemeral {
		p.Position = part(a.positionOf(r.Context(), name, here, listening))
		p.Messages = part(a.messagesOf(r.Context(), r.caller.Subject, name))
	}
	return p, nil
}

// ruleOf names the rule that decides for a channel; "" if there is none.
func ruleOf(ns *namespace.Namespace, name channel.Name) string {
	for i, r := range ns.Rules {
		if p, err := channel.ParsePattern(r.Channel); err == nil && p.Matches(name) {
			return ruleName(ns.Name, i)
		}
	}
	return ""
}

func (a *API) membersOf(ctx context.Context, caller string, name channel.Name) (members, error) {
	if err := a.options.Callers.MayList(caller, name); err != nil {
		return members{}, err
	}
	all, total, err := a.options.Presence.Members(ctx, name, maxMembers)
	m := members{Members: []member{}, Total: total}
	for _, one := range all {
		m.Members = append(m.Members, member{one.User, one.Connections, one.Since.UnixMilli()})
	}
	return m, err
}

func (a *API) positionOf(ctx context.Context, name channel.Name, here edge.ChannelHere, listening bool) (position, error) {
	bounds, err := a.options.Store.Bounds(ctx, name)
	p := position{Epoch: bounds.Epoch(), First: bounds.First, Last: bounds.Last}
	if listening {
		p.Here = &here.Position.Offset
	}
	return p, err
}

func (a *API) messagesOf(ctx context.Context, caller string, name channel.Name) (messages, error) {
	if err := a.options.Callers.MayRead(caller, name); err != nil {
		return messages{}, err
	}
	page, err := history.Read(ctx, a.options.Store, history.Query{Channel: name, Limit: maxMessages, MaxBytes: pageBytes, NewestFirst: true})
	m := messages{Messages: []stored{}, More: page.More}
	for _, one := range page.Messages {
		m.Messages = append(m.Messages, storedOf(one))
	}
	return m, err
}

func storedOf(m *message.Message) stored {
	s := stored{
		Offset: m.Offset, Time: m.Time.UnixMilli(), Publisher: m.Publisher, ID: m.ID, ContentType: m.Payload.ContentType,
		Size: len(m.Payload.Data), Headers: m.Headers, TraceID: tracing.Parse(m.Traceparent).TraceID(),
	}
	data := m.Payload.Data
	switch {
	case m.Payload.IsJSON() && len(data) <= maxShownBytes:
		s.Data = data
	case len(data) > maxShownBytes:
		s.Truncated, s.Preview = true, strings.ToValidUTF8(string(data[:maxShownBytes]), "\uFFFD")
	case utf8.Valid(data):
		s.Text = string(data)
	default:
		s.Base64 = base64.StdEncoding.EncodeToString(data)
	}
	if m.Payload.IsJSON() {
		s.ContentType = "application/json"
	}
	return s
}
