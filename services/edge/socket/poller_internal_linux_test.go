package socket

import (
	"net"
	"sync"
	"testing"
)

// resumer is an owner that only resumes.
type resumer func()

func (resumer) Control(int) bool { return true }

func (r resumer) Resume() { r() }

// A file descriptor is used again as soon as it is closed. Who was waited for by that
// number learns that its connection is gone, however late whoever closes it says so.
func TestWhoWasWaitedForBeforeIsResumed(t *testing.T) {
	t.Parallel()
	p, err := NewPoller()
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	var goroutines sync.WaitGroup
	defer goroutines.Wait()
	accepted := func(resume func()) *Socket {
		client, err := net.Dial("tcp", listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = client.Close() })
		conn, err := listener.Accept()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		plain := plainOf(conn)
		s := &Socket{wire: wire{Conn: conn}, fd: fdOf(plain), owner: resumer(resume), options: &Options{Poller: p, Go: goroutines.Go}}
		s.in.init(plain, s.fd, nil, s.options)
		return s
	}
	resumed := make(chan struct{})
	earlier := accepted(func() { close(resumed) })
	if !p.park(earlier) {
		t.Fatal("nobody waits")
	}
	earlier.wire.cut()
	later := accepted(func() { t.Error("resumed without a reason") })
	later.in.fd = earlier.in.fd // as if it had got the number
	if !p.park(later) {
		t.Fatal("nobody waits")
	}
	<-resumed
	p.wake(earlier) // late: it has gone on already
}
