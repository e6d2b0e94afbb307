package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"

	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/namespace"
)

// What every expression sees, and what those of publish see too.
const (
	userVariable        = "user"
	claimsVariable      = "claims"
	messageTypeVariable = "message_type"
)

// Bounds, so that no rule can hang or exhaust whoever compiles or evaluates it.
const (
	// maxLength is in code points.
	maxLength = 4096
	maxDepth  = 100
	maxNodes  = 2000
	// maxNesting bounds comprehensions within comprehensions.
	maxNesting = 3
	// maxCost is in CEL's units: about one for each operation, for each element
	// that is looked at, and for each ten characters of a string.
	maxCost         = 20_000
	maxRegexProgram = 2000
)

// Compile compiles and type-checks every expression of every rule. problems has a
// line for each thing wrong, such as `namespaces[chat].rules[0].publish: ...`, in
// the order of the rules; the Policy is nil if there are any. Problems of the
// patterns are Namespace.Problems' to tell; a rule with one is left out.
func Compile(namespaces []namespace.Namespace) (*Policy, []string) {
	base, err := environment()
	if err != nil {
		return nil, []string{fmt.Sprintf("namespaces: CEL cannot be set up: %v", err)}
	}
	c := compiler{base: base}
	p := &Policy{namespaces: make(map[string][]rule, len(namespaces)), version: VersionOf(namespaces)}
	for _, n := range namespaces {
		rules := make([]rule, 0, len(n.Rules))
		for i, r := range n.Rules {
			if compiled, ok := c.rule(n.Name, i, r); ok {
				rules = append(rules, compiled)
			}
		}
		p.namespaces[n.Name] = rules
	}
	if len(c.problems) > 0 {
		return nil, c.problems
	}
	return p, nil
}

// environment is what all expressions have in common.
func environment() (*cel.Env, error) {
	return cel.NewEnv(
		cel.Variable(userVariable, cel.StringType),
		cel.Variable(claimsVariable, cel.MapType(cel.StringType, cel.DynType)),
		cel.ParserExpressionSizeLimit(maxLength),
		cel.ParserRecursionLimit(maxDepth),
		cel.ExpressionNodeLimit(maxNodes),
		cel.RegexProgramSizeLimit(maxRegexProgram),
		cel.DefaultUTCTimeZone(true),
		cel.EnableMacroCallTracking(), // so that Explain shows macros as they were written
		cel.CrossTypeNumericComparisons(true),
		cel.ASTValidators(
			cel.ValidateRegexLiterals(),
			cel.ValidateRegexProgramSizeLimit(maxRegexProgram),
			cel.ValidateDurationLiterals(),
			cel.ValidateTimestampLiterals(),
			cel.ValidateComprehensionNestingLimit(maxNesting),
		),
	)
}

// VersionOf is the version of a Policy that is compiled of these: a digest of all that
// decisions depend on.
func VersionOf(namespaces []namespace.Namespace) string {
	digest := sha256.New()
	for _, n := range slices.SortedFunc(slices.Values(namespaces), func(a, b namespace.Namespace) int { return strings.Compare(a.Name, b.Name) }) {
		fmt.Fprintf(digest, "%q %d\n", n.Name, len(n.Rules))
		for _, r := range n.Rules {
			fmt.Fprintf(digest, "%q %q %q %q %q\n", r.Channel, r.Subscribe, r.Publish, r.Presence, r.History)
		}
	}
	return hex.EncodeToString(digest.Sum(nil)[:16])
}

type compiler struct {
	base     *cel.Env
	problems []string
}

func (c *compiler) problem(of string, i int, key, format string, args ...any) {
	c.problems = append(c.problems, fmt.Sprintf("namespaces[%s].rules[%d].%s: %s", of, i, key, fmt.Sprintf(format, args...)))
}

func (c *compiler) rule(of string, i int, r namespace.Rule) (rule, bool) {
	pattern, err := channel.ParsePattern(r.Channel)
	if err != nil {
		return rule{}, false
	}
	env, publishing, err := c.environments(pattern)
	if err != nil {
		c.problem(of, i, "channel", "%v", err)
		return rule{}, false
	}
	compiled := rule{pattern: pattern, actions: map[Action]*expression{}}
	for _, a := range []struct {
		action Action
		source string
		env    *cel.Env
		// likeSubscribe: an empty expression stands for that of subscribe.
		likeSubscribe bool
	}{{Subscribe, r.Subscribe, env, false}, {Publish, r.Publish, publishing, false}, {Presence, r.Presence, env, true}, {History, r.History, env, true}} {
		if a.likeSubscribe && strings.TrimSpace(a.source) == "" {
			compiled.actions[a.action] = compiled.actions[Subscribe]
			continue
		}
		e, err := compile(a.env, a.source)
		if err != nil {
			c.problem(of, i, string(a.action), "%v", err)
			continue
		}
		e.namespace, e.index, e.pattern, e.action = of, i, pattern, a.action
		e.rule = fmt.Sprintf("%s[%d].%s", of, i, a.action)
		compiled.actions[a.action] = e
	}
	return compiled, true
}

// environments are what the expressions of a rule with this pattern see, and what that
// of publish sees.
func (c *compiler) environments(pattern channel.Pattern) (env, publishing *cel.Env, err error) {
	var options []cel.EnvOption
	for _, name := range pattern.Variables() {
		if name == userVariable || name == claimsVariable || name == messageTypeVariable {
			return nil, nil, fmt.Errorf("the variable cannot be named %q, which rules have already", name)
		}
		if parsed, issues := c.base.Parse(name); issues.Err() != nil || parsed.NativeRep().Expr().Kind() != ast.IdentKind {
			return nil, nil, fmt.Errorf("the variable cannot be named %q, a reserved word of CEL", name)
		}
		options = append(options, cel.Variable(name, cel.StringType))
	}
	if env, err = c.base.Extend(options...); err == nil {
		publishing, err = env.Extend(cel.Variable(messageTypeVariable, cel.StringType))
	}
	if err != nil {
		return nil, nil, fmt.Errorf("CEL does not take the variables of the pattern: %w", err)
	}
	return env, publishing, nil
}

// compile compiles one expression; an empty one allows nobody.
func compile(env *cel.Env, source string) (*expression, error) {
	if strings.TrimSpace(source) == "" {
		return &expression{}, nil
	}
	if n := utf8.RuneCountInString(source); n > maxLength {
		return nil, fmt.Errorf("has %d characters, more than %d", n, maxLength)
	}
	checked, issues := env.Compile(source)
	if issues.Err() != nil {
		return nil, oneLine(issues)
	}
	if out := checked.OutputType(); !out.IsExactType(cel.BoolType) {
		if out.IsExactType(cel.DynType) {
			return nil, errors.New("the result's type is only known when evaluated; it must be bool: compare it, as in claims.admin == true")
		}
		return nil, fmt.Errorf("the result is %s, not bool", out)
	}
	e := &expression{source: source, env: env, checked: checked}
	root := checked.NativeRep().Expr()
	if value, ok := constant(root); ok {
		e.value = value
		return e, nil
	}
	program, err := env.Program(checked, cel.EvalOptions(cel.OptOptimize), cel.CostLimit(maxCost))
	if err != nil {
		return nil, err
	}
	e.program, e.keys, e.byMessageType = program, keys(root), mentions(root, messageTypeVariable)
	return e, nil
}

// oneLine joins CEL's messages, with line and column of the expression.
func oneLine(issues *cel.Issues) error {
	var lines []string
	for _, e := range issues.Errors() {
		line := strings.ReplaceAll(e.Message, "\n", " ")
		if e.Location.Line() > 0 {
			line = fmt.Sprintf("%d:%d: %s", e.Location.Line(), e.Location.Column()+1, line)
		}
		lines = append(lines, line)
	}
	return errors.New(strings.Join(lines, "; "))
}

func constant(e ast.Expr) (value, ok bool) {
	if e.Kind() != ast.LiteralKind {
		return false, false
	}
	value, ok = e.AsLiteral().Value().(bool)
	return value, ok
}

// mentions tells whether a name stands anywhere in an expression.
func mentions(root ast.Expr, name string) bool {
	found := false
	ast.PostOrderVisit(root, ast.NewExprVisitor(func(e ast.Expr) {
		found = found || (e.Kind() == ast.IdentKind && e.AsIdent() == name)
	}))
	return found
}

// keys collects the names of fields and the string literals of an expression.
func keys(root ast.Expr) map[string]bool {
	found := map[string]bool{}
	ast.PostOrderVisit(root, ast.NewExprVisitor(func(e ast.Expr) {
		switch e.Kind() {
		case ast.SelectKind:
			found[e.AsSelect().FieldName()] = true
		case ast.LiteralKind:
			if s, ok := e.AsLiteral().Value().(string); ok {
				found[s] = true
			}
		}
	}))
	return found
}
