//go:build linux

package system

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/carillon-rt/carillon/services/bench/herd"
	"github.com/carillon-rt/carillon/services/bench/peer"
	"github.com/carillon-rt/carillon/services/bench/process"
)

const (
	root = "../../.."
	// patience is how long anything may take.
	patience = 30 * time.Second
)

var withSocketIO = flag.Bool("socketio", false, "test Socket.IO too, which make bench-deps installs")

// buildDir is where programs are built.
var buildDir string

// TestMain has the test binary stand in for carillon where that runs a peer.
func TestMain(m *testing.M) {
	if len(os.Args) == 4 && os.Args[1] == "bench" && os.Args[2] == "serve" {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		err := peer.Run(ctx, os.Args[3], os.Stdout)
		stop()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	flag.Parse()
	var err error
	if buildDir, err = os.MkdirTemp("", "carillon-bench-test-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(status int) {
		_ = os.RemoveAll(buildDir)
		os.Exit(status)
	}))
}

// program is one that make unit builds before the tests; without make, one that is not
// there is built.
func program(t *testing.T, name, of string) string {
	t.Helper()
	made, err := filepath.Abs(filepath.Join(root, "bin", name))
	if _, statErr := os.Stat(made); err == nil && statErr == nil {
		return made
	}
	made = filepath.Join(buildDir, name)
	command := exec.CommandContext(t.Context(), "go", "build", "-o", made, of)
	command.Dir = root
	if output, err := command.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", command, err, output)
	}
	return made
}

func natsServer(t *testing.T) string {
	t.Helper()
	return program(t, "nats-server", "github.com/nats-io/nats-server/v2")
}

func start(t *testing.T, s System, o Options) (context.Context, Server) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	o.Dir = t.TempDir()
	server, err := s.Start(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	if used, err := process.Use(server.Processes()...); err != nil || used.CPU == 0 || used.Memory == 0 {
		t.Fatalf("it uses %v: %v", used, err)
	}
	return ctx, server
}

func publisher(ctx context.Context, t *testing.T, server Server) Publisher {
	t.Helper()
	p, err := server.Publisher(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// TestDeliverers publishes 10 messages to 3 clients and to one of them.
func TestDeliverers(t *testing.T) {
	itself, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		system  System
		options func(t *testing.T) Options
	}{
		{Floor{}, func(*testing.T) Options { return Options{Carillon: itself} }},
		{WebSocket{}, func(*testing.T) Options { return Options{Carillon: itself} }},
		{NATSWebSocket{}, func(t *testing.T) Options { return Options{NATSServer: natsServer(t), Quiet: true} }},
		{Carillon{}, func(t *testing.T) Options { return Options{Carillon: program(t, "carillon", "./services/carillon")} }},
		{SocketIO{}, func(*testing.T) Options { return Options{Node: "node", Scripts: "js"} }},
	}
	for _, test := range tests {
		if test.system == (SocketIO{}) && !*withSocketIO {
			continue
		}
		t.Run(test.system.Name(), func(t *testing.T) {
			t.Parallel()
			ctx, server := start(t, test.system, test.options(t))
			delivers(ctx, t, server)
		})
	}
}

func delivers(ctx context.Context, t *testing.T, server Server) {
	t.Helper()
	const clients, messages = 3, 10
	var (
		mu  sync.Mutex
		got [clients][]uint64
	)
	all := make(chan struct{})
	left := messages * (clients + 1)
	h, err := herd.New(func(client int, number uint64, _ time.Time) {
		mu.Lock()
		defer mu.Unlock()
		got[client] = append(got[client], number)
		if left--; left == 0 {
			close(all)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	var ready []herd.Client
	for n := range clients {
		c, err := server.(Deliverer).Client(n, 0, Subscription{Channel: Shared("all")}, Subscription{Channel: Own(n)})
		if err != nil {
			t.Fatal(err)
		}
		ready = append(ready, c)
	}
	if err := h.Connect(ctx, ready, clients); err != nil {
		t.Fatal(err)
	}
	p := publisher(ctx, t, server)
	var shared, own []uint64
	for i := range uint64(messages) {
		_, err1 := p.Publish(ctx, Shared("all"), herd.Message(2*i, 128))
		_, err2 := p.Publish(ctx, Own(1), herd.Message(2*i+1, 128))
		_, err3 := p.Publish(ctx, Shared("nobody"), herd.Message(1000, 128))
		if err := errors.Join(err1, err2, err3); err != nil {
			t.Fatal(err)
		}
		shared, own = append(shared, 2*i), append(own, 2*i+1)
	}
	select {
	case <-all:
	case <-ctx.Done():
		t.Errorf("%d deliveries have not come", left)
	}
	if err := h.Lost(); err != nil {
		t.Error(err)
	}
	mu.Lock()
	defer mu.Unlock()
	for client, numbers := range got {
		want := shared
		if client == 1 {
			want = slices.Sorted(slices.Values(slices.Concat(shared, own)))
			slices.Sort(numbers) // of two channels
		}
		if !slices.Equal(numbers, want) {
			t.Errorf("client %d has got %v, not %v", client, numbers, want)
		}
	}
}

// TestPublishers publishes one by one and many at once.
func TestPublishers(t *testing.T) {
	itself, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	t.Run("grpc", func(t *testing.T) {
		t.Parallel()
		ctx, server := start(t, GRPC{}, Options{Carillon: itself})
		publishes(ctx, t, publisher(ctx, t, server))
	})
	t.Run("jetstream", func(t *testing.T) {
		t.Parallel()
		ctx, server := start(t, JetStream{}, Options{NATSServer: natsServer(t)})
		p := publisher(ctx, t, server)
		publishes(ctx, t, p)
		place, err := p.Publish(ctx, Shared("piped"), []byte("last"))
		if err != nil || place.Offset != 1002 {
			t.Fatalf("1,001 messages were stored, and then one at %v: %v", place, err)
		}
	})
}

func publishes(ctx context.Context, t *testing.T, p Publisher) {
	t.Helper()
	if _, err := p.Publish(ctx, Shared("quiet"), []byte("one")); err != nil {
		t.Fatal(err)
	}
	if err := p.(Piper).Pipe(ctx, Shared("piped"), []byte("many"), 1000, 256); err != nil {
		t.Fatal(err)
	}
}

func TestNotInstalled(t *testing.T) {
	for _, o := range []Options{{Node: "/no/node"}, {Node: "sh", Scripts: t.TempDir()}} {
		if _, err := (SocketIO{}).Start(t.Context(), o); !errors.Is(err, ErrNotInstalled) {
			t.Errorf("%+v: %v", o, err)
		}
	}
}

func TestNotStarted(t *testing.T) {
	for _, s := range []System{Carillon{}, Floor{}, WebSocket{}, GRPC{}, JetStream{}, NATSWebSocket{}} {
		if _, err := s.Start(t.Context(), Options{Dir: t.TempDir(), Carillon: "/bin/false", NATSServer: "/bin/false"}); err == nil {
			t.Errorf("%s has started /bin/false", s.Name())
		}
	}
}
