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
// user, the claims and the channel, so only a change of the rules outdates it.
const CacheFor = time.Minute

// Action is what a user wants to do in a channel, as it stands in the rules.
type Action string

// The actions.
const (
	Subscribe Action = "subscribe"
	Publish   Action = "publish"
	Presence  Action = "presence"
)

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
}

// Policy is the rules of all namespaces. It is immutable and safe for concurrent use.
type Policy struct {
	namespaces map[string][]rule
}

type rule struct {
	pattern channel.Pattern
	actions map[Action]expression
}

// Decide answers whether a user with these claims may do something in a channel.
// The first rule whose pattern matches decides; what no rule allows is denied, and
// so is what cannot be evaluated. It takes at most some 15 ms. claims holds
// JSON values (nil, bool, float64, string, []any, map[string]any) and is not kept.
func (p *Policy) Decide(user channel.User, claims map[string]any, action Action, name channel.Name) Decision {
	rules, ok := p.namespaces[name.Namespace()]
	if !ok {
		return denied("", "there is no namespace %q", name.Namespace())
	}
	for i := range rules {
		variables, ok := rules[i].pattern.Match(name)
		if !ok {
			continue
		}
		e, ok := rules[i].actions[action]
		if !ok {
			return denied("", "there is no action %q", action)
		}
		return e.decide(activation{user: string(user), claims: claims, variables: variables})
	}
	return denied("", "no rule of the namespace %q matches the channel", name.Namespace())
}

func denied(rule, format string, args ...any) Decision {
	return Decision{Rule: rule, Message: fmt.Sprintf(format, args...), CacheFor: CacheFor}
}

// expression is one compiled expression. Without a program it is a constant.
type expression struct {
	rule    string // "chat[0].publish"
	program cel.Program
	value   bool
	// keys are the names that the expression itself spells out; only these may
	// stand in a message, since a computed key is the value of a claim.
	keys map[string]bool
}

func (e expression) decide(a activation) Decision {
	if e.program == nil {
		return e.verdict(e.value)
	}
	result, _, err := e.program.Eval(a)
	if err != nil {
		return denied(e.rule, "the rule %s %s", e.rule, e.explain(err))
	}
	return e.verdict(result == types.True)
}

func (e expression) verdict(allowed bool) Decision {
	if !allowed {
		return denied(e.rule, "the rule %s does not allow it", e.rule)
	}
	return Decision{Allowed: true, Rule: e.rule, CacheFor: CacheFor}
}

// explain says what went wrong in an evaluation in words of ours: CEL's own may
// quote the value of a claim.
func (e expression) explain(err error) string {
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

// activation is what an expression sees. Variables cannot be named user or claims.
type activation struct {
	user      string
	claims    map[string]any
	variables map[string]string
}

// ResolveName is asked by CEL for the value of a name.
func (a activation) ResolveName(name string) (any, bool) {
	switch name {
	case userVariable:
		return a.user, true
	case claimsVariable:
		return a.claims, true
	}
	value, ok := a.variables[name]
	return value, ok
}

// Parent is nil: there is no outer scope.
func (a activation) Parent() cel.Activation { return nil }

var _ cel.Activation = activation{}
