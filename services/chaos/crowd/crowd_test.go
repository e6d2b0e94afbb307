package crowd

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"go.uber.org/goleak"

	"github.com/carillon-rt/carillon/services/chaos/attendance"
	"github.com/carillon-rt/carillon/services/internal/lifecycle"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// testBounds fit a machine that is busy with other things.
var testBounds = attendance.Bounds{
	Told: time.Second, Watched: time.Second, Grace: 2 * time.Second, Spare: 200 * time.Millisecond, Noticed: 4 * time.Second,
}

// tokens are the names of those who show them.
type tokens struct{}

func (tokens) Client(_ context.Context, user string) (string, error) { return user, nil }

func (tokens) Caller(ctx context.Context, _ string) (context.Context, error) { return ctx, nil }

// visitHall lets people come and go in a hall for a while, and then, if wanted, settle
// and leave.
func visitHall(t *testing.T, h *hall, lasts time.Duration, settle bool) (*attendance.Report, []error) {
	t.Helper()
	edges, replicas := h.serve(t)
	check := attendance.New(testBounds, replicas[0].Name)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c, err := Start(ctx, Options{
		Edges: edges, Replicas: replicas, Rooms: []string{"chat.a", "chat.b", "chat.c"}, People: 24, Backend: "backend", Bounds: testBounds, Seed: 1,
		Tokens: tokens{}, Check: check, Logger: slog.New(slog.NewTextHandler(t.Output(), nil)), Events: t.Output(),
	})
	if err != nil {
		t.Error(err)
	}
	lifecycle.Pause(ctx, lasts)
	c.Still()
	if settle {
		if err := c.Settle(ctx); err != nil {
			t.Error(err)
		}
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	return check.Check(), c.Problems()
}

// Where everything is as it should be nothing is found, though people do all that they
// can.
func TestHonestHall(t *testing.T) {
	t.Parallel()
	r, problems := visitHall(t, newHall(), 5*time.Second, true)
	if !r.OK() || len(problems) > 0 {
		t.Errorf("%v\n%v", r, problems)
	}
	if r.Connections < 40 || r.Joins < 80 || r.Lists < 20 || r.Counts < 6 || r.ToldJoined < 100 || r.ToldLeft < 20 || r.Exact < 10 || r.Certain < r.Uncertain {
		t.Errorf("little has happened:\n%v", r)
	}
}

// Where something is broken it is found.
func TestBrokenHalls(t *testing.T) {
	t.Parallel()
	var visits sync.WaitGroup // they wait most of the time, more than two at once
	for name, c := range map[string]struct {
		broken func(*hall)
		want   attendance.Kind
	}{
		"who says goodbye stays":       {func(h *hall) { h.sticky = true }, attendance.Ghost},
		"who has come blinks":          {func(h *hall) { h.blinks = true }, attendance.Blink},
		"nobody is told of any change": {func(h *hall) { h.mute = true }, attendance.Missing},
		"who is expected back is gone": {func(h *hall) { h.grace = 0 }, attendance.Missing},
	} {
		visits.Go(func() {
			h := newHall()
			c.broken(h)
			if r, _ := visitHall(t, h, 8*time.Second, false); r.Violations[c.want] == 0 {
				t.Errorf("%s: no %s:\n%v", name, c.want, r)
			}
		})
	}
	visits.Wait()
}

// What an edge sees of each way to end a connection.
func TestEndings(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		end  func(*socket)
		want string
	}{
		"goodbye":     {func(s *socket) { s.goodbye(websocket.StatusNormalClosure) }, "StatusNormalClosure"},
		"reload":      {func(s *socket) { s.goodbye(websocket.StatusGoingAway) }, "StatusGoingAway"},
		"end of file": {func(s *socket) { s.drop(false) }, "EOF"},
		"reset":       {func(s *socket) { s.drop(true) }, "connection reset"},
		"silence":     {(*socket).vanish, "deadline exceeded"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			seen := make(chan error, 1)
			edge := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{subprotocol}})
				if err != nil {
					seen <- err
					return
				}
				ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
				defer cancel()
				_, _, err = ws.Read(ctx)
				if ctx.Err() != nil { // the library says that it has closed the connection
					err = ctx.Err()
				}
				seen <- err
				_ = ws.CloseNow()
			}))
			defer edge.Close()
			s, err := dial(t.Context(), "ws"+strings.TrimPrefix(edge.URL, "http"), "token")
			if err != nil {
				t.Fatal(err)
			}
			c.end(s)
			if err := <-seen; err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %s", err, c.want)
			}
			s.drop(true)
		})
	}
}

// What users make of ends that they did not want, as docs/protocol.md has them.
func TestEndingOf(t *testing.T) {
	t.Parallel()
	const wait = time.Second
	back := attendance.Ending{Known: true, Held: true, After: wait}
	for code, want := range map[websocket.StatusCode]attendance.Ending{
		-1: {Held: true}, 1012: back, 1008: back, 1009: back, 1011: back, 1013: back, 4419: back, 4450: back,
		1000: {Known: true}, 1002: {Known: true}, 1007: {Known: true}, 4400: {Known: true}, 4401: {Known: true}, 4403: {Known: true},
		4408: {Known: true}, 4429: {Known: true},
	} {
		if got := endingOf(code, wait); got != want {
			t.Errorf("%d: %+v, want %+v", code, got, want)
		}
	}
}
