package e2e_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

// asker asks the console of an edge as a caller.
type asker struct {
	address, token string
}

func (a asker) open(t *testing.T, method, path, body string) *http.Response {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, "http://"+a.address+"/console/"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	if a.token != "" {
		r.Header.Set("Authorization", "Bearer "+a.token)
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = response.Body.Close() })
	return response
}

// ask returns an answer, which must be of that status.
func (a asker) ask(t *testing.T, status int, method, path, body string) string {
	t.Helper()
	response := a.open(t, method, path, body)
	text, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != status {
		t.Fatalf("%s %s: %d %s, %v; want %d", method, path, response.StatusCode, text, err, status)
	}
	return string(text)
}

// shows waits until an answer has all of the parts.
func (a asker) shows(t *testing.T, path string, parts ...string) {
	t.Helper()
	eventually(t, path, func() error {
		response := a.open(t, http.MethodGet, path, "")
		body, err := io.ReadAll(response.Body)
		text := string(body)
		if err != nil || response.StatusCode != http.StatusOK { // 429 for who asks all the time
			return fmt.Errorf("%d %s: %v", response.StatusCode, text, err)
		}
		for _, part := range parts {
			if !strings.Contains(text, part) {
				return fmt.Errorf("%s lacks %s", text, part)
			}
		}
		return nil
	})
}

// The console of each edge shows what is there, to the callers who may look, and lets
// them do what they may do anyway.
func TestConsoleOfEdges(t *testing.T) {
	t.Parallel()
	address := reserve(t)
	startNATS(t, t.TempDir(), address)
	c := newCluster(t, address)
	text, err := os.ReadFile(c.file)
	if err != nil {
		t.Fatal(err)
	}
	const callers = `
  - {name: on-call, console: true, publish: ["chat.{rest...}"], history: ["chat.{rest...}"], presence: ["{rest...}"]}
`
	write(t, c.file, strings.Replace(string(text), "\ncallers:\n", "\nconsole: {enabled: true}\ncallers:"+callers, 1))
	presence, publish := c.start(t, "presence"), c.start(t, "publish")
	told := presences(presence.address(t, "presence"))
	// One edge has other rules in its file; it does not decide by them.
	other := *c
	other.file = c.file + ".other"
	whole, err := os.ReadFile(c.file)
	if err != nil {
		t.Fatal(err)
	}
	write(t, other.file, strings.Replace(string(whole), `{channel: "news.{rest...}", subscribe: "true"}`, `{channel: "news.{rest...}", subscribe: "true", publish: "true"}`, 1))
	here, there := c.start(t, "edge", told), other.start(t, "edge", told)
	s := c.system(t, presence.ready(t), publish.ready(t), here.ready(t), there.ready(t))

	onCall, elsewhere := asker{here.address(t, "ops"), s.token(t, "service", "on-call")}, asker{there.address(t, "ops"), s.token(t, "service", "on-call")}
	if page := (asker{address: onCall.address}).ask(t, http.StatusOK, http.MethodGet, "", ""); !strings.Contains(page, "<!doctype html>") {
		t.Errorf("the page: %.100s", page)
	}
	for token, status := range map[string]int{"": 401, s.token(t, "service", "backend"): 403, s.token(t, "user", "alice"): 401} {
		asker{onCall.address, token}.ask(t, status, http.MethodGet, "api/session", "")
	}
	if status, _ := publish.get(t, "/console/"); status != http.StatusNotFound {
		t.Errorf("the console of a role without: %d", status)
	}

	alice := s.connect(t, here.address(t, "edge"), "alice", "chat.lobby")
	bob := s.connect(t, there.address(t, "edge"), "bob", "chat.lobby")
	elsewhere.ask(t, http.StatusOK, http.MethodPost, "api/send", `{"channel":"chat.lobby","data":{"text":"hello"}}`)
	if m := alice.message(t, "chat.lobby"); m.GetPublisher() != "service:on-call" {
		t.Errorf("came %v", m)
	}
	onCall.ask(t, http.StatusForbidden, http.MethodPost, "api/send", `{"channel":"news.all","data":1}`)
	for _, c := range []client{alice, bob} {
		if _, err := c.Publish(t.Context(), "news.all", `"denied"`, ""); !refusedAs(err, "PERMISSION_DENIED", "POLICY_DENIED") {
			t.Errorf("published what is denied: %v", err)
		}
	}

	onCall.shows(t, "api/users/alice", `"subscriptions":["chat.lobby","user.alice"]`, `"here":true`, `"kind":"denied"`, `"channel":"news.all"`)
	elsewhere.shows(t, "api/users/alice", `"connections":[],"total":0,"presence":{"online":true`, `"here":false`)
	onCall.shows(t, "api/channels/chat.lobby", `"subscribers":1`, `"users":[{"user":"alice","connections":1}]`, `"user":"bob"`, `"total":2`,
		`"data":{"text":"hello"}`, `"publisher":"service:on-call"`, `"rule":"chat[0]"`)
	onCall.shows(t, "api/channels/news.all", `"messages":{"error":{`, `"kind":"denied"`)
	onCall.shows(t, "api/search?q=chat", `"channels":[{"channel":"chat.lobby","subscribers":1}]`)
	onCall.shows(t, "api/channels", `"channel":"chat.lobby"`)
	onCall.shows(t, "api/namespaces", `"name":"cursor"`, `"subscribe":"id == user"`)
	for edge, rules := range map[asker]string{onCall: "same", elsewhere: "other"} {
		edge.shows(t, "api/namespaces", fmt.Sprintf(`"deciders":{"by":"presence","replicas":[{"address":%q,"rules":%q}]}`, presence.address(t, "presence"), rules))
	}
	onCall.shows(t, "api/overview", `"connections":1`, `"errors":[{"command":"publish","code":"PERMISSION_DENIED","count":1}]`)
	consoleEndsWithTheEdge(t, onCall, here)
}

// consoleEndsWithTheEdge: streams are told of the end, and do not hold it up.
func consoleEndsWithTheEdge(t *testing.T, onCall asker, edge *process) {
	t.Helper()
	stream := bufio.NewScanner(onCall.open(t, http.MethodGet, "api/stream", "").Body)
	stream.Buffer(nil, 1<<20)
	began := time.Now()
	name, samples := "", 0
	for stream.Scan() {
		line := stream.Text()
		if event, ok := strings.CutPrefix(line, "event: "); ok {
			name = event
		}
		data, ok := strings.CutPrefix(line, "data: ")
		if !ok {
			continue
		}
		if !json.Valid([]byte(data)) {
			t.Errorf("%s: %s", name, data)
		}
		if name == "sample" {
			if samples++; samples == 2 {
				began = time.Now()
				edge.signal(t, os.Interrupt)
			}
		}
		if name == "end" && !strings.Contains(data, "DRAINING") {
			t.Errorf("the end: %s", data)
		}
	}
	if name != "end" || samples < 2 {
		t.Errorf("the last event is %q, after %d samples: %v", name, samples, stream.Err())
	}
	if status := edge.status(t); status != 0 || time.Since(began) > 8*time.Second {
		t.Errorf("the edge ended with %d after %v", status, time.Since(began))
	}
}
