package e2e_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"syscall"
	"testing"

	carillon "github.com/carillon-rt/carillon/clients/go"
)

// What dev prints works as printed.
func TestGreetingOfDev(t *testing.T) {
	t.Parallel()
	p, s := startDev(t, t.TempDir())
	p.line(t, &p.stdout, "  curl ")
	greeting := p.stdout.text()
	find := func(pattern string) string {
		t.Helper()
		found := regexp.MustCompile(pattern).FindStringSubmatch(greeting)
		if found == nil {
			t.Fatalf("no %s in\n%s", pattern, greeting)
		}
		return found[1]
	}
	c, err := carillon.Dial(t.Context(), carillon.Options{
		URL: find(`(?m)(ws://\S+/v1/ws)`), Token: find(`(?m)^  (ey\S+)$`), Subscriptions: []string{"chat.lobby"},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() }) // the test has ended
	if user := c.Connected().GetUserId(); user != "alice" {
		t.Errorf("the token is %q's", user)
	}

	answer := output(t, installed(t, "bash", "make deps"), "-c", find(`(?m)^  (curl .*)$`))
	var r receipt
	decode(t, answer, &r)
	m := client{c}.message(t, "chat.lobby")
	if m.GetJson() != `{"text":"hello"}` || fmt.Sprint(m.GetOffset()) != r.Offset.String() || m.GetPublisher() != "service:dev" {
		t.Errorf("curl published %s: %v", answer, m)
	}

	for _, user := range []string{"alice", "bob"} {
		response, err := httpClient.Get(find(`(?m)^  (http://\S+/\?user=` + user + `)$`))
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		if response.StatusCode != http.StatusOK || !strings.HasPrefix(response.Header.Get("Content-Type"), "text/html") {
			t.Errorf("the console of %s: %s", user, response.Status)
		}
	}
	if got := "http://" + s.edges[0] + "/"; !strings.Contains(greeting, got) {
		t.Errorf("the greeting is not of %s:\n%s", got, greeting)
	}
}

func TestSendTailWho(t *testing.T) {
	t.Parallel()
	const channel = "chat.commands"
	dir := t.TempDir()
	_, s := startDev(t, dir)
	binary := program(t, carillonProgram)
	tail := start(t, command{name: "carillon tail", program: binary, arguments: []string{
		"tail", channel, "--user=uma", "--data-dir", dir, "--server", "ws://" + s.edges[0] + "/v1/ws",
	}})
	tail.line(t, &tail.stderr, "following chat.commands as uma")

	eventually(t, "carillon who", func() error {
		who := output(t, binary, "who", channel, "--data-dir", dir, "--server", s.presences[0])
		if !regexp.MustCompile(`^uma\t1\t\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ\n$`).MatchString(who) {
			return fmt.Errorf("%q", who)
		}
		return nil
	})

	send := func(arguments ...string) receipt {
		t.Helper()
		var r receipt
		decode(t, output(t, binary, append([]string{"send", "--data-dir", dir, "--server", s.publishers[0]}, arguments...)...), &r)
		return r
	}
	sent := send(channel, `{"n": [1, 2.50]}`, "--message-id=m1")
	if again := send(channel, `{"n": [1, 2.50]}`, "--message-id=m1"); sent.Duplicate || !again.Duplicate || again.Offset != sent.Offset {
		t.Errorf("sent %+v, then %+v", sent, again)
	}
	last := send(channel, `"end"`)
	tail.line(t, &tail.stdout, `"end"`)
	got, _ := tail.stdout.complete()
	for i, want := range []struct {
		offset json.Number
		data   string
	}{{sent.Offset, `{"n":[1,2.50]}`}, {last.Offset, `"end"`}} {
		var line struct {
			Offset    json.Number
			Publisher string
			Data      json.RawMessage
		}
		if i >= len(got) {
			t.Fatalf("tail prints only %q", got)
		}
		decode(t, got[i], &line)
		if line.Offset != want.offset || line.Publisher != "service:dev" || string(line.Data) != want.data {
			t.Errorf("line %d is %s, want %+v", i, got[i], want)
		}
	}
	if len(got) != 2 {
		t.Errorf("tail prints %q", got)
	}
	tail.signal(t, syscall.SIGINT)
	if status := tail.status(t); status != 0 {
		t.Errorf("tail: exit status %d after SIGINT", status)
	}
}

// probe tells in three lines that a message comes through, each role being asked; and send
// publishes as the service that it is told, if the configuration knows it.
func TestProbe(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	_, s := startDev(t, dir)
	binary := program(t, carillonProgram)
	to := []string{"--data-dir", dir, "--edge", "ws://" + s.edges[0] + "/v1/ws", "--publish", s.publishers[0]}
	got := output(t, binary, append([]string{"probe", "chat.probe"}, to...)...)
	if !regexp.MustCompile(`^subscribed after \S+s\nstored at offset 1 after \S+s\nreceived after \S+s\n$`).MatchString(got) {
		t.Errorf("probe prints %q", got)
	}
	for _, c := range []struct {
		arguments []string
		want      string
	}{
		{[]string{"user.walter"}, "listening at ws://" + s.edges[0] + "/v1/ws: PERMISSION_DENIED ("},
		{[]string{"user.walter", "--user=walter", "--service=stranger"}, "publishing at " + s.publishers[0] + ": PERMISSION_DENIED (CALLER_UNKNOWN): "},
		{[]string{"chat.probe", "--user-token=x"}, "listening at ws://" + s.edges[0] + "/v1/ws: dial ws://" + s.edges[0] + "/v1/ws: 401 Unauthorized: UNAUTHENTICATED (TOKEN_"},
		{[]string{"chat.probe", "--token=x"}, "publishing at " + s.publishers[0] + ": UNAUTHENTICATED (TOKEN_"},
		{[]string{"chat.probe", "--timeout=1us"}, "listening at "},
	} {
		_, stderr, status := execute(t, nil, binary, append(append([]string{"probe"}, c.arguments...), to...)...)
		if status != 1 || !strings.HasPrefix(stderr, "carillon: "+c.want) || strings.Count(stderr, "\n") != 1 {
			t.Errorf("%q: exit %d %s want exit 1, carillon: %s…", c.arguments, status, stderr, c.want)
		}
	}
	for _, arguments := range [][]string{
		{"send", "chat.probe", "1", "--service=stranger", "--data-dir", dir, "--server", s.publishers[0]},
		{"who", "chat.probe", "--service=stranger", "--data-dir", dir, "--server", s.presences[0]},
	} {
		if _, stderr, status := execute(t, nil, binary, arguments...); status != 1 || !strings.Contains(stderr, "CALLER_UNKNOWN") {
			t.Errorf("%q: exit %d %s", arguments, status, stderr)
		}
	}
}

// The commands fail with one line that tells what to do.
func TestFailuresOfCommands(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	_, s := startDev(t, dir)
	user := s.token(t, "user", "victor")
	nobody := reserve(t)
	for _, c := range []struct {
		arguments []string
		want      string
	}{
		{[]string{"send", "chat.lobby", "{", "--server", s.publishers[0]}, "INVALID_ARGUMENT (PAYLOAD_INVALID): "},
		{[]string{"send", "lobby", "1", "--server", s.publishers[0]}, "INVALID_ARGUMENT (CHANNEL_INVALID): "},
		{[]string{"send", "chit.chat", "1", "--server", s.publishers[0]}, "NOT_FOUND (NAMESPACE_UNKNOWN): "},
		{[]string{"send", "chat.lobby", "1", "--server", s.publishers[0], "--token", user}, "UNAUTHENTICATED (TOKEN_"},
		{[]string{"send", "chat.lobby", "1", "--server", nobody}, nobody + " does not answer: "},
		{[]string{"who", "chat.lobby", "--server", nobody}, nobody + " does not answer: "},
		{[]string{"who", "user.victor", "--server", s.presences[0]}, "FAILED_PRECONDITION (PRESENCE_DISABLED): "},
		{[]string{"tail", "user.walter", "--server", "ws://" + s.edges[0] + "/v1/ws"}, "PERMISSION_DENIED ("},
		{[]string{"tail", "chat.lobby", "--server", "ws://" + nobody + "/v1/ws"}, "dial: "},
	} {
		stdout, stderr, status := execute(t, nil, program(t, carillonProgram), append(c.arguments, "--data-dir", dir)...)
		if status != 1 || stdout != "" || !strings.HasPrefix(stderr, "carillon: "+c.want) || strings.Count(stderr, "\n") != 1 {
			t.Errorf("%q: exit %d\n%s%s\nwant exit 1, carillon: %s…", c.arguments, status, stdout, stderr, c.want)
		}
	}
	stdout, stderr, status := execute(t, nil, program(t, carillonProgram), "send", "chat.lobby", "1", "--data-dir", t.TempDir())
	if status != 1 || stdout != "" || !strings.Contains(stderr, "run carillon dev once") {
		t.Errorf("without keys: exit %d %s%s", status, stdout, stderr)
	}
}

func TestVersion(t *testing.T) {
	t.Parallel()
	got := output(t, program(t, carillonProgram), "version")
	if !regexp.MustCompile(`^carillon \S+, revision \S+( \(modified\))?, go1\.\S+ \w+/\w+\n$`).MatchString(got) {
		t.Errorf("%q", got)
	}
}
