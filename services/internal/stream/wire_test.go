package stream

import (
	"io"
	"net"
	"sync"
	"testing"
)

// wire is a TCP proxy on a loopback port: what connects to it reaches a target, until
// it is cut. The target may move; connections that exist stay where they are.
type wire struct {
	listener net.Listener
	wg       sync.WaitGroup

	mu     sync.Mutex
	target string // empty: nobody is there
	cut    bool
	conns  map[net.Conn]struct{}
}

func newWire(t testing.TB) *wire {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{listener: listener, conns: map[net.Conn]struct{}{}}
	w.wg.Go(w.accept)
	t.Cleanup(func() {
		_ = listener.Close()
		w.setCut(true)
		w.wg.Wait()
	})
	return w
}

func (w *wire) addr() string { return w.listener.Addr().String() }

func (w *wire) lead(target string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.target = target
}

// setCut ends all connections and refuses new ones, or lets them through again.
func (w *wire) setCut(cut bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut = cut
	if cut {
		for c := range w.conns {
			_ = c.Close()
		}
	}
}

func (w *wire) accept() {
	for {
		near, err := w.listener.Accept()
		if err != nil {
			return
		}
		w.wg.Go(func() { w.carry(near) })
	}
}

func (w *wire) carry(near net.Conn) {
	defer w.drop(near)
	if !w.keep(near) {
		return
	}
	w.mu.Lock()
	target := w.target
	w.mu.Unlock()
	far, err := net.Dial("tcp", target)
	if err != nil {
		return
	}
	defer w.drop(far)
	if !w.keep(far) {
		return
	}
	var wg sync.WaitGroup
	wg.Go(func() { pipe(near, far) })
	pipe(far, near)
	wg.Wait()
}

// pipe carries one direction, and ends both with it.
func pipe(to, from net.Conn) {
	_, _ = io.Copy(to, from)
	_, _ = to.Close(), from.Close()
}

func (w *wire) keep(c net.Conn) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.cut {
		w.conns[c] = struct{}{}
	}
	return !w.cut
}

func (w *wire) drop(c net.Conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.conns, c)
	_ = c.Close()
}
