package stream

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/message"
	"github.com/carillon-rt/carillon/services/internal/namespace"
)

// guarded is a NATS server with the permissions that are published, and a stranger in
// an account of its own.
type guarded struct {
	url string
	log *journal
}

// journal keeps what a server logs.
type journal struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(p)
}

// violations are the lines about what a client was refused.
func (j *journal) violations() []string { return j.lines("Violation") }

// lines are those that hold a text.
func (j *journal) lines(with string) []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.DeleteFunc(strings.Split(j.text.String(), "\n"), func(line string) bool { return !strings.Contains(line, with) })
}

const stranger = `accounts {
  STRANGERS { jetstream: enabled, users: [{user: stranger, password: secret-of-stranger}] }
`

func secretOf(user string) func() (string, error) {
	return func() (string, error) { return "secret-of-" + user, nil }
}

// startGuarded also takes out of the permissions what is given.
func startGuarded(t *testing.T, without ...string) *guarded {
	t.Helper()
	for user, variable := range map[string]string{
		"edge": "CARILLON_EDGE_PASSWORD", "publish": "CARILLON_PUBLISH_PASSWORD", "serve": "CARILLON_SERVE_PASSWORD", "admin": "CARILLON_NATS_ADMIN_PASSWORD",
	} {
		t.Setenv(variable, "secret-of-"+user)
	}
	permissions, err := os.ReadFile("../../../deployments/nats/permissions.conf")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Replace(string(permissions), "accounts {\n", stranger, 1)
	for _, line := range without {
		if !strings.Contains(text, line) {
			t.Fatalf("the permissions do not hold %q", line)
		}
		text = strings.Replace(text, line, "", 1) // of edge, which is the first
	}
	dir := t.TempDir()
	for name, text := range map[string]string{
		"permissions.conf": text,
		"nats.conf":        "listen: \"127.0.0.1:-1\"\njetstream { store_dir: \"" + filepath.Join(dir, "js") + "\", max_file: 1TB }\ninclude \"permissions.conf\"\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	options, err := server.ProcessConfigFile(filepath.Join(dir, "nats.conf"))
	if err != nil {
		t.Fatal(err)
	}
	options.NoSigs = true
	s, err := server.NewServer(options)
	if err != nil {
		t.Fatal(err)
	}
	g := &guarded{log: &journal{}}
	s.SetLoggerV2(&serverLog{logger: slog.New(slog.NewTextHandler(g.log, nil))}, false, false, false)
	s.Start()
	t.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	if !s.ReadyForConnections(patience) {
		t.Fatal("nats-server is not ready")
	}
	g.url = s.ClientURL()
	return g
}

func (g *guarded) as(user string, r Receiver, change ...func(*namespace.Namespace)) Options {
	o := Options{URL: g.url, Login: Login{User: user, Password: secretOf(user)}, Namespaces: testNamespaces(change...)}
	if r != nil {
		o.Receiver = r
	}
	return o
}

// dial connects as a user; refusals gets what the server refuses.
func (g *guarded) dial(t *testing.T, user string) (nc *nats.Conn, refusals chan error) {
	t.Helper()
	refusals = make(chan error, 16)
	nc, err := nats.Connect(g.url, nats.UserInfo(user, "secret-of-"+user),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { refusals <- err }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc, refusals
}

// exercise does everything that a store does, as an edge with r and as a publisher.
func exercise(t *testing.T, at, publisher *Store, r *recorder, name channel.Name) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	listen(t, at, name)
	listen(t, at, "cursor.doc")
	first := text(name, "1")
	first.ID = "one"
	receipt := publish(t, publisher, first)
	if again := publish(t, publisher, first); !again.Duplicate || again.Offset != receipt.Offset {
		t.Errorf("again: %+v after %+v", again, receipt)
	}
	second := text(name, "2")
	second.ID = "two"
	byClient := publish(t, at, second)
	if again := publish(t, at, second); !again.Duplicate { // compared with what is stored
		t.Errorf("again: %+v after %+v", again, byClient)
	}
	publish(t, publisher, text("cursor.doc", "3"))
	publish(t, at, text("cursor.doc", "4"))
	expecting := text(name, "5")
	expecting.Expected = &message.Expectation{Epoch: receipt.Epoch, Last: byClient.Offset}
	publish(t, publisher, expecting)
	pipeline := publisher.Pipeline()
	done := make(chan error, 3)
	for range cap(done) {
		if err := pipeline.Publish(ctx, text(name, "6"), func(_ message.Receipt, err error) { done <- err }); err != nil {
			t.Error(err)
		}
	}
	pipeline.Close()
	for range cap(done) {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	eventually(t, "all messages", func() bool { return len(r.of(name)) == 6 && len(r.of("cursor.doc")) == 2 })
	for _, s := range []*Store{at, publisher} {
		if page, err := s.Read(ctx, name, 0, 100); err != nil || len(page.Messages) != 6 {
			t.Errorf("read: %d messages, %v", len(page.Messages), err)
		}
		if _, err := s.Latest(ctx, name, byClient.Offset, 1); err != nil {
			t.Error(err)
		}
		if lasts, err := s.Lasts(ctx, []channel.Name{name}, 0, byClient.Offset); err != nil || lasts.Offsets[name] < byClient.Offset {
			t.Errorf("lasts: %v, %v", lasts, err)
		}
		if _, err := s.Bounds(ctx, name); err != nil {
			t.Error(err)
		}
	}
	if _, err := publisher.Purge(ctx, name); err != nil {
		t.Error(err)
	}
	eventually(t, "the purge's mark", func() bool { return len(r.of(name)) == 7 })
	for _, s := range []*Store{at, publisher} {
		if known := askPeers(ctx, s.publisher.nc); len(known["CARILLON_chat_0"]) < 2 {
			t.Errorf("what the others know: %v", known)
		}
	}
}

// discuss is what services and edges say to each other beside messages.
func discuss(t *testing.T, at, publisher *Store) {
	t.Helper()
	heard := make(chan string, 8)
	for topic, s := range map[string]*Store{"here": publisher, "to.me": publisher, "who": at, "list": at} {
		stop, err := s.Control().Hear(topic, func(said []byte) { heard <- string(said) })
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(stop)
	}
	f := follow(t, at)
	for _, s := range []*Store{at, publisher} {
		if err := s.publisher.nc.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	for topic, s := range map[string]*Store{"here": at, "to.me": at, "who": publisher, "list": publisher} {
		if err := s.Control().Tell(topic, []byte(topic)); err != nil {
			t.Error(err)
		}
	}
	var got []string
	for range 4 {
		select {
		case said := <-heard:
			got = append(got, said)
		case <-time.After(patience):
			t.Fatalf("heard only %q", got)
		}
	}
	before := len(f.got())
	appendTo(t, publisher, time.Hour, "a command")
	eventually(t, "the command", func() bool { return len(f.got()) > before })
}

func TestPermissionsLetEveryRoleWork(t *testing.T) {
	g := startGuarded(t)
	r := newRecorder()
	// Whoever starts first makes the streams.
	at := readyStore(t, g.as("edge", r))
	publisher := readyStore(t, g.as("publish", nil))
	exercise(t, at, publisher, r, "chat.lobby")
	discuss(t, at, publisher)
	for i, user := range []string{"edge", "publish"} { // each with another configuration
		readyStore(t, g.as(user, nil, func(ns *namespace.Namespace) { ns.History.MaxAge = time.Minute * time.Duration(i+1) }))
	}

	both := newRecorder()
	all := readyStore(t, g.as("serve", both))
	exercise(t, all, all, both, "chat.other")
	discuss(t, all, all)
	if refused := g.log.violations(); len(refused) > 0 {
		t.Errorf("refused:\n%s", strings.Join(refused, "\n"))
	}
}

func TestPermissionsLetEveryRoleReadALongRange(t *testing.T) {
	g := startGuarded(t)
	fillPartition(t, readyStore(t, g.as("publish", nil, one)))
	for _, user := range []string{"edge", "publish", "serve"} {
		s := readyStore(t, g.as(user, nil, one))
		if !readPartition(t, s) || !s.direct.mayConsume() {
			t.Errorf("%s read without a consumer", user)
		}
	}
	if refused := g.log.violations(); len(refused) > 0 {
		t.Errorf("refused:\n%s", strings.Join(refused, "\n"))
	}
}

func TestPublishMayMakeTheStreams(t *testing.T) {
	g := startGuarded(t)
	publish(t, readyStore(t, g.as("publish", nil)), text("chat.lobby", "1"))
	if refused := g.log.violations(); len(refused) > 0 {
		t.Errorf("refused:\n%s", strings.Join(refused, "\n"))
	}
}

func TestPublishMayBeginEpochs(t *testing.T) {
	g := startGuarded(t)
	o := g.as("publish", nil)
	readyStore(t, o)
	o.Logger, o.Name = testLogger(t), "test"
	if begun, err := BeginEpochs(t.Context(), o); err != nil || len(begun) != 2 {
		t.Errorf("%q, %v", begun, err)
	}
	if refused := g.log.violations(); len(refused) > 0 {
		t.Errorf("refused:\n%s", strings.Join(refused, "\n"))
	}
}

func TestEdgesNeedNotMakeTheStreams(t *testing.T) {
	g := startGuarded(t, `, "$JS.API.STREAM.CREATE.*", "$JS.API.STREAM.UPDATE.*"`)
	publisher := readyStore(t, g.as("publish", nil))
	r := newRecorder()
	at := readyStore(t, g.as("edge", r))
	exercise(t, at, publisher, r, "chat.lobby")
	discuss(t, at, publisher)
	if refused := g.log.violations(); len(refused) > 0 {
		t.Errorf("refused:\n%s", strings.Join(refused, "\n"))
	}
}

func TestPermissionsRefuseWhatNoRoleNeeds(t *testing.T) {
	g := startGuarded(t)
	readyStore(t, g.as("publish", nil))
	everybody := []string{
		"rt.out.0.chat.lobby", "rt.ctl.out", "rt.other", "_INBOX.of.another", "$JS.API.INFO",
		"$JS.API.STREAM.DELETE.CARILLON_chat_0", "$JS.API.STREAM.MSG.DELETE.CARILLON_chat_0", "$JS.API.STREAM.NAMES", "$JS.API.STREAM.LIST",
		"$JS.API.STREAM.SNAPSHOT.CARILLON_chat_0", "$JS.API.STREAM.RESTORE.CARILLON_chat_0", "$JS.API.STREAM.LEADER.STEPDOWN.CARILLON_chat_0",
		"$JS.API.CONSUMER.CREATE.CARILLON_chat_0.name", "$JS.API.CONSUMER.DURABLE.CREATE.CARILLON_chat_0.name",
		"$JS.API.CONSUMER.NAMES.CARILLON_chat_0", "$JS.API.CONSUMER.INFO.CARILLON_chat_0.name", "$SYS.REQ.SERVER.PING", "$JS.EVENT.ADVISORY.STREAM.LEADER_ELECTED.CARILLON_chat_0",
	}
	for _, tt := range []struct {
		user               string
		publish, subscribe []string
	}{
		{"edge", []string{"rt.ctl.log", "rt.ctl.who", "rt.ctl.list", "$JS.API.STREAM.PURGE.CARILLON_chat_0"}, []string{"rt.in.>", "rt.ctl.log", "rt.ctl.here", "rt.ctl.to.*"}},
		{"publish", []string{"rt.ctl.here", "rt.ctl.to.me"}, []string{"rt.in.>", "rt.out.>", "rt.eph.>", "rt.ctl.log", "rt.ctl.out"}},
		{"serve", nil, []string{"rt.in.>", "rt.ctl.log"}},
	} {
		nc, refusals := g.dial(t, tt.user)
		refused := func(what, subject string, err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
			if err := nc.Flush(); err != nil {
				t.Fatal(err)
			}
			select {
			case err := <-refusals:
				if !errors.Is(err, nats.ErrPermissionViolation) {
					t.Errorf("%s %s %s: %v", tt.user, what, subject, err)
				}
			case <-time.After(patience):
				t.Errorf("%s may %s %s", tt.user, what, subject)
			}
		}
		for _, subject := range slices.Concat(everybody, tt.publish) {
			refused("publish", subject, nc.Publish(subject, nil))
		}
		for _, subject := range append(tt.subscribe, ">", "*.>", "rt.>", "$JS.>", "$SYS.>") {
			_, err := nc.SubscribeSync(subject)
			refused("subscribe", subject, err)
		}
	}
}

func TestAStrangerReachesNothing(t *testing.T) {
	g := startGuarded(t)
	publisher := readyStore(t, g.as("publish", nil))
	nc, _ := g.dial(t, "stranger")
	heard := make(chan *nats.Msg, 16)
	if _, err := nc.ChanSubscribe(">", heard); err != nil {
		t.Fatal(err)
	}
	reply, err := nc.Request("$JS.API.STREAM.INFO.CARILLON_chat_0", nil, patience)
	if err != nil || !bytes.Contains(reply.Data, []byte("stream not found")) {
		t.Errorf("a stranger asks for a stream: %s, %v", reply.Data, err)
	}
	if err := nc.Publish("rt.in.0.chat.lobby", []byte("{}")); err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	if receipt := publish(t, publisher, text("chat.lobby", "1")); receipt.Offset != 1 {
		t.Errorf("a stranger's message was stored: %+v", receipt)
	}
	for len(heard) > 0 {
		if m := <-heard; strings.HasPrefix(m.Subject, "rt.out") {
			t.Errorf("a stranger heard %s", m.Subject)
		}
	}
	for _, login := range [][2]string{{"", ""}, {"edge", "secret-of-publish"}} {
		if _, err := nats.Connect(g.url, nats.UserInfo(login[0], login[1])); !errors.Is(err, nats.ErrAuthorization) {
			t.Errorf("as %q: %v", login[0], err)
		}
	}
}
