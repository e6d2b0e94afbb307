// Package policy owns the answer to "may this user do that in this channel": the
// rules of the namespaces, compiled once, and their evaluation. It does not know
// who asks, how the user signed in, or what a namespace is for otherwise.
package policy

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/interpreter"

	"github.com/carillon-rt/carillon/services/internal/channel"
)

// CacheFor is how long a decision may be reused. Expressions see nothing but the
// user, the claims, the channel and the type of a message, so only a change of the rules outdates it.
const CacheFor = time.Minute

// Action is what a user wants to do in a channel, as it stands in the rules.
type Action string

// The actions.
const (
	Subscribe Action = "subscribe"
	Publish   Action = "publish"
	Presence  Action = "presence"
	History   Action = "history"
)

// Question is what is decided: may a user with these claims do something in a channel?
type Question struct {
	User channel.User
	// Claims holds JSON values (nil, bool, float64, string, []any, map[string]any). It
	// is not kept.
	Claims  map[string]any
	Action  Action
	Channel channel.Name
	// MessageType is the type of a message to be published; empty where it has none.
	MessageType string
}

// Decision is the answer to one question.
type Decision struct {
	Allowed bool
	// Rule names the expression that decided, for example "chat[0].publish"; empty
	// if no rule matched.
	Rule string
	// Message says, for a refusal, why. It holds no value of a claim.
	Message string
	// CacheFor is how long the answer holds for the same question; 0: not at all.
	CacheFor time.Duration
	// MessageTypeMatters tells whether the answer may be another for another
	// Question.MessageType.
	MessageTypeMatters bool
}

// Policy is the rules of all namespaces. It is immutable and safe for concurrent use.
type Policy struct {
	namespaces map[string][]rule
	version    string
}

// Version is equal for equal rules: 32 hexadecimal digits.
func (p *Policy) Version() string { return p.version }

type rule struct {
	pattern channel.Pattern
	actions map[Action]*expression
}

// Decide answers a question. The first rule whose pattern matches decides; what no rule
// allows is denied, and so is what cannot be evaluated. It takes at most some 15 ms.
func (p *Policy) Decide(q Question) Decision {
	e, a, refused := p.find(q)
	if e == nil {
		return refused
	}
	return e.decide(a)
}

// find returns the expression that decides and what it sees, or why there is none.
func (p *Policy) find(q Question) (*expression, activation, Decision) {
	rules, ok := p.namespaces[q.Channel.Namespace()]
	if !ok {
		return nil, activation{}, denied("", "there is no namespace %q", q.Channel.Namespace())
	}
	for i := range rules {
		variables, ok := rules[i].pattern.Match(q.Channel)
		if !ok {
			continue
		}
		e, ok := rules[i].actions[q.Action]
		if !ok {
			return nil, activation{}, denied("", "there is no action %q", q.Action)
		}
		return e, activation{user: string(q.User), claims: q.Claims, variables: variables, messageType: q.MessageType}, Decision{}
	}
	return nil, activation{}, denied("", "no rule of the namespace %q matches the channel", q.Channel.Namespace())
}

func denied(rule, format string, args ...any) Decision {
	return Decision{Rule: rule, Message: fmt.Sprintf(format, args...), CacheFor: CacheFor}
}

// expression is one compiled expression. Without a program it is a constant.
type expression struct {
	rule    string // "chat[0].publish"
	program cel.Program
	value   bool
	// byMessageType: it mentions message_type.
	byMessageType bool
	// keys are the names that the expression itself spells out; only these may
	// stand in a message, since a computed key is the value of a claim.
	keys map[string]bool

	// For Explain and Warnings: what rule it is of, as which action it stands there,
	// and what it was compiled from; of an empty one env and checked are nil.
	namespace string
	index     int
	pattern   channel.Pattern
	action    Action
	source    string
	env       *cel.Env
	checked   *cel.Ast
}

func (e *expression) decide(a activation) Decision {
	d := e.evaluate(a)
	d.MessageTypeMatters = e.byMessageType
	return d
}

func (e *expression) evaluate(a activation) Decision {
	if e.program == nil {
		return e.verdict(e.value)
	}
	result, _, err := e.program.Eval(a)
	if err != nil {
		return denied(e.rule, "the rule %s %s", e.rule, e.explain(err))
	}
	return e.verdict(result == types.True)
}

func (e *expression) verdict(allowed bool) Decision {
	if !allowed {
		return denied(e.rule, "the rule %s does not allow it", e.rule)
	}
	return Decision{Allowed: true, Rule: e.rule, CacheFor: CacheFor}
}

// explain says what went wrong in an evaluation in words of ours: CEL's own may
// quote the value of a claim.
func (e *expression) explain(err error) string {
	if cancelled, ok := errors.AsType[interpreter.EvalCancelledError](err); ok && cancelled.Cause == interpreter.CostLimitExceeded {
		return fmt.Sprintf("costs more than the limit of %d to evaluate", maxCost)
	}
	text := err.Error()
	if _, key, ok := strings.Cut(text, "no such key: "); ok {
		if e.keys[key] {
			return fmt.Sprintf("wants %q, which the token's claims do not have", key)
		}
		return "wants something that the token's claims do not have"
	}
	if strings.Contains(text, "no such overload") {
		return "wants a value of another type than the token's claims have"
	}
	return "cannot be evaluated with the token's claims"
}

// activation is what an expression sees. Variables cannot have the other names.
type activation struct {
	user        string
	claims      map[string]any
	variables   map[string]string
	messageType string
}

// ResolveName is asked by CEL for the value of a name.
func (a activation) ResolveName(name string) (any, bool) {
	switch name {
	case userVariable:
		return a.user, true
	case claimsVariable:
		return a.claims, true
	case messageTypeVariable:
		return a.messageType, true
	}
	value, ok := a.variables[name]
	return value, ok
}

// Parent is nil: there is no outer scope.
func (a activation) Parent() cel.Activation { return nil }

var _ cel.Activation = activation{}
