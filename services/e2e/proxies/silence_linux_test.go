package proxies_test

import (
	"context"
	"fmt"
	"net"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	controlv1 "github.com/carillon-rt/carillon/gen/carillon/control/v1"
	presencev1 "github.com/carillon-rt/carillon/gen/carillon/presence/v1"
	publishv1 "github.com/carillon-rt/carillon/gen/carillon/publish/v1"
)

// lost are those whose hosts have gone without a word: nothing reaches the load balancer
// from there, nor anything them.
type lost struct {
	since  time.Time
	found  sync.WaitGroup // whoever looks for them
	mutex  sync.Mutex
	within map[string]time.Duration // after which it was seen that they are gone
}

// lose loses a user of edge-1, whom that one pings, a caller that says nothing, and one
// that is sent something, of whom only the load balancer can know.
func lose(t *testing.T, s *system, f front) *lost {
	t.Helper()
	user := ""
	for before := connections(t)[1]; connections(t)[1] == before; { // each goes to the edge that has fewest
		user = fmt.Sprint("lost", before, user)
		f.connect(t, s, user, "10.77.4.1")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
	t.Cleanup(cancel)
	ctx, err := s.tokens.Caller(ctx, "backend")
	if err != nil {
		t.Fatal(err)
	}
	stream, err := publishv1.NewPublishServiceClient(f.dialFrom(t, "10.77.4.2")).PublishStream(ctx)
	if err == nil {
		err = stream.Send(&publishv1.PublishStreamRequest{Id: 1, Message: said("chat.lost", "1")})
	}
	if err == nil {
		_, err = stream.Recv()
	}
	if err != nil {
		t.Fatal(err)
	}
	watch, err := presencev1.NewPresenceServiceClient(f.dialFrom(t, "10.77.4.3")).WatchChannel(ctx, &presencev1.WatchChannelRequest{Channel: "chat.lost"})
	if err == nil {
		_, err = watch.Recv()
	}
	if err != nil {
		t.Fatal(err)
	}

	l := &lost{within: map[string]time.Duration{}}
	t.Cleanup(func() {
		cancel()
		l.found.Wait()
	})
	for i := range 3 {
		f.swallow(t, fmt.Sprint("10.77.4.", i+1))
	}
	l.since = time.Now()
	f.connect(t, s, "found", "", "chat.lost") // which the watcher is told
	control := controlv1.NewControlServiceClient(f.dial(t))
	l.await(ctx, "user", func() bool {
		list, err := control.ListConnections(ctx, &controlv1.ListConnectionsRequest{UserId: user})
		return err == nil && len(list.GetConnections()) == 0
	})
	for who, address := range map[string]string{"silent caller": "10.77.4.2", "caller": "10.77.4.3"} {
		l.await(ctx, who, func() bool {
			open, err := f.connectionsWith(ctx, address)
			return err == nil && open == ""
		})
	}
	return l
}

// await notes when somebody is gone.
func (l *lost) await(ctx context.Context, who string, gone func() bool) {
	l.found.Go(func() {
		again := time.NewTicker(500 * time.Millisecond)
		defer again.Stop()
		for !gone() {
			select {
			case <-ctx.Done():
				return
			case <-again.C:
			}
		}
		l.mutex.Lock()
		defer l.mutex.Unlock()
		l.within[who] = time.Since(l.since).Round(100 * time.Millisecond)
	})
}

// missed wants that those are known to be gone by now who have to be.
func (l *lost) missed(t *testing.T, who []string) {
	t.Helper()
	l.mutex.Lock()
	defer l.mutex.Unlock()
	t.Logf("known to be gone: %v, of %v ago", l.within, time.Since(l.since).Round(time.Second))
	for _, name := range who {
		// A ping after 25 s that is answered within 10; three probes after 30 s; 30 s for what
		// was sent at once.
		if after, known := l.within[name]; !known || after < 20*time.Second || after > time.Minute {
			t.Errorf("a %s that is gone: known after %v (%v)", name, after, known)
		}
	}
}

// dialFrom reaches the gRPC APIs from an address of this network.
func (f front) dialFrom(t *testing.T, from string) *grpc.ClientConn {
	t.Helper()
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	conn, err := grpc.NewClient("passthrough:///"+f.grpc, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, to string) (net.Conn, error) { return dialer.DialContext(ctx, "tcp", to) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// inside are the arguments of a program that is to run in the load balancer's network.
func (f front) inside(program ...string) []string {
	return append([]string{"--net=/proc/" + strconv.Itoa(f.pid) + "/ns/net"}, program...)
}

// swallow has all vanish that the load balancer and an address send each other: it goes to
// a neighbour who is not there, and whom nobody looks for.
func (f front) swallow(t *testing.T, address string) {
	t.Helper()
	const nobody, table = "10.78.0.9", "99"
	check(t, nil, "nsenter", f.inside("ip", "neighbour", "replace", nobody, "lladdr", "02:00:00:00:00:01", "dev", "eth0", "nud", "permanent")...)
	check(t, nil, "nsenter", f.inside("ip", "route", "add", address, "via", nobody, "dev", "eth0")...)
	check(t, nil, "ip", "neighbour", "replace", nobody, "lladdr", "02:00:00:00:00:01", "dev", "front", "nud", "permanent")
	check(t, nil, "ip", "route", "replace", "default", "via", nobody, "dev", "front", "table", table)
	check(t, nil, "ip", "rule", "add", "from", address, "to", proxyHost, "table", table)
	t.Cleanup(func() { detached(t, "ip", "rule", "delete", "from", address, "to", proxyHost, "table", table) })
}

// connectionsWith are those that the load balancer has with an address, as ss has them.
func (f front) connectionsWith(ctx context.Context, address string) (string, error) {
	open, err := exec.CommandContext(ctx, "nsenter", f.inside("ss", "--no-header", "--tcp", "--numeric", "dst", address)...).Output()
	return strings.TrimSpace(string(open)), err
}
