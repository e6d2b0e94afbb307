package fleet_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/carillon-rt/carillon/services/chaos/fleet"
)

const (
	root     = "../../.."
	patience = 60 * time.Second
	// electionTime is how long NATS may take for one after the last heartbeat.
	electionTime = 9 * time.Second
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// natsServer is the one that the Makefile builds, or else one built now.
func natsServer(t *testing.T) string {
	t.Helper()
	made, err := filepath.Abs(filepath.Join(root, "bin", "nats-server"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(made); err == nil {
		return made
	}
	return build(t, "nats-server", "github.com/nats-io/nats-server/v2")
}

func build(t *testing.T, name, source string) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), name)
	cmd := exec.Command("go", "build", "-o", program, source)
	cmd.Dir = root
	if output, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd, err, output)
	}
	return program
}

func eventually(t *testing.T, what string, try func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v", what, err)
		}
		<-again.C
	}
}

// TestFleet starts one and does to it what a plan may: its parts are told one after
// the other, since a start takes seconds.
func TestFleet(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	f, err := fleet.New(fleet.Options{
		Dir: dir, Carillon: build(t, "carillon", "./services/carillon"),
		NATSServer: natsServer(t), DiskBytes: 64 << 20,
	})
	if err != nil {
		t.Fatal(err)
	}
	closed := false
	defer func() {
		if !closed {
			_ = f.Close()
		}
		if t.Failed() {
			logs, _ := filepath.Glob(filepath.Join(dir, "*.log"))
			for _, name := range logs {
				text, _ := os.ReadFile(name)
				t.Logf("%s:\n%s", name, text)
			}
		}
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
	defer cancel()
	if err := f.Start(ctx); err != nil {
		t.Fatal(err)
	}
	t.Run("leader", func(t *testing.T) { testLeader(ctx, t, f) })
	t.Run("gossip", func(t *testing.T) { testGossip(t, f) })
	t.Run("partition", func(t *testing.T) { testPartition(ctx, t, f) })
	t.Run("lives", func(t *testing.T) { testLives(ctx, t, f) })
	t.Run("disk", func(t *testing.T) { testDisk(t, f, dir) })
	t.Run("restore", func(t *testing.T) { testRestore(ctx, t, f, dir) })
	if surprises := f.Surprises(); len(surprises) > 0 {
		t.Error(surprises)
	}
	if err := f.Heal(ctx); err != nil {
		t.Error(err)
	}
	if err := f.Stop(); err != nil {
		t.Error(err)
	}
	closed = true
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	if mounts, _ := os.ReadFile("/proc/mounts"); strings.Contains(string(mounts), dir) {
		t.Errorf("something is still mounted:\n%s", mounts)
	}
}

func testLeader(ctx context.Context, t *testing.T, f *fleet.Fleet) {
	for _, stream := range fleet.Streams {
		before, err := f.Leader(ctx, stream)
		if err != nil {
			t.Fatal(err)
		}
		if followers, err := f.Followers(ctx, stream); err != nil || len(followers) != 2 {
			t.Errorf("%s is followed by %d, %v", stream, len(followers), err)
		}
		if err := f.StepDown(ctx, stream); err != nil {
			t.Fatal(err)
		}
		asked := time.Now()
		eventually(t, "another leader of "+stream, func() error {
			after, err := f.Leader(ctx, stream)
			if err != nil || after != before {
				return err
			}
			if time.Since(asked) > electionTime { // it was elected again, as it may
				asked = time.Now()
				err = f.StepDown(ctx, stream)
			}
			return errors.Join(err, fmt.Errorf("%s still leads", before.Name))
		})
	}
	if err := f.StepDown(ctx, "CARILLON_unknown_0"); err == nil {
		t.Error("the leader of a stream that is not there stepped down")
	}
}

// testGossip wants that no node tells clients of others.
func testGossip(t *testing.T, f *fleet.Fleet) {
	for _, node := range f.Nodes {
		conn, err := net.Dial("tcp", node.Address("nats"))
		if err != nil {
			t.Fatal(err)
		}
		line, err := bufio.NewReader(conn).ReadString('\n')
		_ = conn.Close()
		var info struct {
			ConnectURLs []string `json:"connect_urls"`
		}
		if err == nil {
			err = json.Unmarshal([]byte(strings.TrimPrefix(line, "INFO ")), &info)
		}
		for _, url := range info.ConnectURLs {
			if url != node.Address("nats") {
				t.Errorf("%s tells clients of %s", node.Name, url)
			}
		}
		if err != nil {
			t.Errorf("%s: %q: %v", node.Name, line, err)
		}
	}
}

// routed counts the routes of a node to another.
func routed(ctx context.Context, t *testing.T, from, to *fleet.Member) int {
	t.Helper()
	out, err := exec.CommandContext(ctx, "curl", "-s", "-m", "5", "http://"+from.Address("monitoring")+"/routez").Output()
	var routez struct {
		Routes []struct {
			RemoteName string `json:"remote_name"`
		}
	}
	if err == nil {
		err = json.Unmarshal(out, &routez)
	}
	if err != nil {
		t.Fatalf("/routez: %v", err)
	}
	n := 0
	for _, route := range routez.Routes {
		if route.RemoteName == to.Name {
			n++
		}
	}
	return n
}

// testPartition wants that two nodes which are cut off from each other stay so while
// both reach the third, which tells each of the other.
func testPartition(ctx context.Context, t *testing.T, f *fleet.Fleet) {
	for _, cable := range f.Routes(0, 1) {
		cable.Cut()
	}
	eventually(t, "a partition", func() error {
		if n := routed(ctx, t, f.Nodes[0], f.Nodes[1]); n > 0 {
			return fmt.Errorf("%d routes", n)
		}
		return nil
	})
	third := f.Nodes[2]
	third.Kill() // its new life tells them of each other again
	if err := third.Start(ctx); err != nil {
		t.Fatal(err)
	}
	eventually(t, "routes to the third", func() error {
		if routed(ctx, t, f.Nodes[0], third) == 0 || routed(ctx, t, f.Nodes[1], third) == 0 {
			return fmt.Errorf("missing")
		}
		return nil
	})
	looking := time.NewTicker(200 * time.Millisecond)
	defer looking.Stop()
	for range 10 { // they try every second
		if n := routed(ctx, t, f.Nodes[0], f.Nodes[1]); n > 0 {
			t.Fatalf("%d routes around the cut", n)
		}
		<-looking.C
	}
	if err := f.Heal(ctx); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the partition's end", func() error {
		if routed(ctx, t, f.Nodes[0], f.Nodes[1]) == 0 {
			return fmt.Errorf("no route")
		}
		return nil
	})
}

func testLives(ctx context.Context, t *testing.T, f *fleet.Fleet) {
	edge := f.Edges[0]
	front := f.ClientCable(edge).Address()
	if err := edge.Pause(); err != nil {
		t.Fatal(err)
	}
	edge.Kill()
	if c, err := net.Dial("tcp", front); err == nil {
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Error("somebody answers for a dead edge")
		}
		_ = c.Close()
	}
	f.NATSCables(edge)[0].Cut()
	f.PresenceCables(edge)[0].Lose(3)
	if err := f.Publishes[0].Pause(); err != nil {
		t.Fatal(err)
	}
	if err := f.Heal(ctx); err != nil {
		t.Fatal(err)
	}
	if f.ClientCable(edge).Address() != front {
		t.Error("the edge has moved")
	}
	if c, err := net.Dial("tcp", front); err != nil {
		t.Error(err)
	} else {
		_, _ = c.Write([]byte("GET /v1/ws HTTP/1.0\r\n\r\n"))
		if _, err := c.Read(make([]byte, 1)); err != nil {
			t.Errorf("the edge does not answer: %v", err)
		}
		_ = c.Close()
	}
}

func testDisk(t *testing.T, f *fleet.Fleet, dir string) {
	if os.Geteuid() != 0 {
		if f.DiskProblem() == nil || f.FillDisk(0) == nil {
			t.Error("a small disk without root")
		}
		return
	}
	if err := f.DiskProblem(); err != nil {
		t.Fatal(err)
	}
	if err := f.FillDisk(0); err != nil {
		t.Fatal(err)
	}
	err := f.OnDisks(func() error { return os.WriteFile(filepath.Join(dir, "nats-1", "more"), make([]byte, 1<<20), 0o600) })
	if pathErr, ok := err.(*os.PathError); !ok || pathErr.Err != syscall.ENOSPC {
		t.Errorf("write to a full disk: %v", err)
	}
	if err := f.FreeDisk(0); err != nil {
		t.Error(err)
	}
}

func testRestore(ctx context.Context, t *testing.T, f *fleet.Fleet, dir string) {
	if err := f.Heal(ctx); err != nil {
		t.Fatal(err)
	}
	if err := f.Backup(); err != nil {
		t.Fatal(err)
	}
	mark := filepath.Join(dir, "nats-2", "younger")
	if err := f.OnDisks(func() error { return os.WriteFile(mark, nil, 0o600) }); err != nil {
		t.Fatal(err)
	}
	if err := f.Restore(ctx); err != nil {
		t.Fatal(err)
	}
	err := f.OnDisks(func() error { _, err := os.Stat(mark); return err })
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what was not there is there after a restore: %v", err)
	}
	if err := f.Await(ctx); err != nil {
		t.Error(err)
	}
}
