package config_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/carillon-rt/carillon/services/internal/config"
)

// watched is a file that is watched in a bubble of synctest, and what came of that.
type watched struct {
	t    *testing.T
	name string
	ask  chan os.Signal

	mu      sync.Mutex
	log     bytes.Buffer
	changes []string
	loads   []bool
	refusal error // of changes
}

// Write takes the log.
func (w *watched) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.log.Write(p)
}

func (w *watched) changed(before, now *config.Config) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.changes = append(w.changes, before.Namespaces[0].Rules[0].Subscribe+" to "+now.Namespaces[0].Rules[0].Subscribe)
	return w.refusal
}

func (w *watched) loaded(holds bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.loads = append(w.loads, holds)
}

const watchedFile = "namespaces: [{name: chat, ephemeral: true, rules: [{channel: \"chat.{room}\", subscribe: %q}]}]\n"

func watchFile(t *testing.T) *watched {
	t.Helper()
	w := &watched{t: t, name: filepath.Join(t.TempDir(), "carillon.yaml"), ask: make(chan os.Signal)}
	w.write("first")
	flags := &config.Flags{File: w.name}
	check := func(c *config.Config) []string {
		if len(c.Namespaces) > 0 && strings.Contains(c.Namespaces[0].Rules[0].Subscribe, "wrong") {
			return []string{"namespaces[0].rules[0].subscribe: is wrong"}
		}
		return nil
	}
	current, err := config.Load(flags, config.NoRole, noEnvironment, check)
	if err != nil {
		t.Fatal(err)
	}
	w.write("second") // between the load and the watch
	watch := config.Watch{
		Flags: flags, Command: config.NoRole, Getenv: noEnvironment, Checks: []func(*config.Config) []string{check},
		Current: current, Ask: w.ask, Logger: slog.New(slog.NewTextHandler(w, nil)), Changed: w.changed, Loaded: w.loaded,
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { watch.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	return w
}

func noEnvironment(string) string { return "" }

func (w *watched) write(expression string) {
	w.t.Helper()
	w.replace(fmt.Sprintf(watchedFile, expression))
}

// replace puts a new file in the place of the old, which is then another whatever the
// clock of the file system.
func (w *watched) replace(text string) {
	w.t.Helper()
	if err := os.WriteFile(w.name+".new", []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
	if err := os.Rename(w.name+".new", w.name); err != nil {
		w.t.Fatal(err)
	}
}

// want waits for the changes and lines of log since the last time.
func (w *watched) want(changes []string, says ...string) {
	w.t.Helper()
	time.Sleep(2 * time.Second) // a look, and one at what rests
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	if !slices.Equal(w.changes, changes) {
		w.t.Errorf("changes %q, want %q", w.changes, changes)
	}
	log := w.log.String()
	if lines := strings.Count(log, "\n"); lines != len(says) {
		w.t.Errorf("logged %d lines, want %d:\n%s", lines, len(says), log)
	}
	for _, line := range says {
		if !strings.Contains(log, line) {
			w.t.Errorf("does not log %q:\n%s", line, log)
		}
	}
	w.changes = nil
	w.log.Reset()
}

func TestAFileIsLoadedWhenItChanges(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := watchFile(t)
		w.want([]string{"first to second"})
		w.want(nil)
		w.write("third")
		w.want([]string{"second to third"})
		w.replace("# a comment\n" + fmt.Sprintf(watchedFile, "third"))
		w.want(nil, "the configuration is as before")
		if err := os.Chtimes(w.name, time.Time{}, time.Now().Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
		w.want(nil, "the configuration is as before")
	})
}

func TestAFileWithProblemsChangesNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := watchFile(t)
		w.want([]string{"first to second"})
		w.write("wrong")
		w.want(nil, `level=ERROR msg="the configuration has a problem; the one before holds" problem="namespaces[0].rules[0].subscribe: is wrong (carillon.yaml:1)"`)
		w.want(nil) // said once
		w.replace("edge: {listen: 1}\nnonsense: 2\n")
		w.want(nil, "edge.listen: ", "nonsense: unknown key")
		w.replace(":")
		w.want(nil, "is not YAML")
		if err := os.Remove(w.name); err != nil {
			t.Fatal(err)
		}
		w.want(nil, "the configuration file does not exist")
		w.write("third")
		w.want([]string{"second to third"})
		w.replace("# a comment\n" + fmt.Sprintf(watchedFile, "third"))
		w.want(nil, "the configuration is as before")
		if want := []bool{true, false, false, false, false, true}; !slices.Equal(w.loads, want) {
			t.Errorf("told of loads %t, want %t", w.loads, want)
		}
	})
}

// A file that is still being written changes from look to look: it is loaded when it
// rests.
func TestAFileThatIsBeingWrittenIsNotLoaded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := watchFile(t)
		w.want([]string{"first to second"})
		for i := range 20 {
			w.write(fmt.Sprint("part ", i))
			time.Sleep(200 * time.Millisecond)
		}
		w.want([]string{"second to part 19"})
	})
}

func TestASignalLoadsAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := watchFile(t)
		w.want([]string{"first to second"})
		w.ask <- syscall.SIGHUP
		w.want(nil, "the configuration is as before")
		w.write("third")
		w.ask <- syscall.SIGHUP
		synctest.Wait()
		w.mu.Lock()
		if !slices.Equal(w.changes, []string{"second to third"}) {
			t.Errorf("changes %q", w.changes)
		}
		w.mu.Unlock()
		w.want([]string{"second to third"}, "the configuration is as before") // that of the file, which looks different now
	})
}

// What could not be taken is tried again when somebody asks.
func TestAChangeThatIsNotTakenIsToldAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := watchFile(t)
		w.want([]string{"first to second"})
		refuse := func(err error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.refusal = err
		}
		refuse(errors.New("the secret is not there"))
		w.write("third")
		w.want([]string{"second to third"}, `level=ERROR msg="the configuration has changed and cannot be taken; the one before holds, and SIGHUP tries again" error="the secret is not there"`)
		refuse(nil)
		w.want(nil)
		w.ask <- syscall.SIGHUP
		w.want([]string{"second to third"})
		w.ask <- syscall.SIGHUP
		w.want(nil, "the configuration is as before")
	})
}

// What is a pipe has been read, and is not waited for.
func TestAPipeIsNotReadTwice(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := watchFile(t)
		w.want([]string{"first to second"})
		if err := os.Remove(w.name); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Mkfifo(w.name, 0o600); err != nil {
			t.Fatal(err)
		}
		w.want(nil)
		w.ask <- syscall.SIGHUP
		w.want(nil, "it is no file")
	})
}

func TestDifferencesNameTheOptions(t *testing.T) {
	t.Parallel()
	load := func(text string) *config.Config {
		t.Helper()
		name := filepath.Join(t.TempDir(), "c.yaml")
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := config.Load(&config.Flags{File: name}, config.NoRole, func(key string) string {
			return map[string]string{"S": strings.Repeat("s", 32)}[key]
		})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	before := load(`
namespaces: [{name: a, ephemeral: true}, {name: b, history: {}, rules: [{channel: b.x}]}, {name: c, ephemeral: true}]
callers: [{name: x}]
`)
	now := load(`
edge: {listen: ":1", tls: {cert_file: c, key_file: k}}
publish: {listen: ":2"}
log: {level: debug}
auth: {issuers: [{name: i, for: clients, algorithms: [HS256], secret: {env: S}}]}
namespaces: [{name: c, ephemeral: true}, {name: b, history: {max_age: 1h}, presence: true, rules: [{channel: b.y}]}, {name: d, ephemeral: true}]
callers: [{name: y}]
`)
	if same := config.Differences(before, before); len(same) != 0 {
		t.Errorf("differs from itself in %q", same)
	}
	differences := config.Differences(before, now)
	all := "log.level edge.listen edge.tls.cert_file edge.tls.key_file publish.listen auth.issuers callers namespaces[a] namespaces[b].history namespaces[b].presence namespaces[b].rules namespaces[d]"
	if got := strings.Join(differences, " "); got != all {
		t.Errorf("%s\nwant\n%s", got, all)
	}
	for command, want := range map[config.Command]string{
		config.Serve:        "edge.listen edge.tls.cert_file edge.tls.key_file publish.listen namespaces[a] namespaces[b].history namespaces[b].presence namespaces[d]",
		config.EdgeRole:     "edge.listen edge.tls.cert_file edge.tls.key_file namespaces[a] namespaces[b].history namespaces[b].presence namespaces[d]",
		config.PresenceRole: "namespaces[a] namespaces[b].history namespaces[b].presence namespaces[d]",
		config.PublishRole:  "publish.listen namespaces[a] namespaces[b].history namespaces[b].presence namespaces[d]",
	} {
		if got := strings.Join(config.NeedRestart(command, differences), " "); got != want {
			t.Errorf("%s:\n%s\nwant\n%s", command, got, want)
		}
	}
	if got := strings.Join(differences, " "); got != all {
		t.Errorf("NeedRestart changed what it was given: %s", got)
	}
}

func TestWarnings(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(name, []byte(`
edge: {listen: ":1"}
presence: {listen: "127.0.0.1:2"}
callers:
  - {name: idle}
  - {name: billing, publish: ["{rest...}"], subscribe: ["{rest...}"]}
  - {name: support, control: [SubscribeUser], subscribe: ["{rest...}"]}
`), 0o600); err != nil {
		t.Fatal(err)
	}
	c, places, err := config.LoadWithPlaces(&config.Flags{File: name}, config.NoRole, noEnvironment)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		`edge.tls: edge.listen is ":1", whose connections are not encrypted; give cert_file and key_file, or put a proxy that ends TLS before it (c.yaml:2)`,
		`publish.tls: publish.listen is ":9090", whose connections are not encrypted; give cert_file and key_file, or put a proxy that ends TLS before it`,
		`publish.tls: publish.http_listen is ":8081", whose connections are not encrypted; give cert_file and key_file, or put a proxy that ends TLS before it`,
		`callers[0]: "idle" may do nothing; give it publish, presence, history, purge, control or console, or drop it (c.yaml:5)`,
		`callers[1].subscribe: has no effect without control; give it SubscribeUser or UnsubscribeUser there (c.yaml:6)`,
	}
	var got []string
	for _, line := range c.Warnings(config.Serve) {
		got = append(got, places.Line(line))
	}
	if !slices.Equal(got, want) {
		t.Errorf("%q\nwant\n%q", got, want)
	}
	if got := c.Warnings(config.PresenceRole); len(got) != 2 { // of the callers
		t.Errorf("of presence: %q", got)
	}
	c.Edge.TLS.CertFile, c.Publish.TLS.CertFile, c.Callers = "c", "c", nil
	if got := c.Warnings(config.Serve); len(got) != 0 {
		t.Errorf("with TLS: %q", got)
	}
	c.Console.Enabled = true
	want = []string{`ops.tls: ops.listen is ":9464", whose connections are not encrypted; give cert_file and key_file, or put a proxy that ends TLS before it`}
	if got := c.Warnings(config.EdgeRole); !slices.Equal(got, want) {
		t.Errorf("of a console: %q, want %q", got, want)
	}
	if got := c.Warnings(config.PublishRole); len(got) != 0 {
		t.Errorf("of a role without: %q", got)
	}
	if line := places.Line("a sentence"); line != "a sentence" {
		t.Error(line)
	}
}
