package policy

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
)

// Explanation is a Decision with what led to it. It shows the values of claims, so it
// is for whoever may see them.
type Explanation struct {
	Decision
	// Namespace and Index name the rule that decided; Index is -1 if none matched.
	Namespace string
	Index     int
	// Pattern is the rule's channel.
	Pattern string
	// Key says where in the rule the expression stands: that of subscribe also
	// answers for presence and history where they have none.
	Key Action
	// Expression is as written; empty if the rule has none for the action.
	Expression string
	// Operands are those of the && or || that the expression is made of, or else the
	// expression itself, each evaluated whatever the others are. None of a constant.
	Operands []Value
	// Names are the variables and claims that the expression mentions, in order.
	Names []Value
}

// Value is what a part of an expression comes to: JSON, or why there is none.
type Value struct{ Text, Value string }

// maxValue bounds the text of a value, in bytes.
const maxValue = 200

// Explain decides as Decide does and tells why.
func (p *Policy) Explain(q Question) Explanation {
	e, a, refused := p.find(q)
	if e == nil {
		return Explanation{Decision: refused, Namespace: q.Channel.Namespace(), Index: -1}
	}
	explained := Explanation{
		Decision: e.decide(a), Namespace: e.namespace, Index: e.index, Key: e.action, Expression: strings.TrimSpace(e.source),
		Pattern: e.pattern.String(),
	}
	if e.program == nil {
		return explained
	}
	explained.Operands = e.operands(a)
	for _, path := range e.paths(a) {
		explained.Names = append(explained.Names, Value{strings.Join(path, "."), a.at(path)})
	}
	return explained
}

// operands evaluates the parts of an expression one by one.
func (e *expression) operands(a activation) []Value {
	native := e.checked.NativeRep()
	root := native.Expr()
	var state interface {
		Value(id int64) (ref.Val, bool)
	}
	program, err := e.env.Program(e.checked, cel.EvalOptions(cel.OptExhaustiveEval), cel.CostLimit(maxCost))
	if err == nil {
		if _, details, _ := program.Eval(a); details != nil { // what fails shows in the state
			state = details.State()
		}
	}
	var values []Value
	for _, operand := range conjuncts(root) {
		text, err := cel.ExprToString(operand, native.SourceInfo())
		if err != nil { // an expression that CEL parsed but cannot write
			continue
		}
		value := "not evaluated"
		if state != nil {
			if got, ok := state.Value(operand.ID()); ok {
				value = valueText(got)
			}
		}
		if literal, ok := constant(operand); ok {
			value = strconv.FormatBool(literal)
		}
		values = append(values, Value{text, value})
	}
	return values
}

// conjuncts are the operands of the logic that an expression is at its top, however
// many of the same && or || there are; or the expression.
func conjuncts(root ast.Expr) []ast.Expr {
	if root.Kind() != ast.CallKind {
		return []ast.Expr{root}
	}
	function := root.AsCall().FunctionName()
	if function != operators.LogicalAnd && function != operators.LogicalOr {
		return []ast.Expr{root}
	}
	var all []ast.Expr
	var flatten func(e ast.Expr)
	flatten = func(e ast.Expr) {
		if e.Kind() != ast.CallKind || e.AsCall().FunctionName() != function {
			all = append(all, e)
			return
		}
		for _, operand := range e.AsCall().Args() {
			flatten(operand)
		}
	}
	flatten(root)
	return all
}

// valueText is a value of CEL as a person reads it.
func valueText(v ref.Val) string {
	switch v := v.(type) {
	case *types.Err:
		return "cannot be evaluated: " + shortened(v.Error())
	case types.Bool:
		return strconv.FormatBool(bool(v))
	default:
		return "not evaluated"
	}
}

// paths are the names that an expression mentions, each with the fields selected of
// it, in the order in which they stand there, without the variables of its own
// macros.
func (e *expression) paths(a activation) [][]string {
	var paths [][]string
	seen := map[string]bool{}
	add := func(path []string) {
		if _, known := a.ResolveName(path[0]); known && !seen[strings.Join(path, ".")] {
			seen[strings.Join(path, ".")] = true
			paths = append(paths, path)
		}
	}
	inner := map[int64]bool{} // part of a longer path
	ast.PreOrderVisit(e.checked.NativeRep().Expr(), ast.NewExprVisitor(func(x ast.Expr) {
		if inner[x.ID()] {
			return
		}
		var fields []string
		for x.Kind() == ast.SelectKind {
			fields = append(fields, x.AsSelect().FieldName())
			x = x.AsSelect().Operand()
			inner[x.ID()] = true
		}
		if x.Kind() == ast.IdentKind {
			fields = append(fields, x.AsIdent())
			slices.Reverse(fields)
			add(fields)
		}
	}))
	return paths
}

// at is the JSON of what stands at a path.
func (a activation) at(path []string) string {
	value, _ := a.ResolveName(path[0])
	for _, field := range path[1:] {
		object, _ := value.(map[string]any) // of anything else there are no fields
		inner, ok := object[field]
		if !ok {
			return "not there"
		}
		value = inner
	}
	text, err := json.Marshal(value)
	if err != nil {
		return "not JSON"
	}
	return shortened(string(text))
}

func shortened(text string) string {
	if len(text) <= maxValue {
		return text
	}
	cut := maxValue
	for !utf8.RuneStart(text[cut]) {
		cut--
	}
	return text[:cut] + "…"
}
