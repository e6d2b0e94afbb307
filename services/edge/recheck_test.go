package edge_test

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	authzv1 "github.com/carillon-rt/carillon/gen/carillon/authz/v1"
	"github.com/carillon-rt/carillon/services/edge"
	"github.com/carillon-rt/carillon/services/internal/control"
)

// nothingSecret allows everything but channels that end in ".b".
func nothingSecret(_ map[string]any, check *authzv1.PermissionCheck) *authzv1.Decision {
	return allowed(!strings.HasSuffix(check.GetChannel(), ".b"))
}

const endedByPolicy = `{"unsubscribed":{"channel":"chat.b","code":"PERMISSION_DENIED","reason":"POLICY_DENIED"}}`

// When the rules change, what they allow no more ends within a second, and nothing else.
func TestRecheckEndsWhatIsAllowedNoMore(t *testing.T) {
	t.Parallel()
	w, law := startLawful(t)
	c, bob := w.connect(t, "alice"), w.connect(t, "bob")
	c.follow(2, "chat.a")
	c.follow(3, "chat.b")
	bob.follow(2, "chat.b")
	carol := w.connect(t, "carol")
	w.apply(t, control.Command{Kind: control.SubscribeUser, User: "carol", Channel: "chat.b"})
	carol.hear("subscribed")
	law.change(func() { law.rule = nothingSecret })
	began := time.Now()
	w.edge.Recheck()
	c.want(endedByPolicy)
	bob.want(endedByPolicy)
	if took := time.Since(began); took > 5*time.Second { // where nothing else runs, milliseconds
		t.Errorf("took %v", took)
	}
	if members, _, _ := w.roster.Members(t.Context(), "chat.b", 10); len(members) != 1 || members[0].User != "carol" {
		t.Errorf("present: %v", members)
	}
	w.publish(t, "chat.b", `1`)
	w.publish(t, "chat.a", `2`)
	w.publish(t, "user.alice", `3`)
	heard := map[any]bool{c.hear("message")["channel"]: true, c.hear("message")["channel"]: true} // channels have no order
	if !heard["chat.a"] || !heard["user.alice"] {
		t.Errorf("heard messages of %v", heard)
	}
	bob.quiet(3)
	if got := carol.hear("message"); got["channel"] != "chat.b" { // a service has made it
		t.Errorf("heard %v", got)
	}
}

// A subscription that was allowed by the old rules, and is made after they have changed,
// ends too.
func TestRecheckFindsWhatIsOnItsWay(t *testing.T) {
	t.Parallel()
	w, law := startLawful(t)
	c := w.connect(t, "alice")
	late := w.dial(t, nil)
	hold := make(chan struct{})
	law.change(func() { law.hold = hold })
	c.say(`{"id":2,"subscribe":{"channel":"chat.b"}}`)
	late.say(`{"id":1,"connect":{"token":"` + token(t, "bob", time.Hour) + `","subscriptions":[{"channel":"chat.b"}]}}`)
	<-law.held
	<-law.held
	law.change(func() { law.rule, law.hold = nothingSecret, nil })
	w.edge.Recheck()
	close(hold)
	c.hear("subscribed")
	c.want(endedByPolicy)
	late.hear("connected")
	late.hear("subscribed") // the inbox
	late.want(endedByPolicy)
}

// While nobody can be asked, live subscriptions go on; once somebody can, they are
// checked without another change.
func TestRecheckTriesAgain(t *testing.T) {
	t.Parallel()
	w, law := startLawful(t)
	c, bob := w.connect(t, "alice"), w.connect(t, "bob")
	c.follow(2, "chat.b")
	bob.follow(2, "chat.b")
	law.change(func() { law.rule, law.away = nothingSecret, true })
	w.edge.Recheck()
	bob.refresh(3, token(t, "bob", time.Hour))
	w.publish(t, "chat.b", `1`)
	<-time.After(100 * time.Millisecond)
	w.publish(t, "chat.b", `2`)
	for _, connected := range []*client{c, bob} {
		connected.hear("message")
		connected.hear("message")
	}
	law.change(func() { law.away = false })
	c.want(endedByPolicy)
	bob.want(endedByPolicy)
}

// Many are checked in little time, those that are idle and those that are not.
func TestRecheckOfManySessions(t *testing.T) {
	t.Parallel()
	const sessions = 300
	w, law := startLawful(t)
	var clients []*client
	for i := range sessions {
		c := w.connect(t, fmt.Sprint("user-", i))
		c.follow(2, "chat.a")
		c.follow(3, "chat.b")
		clients = append(clients, c)
	}
	law.change(func() { law.rule = nothingSecret })
	began := time.Now()
	for range 5 { // of several in a row the last counts
		w.edge.Recheck()
	}
	for _, c := range clients {
		c.want(endedByPolicy)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("took %v", took)
	}
	for _, c := range clients {
		c.quiet(4)
	}
}

// BenchmarkRecheck is what a change of the rules costs for each session, with eight
// subscriptions, when the answers are remembered.
func BenchmarkRecheck(b *testing.B) {
	const sessions, subscriptions = 1000, 8
	w, law := startLawful(b, func(o *edge.Options) {
		o.Limits.MaxSubscriptions = subscriptions
		o.Logger = slog.New(slog.DiscardHandler)
	})
	law.change(func() {
		law.rule = func(map[string]any, *authzv1.PermissionCheck) *authzv1.Decision {
			return &authzv1.Decision{Allowed: true, CacheFor: durationpb.New(time.Hour)}
		}
	})
	for i := range sessions {
		c := w.connect(b, fmt.Sprint("user-", i))
		for j := range subscriptions {
			c.follow(2+j, fmt.Sprint("chat.", j))
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		w.edge.RecheckAll()
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/sessions, "µs/session")
}
