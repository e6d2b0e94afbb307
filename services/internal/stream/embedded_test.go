package stream

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestEmbeddedKeepsMessagesAndEpochAcrossRestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	run := func() (position, receipt any) {
		e, err := StartEmbedded(EmbeddedOptions{Dir: dir, Logger: testLogger(t)})
		if err != nil {
			t.Fatal(err)
		}
		s := readyStore(t, Options{Embedded: e, Receiver: newRecorder()})
		before := listen(t, s, "chat.lobby")
		after := publish(t, s, text("chat.lobby", "1")).Position
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if err := e.Close(); err != nil {
			t.Error(err)
		}
		if err := e.Close(); err != nil {
			t.Error("second Close:", err)
		}
		return before, after
	}
	_, stored := run()
	if found, _ := run(); found != stored {
		t.Errorf("after the restart the channel stands at %+v, want %+v", found, stored)
	}
}

func TestEmbeddedHasNoPort(t *testing.T) {
	t.Parallel()
	if addr := startEmbedded(t).server.Addr(); addr != nil {
		t.Errorf("listens on %v", addr)
	}
}

func TestEmbeddedDirectoryInUse(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first, err := StartEmbedded(EmbeddedOptions{Dir: dir, Logger: testLogger(t)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := StartEmbedded(EmbeddedOptions{Dir: dir, Logger: testLogger(t)}); err == nil ||
		!strings.Contains(err.Error(), dir+" is in use by another process") {
		t.Errorf("second start: %v", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := StartEmbedded(EmbeddedOptions{Dir: dir, Logger: testLogger(t)})
	if err != nil {
		t.Fatalf("start after Close: %v", err)
	}
	if err := again.Close(); err != nil {
		t.Error(err)
	}
}

func TestEmbeddedBadDirectory(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	locked := t.TempDir() // the lock file cannot be opened for writing, whoever asks
	if err := os.Mkdir(filepath.Join(locked, lockFile), 0o700); err != nil {
		t.Fatal(err)
	}
	broken := t.TempDir() // JetStream's own directory cannot be made
	if err := os.WriteFile(filepath.Join(broken, "jetstream"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ dir, want string }{
		{"", `"" is not a directory`},
		{file, "the data directory " + file + " cannot be made"},
		{filepath.Join(file, "data"), "the data directory " + filepath.Join(file, "data") + " cannot be made"},
		{locked, "the data directory " + locked + " cannot be written"},
		{broken, "embedded NATS in " + broken + ": Can't start JetStream"},
	} {
		if _, err := StartEmbedded(EmbeddedOptions{Dir: tt.dir, Logger: testLogger(t)}); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q: error %v, want %q", tt.dir, err, tt.want)
		}
	}
}
