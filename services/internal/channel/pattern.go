package channel

import (
	"fmt"
	"regexp"
	"strings"
)

// Pattern matches names: "chat.{room}" one token, "invoices.{rest...}" all the
// remaining ones, at least one. The zero Pattern matches nothing. It is immutable.
type Pattern struct {
	text   string
	tokens []token
}

type token struct {
	literal string // exact text, where variable is empty
	name    string // the variable's name
	rest    bool   // takes all the remaining tokens
}

var variableName = regexp.MustCompile(`^[a-z][a-z0-9_]{0,31}$`)

// ParsePattern reads a pattern. The first token is literal: the namespace; or the
// whole pattern is "{rest...}" under any name, which matches every channel.
func ParsePattern(s string) (Pattern, error) {
	p := Pattern{text: s}
	seen := map[string]bool{}
	texts := strings.Split(tokenDots(s), "\x00")
	for i, text := range texts {
		t, err := parseToken(text)
		if err != nil {
			return Pattern{}, fmt.Errorf("pattern %q: %w", s, err)
		}
		switch {
		case t.rest && i != len(texts)-1:
			return Pattern{}, fmt.Errorf("pattern %q: {%s...} must be the last token", s, t.name)
		case i == 0 && t.name != "" && !t.rest:
			return Pattern{}, fmt.Errorf("pattern %q: the first token is the namespace and cannot be a variable", s)
		case t.name != "" && seen[t.name]:
			return Pattern{}, fmt.Errorf("pattern %q: variable %q stands twice", s, t.name)
		}
		seen[t.name] = t.name != ""
		p.tokens = append(p.tokens, t)
	}
	if n := len(p.tokens); n > MaxTokens || (n < MinTokens && !p.tokens[n-1].rest) {
		return Pattern{}, fmt.Errorf("pattern %q: has %d tokens; it needs %d to %d", s, n, MinTokens, MaxTokens)
	}
	return p, nil
}

// tokenDots replaces the dots that separate tokens, so that "{rest...}" stays whole.
func tokenDots(s string) string {
	s = strings.ReplaceAll(s, "...}", "\x01")
	s = strings.ReplaceAll(s, ".", "\x00")
	return strings.ReplaceAll(s, "\x01", "...}")
}

func parseToken(text string) (token, error) {
	if !strings.HasPrefix(text, "{") {
		if err := checkToken(text); err != nil || strings.ContainsAny(text, "{}") {
			return token{}, fmt.Errorf("%q is neither a token of a channel name nor {variable}", text)
		}
		return token{literal: text}, nil
	}
	inner, closed := strings.CutSuffix(text[1:], "}")
	name, rest := strings.CutSuffix(inner, "...")
	if !closed || !variableName.MatchString(name) {
		return token{}, fmt.Errorf("%q is not {variable}: lower-case letters, digits and _, at most 32", text)
	}
	return token{name: name, rest: rest}, nil
}

// String is the pattern as written.
func (p Pattern) String() string { return p.text }

// Namespace is the literal first token; empty if the pattern matches every namespace.
func (p Pattern) Namespace() string {
	if len(p.tokens) == 0 {
		return ""
	}
	return p.tokens[0].literal
}

// Variables lists the variables' names in order.
func (p Pattern) Variables() []string {
	var names []string
	for _, t := range p.tokens {
		if t.name != "" {
			names = append(names, t.name)
		}
	}
	return names
}

// Match tells whether the pattern matches a name and, if so, what each variable
// stands for: one token, or the remaining ones joined by ".". In an inbox it is
// the user id, decoded.
func (p Pattern) Match(n Name) (map[string]string, bool) {
	if !p.Matches(n) {
		return nil, false
	}
	values := map[string]string{}
	rest := string(n)
	for _, t := range p.tokens {
		if t.rest {
			values[t.name] = rest
			break
		}
		text, remaining, _ := strings.Cut(rest, ".")
		if t.name != "" {
			values[t.name] = text
		}
		rest = remaining
	}
	return p.decoded(n, values), true
}

// Matches tells whether the pattern matches a name.
func (p Pattern) Matches(n Name) bool {
	rest := string(n)
	for i, t := range p.tokens {
		if t.rest {
			return true
		}
		text, remaining, more := strings.Cut(rest, ".")
		if more == (i == len(p.tokens)-1) || t.name == "" && t.literal != text {
			return false
		}
		rest = remaining
	}
	return len(p.tokens) > 0
}

// Covers tells whether every name that another pattern matches is matched by this one
// too. It does not look at what only several patterns together cover.
func (p Pattern) Covers(other Pattern) bool {
	for i, t := range p.tokens {
		switch {
		case i >= len(other.tokens):
			return false
		case t.rest:
			return true
		case other.tokens[i].rest:
			return false
		case t.name == "" && t.literal != other.tokens[i].literal:
			return false
		}
	}
	return len(p.tokens) > 0 && len(p.tokens) == len(other.tokens)
}

// decoded replaces the one token of an inbox by the user id that it stands for.
func (p Pattern) decoded(n Name, values map[string]string) map[string]string {
	if len(p.tokens) < MinTokens {
		return values
	}
	if owner, ok := n.InboxOwner(); ok {
		for name := range values {
			values[name] = string(owner)
		}
	}
	return values
}
