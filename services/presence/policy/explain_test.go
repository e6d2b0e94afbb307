package policy

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/namespace"
)

// A rule may ask for the type of a message, the classic being one that only some may
// send; then, and only then, an answer is of one type.
func TestMessageTypesHaveRules(t *testing.T) {
	t.Parallel()
	p := compiled(t, chat(
		namespace.Rule{Channel: "chat.plain", Publish: "true"},
		namespace.Rule{Channel: "chat.{room}", Subscribe: "true", Publish: `message_type != "adminAction" || claims.admin == true`},
	))
	for _, c := range []struct {
		claims          map[string]any
		name            channel.Name
		action          Action
		messageType     string
		allowed, matter bool
	}{
		{nil, "chat.plain", Publish, "adminAction", true, false},
		{nil, "chat.lobby", Publish, "adminAction", false, true},
		{map[string]any{"admin": true}, "chat.lobby", Publish, "adminAction", true, true},
		{map[string]any{"admin": "true"}, "chat.lobby", Publish, "adminAction", false, true},
		{nil, "chat.lobby", Publish, "say", true, true},
		{nil, "chat.lobby", Publish, "", true, true},
		{nil, "chat.lobby", Subscribe, "adminAction", true, false},
	} {
		d := p.Decide(Question{User: "ann", Claims: c.claims, Action: c.action, Channel: c.name, MessageType: c.messageType})
		if d.Allowed != c.allowed || d.MessageTypeMatters != c.matter {
			t.Errorf("%+v: %+v", c, d)
		}
	}
}

func TestOnlyPublishKnowsTheMessageType(t *testing.T) {
	t.Parallel()
	_, problems := Compile(chat(
		namespace.Rule{Channel: "chat.a", Subscribe: `message_type == ""`, Presence: `message_type == ""`, History: `message_type == ""`, Publish: `message_type == ""`},
		namespace.Rule{Channel: "chat.{message_type}"},
	))
	want := []string{"rules[0].subscribe: 1:1: undeclared", "rules[0].presence: 1:1: undeclared", "rules[0].history: 1:1: undeclared", "rules[1].channel: the variable cannot be named \"message_type\""}
	if len(problems) != len(want) {
		t.Fatalf("%q", problems)
	}
	for i := range want {
		if !strings.HasPrefix(problems[i], "namespaces[chat]."+want[i]) {
			t.Errorf("%q, want %s", problems[i], want[i])
		}
	}
}

func TestHistoryIsItsOwnOrAsSubscribe(t *testing.T) {
	t.Parallel()
	p := compiled(t, chat(
		namespace.Rule{Channel: "chat.{room}", Subscribe: "true", History: `"reader" in claims.roles`},
		namespace.Rule{Channel: "chat.{a}.{b}", Subscribe: "a == user", History: " "},
	))
	for question, want := range map[string]string{
		"chat.x reader":  "true chat[0].history",
		"chat.x writer":  "false chat[0].history",
		"chat.ann.x any": "true chat[1].subscribe",
		"chat.bob.x any": "false chat[1].subscribe",
	} {
		name, role, _ := strings.Cut(question, " ")
		d := p.Decide(Question{User: "ann", Claims: map[string]any{"roles": []any{role}}, Action: History, Channel: channel.Name(name)})
		if got := fmt.Sprint(d.Allowed, " ", d.Rule); got != want {
			t.Errorf("%s: %s, want %s", question, got, want)
		}
	}
}

// Every text of every rule counts, and nothing else does.
func TestVersionIsThatOfTheRules(t *testing.T) {
	t.Parallel()
	other := namespace.Namespace{Name: "zoo"}
	base := namespace.Rule{Channel: "chat.a", Subscribe: "true", Publish: "true", Presence: "true", History: "true"}
	version := func(namespaces ...namespace.Namespace) string { return compiled(t, namespaces).Version() }
	of := func(r ...namespace.Rule) string { return version(chat(r...)[0], other) }
	same := version(other, namespace.Namespace{Name: "chat", Presence: true, Rules: []namespace.Rule{base}})
	if got := of(base); got != same || len(got) != 32 {
		t.Errorf("equal rules have the versions %s and %s", got, same)
	}
	versions := []string{same}
	for _, change := range []func(*namespace.Rule){
		func(r *namespace.Rule) { r.Channel = "chat.b" },
		func(r *namespace.Rule) { r.Subscribe = "false" },
		func(r *namespace.Rule) { r.Publish = "false" },
		func(r *namespace.Rule) { r.Presence = "false" },
		func(r *namespace.Rule) { r.History = "false" },
		func(r *namespace.Rule) { r.Presence, r.History = "", "true" },
		func(r *namespace.Rule) { r.Presence, r.History = "true", "" },
	} {
		changed := base
		change(&changed)
		versions = append(versions, of(changed))
	}
	reordered := namespace.Rule{Channel: "chat.{x}"}
	versions = append(versions, of(base, reordered), of(reordered, base), of(), version(chat(base)[0]))
	slices.Sort(versions)
	if len(slices.Compact(versions)) != len(versions) {
		t.Errorf("different rules have one version: %q", versions)
	}
}

func TestExplainShowsWhatDecided(t *testing.T) {
	t.Parallel()
	p := compiled(t, chat(
		namespace.Rule{Channel: "chat.open", Subscribe: "true"},
		namespace.Rule{
			Channel:   "chat.{room}",
			Subscribe: `room in claims.rooms && has(claims.ghost) && claims.ghost.name == user && claims.rooms.exists(r, r == room)`,
			Publish:   `message_type == "say" || claims.admin == true`,
			Presence:  `claims.org.name == "acme"`,
			History:   `claims.big.all(x, claims.big.all(y, claims.big.all(z, z == x && y == x))) || user == "bob"`,
		},
	))
	big := make([]any, 2000)
	for i := range big {
		big[i] = "x"
	}
	for _, c := range []struct {
		action Action
		name   channel.Name
		want   string
	}{
		{Subscribe, "chat.open", `true chat[0] chat.open subscribe "true" [] []`},
		{Presence, "chat.open", `true chat[0] chat.open subscribe "true" [] []`},
		{Publish, "chat.open", `false chat[0] chat.open publish "" [] []`},
		{Subscribe, "chat.a.b", `false chat[-1]   "" [] []`},
		{
			Subscribe, "chat.lobby",
			`false chat[1] chat.{room} subscribe "room in claims.rooms && has(claims.ghost) && claims.ghost.name == user && claims.rooms.exists(r, r == room)"` +
				` [{room in claims.rooms true} {has(claims.ghost) false} {claims.ghost.name == user cannot be evaluated: no such key: ghost} {claims.rooms.exists(r, r == room) true}]` +
				` [{room "lobby"} {claims.rooms ["lobby","attic"]} {claims.ghost not there} {claims.ghost.name not there} {user "ann"}]`,
		},
		{
			Publish, "chat.lobby", `true chat[1] chat.{room} publish "message_type == \"say\" || claims.admin == true"` +
				` [{message_type == "say" false} {claims.admin == true true}] [{message_type "shout"} {claims.admin true}]`,
		},
		{
			Presence, "chat.lobby", `true chat[1] chat.{room} presence "claims.org.name == \"acme\"" [{claims.org.name == "acme" true}] [{claims.org.name "acme"}]`,
		},
	} {
		e := p.Explain(Question{User: "ann", Claims: claims(), Action: c.action, Channel: c.name, MessageType: "shout"})
		got := fmt.Sprintf("%t %s[%d] %s %s %q %v %v", e.Allowed, e.Namespace, e.Index, e.Pattern, e.Key, e.Expression, e.Operands, e.Names)
		if got != c.want {
			t.Errorf("%s %s:\n%s\nwant\n%s", c.action, c.name, got, c.want)
		}
	}
	given := claims()
	given["big"] = big
	e := p.Explain(Question{User: "ann", Claims: given, Action: History, Channel: "chat.lobby"})
	if e.Allowed || !strings.Contains(e.Message, "costs more") || len(e.Names) != 2 || len(e.Names[0].Value) > maxValue+3 {
		t.Errorf("%+v", e)
	}
}

// Explaining never decides otherwise than deciding, errors and logic included.
func TestExplainAgreesWithDecide(t *testing.T) {
	t.Parallel()
	for _, expression := range []string{
		"claims.ghost == 1 || true", "true || claims.ghost == 1", "claims.ghost == 1 && false", "claims.ghost == 1 && true",
		"false && claims.ghost == 1", `(user == "ann") == (room == "lobby")`, `!(user == "bob")`, `claims.none == null ? true : claims.ghost == 1`,
	} {
		p := compiled(t, chat(namespace.Rule{Channel: "chat.{room}", Subscribe: expression}))
		q := Question{User: "ann", Claims: claims(), Action: Subscribe, Channel: "chat.lobby"}
		if e := p.Explain(q); e.Decision != p.Decide(q) || len(e.Operands) == 0 {
			t.Errorf("%s: %+v, but %+v", expression, e, p.Decide(q))
		}
	}
}

func TestWarningsNameWhatIsMostLikelyNotMeant(t *testing.T) {
	t.Parallel()
	rules := func(r ...namespace.Rule) namespace.Namespace {
		return namespace.Namespace{Name: "chat", Presence: true, Rules: r}
	}
	for name, c := range map[string]struct {
		namespace namespace.Namespace
		anonymous bool
		want      string
	}{
		"nothing": {rules(
			namespace.Rule{Channel: "chat.staff", Subscribe: "false"},
			namespace.Rule{Channel: "chat.{room}", Subscribe: "room in claims.rooms", Publish: "true", Presence: "false", History: "claims.x == 1"},
			namespace.Rule{Channel: "chat.{rest...}", Subscribe: "true"},
		), false, ""},
		"no rules":     {rules(), false, "rules: there are none, so no user may do anything in this namespace; give it a rule for those who may"},
		"the inbox":    {namespace.Namespace{Name: "user"}, false, ""},
		"not compiled": {rules(namespace.Rule{Channel: "chat.x", Subscribe: "nope"}), false, ""},
		"covered": {rules(
			namespace.Rule{Channel: "chat.a.{x}", Subscribe: "true"},
			namespace.Rule{Channel: "chat.{room}", Subscribe: "true"},
			namespace.Rule{Channel: "chat.staff"},
		), false, "rules[2].channel: is never reached: rules[1] (chat.{room}) decides for all these channels; put this rule before it"},
		"empty":                    {rules(namespace.Rule{Channel: "chat.x", Publish: " "}), false, `rules[0]: allows nobody anything; give it subscribe or publish, or write subscribe: "false" if that is meant`},
		"always false":             {rules(namespace.Rule{Channel: "chat.x", Subscribe: `claims.x == 1 && 1 > 2`}), false, "rules[0].subscribe: is false whoever asks, so it allows nobody; correct it, or write false if that is meant"},
		"anonymous":                {rules(namespace.Rule{Channel: "chat.x", Publish: "true"}), true, "rules[0].publish: is true for clients without a token too (auth.anonymous); write !has(claims.anonymous) to keep them out"},
		"anonymous, after all":     {rules(namespace.Rule{Channel: "chat.x", Publish: `claims.x == 1 || "a" != "b"`}), true, "rules[0].publish: is true for clients without a token too (auth.anonymous); write !has(claims.anonymous) to keep them out"},
		"anonymous, kept out":      {rules(namespace.Rule{Channel: "chat.x", Subscribe: "true", Publish: "!has(claims.anonymous)"}), true, ""},
		"presence without members": {namespace.Namespace{Name: "chat", Rules: []namespace.Rule{{Channel: "chat.x", Subscribe: "true", Presence: "true"}}}, false, "rules[0].presence: has no effect, since the namespace has no presence; set presence: true, or drop it"},
		"history of nothing":       {namespace.Namespace{Name: "chat", Ephemeral: true, Rules: []namespace.Rule{{Channel: "chat.x", Subscribe: "true", History: "false"}}}, false, "rules[0].history: has no effect, since the namespace is ephemeral; drop it"},
	} {
		if got := strings.Join(Warnings(c.namespace, c.anonymous), "\n"); got != c.want {
			t.Errorf("%s:\n%s\nwant\n%s", name, got, c.want)
		}
	}
}
