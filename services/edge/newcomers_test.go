package edge_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/carillon-rt/carillon/services/edge"
	"github.com/carillon-rt/carillon/services/internal/auth"
	"github.com/carillon-rt/carillon/services/internal/namespace"
)

// slowVerifier takes its time over a token.
type slowVerifier struct {
	edge.Verifier
	hold chan struct{}
}

func (v slowVerifier) Verify(ctx context.Context, token string) (auth.Identity, error) {
	<-v.hold
	return v.Verifier.Verify(ctx, token)
}

// wantSilence fails if the edge says something.
func (p *peer) wantSilence() {
	p.t.Helper()
	_ = p.conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if _, err := p.in.Peek(1); !errors.Is(err, os.ErrDeadlineExceeded) {
		h, err := p.next()
		p.t.Fatalf("the edge said %q, %v", h.payload, err)
	}
	_ = p.conn.SetReadDeadline(time.Now().Add(20 * time.Second))
}

// What comes right behind connect is paid for as everything of that user is, however long
// it takes to find out who that is.
func TestWhatComesBehindConnectIsPaidFor(t *testing.T) {
	t.Parallel()
	hold := make(chan struct{})
	w, counted := limited(t, func(o *edge.Options) {
		o.Limits.UserRate = namespace.Rate{Messages: 1, Per: hour}
		o.Verifier = slowVerifier{o.Verifier, hold}
	})
	p, _ := w.shake(t, head())
	p.say(`{"id":1,"connect":{"token":"`+token(t, "alice", time.Hour)+`"}}`, asJSON)
	for id := 2; id < 6; id++ {
		p.say(fmt.Sprintf(`{"id":%d,"publish":{"channel":"chat.a","data":1}}`, id), asJSON)
	}
	p.wantSilence() // time enough to take them in
	close(hold)
	answers := map[string]int{}
	for range 6 { // the inbox is one
		payload := p.hear().payload
		for _, name := range []string{"connected", "published", "error"} {
			if strings.Contains(payload, `"`+name+`":{`) {
				answers[name]++
			}
		}
	}
	if answers["published"] != 1 || answers["error"] != 3 {
		t.Errorf("answered %v, want one published and three refused", answers)
	}
	counted.wantCounted(t, "user_messages")
}

// Who has not shown a token takes nothing away from those who have.
func TestWhoHasNotConnectedUsesUpNothingOfOthers(t *testing.T) {
	t.Parallel()
	w, counted := limited(t, func(o *edge.Options) {
		ns := *o.Namespaces["wide"]
		ns.TotalRate = &namespace.Rate{Messages: 3, Per: hour}
		o.Namespaces["wide"] = &ns
	})
	stranger, alice := w.dial(t, nil), w.connect(t, "alice")
	for id := 1; id < 10; id++ {
		stranger.say(fmt.Sprintf(`{"id":%d,"publish":{"channel":"wide.a","data":1}}`, id))
		if refused := stranger.hear("error"); refused["reason"] != "CONNECT_REQUIRED" {
			t.Fatalf("refused: %v", refused)
		}
	}
	for range 3 {
		alice.say(`{"id":2,"publish":{"channel":"wide.a","data":1}}`)
		alice.hear("published")
	}
	counted.wantCounted(t)
}

// A body that is announced and never comes holds a connection for no longer than headers
// that never come.
func TestABodyThatNeverComes(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	for _, length := range []string{"+Content-Length: 1000", "+Transfer-Encoding: chunked"} {
		t.Run(length, func(t *testing.T) {
			t.Parallel()
			conn := w.silent(t, "127.0.0.1")
			if _, err := conn.Write([]byte(head(length))); err != nil {
				t.Fatal(err)
			}
			_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
			for buffer := make([]byte, 512); ; {
				_, err := conn.Read(buffer)
				if errors.Is(err, os.ErrDeadlineExceeded) {
					t.Fatal("the edge waits for it still")
				}
				if err != nil {
					return
				}
			}
		})
	}
}

// flaky is a listener that has no file for a connection, once.
type flaky struct {
	net.Listener
	once *sync.Once
}

func (l flaky) Accept() (conn net.Conn, err error) {
	l.once.Do(func() {
		err = &net.OpError{Op: "accept", Net: "tcp", Err: os.NewSyscallError("accept4", syscall.EMFILE)}
	})
	if err != nil {
		return nil, err
	}
	return l.Listener.Accept()
}

// That the edge cannot accept connections is told at the log's usual level.
func TestAListenerThatCannotAccept(t *testing.T) {
	t.Parallel()
	var options edge.Options
	first := start(t, func(o *edge.Options) { options = *o })
	logged := &notes{}
	options.Logger = slog.New(slog.NewTextHandler(logged, nil))
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := first.beside(t, flaky{listener, &sync.Once{}}, options)
	if _, response := w.shake(t, head()); response.StatusCode != http.StatusSwitchingProtocols {
		t.Fatal(response.Status) // after the accept that failed
	}
	if n := logged.holding("level=WARN", "too many open files"); n != 1 {
		t.Errorf("warned %d times", n)
	}
}

// Whatever a handshake is refused for is counted.
func TestRefusedHandshakesAreCounted(t *testing.T) {
	t.Parallel()
	w, counted := limited(t, func(*edge.Options) {})
	for _, tt := range []struct {
		head   string
		status int
	}{
		{head("+Sec-WebSocket-Protocol: mqtt"), http.StatusBadRequest},
		{head("+X: " + strings.Repeat("x", 8<<10)), http.StatusRequestHeaderFieldsTooLarge},
		{head("-Upgrade"), http.StatusUpgradeRequired},
		{head("+Sec-WebSocket-Version: 13"), http.StatusBadRequest},
	} {
		if _, response := w.shake(t, tt.head); response.StatusCode != tt.status {
			t.Errorf("answered %s, want %d", response.Status, tt.status)
		}
	}
	want := map[string]int64{"field_invalid": 1, "header_invalid": 3}
	if got := counted.by("carillon.edge.refusals", "reason"); !maps.Equal(got, want) {
		t.Errorf("counted %v, want %v", got, want)
	}
	counted.wantCounted(t, "header_bytes")
}
