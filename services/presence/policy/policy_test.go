package policy

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/namespace"
)

func chat(rules ...namespace.Rule) []namespace.Namespace {
	return []namespace.Namespace{{Name: "chat", Rules: rules}}
}

func compiled(tb testing.TB, namespaces []namespace.Namespace) *Policy {
	tb.Helper()
	p, problems := Compile(namespaces)
	if len(problems) > 0 {
		tb.Fatalf("Compile: %q", problems)
	}
	return p
}

func claims() map[string]any {
	return map[string]any{
		"rooms": []any{"lobby", "attic"},
		"level": 3.0,
		"admin": true,
		"email": "secret@example.com",
		"org":   map[string]any{"name": "acme"},
		"none":  nil,
	}
}

func TestExpressionsSeeUserClaimsAndVariables(t *testing.T) {
	t.Parallel()
	for expression, want := range map[string]bool{
		`true`:                                   true,
		` false `:                                false,
		`(true)`:                                 true,
		``:                                       false,
		`room in claims.rooms`:                   true,
		`"cellar" in claims.rooms`:               false,
		`user == "ann"`:                          true,
		`claims.level >= 3`:                      true,
		`claims.level == 3`:                      true,
		`claims.admin == true`:                   true,
		`claims.org.name == "acme"`:              true,
		`claims.none == null`:                    true,
		`has(claims.ghost) && claims.ghost == 1`: false,
		`"ghost" in claims`:                      false,
		`claims.rooms.exists(r, r == room)`:      true,
		`user.matches("^a[a-z]+$")`:              true,
		`room.startsWith("lob") && user != "bob"`:      true,
		`claims.ghost == 1 || user == "ann"`:           true, // CEL: either side suffices
		`room == "lobby" ? user == "ann" : false`:      true,
		strings.Repeat(`room == "x" || `, 60) + `true`: true,
	} {
		p := compiled(t, chat(namespace.Rule{Channel: "chat.{room}", Subscribe: expression}))
		d := p.Decide(Question{User: "ann", Claims: claims(), Action: Subscribe, Channel: "chat.lobby"})
		if d.Allowed != want || d.Rule != "chat[0].subscribe" || d.CacheFor != CacheFor || (d.Message == "") != want {
			t.Errorf("%s: %+v, want allowed %t", expression, d, want)
		}
	}
}

func TestTheFirstMatchingRuleDecides(t *testing.T) {
	t.Parallel()
	p := compiled(t, []namespace.Namespace{
		{Name: "chat", Rules: []namespace.Rule{
			{Channel: "chat.staff", Subscribe: `claims.staff == true`, Presence: "false"},
			{Channel: "chat.{room}", Subscribe: "true", Publish: `room == user`},
			{Channel: "chat.{room}.{rest...}", Subscribe: `rest == "a.b"`},
		}},
		{Name: "user", Rules: []namespace.Rule{{Channel: "user.{id}", Subscribe: "id == user"}}},
		{Name: "void"},
	})
	for _, c := range []struct {
		user    channel.User
		action  Action
		name    channel.Name
		allowed bool
		rule    string
		message string
	}{
		{"ann", Subscribe, "chat.staff", false, "chat[0].subscribe", `the rule chat[0].subscribe wants "staff", which the token's claims do not have`},
		{"ann", Publish, "chat.staff", false, "chat[0].publish", "the rule chat[0].publish does not allow it"},
		{"ann", Presence, "chat.staff", false, "chat[0].presence", "the rule chat[0].presence does not allow it"},
		{"ann", Subscribe, "chat.x", true, "chat[1].subscribe", ""},
		{"ann", Presence, "chat.x", true, "chat[1].subscribe", ""},
		{"ann", Publish, "chat.x", false, "chat[1].publish", "the rule chat[1].publish does not allow it"},
		{"ann", Publish, "chat.ann", true, "chat[1].publish", ""},
		{"ann", Subscribe, "chat.x.a.b", true, "chat[2].subscribe", ""},
		{"ann", Subscribe, "chat.x.a", false, "chat[2].subscribe", "the rule chat[2].subscribe does not allow it"},
		{"ann", "purge", "chat.x", false, "", `there is no action "purge"`},
		{"ann", Subscribe, "void.x", false, "", `no rule of the namespace "void" matches the channel`},
		{"ann", Subscribe, "nope.x", false, "", `there is no namespace "nope"`},
		{"a.b@c é", Subscribe, channel.User("a.b@c é").Inbox(), true, "user[0].subscribe", ""},
		{"ann", Subscribe, channel.User("bob").Inbox(), false, "user[0].subscribe", "the rule user[0].subscribe does not allow it"},
	} {
		d := p.Decide(Question{User: c.user, Action: c.action, Channel: c.name})
		if want := (Decision{c.allowed, c.rule, c.message, CacheFor, false}); d != want {
			t.Errorf("%s may %s %s: got %+v, want %+v", c.user, c.action, c.name, d, want)
		}
	}
}

func TestARefusalTellsWhyWithoutTheClaims(t *testing.T) {
	t.Parallel()
	long := make([]any, 2000)
	for i := range long {
		long[i] = "x"
	}
	for expression, want := range map[string]string{
		`claims.ghost == 1`:                `wants "ghost", which the token's claims do not have`,
		`claims.org.ghost == 1`:            `wants "ghost", which the token's claims do not have`,
		`claims["gh" + "ost"] == 1`:        `wants something that the token's claims do not have`,
		`claims[claims.email] == 1`:        `wants something that the token's claims do not have`,
		`room in claims.level`:             `wants a value of another type than the token's claims have`,
		`claims.email + 1 == 2`:            `wants a value of another type than the token's claims have`,
		`int(claims.email) == 2`:           `cannot be evaluated with the token's claims`,
		`user.matches(claims.email + "(")`: `cannot be evaluated with the token's claims`,
		`claims.big.all(x, claims.big.all(y, claims.big.all(z, z == x && y == x)))`: `costs more than the limit of 20000 to evaluate`,
	} {
		p := compiled(t, chat(namespace.Rule{Channel: "chat.{room}", Subscribe: expression}))
		c := claims()
		c["big"] = long
		started := time.Now()
		d := p.Decide(Question{User: "ann", Claims: c, Action: Subscribe, Channel: "chat.lobby"})
		if d.Allowed || d.Message != "the rule chat[0].subscribe "+want || strings.Contains(d.Message, "secret") {
			t.Errorf("%s: %+v, want %s", expression, d, want)
		}
		if took := time.Since(started); took > 20*time.Second { // without the limit it would be hours
			t.Errorf("%s: took %v", expression, took)
		}
	}
}

func TestCompileNamesEveryProblem(t *testing.T) {
	t.Parallel()
	_, problems := Compile([]namespace.Namespace{
		{Name: "ok", Rules: []namespace.Rule{{Channel: "ok.{x}", Subscribe: "x == user"}}},
		{Name: "chat", Rules: []namespace.Rule{
			{Channel: "chat.{room}", Subscribe: "nope", Publish: "1 +", Presence: "user"},
			{Channel: "chat.{user}", Subscribe: "nope"},
			{Channel: "chat.{in}"},
			{Channel: "chat.{null}"},
			{Channel: "chat.{", Subscribe: "told by Namespace.Problems"},
			{Channel: "chat.x", Subscribe: "claims.admin", Publish: strings.Repeat("x", maxLength+1)},
			{Channel: "chat.y", Subscribe: `user.matches("(")`, Publish: "!" + strings.Repeat("(", 300) + "true" + strings.Repeat(")", 300)},
			{Channel: "chat.z", Subscribe: `user == 1`, Publish: `[1].all(a, [1].all(b, [1].all(c, [1].all(d, a == d))))`},
			{Channel: "chat.{int}.{type}", Subscribe: `int == "a" && type == "b"`},
		}},
	})
	want := []string{
		"namespaces[chat].rules[0].subscribe: 1:1: undeclared reference to 'nope' (in container '')",
		"namespaces[chat].rules[0].publish: 1:4: Syntax error: mismatched input '<EOF>'",
		"namespaces[chat].rules[0].presence: the result is string, not bool",
		`namespaces[chat].rules[1].channel: the variable cannot be named "user", which rules have already`,
		`namespaces[chat].rules[2].channel: the variable cannot be named "in", a reserved word of CEL`,
		`namespaces[chat].rules[3].channel: the variable cannot be named "null", a reserved word of CEL`,
		"namespaces[chat].rules[5].subscribe: the result's type is only known when evaluated; it must be bool: compare it, as in claims.admin == true",
		"namespaces[chat].rules[5].publish: has 4097 characters, more than 4096",
		"namespaces[chat].rules[6].subscribe: 1:14: invalid matches argument",
		"namespaces[chat].rules[6].publish: expression recursion limit exceeded: 100",
		"namespaces[chat].rules[7].subscribe: 1:6: found no matching overload for '_==_' applied to '(string, int)'",
		"namespaces[chat].rules[7].publish: 1:41: comprehension exceeds nesting limit",
	}
	for i := range max(len(want), len(problems)) {
		if i >= len(problems) || i >= len(want) || !strings.HasPrefix(problems[i], want[i]) || strings.Contains(problems[i], "\n") {
			t.Fatalf("problem %d:\n got %q\nwant %q", i, problems[min(i, len(problems)):], want[min(i, len(want)):])
		}
	}
}

func FuzzCompile(f *testing.F) {
	for _, seed := range []string{"true", "room in claims.rooms", "claims.a[0].b == user", `user.matches("a+")`, "1 +", "[1].all(x, x > 0)", "\x00", `duration("1s") < duration("x")`} {
		f.Add("chat.{room}", seed, "")
	}
	f.Add("chat.{rest...}", `message_type != "adminAction"`, "rest.size() < 9")
	f.Add("chat.{message_type}", "true", "message_type == user")
	f.Fuzz(func(t *testing.T, pattern, publish, history string) {
		rules := chat(namespace.Rule{Channel: pattern, Publish: publish, History: history})
		p, problems := Compile(rules)
		if (p == nil) != (len(problems) > 0) {
			t.Fatalf("policy %v with problems %q", p, problems)
		}
		for _, problem := range append(problems, Warnings(rules[0], true)...) {
			if _, rest, ok := strings.Cut(problem, "rules[0]"); !ok || strings.Contains(rest, "\n") {
				t.Fatalf("problem %q", problem)
			}
		}
	})
}

func FuzzDecide(f *testing.F) {
	f.Add("room in claims.rooms", "ann", "chat.lobby", "rooms", "lobby", "")
	f.Add("claims[user] == 1", "ann", "chat.lobby", "x", "y", "")
	f.Add(`user.matches(claims.re)`, "ann", "chat.a.b", "re", "(a*)*", "")
	f.Add(`claims.all(k, claims[k] == room)`, "ann", "chat.a", "k", "a", "")
	f.Add(`message_type == claims.kind || has(claims.x) && !(room in claims.list)`, "ann", "chat.a", "kind", "a", "a")
	f.Fuzz(func(t *testing.T, source, user, name, key, value, messageType string) {
		n, err := channel.Parse(name)
		if err != nil {
			return
		}
		question := Question{User: channel.User(user), Claims: map[string]any{key: value, "list": []any{value, 1.0, nil}}, Channel: n, MessageType: messageType}
		for action, rules := range map[Action][]namespace.Rule{
			Subscribe: {{Channel: "chat.{room}", Subscribe: source}, {Channel: "chat.{rest...}", Subscribe: source}},
			History:   {{Channel: "chat.{room}", History: source}},
			Publish:   {{Channel: "chat.{room}", Publish: source}},
		} {
			p, _ := Compile(chat(rules...))
			if p == nil {
				continue
			}
			question.Action = action
			d := p.Decide(question)
			if e := p.Explain(question); d != p.Decide(question) || d != e.Decision {
				t.Fatalf("two answers to one question, one of them %+v, explained as %+v", d, e)
			}
			if d.Allowed == (d.Message != "") || (d.Allowed && d.Rule == "") {
				t.Fatalf("%+v", d)
			}
			if question.MessageType = "another"; !d.MessageTypeMatters && d != p.Decide(question) {
				t.Fatalf("%+v, and of another type another", d)
			}
			question.MessageType = messageType
		}
	})
}

func BenchmarkDecide(b *testing.B) {
	rooms := make([]any, 10)
	for i := range rooms {
		rooms[i] = fmt.Sprint("room", i)
	}
	given := claims()
	given["rooms"] = rooms
	for _, expression := range []string{"true", "room in claims.rooms"} {
		b.Run(expression, func(b *testing.B) {
			p := compiled(b, chat(namespace.Rule{Channel: "chat.{room}", Subscribe: expression}))
			question := Question{User: "ann", Claims: given, Action: Subscribe, Channel: "chat.room9"}
			b.ReportAllocs()
			for b.Loop() {
				if !p.Decide(question).Allowed {
					b.Fatal("denied")
				}
			}
		})
	}
}

func BenchmarkDecideAtTheCostLimit(b *testing.B) {
	p := compiled(b, chat(namespace.Rule{Channel: "chat.{room}", Subscribe: `claims.big.all(x, claims.big.all(y, x == y))`}))
	big := make([]any, 2000)
	for i := range big {
		big[i] = "x"
	}
	for b.Loop() {
		p.Decide(Question{User: "ann", Claims: map[string]any{"big": big}, Action: Subscribe, Channel: "chat.room9"})
	}
}
