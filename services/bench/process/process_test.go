//go:build linux

package process

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 20 * time.Second

func start(t *testing.T, script string) (*Process, context.Context) {
	t.Helper()
	p, err := Start("child", []string{"GREETING=hello"}, "sh", "-c", script)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Stop)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return p, ctx
}

func TestEnvironment(t *testing.T) {
	t.Setenv("CARILLON_EDGE_LISTEN", "here")
	t.Setenv("OTHER", "kept")
	p, ctx := start(t, `echo "$GREETING $OTHER $CARILLON_EDGE_LISTEN."`)
	if _, err := p.Line(ctx, "hello kept ."); err != nil {
		t.Fatal(err)
	}
}

func TestLine(t *testing.T) {
	p, ctx := start(t, "echo $GREETING one; echo hello two >&2; exec sleep 60")
	for _, want := range []string{"hello two", "hello one"} {
		if line, err := p.Line(ctx, "hello", want[6:]); err != nil || line != want {
			t.Fatalf("%q: %v", line, err)
		}
	}
	short, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
	defer cancel()
	if _, err := p.Line(short, "three"); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "hello two") {
		t.Fatalf("a line that does not come: %v", err)
	}
}

func TestLineOfTheDead(t *testing.T) {
	p, ctx := start(t, "echo it is wrong; exit 3")
	if _, err := p.Line(ctx, "right"); err == nil || !strings.Contains(err.Error(), "exit status 3") || !strings.Contains(err.Error(), "it is wrong") {
		t.Fatalf("of a process that has ended: %v", err)
	}
	if _, err := Use(p); err == nil {
		t.Fatal("a process that has ended uses nothing that can be told")
	}
}

func TestManyLinesAreForgotten(t *testing.T) {
	p, ctx := start(t, "i=0; while [ $i -lt 3000 ]; do echo line-$i; i=$((i+1)); done; echo last; exec sleep 60")
	if _, err := p.Line(ctx, "last"); err != nil {
		t.Fatal(err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.lines) > maxLines {
		t.Fatalf("%d lines are kept", len(p.lines))
	}
}

func TestStartOfNothing(t *testing.T) {
	if _, err := Start("child", nil, "/is/not/there"); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("%v", err)
	}
}

// TestUse holds what is told of a busy process to what that says of itself.
func TestUse(t *testing.T) {
	busy := "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; times; exec sleep 60"
	p, ctx := start(t, busy)
	other, _ := start(t, "exec sleep 60")
	line, err := p.Line(ctx, "m", "s ") // 0m0.31s 0m0.01s: user and system, then those of children
	if err != nil {
		t.Fatal(err)
	}
	var said time.Duration
	for part := range strings.FieldsSeq(line) {
		d, err := time.ParseDuration(part)
		if err != nil {
			t.Fatal(err)
		}
		said += d
	}
	used, err := Use(p, other)
	if err != nil {
		t.Fatal(err)
	}
	// The shell counts in 10 ms, twice; sleep and its loading come on top.
	if used.CPU < said-20*time.Millisecond || used.CPU > said+100*time.Millisecond {
		t.Fatalf("the process says %v, the system %v", said, used.CPU)
	}
	if used.Memory < 100<<10 || used.Memory > 100<<20 {
		t.Fatalf("two small processes hold %d bytes", used.Memory)
	}
	again, err := Use(p, other)
	if err != nil || again.CPU < used.CPU || again.CPU > used.CPU+50*time.Millisecond {
		t.Fatalf("who sleeps used %v, then %v: %v", used.CPU, again.CPU, err)
	}
}

func TestMemoryOf(t *testing.T) {
	if bytes, err := memoryOf("100 25 9 1 0 50 0\n"); err != nil || bytes != int64(25*os.Getpagesize()) {
		t.Fatalf("%d, %v", bytes, err)
	}
	for _, bad := range []string{"", "100", "100 many"} {
		if _, err := memoryOf(bad); err == nil {
			t.Fatalf("%q is not what the kernel writes", bad)
		}
	}
}
