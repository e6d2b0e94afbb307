package control

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/carillon-rt/carillon/services/internal/channel"
)

// FuzzDecodeEntry: whatever stands in the log, what is taken from it is a command that
// its kind makes sense of, answers to a name that can be a topic, and is written as it
// was read.
func FuzzDecodeEntry(f *testing.F) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, c := range []Command{
		{Kind: DisconnectUser, User: "ann", Message: "bye", By: "billing", At: at, ExpiresAt: at},
		{Kind: DisconnectConnection, Connection: "C"},
		{Kind: SubscribeUser, User: "ann", Channel: "chat.lobby"},
		{Kind: UnsubscribeUser, User: "ann", Channel: "chat.lobby", Connection: "C"},
		{Kind: RevokeTokens, User: "ann", IssuedBefore: at, ExpiresAt: at.Add(time.Hour)},
		{Kind: RevokeTokens, User: "ann", TokenID: "t"},
		{Kind: "explode", User: "ann"},
		{Kind: SubscribeUser, User: "ann", Channel: "chat.>"},
	} {
		f.Add(encode(entry{From: "D", Number: 7, Command: c}))
	}
	f.Add([]byte(`{"from":"a.b","command":{"kind":"disconnect_user","user":"ann"}}`))
	f.Add([]byte(`{"command":{"kind":"disconnect_user","user":"ann","later":[1]},"version":2}`))
	f.Add([]byte(`{"command":{"kind":"revoke_tokens","user":"a","issuedBefore":"+292277026596-12-04T15:30:07Z"}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		e, err := decodeEntry(text)
		if err != nil {
			if len(err.Error()) > 4096+len(text) {
				t.Errorf("an error of %d bytes", len(err.Error()))
			}
			return
		}
		if e.From != "" && strings.ContainsAny(e.From, ".*> \r\n") {
			t.Fatalf("would answer to %q", e.From)
		}
		again, err := decodeEntry(encode(e))
		if err != nil {
			t.Fatalf("%+v cannot be read again: %v", e, err)
		}
		if !bytes.Equal(encode(e), encode(again)) {
			t.Errorf("%+v became %+v", e, again)
		}
	})
}

func TestCommandsThatMakeNoSense(t *testing.T) {
	t.Parallel()
	for what, c := range map[string]Command{
		"no kind":                      {User: "ann"},
		"nobody":                       {Kind: DisconnectUser},
		"a user with a line":           {Kind: DisconnectUser, User: "a\nb"},
		"no connection":                {Kind: DisconnectConnection, User: "ann"},
		"no channel":                   {Kind: SubscribeUser, User: "ann"},
		"a wildcard":                   {Kind: UnsubscribeUser, User: "ann", Channel: "chat.*"},
		"all tokens and one":           {Kind: RevokeTokens, User: "ann", TokenID: "t", IssuedBefore: time.Now()},
		"neither all tokens nor one":   {Kind: RevokeTokens, User: "ann"},
		"revocation without its owner": {Kind: RevokeTokens, TokenID: "t"},
	} {
		if err := c.check(); err == nil {
			t.Errorf("%s: accepted", what)
		} else if errors.Is(err, errUnknownKind) != (what == "no kind") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestAReplyFitsIntoAMessage(t *testing.T) {
	t.Parallel()
	many := make([]Connection, maxListed)
	for i := range many {
		many[i] = Connection{ID: strings.Repeat("i", 26), User: "ann", ClientName: strings.Repeat("\x01", 512), ConnectedAt: time.Now()}
	}
	log := &told{}
	a := NewAgent(AgentOptions{Log: log, EdgeID: "E", Edge: lister{many}})
	close(a.caughtUp)
	a.list(encode(listing{From: "D", Number: 1, Limit: 5000}))
	if len(log.texts) != 1 || log.topics[0] != "to.D" || len(log.texts[0]) > maxReplyBytes {
		t.Fatalf("told %q, %d bytes", log.topics, len(log.texts[0]))
	}
	if n := strings.Count(log.texts[0], `"id"`); n < 100 || !strings.Contains(log.texts[0], `"count":1000`) {
		t.Errorf("%d connections in a reply of %d bytes", n, len(log.texts[0]))
	}
	for _, bad := range []string{"", "{", `{"from":"a.b","number":1}`, `{"number":1}`} {
		a.list([]byte(bad))
	}
	if len(log.texts) != 1 {
		t.Errorf("nobody asked, and was told %q", log.topics)
	}
}

// A token may be good until the last second that JSON knows; where the clock on the wall
// is ahead of UTC that lies in another year.
func TestAListSaysWhenTheLastTokensExpire(t *testing.T) {
	t.Parallel()
	zone := time.FixedZone("east", 9*60*60)
	end := time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
	log := &told{}
	a := NewAgent(AgentOptions{Log: log, EdgeID: "E", Edge: lister{[]Connection{{ID: "C", User: "ann", ConnectedAt: end.In(zone), ExpiresAt: end.In(zone)}}}})
	close(a.caughtUp)
	a.list(encode(listing{From: "D", Number: 1, Limit: 1}))
	if len(log.texts) != 1 || strings.Count(log.texts[0], `"9999-12-31T23:59:59Z"`) != 2 {
		t.Errorf("told %q", log.texts)
	}
}

// An edge that is still catching up answers what was commanded just now: whoever did so
// hears of the edge a moment later and would miss its answer.
func TestAnEdgeThatCatchesUpAnswersWhatIsNew(t *testing.T) {
	t.Parallel()
	log := &told{}
	a := NewAgent(AgentOptions{Log: log, EdgeID: "E", Edge: lister{}})
	apply := func(e entry) {
		a.apply(t.Context(), 1, encode(e))
		a.answering.Wait()
	}
	for number, age := range []time.Duration{time.Hour, 0} {
		c := Command{Kind: DisconnectUser, User: "ann", At: time.Now().Add(-age)}
		apply(entry{From: "D", Number: uint64(number), Command: c})
	}
	close(a.caughtUp)
	apply(entry{From: "D", Number: 2, Command: Command{Kind: DisconnectUser, User: "ann"}})
	apply(entry{Number: 3, Command: Command{Kind: DisconnectUser, User: "ann"}})
	want := []string{`{"edge":"E","number":1,"count":0}`, `{"edge":"E","number":2,"count":0}`}
	if !slices.Equal(log.texts, want) {
		t.Errorf("told %q, want %q", log.texts, want)
	}
}

// Who keeps a connection busy delays the answers about it, and nothing else: not that
// another user is cut off.
func TestABusyConnectionDelaysOnlyTheAnswer(t *testing.T) {
	t.Parallel()
	log := &told{}
	edge := &busy{hold: make(chan struct{})}
	a := NewAgent(AgentOptions{Log: log, EdgeID: "E", Edge: edge})
	close(a.caughtUp)
	for number := range uint64(20) {
		a.apply(t.Context(), 1, encode(entry{From: "D", Number: number + 1, Command: Command{Kind: SubscribeUser, User: "ann", Channel: "chat.a"}}))
	}
	a.apply(t.Context(), 1, encode(entry{Command: Command{Kind: RevokeTokens, User: "bob", TokenID: "x"}}))
	if got := edge.applied[len(edge.applied)-1]; len(edge.applied) != 21 || got != RevokeTokens {
		t.Errorf("carried out %v", edge.applied)
	}
	close(edge.hold)
	a.answering.Wait()
	if edge.told.Load() != 20 {
		t.Errorf("%d were answered", edge.told.Load())
	}
}

// busy is an edge with a connection that cannot be told yet.
type busy struct {
	lister

	hold    chan struct{}
	applied []Kind
	told    atomic.Int32
}

func (b *busy) Apply(_ context.Context, c Command) (told func() int) {
	b.applied = append(b.applied, c.Kind)
	return func() int {
		<-b.hold
		b.told.Add(1)
		return 1
	}
}

type lister struct{ all []Connection }

func (lister) Apply(context.Context, Command) (told func() int) { return func() int { return 0 } }

func (l lister) Connections(_ channel.User, limit int) ([]Connection, int) {
	return l.all[:min(limit, len(l.all))], len(l.all)
}

// told is a log that remembers what was told.
type told struct {
	Log

	mu            sync.Mutex
	topics, texts []string
}

func (l *told) Tell(topic string, text []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.topics, l.texts = append(l.topics, topic), append(l.texts, string(text))
	return nil
}

// Who asks without time to wait is told what is so.
func TestAwaitWithoutTime(t *testing.T) {
	t.Parallel()
	ended, end := context.WithCancel(t.Context())
	end()
	a := NewAgent(AgentOptions{})
	if err := a.Await(ended); !errors.Is(err, errBehind) {
		t.Errorf("behind: %v", err)
	}
	close(a.caughtUp)
	for range 100 { // both are ready, and which select takes is chance
		if err := a.Await(ended); err != nil {
			t.Fatalf("caught up: %v", err)
		}
	}
}
