package policy

import (
	"fmt"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"

	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/namespace"
)

// Warnings lists what in the rules of a namespace is allowed and most likely not meant,
// a line each, such as `rules[1].channel: ...`, with what to do about it. anonymous
// tells whether clients may connect without a token. There are none where the rules
// do not compile.
func Warnings(n namespace.Namespace, anonymous bool) []string {
	compiled, problems := Compile([]namespace.Namespace{n})
	if len(problems) > 0 || len(compiled.namespaces[n.Name]) != len(n.Rules) {
		return nil
	}
	w := warner{namespace: n, anonymous: anonymous, rules: compiled.namespaces[n.Name]}
	if len(n.Rules) == 0 && n.Name != channel.InboxNamespace { // one's own inbox wants no rule
		w.add("rules: there are none, so no user may do anything in this namespace; give it a rule for those who may")
	}
	for i := range n.Rules {
		w.rule(i)
	}
	return w.lines
}

type warner struct {
	namespace namespace.Namespace
	anonymous bool
	rules     []rule
	lines     []string
}

func (w *warner) add(format string, args ...any) {
	w.lines = append(w.lines, fmt.Sprintf(format, args...))
}

func (w *warner) rule(i int) {
	configured, compiled := w.namespace.Rules[i], w.rules[i]
	for j, earlier := range w.rules[:i] {
		if earlier.pattern.Covers(compiled.pattern) {
			w.add("rules[%d].channel: is never reached: rules[%d] (%s) decides for all these channels; put this rule before it", i, j, earlier.pattern)
			return
		}
	}
	blank := func(text string) bool { return strings.TrimSpace(text) == "" }
	if blank(configured.Subscribe) && blank(configured.Publish) && blank(configured.Presence) && blank(configured.History) {
		w.add(`rules[%d]: allows nobody anything; give it subscribe or publish, or write subscribe: "false" if that is meant`, i)
	}
	for _, action := range []Action{Subscribe, Publish, Presence, History} {
		e := compiled.actions[action]
		if e.action != action || blank(e.source) { // that of subscribe, or none
			continue
		}
		outcome := e.outcome()
		if outcome == types.False && strings.TrimSpace(e.source) != "false" {
			w.add("rules[%d].%s: is false whoever asks, so it allows nobody; correct it, or write false if that is meant", i, action)
		}
		if outcome == types.True && action == Publish && w.anonymous {
			w.add("rules[%d].publish: is true for clients without a token too (auth.anonymous); write !has(claims.anonymous) to keep them out", i)
		}
	}
	if !blank(configured.Presence) && !w.namespace.Presence {
		w.add("rules[%d].presence: has no effect, since the namespace has no presence; set presence: true, or drop it", i)
	}
	if !blank(configured.History) && w.namespace.Ephemeral {
		w.add("rules[%d].history: has no effect, since the namespace is ephemeral; drop it", i)
	}
}

// outcome is what an expression comes to whoever asks about whatever channel; an error if
// that makes a difference. Logic passes over what is not there, if its other side decides.
func (e *expression) outcome() ref.Val {
	if e.program == nil {
		return types.Bool(e.value)
	}
	result, _, err := e.program.Eval(cel.NoVars())
	if err != nil {
		return types.WrapErr(err)
	}
	return result
}
