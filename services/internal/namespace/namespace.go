// Package namespace owns what the first token of a channel decides: how much
// history is kept, who may do what, and the limits. It holds configuration, checked;
// storing messages and evaluating rules belong elsewhere.
package namespace

import (
	"fmt"
	"regexp"
	"time"

	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/fault"
)

// Namespace is the configuration of one namespace.
type Namespace struct {
	Name string `yaml:"name" help:"First token of the channels: lower-case letters, digits, - and _, at most 32."`
	// History is nil in an ephemeral namespace.
	History   *History `yaml:"history" help:"What is kept of each channel. A namespace says history or ephemeral, never neither and never both."`
	Ephemeral bool     `yaml:"ephemeral" help:"Nothing is stored: no offset, history or de-duplication; messages may be lost."`
	// Partitions is the number of streams that the channels are spread over.
	Partitions   int    `yaml:"partitions" default:"1" help:"Streams that the channels are spread over, 1 to 64; cannot be changed later."`
	Replicas     int    `yaml:"replicas" default:"1" help:"NATS servers that keep a copy of each stream: 1, 3 or 5."`
	Presence     bool   `yaml:"presence" help:"Whether the members of the channels are known."`
	SlowConsumer string `yaml:"slow_consumer" default:"disconnect" help:"What a client gets that reads too slowly: disconnect (close 4450; it resumes), latest (of each channel the latest message, after a gap) or drop (what there is room for, and gaps)."`
	Rate         *Rate  `yaml:"rate" help:"Publishes of one connection into the namespace, in place of edge.rate."`
	TotalRate    *Rate  `yaml:"total_rate" help:"Publishes of all connections of an edge into the namespace together."`
	Rules        []Rule `yaml:"rules" help:"Who may do what; the first rule whose pattern matches decides; what no rule allows is denied."`
}

// Values of Namespace.SlowConsumer.
const (
	SlowDisconnect = "disconnect"
	SlowLatest     = "latest"
	SlowDrop       = "drop"
)

// History bounds what is kept.
type History struct {
	MaxMessages int           `yaml:"max_messages" default:"1000" help:"Most messages that one resume or rewind replays of a channel, 1 to 100000."`
	MaxAge      time.Duration `yaml:"max_age" default:"24h" help:"Age at which a message is dropped, at least 1s."`
	MaxBytes    Bytes         `yaml:"max_bytes" default:"1GiB" help:"Size of the namespace's stored messages at which the oldest are dropped, at least 1MiB; divided among the partitions."`
}

// Rate is a token bucket.
type Rate struct {
	Messages int           `yaml:"messages" help:"Messages refilled in the time of per; also the burst."`
	Per      time.Duration `yaml:"per" default:"1s" help:"Time in which they are refilled."`
	Bytes    Bytes         `yaml:"bytes" default:"0" help:"Bytes refilled in the time of per, and at once; 0: no bound."`
}

// Rule says who may do what in the channels that match. The expressions are CEL
// over user (string), claims (map), the pattern's variables (strings), and in Publish
// message_type (string), the member "type" of a payload that is a JSON object.
type Rule struct {
	Channel   string `yaml:"channel" help:"Pattern: chat.{room} one token, invoices.{rest...} the remaining ones."`
	Subscribe string `yaml:"subscribe" help:"CEL: may the user receive messages? Empty: no."`
	Publish   string `yaml:"publish" help:"CEL: may the user send messages? Empty: no."`
	Presence  string `yaml:"presence" help:"CEL: may the user see the members? Empty: as subscribe."`
	History   string `yaml:"history" help:"CEL: may the user read messages of the past: since, rewind, history? Empty: as subscribe."`
}

var nameSyntax = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,31}$`)

// Problems lists what is wrong, a line each, each naming its key.
func (n Namespace) Problems() []string {
	var problems []string
	add := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	if !nameSyntax.MatchString(n.Name) {
		add("name: %q is not a namespace: lower-case letters, digits, - and _, at most 32", n.Name)
	}
	switch {
	case n.History == nil && !n.Ephemeral:
		add("says neither history nor ephemeral: true")
	case n.History != nil && n.Ephemeral:
		add("says both history and ephemeral: true")
	}
	if n.Partitions < 1 || n.Partitions > 64 {
		add("partitions: %d is not within 1 and 64", n.Partitions)
	}
	if n.Replicas != 1 && n.Replicas != 3 && n.Replicas != 5 {
		add("replicas: %d is not 1, 3 or 5", n.Replicas)
	}
	if n.SlowConsumer != SlowDisconnect && n.SlowConsumer != SlowLatest && n.SlowConsumer != SlowDrop {
		add("slow_consumer: %q is not disconnect, latest or drop", n.SlowConsumer)
	}
	problems = append(problems, n.Rate.problems("rate")...)
	problems = append(problems, n.TotalRate.problems("total_rate")...)
	if h := n.History; h != nil {
		if h.MaxMessages < 1 || h.MaxMessages > 100_000 {
			add("history.max_messages: %d is not within 1 and 100000", h.MaxMessages)
		}
		if h.MaxAge < time.Second {
			add("history.max_age: %v is less than 1s", h.MaxAge)
		}
		if h.MaxBytes < 1<<20 {
			add("history.max_bytes: %d is less than 1MiB", h.MaxBytes)
		}
	}
	return append(problems, n.ruleProblems()...)
}

func (r *Rate) problems(key string) []string {
	if r == nil || r.Messages >= 1 && r.Messages <= 1_000_000 && r.Per >= time.Millisecond && r.Per <= time.Hour && r.Bytes >= 0 && r.Bytes <= 1<<30 {
		return nil
	}
	return []string{key + ": messages must be within 1 and 1000000, per within 1ms and 1h, bytes within 0 and 1GiB"}
}

func (n Namespace) ruleProblems() []string {
	var problems []string
	for i, rule := range n.Rules {
		p, err := channel.ParsePattern(rule.Channel)
		if err != nil {
			problems = append(problems, fmt.Sprintf("rules[%d].channel: %v", i, err))
		} else if p.Namespace() != n.Name {
			problems = append(problems, fmt.Sprintf("rules[%d].channel: %q is not in the namespace %q", i, rule.Channel, n.Name))
		}
	}
	return problems
}

// DeduplicationWindow is how long a message id is remembered: 2 minutes, or max_age
// if that is shorter. 0 in an ephemeral namespace.
func (n Namespace) DeduplicationWindow() time.Duration {
	if n.History == nil {
		return 0
	}
	return min(2*time.Minute, n.History.MaxAge)
}

// Set holds namespaces by name. It is never modified once built.
type Set map[string]*Namespace

// NewSet indexes namespaces, which have been checked.
func NewSet(namespaces []Namespace) Set {
	set := make(Set, len(namespaces))
	for i := range namespaces {
		set[namespaces[i].Name] = &namespaces[i]
	}
	return set
}

// Of returns the namespace of a channel; NAMESPACE_UNKNOWN about the field
// "channel" if there is none.
func (s Set) Of(name channel.Name) (*Namespace, error) {
	if ns, ok := s[name.Namespace()]; ok {
		return ns, nil
	}
	return nil, fault.New(fault.NamespaceUnknown, "channel", "there is no namespace %q", name.Namespace())
}
