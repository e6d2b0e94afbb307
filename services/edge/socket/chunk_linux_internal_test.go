package socket

import (
	"errors"
	"net"
	"testing"
	"time"
)

// Who waits to be read from has no memory, and has it when there is something to read.
func TestWhoWaitsHasNoMemory(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	client, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	conn, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	c := new(chunk)
	if err := conn.SetReadDeadline(time.Now().Add(10 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.receive(plainOf(conn), true); !errors.Is(err, ErrIdle) || c.data != nil {
		t.Errorf("waited in vain: %v, memory %t", err, c.data != nil)
	}
	if err := conn.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if n, err := c.receive(plainOf(conn), true); n != 1 || err != nil || c.data == nil || c.data[0] != 'x' {
		t.Errorf("%d, %v", n, err)
	}
}
