package api

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/namespace"
)

type session struct {
	Mode           string `json:"mode"`
	Caller         string `json:"caller"`
	TokenExpiresAt int64  `json:"tokenExpiresAt,omitempty"`
	EdgeID         string `json:"edgeId"`
	Version        string `json:"version"`
	StartedAt      int64  `json:"startedAt"`
	Now            int64  `json:"now"`
	TraceURL       string `json:"traceUrl,omitempty"`
	TryIt          bool   `json:"tryIt"`
	Deciders       string `json:"deciders"`
	Rights         rights `json:"rights"`
	Limits         Limits `json:"limits"`
}

type rights struct {
	Publish  []string `json:"publish"`
	History  []string `json:"history"`
	Presence []string `json:"presence"`
}

// session answers session.
func (a *API) session(r *request) (any, error) {
	given := a.options.Callers.Patterns(r.caller.Subject)
	s := session{
		Mode: "ops", Caller: r.caller.Subject, EdgeID: a.options.EdgeID, Version: a.options.Version,
		StartedAt: a.started.UnixMilli(), Now: time.Now().UnixMilli(), TraceURL: a.options.TraceURL, Limits: a.options.Limits,
		Rights: rights{given.Publish, given.History, given.Presence}, Deciders: a.options.Deciders().Who,
	}
	switch {
	case a.options.Dev != nil:
		s.Mode, s.TryIt = "dev", true
	case !r.caller.ExpiresAt.IsZero():
		s.TokenExpiresAt = r.caller.ExpiresAt.UnixMilli()
	}
	return s, nil
}

// overview answers overview.
func (a *API) overview(*request) (any, error) {
	all, _ := a.samples.all()
	return all, nil
}

type space struct {
	Name         string    `json:"name"`
	Ephemeral    bool      `json:"ephemeral"`
	History      *kept     `json:"history,omitempty"`
	Partitions   int       `json:"partitions"`
	Replicas     int       `json:"replicas"`
	Presence     bool      `json:"presence"`
	SlowConsumer string    `json:"slowConsumer"`
	Rate         *allowed  `json:"rate,omitempty"`
	TotalRate    *allowed  `json:"totalRate,omitempty"`
	Rules        []ruleSet `json:"rules"`
	Channels     int       `json:"channels"`
	Subscribers  int       `json:"subscribers"`
	Messages     float64   `json:"messages"`
	Deliveries   float64   `json:"deliveries"`
}

type kept struct {
	MaxMessages int   `json:"maxMessages"`
	MaxAgeMs    int64 `json:"maxAgeMs"`
	MaxBytes    int64 `json:"maxBytes"`
}

type allowed struct {
	Messages int   `json:"messages"`
	PerMs    int64 `json:"perMs"`
	Bytes    int64 `json:"bytes"`
}

type ruleSet struct {
	Name      string `json:"name"`
	Channel   string `json:"channel"`
	Subscribe string `json:"subscribe"`
	Publish   string `json:"publish"`
	Presence  string `json:"presence"`
	History   string `json:"history"`
}

func allowedOf(r *namespace.Rate) *allowed {
	if r == nil {
		return nil
	}
	return &allowed{r.Messages, r.Per.Milliseconds(), int64(r.Bytes)}
}

// ruleName is how a denial names a rule, before its action.
func ruleName(of string, index int) string { return fmt.Sprintf("%s[%d]", of, index) }

func spaceOf(ns *namespace.Namespace) space {
	s := space{
		Name: ns.Name, Ephemeral: ns.Ephemeral, Partitions: ns.Partitions, Replicas: ns.Replicas, Presence: ns.Presence,
		SlowConsumer: ns.SlowConsumer, Rate: allowedOf(ns.Rate), TotalRate: allowedOf(ns.TotalRate), Rules: []ruleSet{},
	}
	if h := ns.History; h != nil {
		s.History = &kept{h.MaxMessages, h.MaxAge.Milliseconds(), int64(h.MaxBytes)}
	}
	for i, r := range ns.Rules {
		s.Rules = append(s.Rules, ruleSet{ruleName(ns.Name, i), r.Channel, r.Subscribe, r.Publish, r.Presence, r.History})
	}
	return s
}

// namespaces answers namespaces.
func (a *API) namespaces(*request) (any, error) {
	traffic := a.spaces()
	all := []space{}
	for name, ns := range a.options.Namespaces() {
		s, t := spaceOf(ns), traffic[name]
		s.Channels, s.Subscribers, s.Messages, s.Deliveries = t.channels, t.subscribers, hundredths(t.messages), hundredths(t.deliveries)
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b space) int { return cmp.Compare(a.Name, b.Name) })
	return map[string]any{"namespaces": all, "deciders": a.options.Deciders()}, nil
}

// Who decides what users may do.
const (
	ByProcess  = "process"  // this one: the rules that are shown
	ByPresence = "presence" // replicas of the presence role, by rules of their own file
	ByService  = "service"  // an AuthorizationService of the operator's own
)

// Deciders are who decides what users may do, by which rules. The rules that the console
// shows are those of this process's own configuration.
type Deciders struct {
	Who      string    `json:"by"`
	Replicas []Decider `json:"replicas"`
}

// Decider is one replica.
type Decider struct {
	Address string `json:"address"`
	// Rules is RulesSame or RulesOther than those that are shown; empty: it does not tell, or
	// what it tells is not comparable.
	Rules string `json:"rules,omitempty"`
}

// What a decider's rules are.
const (
	RulesSame  = "same"
	RulesOther = "other"
)

// Bounds of a search.
const (
	maxQueryBytes              = channel.MaxBytes
	maxFound, defaultFound int = 50, 10
)

type found struct {
	Users       []userFound       `json:"users"`
	Channels    []channelFound    `json:"channels"`
	Connections []connectionFound `json:"connections"`
}

type userFound struct {
	User        channel.User `json:"user"`
	Connections int          `json:"connections"`
}

type channelFound struct {
	Channel     channel.Name `json:"channel"`
	Subscribers int          `json:"subscribers"`
}

type connectionFound struct {
	Connection string       `json:"connectionId"`
	User       channel.User `json:"user"`
}

// search answers search.
func (a *API) search(r *request) (any, error) {
	q := r.URL.Query().Get("q")
	if n := len(q); n < 1 || n > maxQueryBytes {
		return nil, fault.New(fault.FieldInvalid, "q", "q must have 1 to %d bytes", maxQueryBytes)
	}
	limit, err := r.number("limit", defaultFound, 1, maxFound)
	if err != nil {
		return nil, err
	}
	f := found{Users: usersFound(a.options.Edge.Users(q, limit)), Channels: a.channelsFound(q, limit), Connections: []connectionFound{}}
	if user, ok := a.options.Edge.OwnerOf(q); ok {
		f.Connections = append(f.Connections, connectionFound{q, user})
	}
	return f, nil
}
