package e2e_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	clientv1 "github.com/carillon-rt/carillon/gen/carillon/client/v1"
)

func TestDev(t *testing.T) {
	t.Parallel()
	_, s := startDev(t, t.TempDir(), fast...)
	testSystem(t, s)
}

func TestRolesApart(t *testing.T) {
	t.Parallel()
	testSystem(t, startTwins(t))
}

// testSystem is the main job: what any Carillon does, however it is laid out.
func testSystem(t *testing.T, s *system) {
	for name, test := range map[string]func(*testing.T, *system){
		"browser":              testBrowser,
		"npm ws":               testNPMClient,
		"python3-websockets":   testPythonClient,
		"inbox":                testInbox,
		"both ways":            testBothWays,
		"deduplication":        testDeduplication,
		"members":              testMembers,
		"JSON over HTTP":       testHTTP,
		"ephemeral":            testEphemeral,
		"policy":               testPolicy,
		"control":              testControl,
		"health":               testHealth,
		"reflection":           testReflection,
		"a user is no service": testKindsApart,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, s)
		})
	}
}

// first and last are the same where there is one, and otherwise apart.
func first(all []string) string { return all[0] }
func last(all []string) string  { return all[len(all)-1] }

func testBrowser(t *testing.T, s *system) {
	installed(t, "/usr/bin/chromium", "make deps")
	p := start(t, command{
		name: "browser.mjs", program: node(t),
		arguments: []string{"js/browser.mjs", "--alice", first(s.pages), "--bob", last(s.pages)},
	})
	p.line(t, &p.stdout, "ready")
	s.say(t, last(s.publishers), "chat.lobby", "Hello from a service")
	if _, err := io.WriteString(p.stdin, "Hello from a service\n"); err != nil {
		t.Fatal(err)
	}
	if status := p.status(t); status != 0 {
		t.Errorf("exit status %d: %s", status, p.stderr.text())
	}
}

func node(t testing.TB) string {
	t.Helper()
	installed(t, "js/node_modules/ws/package.json", "make node_modules")
	return installed(t, "node", "make deps")
}

func testNPMClient(t *testing.T, s *system) {
	testForeignClient(t, s, "chat.npm", first(s.edges), last(s.publishers), node(t), "js/ws-client.mjs")
}

func testPythonClient(t *testing.T, s *system) {
	installed(t, "/usr/bin/python3", "make deps")
	testForeignClient(t, s, "chat.python", last(s.edges), first(s.publishers), "/usr/bin/python3", "py/ws_client.py")
}

// testForeignClient runs a client that shows its token in each of three ways, and
// publishes to it.
func testForeignClient(t *testing.T, s *system, channel, edge, publisher string, program, script string) {
	p := start(t, command{name: filepath.Base(script), program: program, arguments: []string{
		script, "--url", "ws://" + edge + "/v1/ws", "--token", s.token(t, "user", "zoë"), "--channel", channel, "--count=2",
	}})
	p.line(t, &p.stdout, "ready")
	wanted := make([]string, 2)
	for i := range wanted {
		published := s.say(t, publisher, channel, fmt.Sprint("Grüße ", i))
		wanted[i] = fmt.Sprintf(`{"text":"Grüße %d"} %s %s`, i, published.Offset, "service:"+s.caller)
	}
	if status := p.status(t); status != 0 {
		t.Fatalf("exit status %d: %s", status, p.stderr.text())
	}
	got := map[string][]string{}
	for line := range strings.Lines(strings.TrimPrefix(p.stdout.text(), "ready\n")) {
		var received struct {
			Via     string
			Message struct {
				Offset    json.Number
				Publisher string
				Data      struct{ Text string }
			}
		}
		decode(t, line, &received)
		m := received.Message
		got[received.Via] = append(got[received.Via], fmt.Sprintf(`{"text":%q} %s %s`, m.Data.Text, m.Offset, m.Publisher))
	}
	for _, via := range []string{"header", "subprotocol", "frame"} {
		if err := equal(got[via], wanted); err != nil {
			t.Errorf("token by %s: %v", via, err)
		}
	}
}

// Every connection of a user gets what is published to the user, and nobody else.
func testInbox(t *testing.T, s *system) {
	const user = "carol@example.com" // not a token of a channel as it stands
	carols := []client{s.connect(t, first(s.edges), user), s.connect(t, last(s.edges), user)}
	dave := s.connect(t, last(s.edges), "dave")
	s.publish(t, last(s.publishers), map[string]any{"user_id": user, "json": `{"for":"carol"}`})
	s.publish(t, first(s.publishers), map[string]any{"user_id": "dave", "json": `{"for":"dave"}`})
	for _, c := range carols {
		c.wantMessage(t, "user.carol@example%2Ecom", `{"for":"carol"}`)
	}
	dave.wantMessage(t, "user.dave", `{"for":"dave"}`)
}

// Two people on two edges write at once: both read all of it once, in one order,
// which keeps that of each writer.
func testBothWays(t *testing.T, s *system) {
	const (
		channel = "chat.both-ways"
		count   = 200
	)
	names := []string{"erin", "frank"}
	people := []client{s.connect(t, first(s.edges), names[0], channel), s.connect(t, last(s.edges), names[1], channel)}
	var writers, readers sync.WaitGroup
	read := make([][]*clientv1.MessagePush, len(people))
	for i, person := range people {
		readers.Go(func() {
			for len(read[i]) < 2*count+1 {
				read[i] = append(read[i], person.message(t, channel))
			}
		})
		writers.Go(func() {
			for n := range count {
				person.publish(t, channel, fmt.Sprintf(`["%s",%d]`, names[i], n), "")
			}
		})
	}
	writers.Wait()
	people[0].publish(t, channel, `"end"`, "")
	readers.Wait()

	for i := range people {
		if !slices.EqualFunc(read[i], read[0], func(a, b *clientv1.MessagePush) bool {
			return a.GetOffset() == b.GetOffset() && a.GetJson() == b.GetJson()
		}) {
			t.Errorf("%s and %s have read different things", names[i], names[0])
		}
		checkOrder(t, names, count, read[i])
	}
}

// checkOrder wants count messages of each writer, in their order, and then the end.
func checkOrder(t *testing.T, names []string, count int, read []*clientv1.MessagePush) {
	t.Helper()
	texts := map[string][]string{}
	var before uint64
	for _, m := range read {
		if m.GetOffset() <= before {
			t.Errorf("offset %d after %d", m.GetOffset(), before)
		}
		before = m.GetOffset()
		texts[m.GetPublisher()] = append(texts[m.GetPublisher()], m.GetJson())
	}
	for _, name := range names {
		var want []string
		for n := range count {
			want = append(want, fmt.Sprintf(`["%s",%d]`, name, n))
		}
		if name == names[0] {
			want = append(want, `"end"`)
		}
		if err := equal(texts[name], want); err != nil {
			t.Errorf("of %s came %v", name, err)
		}
	}
}

// A retry through another process changes nothing.
func testDeduplication(t *testing.T, s *system) {
	const channel = "chat.deduplication"
	reader := s.connect(t, first(s.edges), "grace", channel)
	request := map[string]any{"channel": channel, "json": `1`, "message_id": "order-1"}
	original := s.publish(t, first(s.publishers), request)
	again := s.publish(t, last(s.publishers), request)
	if original.Duplicate || !again.Duplicate || again.Offset != original.Offset || again.Epoch != original.Epoch {
		t.Errorf("first %+v, then %+v", original, again)
	}
	status, body := s.post(t, last(s.publishersHTTP), map[string]any{"channel": channel, "data": 2, "messageId": "order-1"})
	if status != http.StatusConflict || !strings.Contains(body, "MESSAGE_ID_REUSED") {
		t.Errorf("other content with the same id: %d %s", status, body)
	}

	heidi := s.connect(t, first(s.edges), "heidi")
	elsewhere := s.connect(t, last(s.edges), "heidi")
	own := heidi.publish(t, channel, `"heidi's"`, "order-1") // her ids are not the service's
	if retry := elsewhere.publish(t, channel, `"heidi's"`, "order-1"); own.GetDuplicate() || !retry.GetDuplicate() || retry.GetOffset() != own.GetOffset() {
		t.Errorf("first %v, then %v", own, retry)
	}
	heidi.publish(t, channel, `"end"`, "")
	for _, text := range []string{`1`, `"heidi's"`, `"end"`} {
		reader.wantMessage(t, channel, text)
	}
}

// Everybody knows who is there, whichever edge or replica they ask.
func testMembers(t *testing.T, s *system) {
	const channel = "chat.members"
	ivan := s.connect(t, first(s.edges), "ivan", channel)
	judy := s.connect(t, last(s.edges), "judy", channel)
	s.members(t, channel, "ivan", "judy")
	for _, c := range []client{ivan, judy} {
		eventually(t, "the members that a client sees", func() error {
			reply, err := c.Presence(t.Context(), channel)
			if err != nil {
				return err
			}
			var names []string
			for _, m := range reply.GetMembers() {
				names = append(names, m.GetUserId())
			}
			return equal(names, []string{"ivan", "judy"})
		})
	}
	if err := judy.Close(); err != nil {
		t.Error(err)
	}
	s.members(t, channel, "ivan")
	if err := ivan.Unsubscribe(t.Context(), channel); err != nil {
		t.Error(err)
	}
	s.members(t, channel)
}

func testHTTP(t *testing.T, s *system) {
	kim := s.connect(t, last(s.edges), "kim", "news.http")
	for _, c := range []struct {
		server  string
		request map[string]any
		channel string
		want    string
	}{
		{first(s.publishersHTTP), map[string]any{"channel": "news.http", "data": map[string]any{"n": 1}}, "news.http", `{"n":1}`},
		{last(s.publishersHTTP), map[string]any{"channel": "news.http", "data": []any{nil, 2.5, "</script>"}}, "news.http", `[null,2.5,"\u003c/script\u003e"]`},
		{last(s.publishersHTTP), map[string]any{"userId": "kim", "data": "you"}, "user.kim", `"you"`},
	} {
		status, body := s.post(t, c.server, c.request)
		var r receipt
		decode(t, body, &r)
		if status != http.StatusOK || r.Epoch == "" {
			t.Fatalf("%v: %d %s", c.request, status, body)
		}
		m := kim.message(t, c.channel)
		if m.GetJson() != c.want || fmt.Sprint(m.GetOffset()) != r.Offset.String() || m.GetPublisher() != "service:"+s.caller {
			t.Errorf("%v came as %v, stored at %s", c.request, m, r.Offset)
		}
	}
	status, body := s.post(t, first(s.publishersHTTP), map[string]any{"channel": "nowhere.at.all", "data": 1})
	if status != http.StatusNotFound || !strings.Contains(body, `"NAMESPACE_UNKNOWN"`) || !strings.Contains(body, `"NOT_FOUND"`) {
		t.Errorf("an unknown namespace: %d %s", status, body)
	}
}

func testEphemeral(t *testing.T, s *system) {
	const channel = "cursor.page"
	lee := s.connect(t, first(s.edges), "lee", channel)
	mia := s.connect(t, last(s.edges), "mia", channel)
	if reply := lee.publish(t, channel, `[3,4]`, ""); reply.GetOffset() != 0 || reply.GetEpoch() != "" {
		t.Errorf("an ephemeral message has a position: %v", reply)
	}
	for _, c := range []client{lee, mia} {
		if m := c.message(t, channel); m.GetJson() != `[3,4]` || m.GetOffset() != 0 || m.GetPublisher() != "lee" {
			t.Errorf("came as %v", m)
		}
	}
}

// What no rule allows is denied, by whichever replica decides.
func testPolicy(t *testing.T, s *system) {
	nina := s.connect(t, first(s.edges), "nina")
	for _, channel := range []string{"user.oscar", "user.peggy"} {
		if err := nina.subscribe(t, channel); !refusedAs(err, "PERMISSION_DENIED", "POLICY_DENIED") {
			t.Errorf("subscribe to %s: %v", channel, err)
		}
	}
	if _, err := nina.Publish(t.Context(), "news.today", `1`, ""); !refusedAs(err, "PERMISSION_DENIED", "POLICY_DENIED") {
		t.Errorf("publish: %v", err)
	}
	if err := nina.subscribe(t, "news.today"); err != nil {
		t.Error(err)
	}
}
