package policy

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"

	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/namespace"
)

const (
	userVariable   = "user"
	claimsVariable = "claims"
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
	c := compiler{}
	base, err := cel.NewEnv(
		cel.Variable(userVariable, cel.StringType),
		cel.Variable(claimsVariable, cel.MapType(cel.StringType, cel.DynType)),
		cel.ParserExpressionSizeLimit(maxLength),
		cel.ParserRecursionLimit(maxDepth),
		cel.ExpressionNodeLimit(maxNodes),
		cel.RegexProgramSizeLimit(maxRegexProgram),
		cel.DefaultUTCTimeZone(true),
		cel.CrossTypeNumericComparisons(true),
		cel.ASTValidators(
			cel.ValidateRegexLiterals(),
			cel.ValidateRegexProgramSizeLimit(maxRegexProgram),
			cel.ValidateDurationLiterals(),
			cel.ValidateTimestampLiterals(),
			cel.ValidateComprehensionNestingLimit(maxNesting),
		),
	)
	if err != nil {
		return nil, []string{fmt.Sprintf("namespaces: CEL cannot be set up: %v", err)}
	}
	c.base = base
	p := &Policy{namespaces: make(map[string][]rule, len(namespaces))}
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
	env, err := c.environment(pattern)
	if err != nil {
		c.problem(of, i, "channel", "%v", err)
		return rule{}, false
	}
	name := fmt.Sprintf("%s[%d]", of, i)
	compiled := rule{pattern: pattern, actions: map[Action]expression{}}
	for _, a := range []struct {
		action Action
		source string
	}{{Subscribe, r.Subscribe}, {Publish, r.Publish}, {Presence, r.Presence}} {
		if a.action == Presence && strings.TrimSpace(a.source) == "" {
			compiled.actions[Presence] = compiled.actions[Subscribe]
			continue
		}
		e, err := compile(env, a.source)
		if err != nil {
			c.problem(of, i, string(a.action), "%v", err)
			continue
		}
		e.rule = name + "." + string(a.action)
		compiled.actions[a.action] = e
	}
	return compiled, true
}

// environment is what the expressions of a rule with this pattern see.
func (c *compiler) environment(pattern channel.Pattern) (*cel.Env, error) {
	var options []cel.EnvOption
	for _, name := range pattern.Variables() {
		if name == userVariable || name == claimsVariable {
			return nil, fmt.Errorf("the variable cannot be named %q, which every rule has already", name)
		}
		if parsed, issues := c.base.Parse(name); issues.Err() != nil || parsed.NativeRep().Expr().Kind() != ast.IdentKind {
			return nil, fmt.Errorf("the variable cannot be named %q, a reserved word of CEL", name)
		}
		options = append(options, cel.Variable(name, cel.StringType))
	}
	env, err := c.base.Extend(options...)
	if err != nil {
		return nil, fmt.Errorf("CEL does not take the variables of the pattern: %w", err)
	}
	return env, nil
}

// compile compiles one expression; an empty one allows nobody.
func compile(env *cel.Env, source string) (expression, error) {
	if strings.TrimSpace(source) == "" {
		return expression{}, nil
	}
	if n := utf8.RuneCountInString(source); n > maxLength {
		return expression{}, fmt.Errorf("has %d characters, more than %d", n, maxLength)
	}
	checked, issues := env.Compile(source)
	if issues.Err() != nil {
		return expression{}, oneLine(issues)
	}
	if out := checked.OutputType(); !out.IsExactType(cel.BoolType) {
		if out.IsExactType(cel.DynType) {
			return expression{}, errors.New("the result's type is only known when evaluated; it must be bool: compare it, as in claims.admin == true")
		}
		return expression{}, fmt.Errorf("the result is %s, not bool", out)
	}
	root := checked.NativeRep().Expr()
	if value, ok := constant(root); ok {
		return expression{value: value}, nil
	}
	program, err := env.Program(checked, cel.EvalOptions(cel.OptOptimize), cel.CostLimit(maxCost))
	if err != nil {
		return expression{}, err
	}
	return expression{program: program, keys: keys(root)}, nil
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
