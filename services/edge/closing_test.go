package edge

import (
	"log/slog"
	"net/http/httptest"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"go.opentelemetry.io/otel/metric/noop"

	clientv1 "github.com/carillon-rt/carillon/gen/carillon/client/v1"
	"github.com/carillon-rt/carillon/services/edge/frame"
	"github.com/carillon-rt/carillon/services/edge/socket"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/namespace"
)

// Every reason that can end a connection ends it with a code of the protocol page,
// under the name that the page gives it.
func TestClosingsAreThoseOfTheProtocol(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	for number, name := range clientv1.ErrorReason_name {
		if number == 0 {
			continue
		}
		code, reason := closingOf(&fault.Error{Reason: fault.Reason(strings.TrimPrefix(name, "ERROR_REASON_"))})
		if row := "| " + strconv.Itoa(int(code)) + " | `" + reason + "`"; !strings.Contains(string(page), row) {
			t.Errorf("%s closes with %d %s, which docs/protocol.md does not have", name, code, reason)
		}
	}
}

// A client has all of the time for its pong, also where nobody has looked at the
// clock for longer than that.
func TestPongTimeoutRunsFromThePing(t *testing.T) {
	t.Parallel()
	e, err := New(Options{
		OpenBroker: func(Receiver) (Broker, error) { return struct{ Broker }{}, nil }, Logger: slog.New(slog.DiscardHandler), Meter: noop.Meter{},
		Limits: Limits{
			MaxFrameBytes: 1 << 10, MaxQueueBytes: 1 << 20, MaxConnections: 1, Rate: namespace.Rate{Messages: 1, Per: time.Second},
			ConnectTimeout: time.Hour, PingInterval: 25 * time.Second, PongTimeout: 10 * time.Second,
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	web := httptest.NewServer(e.Handler()) // without Serve only the test checks
	defer e.goroutines.Wait()
	defer web.Close()
	ws, _, err := websocket.Dial(t.Context(), web.URL+"/v1/ws", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer ws.CloseNow()
	for len(e.all()) == 0 {
		runtime.Gosched()
	}
	s := e.all()[0]
	late := s.opened.Add(time.Minute)
	for _, step := range []struct {
		after time.Duration
		ended bool
	}{{0, false}, {time.Second, false}, {10*time.Second - 1, false}, {10 * time.Second, true}} {
		if s.check(late.Add(step.after)); s.ended.Load() != step.ended {
			t.Errorf("%v after the ping: ended %t", step.after, s.ended.Load())
		}
	}
}

func TestCodecCount(t *testing.T) {
	t.Parallel()
	if len(frame.Codecs()) != codecCount {
		t.Errorf("there are %d codecs; codecCount is %d", len(frame.Codecs()), codecCount)
	}
}

// Every code of the protocol page that sends a client back has its user held until it has
// been able to come, and no other.
func TestHoldAfter(t *testing.T) {
	t.Parallel()
	const wait, grace = 3 * time.Second, 10 * time.Second
	for code, held := range map[socket.CloseCode]time.Duration{
		closeForbidden: 0, closeUnauthenticated: 0, closeMalformed: 0, 1002: 0, closeNotUTF8: 0, closeConnectionLimit: 0, closeTimeout: 0,
		closeTokenExpired: wait + grace, closeFrameTooBig: wait + grace, closeRateLimited: wait + grace, closeSlowConsumer: wait + grace,
		closeDraining: wait + grace, closeOverloaded: wait + grace, closeInternal: wait + grace,
	} {
		if got := holdAfter(code, wait, grace); got != held {
			t.Errorf("%d: held for %v, want %v", code, got, held)
		}
	}
}
