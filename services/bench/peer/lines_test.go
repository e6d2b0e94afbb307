//go:build linux

package peer

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestLines shows that every message is delivered once and in order, and answered,
// however its bytes come.
func TestLines(t *testing.T) {
	var said strings.Builder
	var want []string
	for i := range 200 {
		channel := fmt.Sprint("news.", i/7%3)
		fmt.Fprintf(&said, "PUB %s number %d\n", channel, i)
		want = append(want, fmt.Sprintf("%s: number %d", channel, i))
	}
	for _, size := range []int{1, 10, 1000, said.Len()} {
		var got []string
		server, client := net.Pipe()
		served := make(chan struct{})
		go func() {
			defer close(served)
			serveBackend(server, func(channel string, messages [][]byte) {
				for _, message := range messages {
					got = append(got, channel+": "+string(message))
				}
			})
		}()
		go func() {
			for piece := range slices.Chunk([]byte(said.String()), size) {
				_, _ = client.Write(piece)
			}
		}()
		answers := bufio.NewReader(client)
		for range want {
			if line, err := answers.ReadString('\n'); err != nil || line != "OK\n" {
				t.Fatalf("%q, %v", line, err)
			}
		}
		_ = client.Close()
		<-served
		if !slices.Equal(got, want) {
			t.Fatalf("in pieces of %d: %q", size, got)
		}
	}
}

func TestLinesTogether(t *testing.T) {
	var got []string
	count := deliverLines([]byte("PUB a 1\nPUB a 2\nPUB b 3\nPUB a 4\n"), func(channel string, messages [][]byte) {
		got = append(got, fmt.Sprintf("%s %q", channel, messages))
	})
	if want := []string{`a ["1" "2"]`, `b ["3"]`, `a ["4"]`}; count != 4 || !slices.Equal(got, want) {
		t.Fatalf("%d: %q", count, got)
	}
}

func TestUnknown(t *testing.T) {
	if err := Run(t.Context(), "nothing", io.Discard); err == nil || !strings.Contains(err.Error(), "floor, grpc, websocket") {
		t.Fatalf("%v", err)
	}
}
