package edge

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/carillon-rt/carillon/services/edge/socket"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/lifecycle"
	"github.com/carillon-rt/carillon/services/internal/metronome"
)

const (
	// defaultHeaderBytes is what Limits.MaxHeaderBytes is where it says nothing.
	defaultHeaderBytes = 8 << 10
	readHeaderTimeout  = 5 * time.Second
	idleTimeout        = 60 * time.Second
	// drainPace is the longest wait between two disconnects of a drain, so that an edge
	// with few connections stops at once.
	drainPace = time.Millisecond
	// minAnswerTime is the least time that a drain gives the commands that it finds under
	// way, once everybody is told; more if the drain window is longer.
	minAnswerTime = time.Second
)

// Serve accepts connections until ctx ends or the listener fails, then drains: it
// takes no more, tells the clients one by one over the drain window to reconnect, and
// returns when the last connection has ended.
func (e *Edge) Serve(ctx context.Context, listener net.Listener) error {
	server := &http.Server{
		Handler: e.Handler(), ReadHeaderTimeout: readHeaderTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: e.maxHeaderBytes(),
		ConnContext: e.gate.accepted, ConnState: e.gate.handshakes.changed,
		ErrorLog: lifecycle.ErrorLog(e.options.Logger),
	}
	var err error
	if e.sockets.Poller, err = socket.NewPoller(); err != nil {
		return err
	}
	defer e.sockets.Poller.Close()
	listener = newPaced(listener)
	if e.options.TLS != nil {
		listener = tls.NewListener(listener, e.options.TLS)
	}
	if !e.options.LocalOnly { // else net/http looks at Host
		listener = newPorch(e, listener)
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	checks, stopChecks := context.WithCancel(context.Background())
	var checked sync.WaitGroup
	checked.Go(func() { e.checkSessions(checks) })
	checked.Go(func() { e.recheckSessions(checks) })
	checked.Go(func() { e.audiences.rounds.run(checks) })
	e.hub.goroutines.Go(func() { e.hub.watch(e.hub.context) })
	defer func() {
		stopChecks()
		checked.Wait()
		e.hub.close()
		e.cancel()
	}()

	select {
	case err = <-failed:
	case <-ctx.Done():
	}
	e.drain(server)
	if err == nil {
		err = <-failed
	}
	if !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve: %w", err)
	}
	return nil
}

// drain disconnects everybody and waits for it.
func (e *Edge) drain(server *http.Server) {
	e.mu.Lock()
	e.draining = true
	e.mu.Unlock()
	var handshakes sync.WaitGroup
	handshakes.Go(func() { // beside the rest: somebody may have connected and say nothing
		ctx, cancel := context.WithTimeout(context.Background(), readHeaderTimeout)
		defer cancel()
		if err := server.Shutdown(ctx); err != nil { // handshakes that do not end
			_ = server.Close()
		}
	})
	sessions := e.all()
	if len(sessions) > 0 {
		pace := time.NewTicker(min(drainPace, e.options.DrainWindow/time.Duration(len(sessions))+1))
		defer pace.Stop()
		for _, s := range sessions {
			cause := fault.New(fault.Draining, "", "this edge is stopping")
			s.retire(cause, rand.N(e.options.DrainWindow+1))
			<-pace.C
		}
	}
	late := time.AfterFunc(max(e.options.DrainWindow, minAnswerTime), e.cancel)
	defer late.Stop()
	handshakes.Wait()
	e.goroutines.Wait()
}

// checkSessions does what time demands: pings, and the ends of those that are late. It
// looks only at those that are due, and sleeps until somebody is.
func (e *Edge) checkSessions(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-e.dues.sooner:
		case <-timer.C:
			now := time.Now()
			e.gate.sweep(now)
			for s := e.dues.take(now); s != nil; s = e.dues.take(now) {
				e.dues.hasten(s, s.check(now))
			}
		}
		timer.Reset(metronome.After(e.dues.rest(time.Now()), checkInterval))
	}
}

// withinTime lets a body come for as long as headers may. http.Server.ReadTimeout would do
// it too, but would then end requests that have none and wait for an answer.
func withinTime(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength != 0 {
			_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(readHeaderTimeout)) // tests' writers have none
		}
		next.ServeHTTP(w, r)
	})
}

// maxHeaderBytes is what a request may have before its body. net/http reads 4 KiB more
// before it refuses one, and does not say why: serveWebSocket does.
func (e *Edge) maxHeaderBytes() int {
	return cmp.Or(e.options.Limits.MaxHeaderBytes, defaultHeaderBytes)
}

// headerBytes is how many bytes the request line and the headers of a request had, about.
func headerBytes(r *http.Request) int {
	const perHeader, perLine, hostHeader = len(": \r\n"), len("  HTTP/1.1\r\n"), len("Host: \r\n")
	n := len(r.Method) + len(r.RequestURI) + perLine + hostHeader + len(r.Host)
	for name, values := range r.Header {
		for _, value := range values {
			n += len(name) + len(value) + perHeader
		}
	}
	return n
}
