package stream

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/carillon-rt/carillon/services/internal/message"
)

// usedDir is a directory with five messages, whose server was closed or killed.
func usedDir(t *testing.T, closed bool) (dir string, stored message.Receipt) {
	t.Helper()
	dir = t.TempDir()
	e := embeddedIn(t, dir)
	s := readyStore(t, Options{Embedded: e, Namespaces: testNamespaces(one)})
	stored = publishMany(t, s, 5)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	end(t, e, closed)
	return dir, stored
}

func embeddedIn(t *testing.T, dir string) *Embedded {
	t.Helper()
	e, err := StartEmbedded(EmbeddedOptions{Dir: dir, Logger: testLogger(t)})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// end closes a server, or ends it as a kill does, without a word in the directory.
func end(t *testing.T, e *Embedded, closed bool) {
	t.Helper()
	if closed {
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
		return
	}
	e.server.Shutdown()
	e.server.WaitForShutdown()
	if err := e.lock.Close(); err != nil {
		t.Fatal(err)
	}
}

// reboot changes the boot in a state file as if the kernel had been another then. The
// file stays the same one.
func reboot(t *testing.T, dir string) {
	t.Helper()
	path := filepath.Join(dir, stateFile)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if changed := bytes.Replace(text, []byte(bootID()), []byte("another boot"), 1); bytes.Equal(changed, text) {
		t.Fatalf("%s does not name the boot", text)
	} else if err := os.WriteFile(path, changed, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestInvariantEpochsOfAnEmbeddedServer(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		closed bool
		change func(t *testing.T, dir string) (used string)
		want   trust
	}{
		{"closed", true, func(_ *testing.T, dir string) string { return dir }, intact},
		{"killed", false, func(_ *testing.T, dir string) string { return dir }, intact},
		{"closed, then another boot", true, func(t *testing.T, dir string) string { reboot(t, dir); return dir }, intact},
		{"power cut", false, func(t *testing.T, dir string) string { reboot(t, dir); return dir }, torn},
		{"copied", true, copyOf, foreign},
		{"copied while it was used", false, copyOf, foreign},
		{"a copy in its place", true, func(t *testing.T, dir string) string {
			backup := copyDir(t, dir)
			for _, step := range []error{os.RemoveAll(dir), os.CopyFS(dir, os.DirFS(backup))} {
				if step != nil {
					t.Fatal(step)
				}
			}
			return dir
		}, foreign},
		{"moved", true, func(t *testing.T, dir string) string {
			to := filepath.Join(t.TempDir(), "data")
			if err := os.Rename(dir, to); err != nil {
				t.Fatal(err)
			}
			return to
		}, intact},
		{"state missing", true, func(t *testing.T, dir string) string {
			if err := os.Remove(filepath.Join(dir, stateFile)); err != nil {
				t.Fatal(err)
			}
			return dir
		}, foreign},
		{"state damaged", true, func(t *testing.T, dir string) string {
			if err := os.WriteFile(filepath.Join(dir, stateFile), []byte("{"), 0o600); err != nil {
				t.Fatal(err)
			}
			return dir
		}, foreign},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir, stored := usedDir(t, tt.closed)
			dir = tt.change(t, dir)
			for round := range 2 { // the second start finds nothing wrong any more
				e := embeddedIn(t, dir)
				s := readyStore(t, Options{Embedded: e, Namespaces: testNamespaces(one)})
				bounds, err := s.Bounds(t.Context(), "chat.lobby")
				if err != nil {
					t.Fatal(err)
				}
				checkTrust(t, bounds, stored.Position, tt.want)
				if receipt := publish(t, s, text("chat.lobby", "1")); receipt.Epoch != bounds.Epoch() || receipt.Offset != message.Offset(6+round) {
					t.Errorf("%+v in %+v", receipt, bounds)
				}
				if err := s.Close(); err != nil {
					t.Error(err)
				}
				end(t, e, true)
			}
		})
	}
}

func copyOf(t *testing.T, dir string) string { return copyDir(t, dir) }

// checkTrust checks which positions of the epoch before are valid, where five messages
// were kept.
func checkTrust(t *testing.T, bounds message.Bounds, stored message.Position, want trust) {
	t.Helper()
	epochs := map[trust]int{intact: 1, torn: 2, foreign: 1}
	if len(bounds.Epochs) != epochs[want] || (bounds.Epoch() == stored.Epoch) != (want == intact) {
		t.Errorf("epochs %+v after %q", bounds.Epochs, stored.Epoch)
	}
	for offset := message.Offset(0); offset <= stored.Offset+2; offset++ {
		valid := want == intact || want == torn && offset <= stored.Offset
		if got := bounds.Knows(message.Position{Epoch: stored.Epoch, Offset: offset}); got != valid {
			t.Errorf("offset %d of the epoch before: valid %v, want %v", offset, got, valid)
		}
	}
}

// What a power cut took is published again, under another epoch.
func TestInvariantEpochsAfterAPowerCutThatTookMessages(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	e := embeddedIn(t, dir)
	s := readyStore(t, Options{Embedded: e, Namespaces: testNamespaces(one)})
	publishMany(t, s, 5)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	end(t, e, true)
	backup := copyDir(t, filepath.Join(dir, "jetstream")) // what was on the disk when the power went
	e = embeddedIn(t, dir)
	s = readyStore(t, Options{Embedded: e, Namespaces: testNamespaces(one)})
	before := publishMany(t, s, 4)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	end(t, e, false)
	for _, step := range []error{
		os.RemoveAll(filepath.Join(dir, "jetstream")),
		os.CopyFS(filepath.Join(dir, "jetstream"), os.DirFS(backup)),
	} {
		if step != nil {
			t.Fatal(step)
		}
	}
	reboot(t, dir)

	e = embeddedIn(t, dir)
	s = readyStore(t, Options{Embedded: e, Namespaces: testNamespaces(one)})
	bounds, err := s.Bounds(t.Context(), "chat.lobby")
	if err != nil {
		t.Fatal(err)
	}
	checkTrust(t, bounds, message.Position{Epoch: before.Epoch, Offset: 5}, torn)
	if after := publish(t, s, text("chat.lobby", "1")); after.Offset != 6 || after.Epoch == before.Epoch {
		t.Errorf("%+v after %+v", after, before)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	end(t, e, true)
}

func TestStateFileIsReplacedWhole(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, clean := range []bool{true, false, true} {
		if err := writeDirState(dir, clean); err != nil {
			t.Fatal(err)
		}
		if left, err := examineDir(dir); err != nil || left != intact {
			t.Errorf("left %d, %v", left, err)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("%v, %v", entries, err)
	}
}

func FuzzDirState(f *testing.F) {
	f.Add([]byte(`{"boot":"b","clean":true,"file":"1"}`))
	f.Add([]byte(`{"clean":true}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, stateFile), text, 0o600); err != nil {
			t.Fatal(err)
		}
		if left, err := examineDir(dir); err != nil || left != foreign { // nobody can guess the file's identity
			t.Errorf("left %d, %v", left, err)
		}
	})
}
