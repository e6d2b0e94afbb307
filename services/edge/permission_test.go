package edge_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/golang-jwt/jwt/v5"

	authzv1 "github.com/carillon-rt/carillon/gen/carillon/authz/v1"
	"github.com/carillon-rt/carillon/services/edge"
	"github.com/carillon-rt/carillon/services/internal/auth"
)

// presentOnly allows everything but the past.
func presentOnly(_ map[string]any, check *authzv1.PermissionCheck) *authzv1.Decision {
	return allowed(check.GetAction() != authzv1.Action_ACTION_HISTORY)
}

func TestHistoryPermissionGovernsSinceRewindAndHistory(t *testing.T) {
	t.Parallel()
	w, law := startLawful(t)
	at := w.publish(t, "chat.a", `1`)
	inbox := w.publish(t, "user.alice", `1`)
	others := w.publish(t, "user.bob", `1`)
	c := w.connect(t, "alice")
	if got := c.hear("message"); got["channel"] != "user.alice" {
		t.Fatal(got)
	}
	since := fmt.Sprintf(`"since":{"epoch":%q,"offset":0}`, at.Epoch)
	law.change(func() { law.rule = presentOnly })
	denied := func(id int, command, field string) {
		t.Helper()
		c.say(fmt.Sprintf(`{"id":%d,%s}`, id, command))
		c.want(fmt.Sprintf(`{"id":%d,"error":{"code":"PERMISSION_DENIED","reason":"POLICY_DENIED","message":"the rule chat[0] does not allow it","field":%q}}`, id, field))
	}
	denied(2, `"subscribe":{"channel":"chat.a",`+since+`}`, "since")
	denied(3, `"subscribe":{"channel":"chat.a","rewind":{"count":1}}`, "rewind")
	denied(4, `"subscribe":{"channel":"chat.a",`+since+`,"rewind":{"count":1}}`, "since")
	denied(5, `"history":{"channel":"chat.a"}`, "channel")
	law.questions()
	c.follow(6, "chat.a") // the present is allowed, and nothing of the past is asked
	if asked := law.questions(); len(asked) != 1 || asked[0].GetAction() != authzv1.Action_ACTION_SUBSCRIBE {
		t.Errorf("asked %v", asked)
	}
	c.follow(7, "user.bob") // whose inbox is not one's own, with nothing of its past
	c.quiet(8)
	c.say(`{"id":9,"unsubscribe":{"channel":"user.alice"}}`)
	c.hear("unsubscribed")
	if subscribed := c.subscribe(10, "user.alice", inbox.Epoch, 0); subscribed["recovered"] != true {
		t.Errorf("one's own inbox: %v", subscribed)
	}
	c.hear("message")
	c.say(`{"id":11,"history":{"channel":"user.alice"}}`)
	c.hear("history")
	denied(12, `"history":{"channel":"user.bob"}`, "channel")

	all := w.dial(t, nil)
	all.say(fmt.Sprintf(`{"id":1,"connect":{"token":%q,"subscriptions":[{"channel":"chat.a",%s},{"channel":"chat.b"},{"channel":"user.bob","since":{"epoch":%q,"offset":0}}]}}`, tokenWith(t, nil), since, others.Epoch))
	results, _ := all.hear("connected")["subscriptions"].([]any)
	if text := fmt.Sprint(results); strings.Count(text, "field:since") != 2 || strings.Count(text, "POLICY_DENIED") != 2 {
		t.Errorf("connected: %v", results)
	}
	law.change(func() {
		law.rule = func(_ map[string]any, check *authzv1.PermissionCheck) *authzv1.Decision {
			return allowed(check.GetAction() == authzv1.Action_ACTION_HISTORY)
		}
	})
	denied(13, `"subscribe":{"channel":"chat.c","rewind":{"count":1}}`, "channel") // the past alone is no good
	c.say(`{"id":14,"history":{"channel":"chat.c"}}`)
	c.hear("history")
}

// adminActions allows a type of message to admins only.
func adminActions(claims map[string]any, check *authzv1.PermissionCheck) *authzv1.Decision {
	d := allowed(check.GetMessageType() != "adminAction" || claims["role"] == "admin")
	d.MessageTypeMatters = strings.HasSuffix(check.GetChannel(), ".typed")
	return d
}

// The classic: some types of message are for some roles.
func TestRoleChecksByMessageType(t *testing.T) {
	t.Parallel()
	w, law := startLawful(t)
	law.change(func() { law.rule = adminActions })
	admin, user := w.enter(t, tokenWith(t, jwt.MapClaims{"role": "admin"})), w.enter(t, tokenWith(t, nil))
	say := func(c *client, id int, rest string) {
		c.say(fmt.Sprintf(`{"id":%d,"publish":{"channel":"chat.typed",%s}}`, id, rest))
	}
	for i, data := range []string{
		`{"type":"adminAction"}`, `{ "x":[{"type":"chat"}], "type" : "adminAction", "y":{"type":"chat"}}`,
		`{"type":"chat","type":"adminAction"}`, `{"\u0074ype":"\u0061dminAction"}`, `{"type":"chat","t\u0079pe":"adminAction"}`,
	} {
		say(user, 2+i, `"data":`+data)
		if refused := user.hear("error"); refused["reason"] != "POLICY_DENIED" || refused["field"] != "channel" {
			t.Errorf("%s: %v", data, refused)
		}
		say(admin, 2+i, `"data":`+data)
		admin.hear("published")
	}
	for i, rest := range []string{
		`"data":{"type":"chat"}`, `"data":{"type":"adminAction","type":"chat"}`, `"data":{"Type":"adminAction"}`, `"data":{"a":{"type":"adminAction"}}`,
		`"data":{"type":["adminAction"]}`, `"data":["type","adminAction"]`, `"data":"adminAction"`, `"data":{}`, `"data":null`,
		`"data":{"type":"adminAction\u0000"}`, `"dataBase64":"eyJ0eXBlIjoiYWRtaW5BY3Rpb24ifQ==","contentType":"application/json"`,
		`"data":{"type":"` + strings.Repeat("x", 128) + `"}`,
	} {
		say(user, 20+i, rest)
		user.hear("published")
	}
	say(user, 40, `"data":{"type":"`+strings.Repeat("x", 129)+`"}`)
	user.want(`{"id":40,"error":{"code":"INVALID_ARGUMENT","reason":"FIELD_INVALID","message":"data.type has 129 bytes, more than 128, and a rule asks for it","field":"data.type"}}`)

	law.questions()
	user.say(`{"id":41,"publish":{"channel":"chat.plain","data":{"type":"` + strings.Repeat("x", 500) + `"}}}`) // where nobody asks
	user.hear("published")
	if asked := law.questions(); len(asked) != 1 || asked[0].GetMessageType() != "" {
		t.Errorf("asked %v", asked)
	}
}

func claimed(o *edge.Options) {
	from := issuer()
	from.SubscriptionsClaim = "channels"
	verifier, err := auth.NewVerifier(auth.ForClients, []auth.Issuer{from}, loadSecret)
	if err != nil {
		panic(err)
	}
	o.Verifier = verifier
}

// What a token lists is subscribed to at connect, as far as the rules allow.
func TestSubscriptionsOfAToken(t *testing.T) {
	t.Parallel()
	w, law := startLawful(t, claimed)
	law.change(func() {
		law.rule = func(_ map[string]any, check *authzv1.PermissionCheck) *authzv1.Decision {
			return allowed(!strings.HasSuffix(check.GetChannel(), ".secret"))
		}
	})
	at := w.publish(t, "chat.a", `1`)
	w.publish(t, "chat.a", `2`)
	names := []string{"chat.b", "chat.secret", "nope.x", "a b", "user.alice", "chat.a", "chat.b", "chat.c", "chat.d"}
	c := w.dial(t, nil)
	c.say(fmt.Sprintf(`{"id":1,"connect":{"token":%q,"subscriptions":[{"channel":"chat.a","since":{"epoch":%q,"offset":%d}}]}}`,
		tokenWith(t, jwt.MapClaims{"channels": names}), at.Epoch, at.Offset))
	if results, _ := c.hear("connected")["subscriptions"].([]any); len(results) != 1 || !strings.Contains(fmt.Sprint(results), "recovered:true") {
		t.Errorf("what was asked for: %v", results)
	}
	heard := map[string]string{}
	for range 8 {
		text := c.next()
		name, _, _ := strings.Cut(text[strings.Index(text, `"channel":"`)+len(`"channel":"`):], `"`)
		heard[name] += text
	}
	for name, want := range map[string]string{
		"user.alice": `{"subscribed":`, "chat.b": `{"subscribed":`, "chat.c": `{"subscribed":`, "chat.a": `{"message":`,
		"chat.secret": `"PERMISSION_DENIED","reason":"POLICY_DENIED"`,
		"nope.x":      `"NOT_FOUND","reason":"NAMESPACE_UNKNOWN"`,
		"a b":         `"INVALID_ARGUMENT","reason":"CHANNEL_INVALID"`,
		"chat.d":      `"RESOURCE_EXHAUSTED","reason":"SUBSCRIPTION_LIMIT"`, // the fifth beside the inbox, of those that can be asked for
	} {
		if !strings.Contains(heard[name], want) || strings.Count(heard[name], `{"`) > 2 {
			t.Errorf("of %s heard %q, want %s", name, heard[name], want)
		}
	}
	w.publish(t, "chat.b", `3`)
	if got := c.hear("message"); got["channel"] != "chat.b" {
		t.Errorf("heard %v", got)
	}
	for _, bad := range []any{"chat.a", []any{1}, []any{nil}, map[string]any{"chat.a": true}, make([]string, 101)} {
		late := w.dial(t, nil)
		late.say(`{"id":1,"connect":{"token":"` + tokenWith(t, jwt.MapClaims{"channels": bad}) + `"}}`)
		if refused := late.hear("error"); refused["reason"] != "TOKEN_CLAIM_INVALID" {
			t.Errorf("%T: %v", bad, refused)
		}
	}
}

// An entry that fails takes the place of what the token lists too: its error is the only
// answer, and the client may subscribe.
func TestAnEntryThatFailsTakesThePlaceOfTheTokens(t *testing.T) {
	t.Parallel()
	w := start(t, claimed)
	c := w.dial(t, nil)
	c.say(fmt.Sprintf(`{"id":1,"connect":{"token":%q,"subscriptions":[{"channel":"chat.a","rewind":{"count":0}},{"channel":"nope.x"}]}}`,
		tokenWith(t, jwt.MapClaims{"channels": []string{"chat.a", "nope.x", "nope.y", "nope.y"}})))
	if results := fmt.Sprint(c.hear("connected")["subscriptions"]); strings.Count(results, "error:") != 2 {
		t.Errorf("connected: %v", results)
	}
	if inbox := c.hear("subscribed"); inbox["channel"] != "user.alice" {
		t.Errorf("subscribed: %v", inbox)
	}
	if ended := c.hear("unsubscribed"); ended["channel"] != "nope.y" {
		t.Errorf("unsubscribed: %v", ended)
	}
	c.follow(2, "chat.a")
}
