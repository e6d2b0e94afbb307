//go:build unix

package socket_test

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/carillon-rt/carillon/services/edge/socket"
)

// bare is a client whose bytes the test reads itself.
func bare(t *testing.T, maxQueue int) (*socket.Socket, net.Conn, *bufio.Reader, *server) {
	t.Helper()
	srv := newServer(t, 1<<20, maxQueue)
	conn := upgrade(t, srv, nil)
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	s := <-srv.sockets
	t.Cleanup(func() {
		s.CloseNow()
		<-s.Done()
	})
	r := bufio.NewReader(conn)
	if response, err := http.ReadResponse(r, nil); err != nil || response.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("%v, %v", response, err)
	}
	return s, conn, r, srv
}

// nextFrame reads one frame.
func nextFrame(t *testing.T, r io.Reader) (opcode byte, payload []byte) {
	t.Helper()
	header := make([]byte, 10)
	if _, err := io.ReadFull(r, header[:2]); err != nil {
		t.Fatal(err)
	}
	length := uint64(header[1])
	var err error
	switch length {
	case 126:
		_, err = io.ReadFull(r, header[2:4])
		length = uint64(binary.BigEndian.Uint16(header[2:]))
	case 127:
		_, err = io.ReadFull(r, header[2:10])
		length = binary.BigEndian.Uint64(header[2:])
	}
	if err != nil || length > 64<<20 {
		t.Fatalf("a frame of %d bytes, %v", length, err)
	}
	payload = make([]byte, length)
	if _, err := io.ReadFull(r, payload); err != nil {
		t.Fatal(err)
	}
	return header[0] & 0xf, payload
}

const (
	textFrame  = 0x1
	closeFrame = 0x8
	pongFrame  = 0xa
)

// oversize is more than the system takes at once.
var oversize = strings.Repeat("x", 16<<20)

// The rest of a frame goes by itself, and before all that comes later.
func TestAFrameThatWentInPartIsNotCutInTwo(t *testing.T) {
	t.Parallel()
	s, conn, r, srv := bare(t, 1<<30)
	ended := srv.readAll(s)
	if err := s.Send(text(oversize)); err != nil {
		t.Fatal(err)
	}
	if opcode, payload := nextFrame(t, r); opcode != textFrame || string(payload) != oversize {
		t.Fatalf("a frame %x of %d bytes", opcode, len(payload))
	}
	if err := s.WaitBelow(t.Context(), 1); err != nil {
		t.Fatal(err)
	}

	for _, m := range []string{oversize, "behind it"} {
		if err := s.Send(text(m)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := conn.Write([]byte{0x89, 0x80, 0, 0, 0, 0}); err != nil { // a ping
		t.Fatal(err)
	}
	<-srv.controls
	for _, want := range []string{oversize, "behind it"} {
		if opcode, payload := nextFrame(t, r); opcode != textFrame || string(payload) != want {
			t.Fatalf("a frame %x of %d bytes", opcode, len(payload))
		}
	}
	if opcode, _ := nextFrame(t, r); opcode != pongFrame {
		t.Errorf("a frame %x", opcode)
	}
	if err := s.WaitBelow(t.Context(), 1); err != nil {
		t.Errorf("not everything is accounted for: %v", err)
	}
	s.CloseNow()
	<-ended
}

// What waits for its first frame waits, also where somebody writes when it comes.
func TestACorkHoldsWhoWrites(t *testing.T) {
	t.Parallel()
	s, _, r, srv := bare(t, 1<<30)
	ended := srv.readAll(s)
	if err := s.Send(text(oversize)); err != nil {
		t.Fatal(err)
	}
	s.Cork()
	if err := s.Send(text("behind")); err != nil {
		t.Fatal(err)
	}
	whole := make(chan struct{})
	go func() {
		defer close(whole)
		_, _ = io.CopyN(io.Discard, r, int64(len(text(oversize))))
	}()
	soon, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if s.WaitBelow(soon, 1) == nil {
		t.Error("it has gone")
	}
	s.Uncork(text("first"))
	<-whole
	for _, want := range []string{"first", "behind"} {
		if _, payload := nextFrame(t, r); string(payload) != want {
			t.Errorf("%q, want %q", payload, want)
		}
	}
	if err := s.WaitBelow(t.Context(), 1); err != nil {
		t.Errorf("not everything is accounted for: %v", err)
	}
	s.CloseNow()
	<-ended
}

// A file descriptor is used again as soon as it is closed: nothing is written to it any
// more, whoever ends the connection and whenever.
func TestNothingIsSentThroughWhatWasCut(t *testing.T) {
	t.Parallel()
	s, _, _, srv := bare(t, 1<<20)
	ended := srv.readAll(s)
	s.Cut()
	if err := s.Send(text("late")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("sent: %v", err)
	}
	<-ended
	<-s.Done()

	s, _, _, srv = bare(t, 1<<20)
	ended = srv.readAll(s)
	s.Close(nil, 1012, "draining", false) // for whose answer it would wait
	s.Cut()
	<-ended
	<-s.Done()
}

// What is dropped at the end is whole frames, never the rest of one.
func TestACloseThatDropsEndsTheFrameUnderWay(t *testing.T) {
	t.Parallel()
	s, conn, r, srv := bare(t, 1<<30)
	ended := srv.readAll(s)
	if err := s.Send(text(oversize)); err != nil {
		t.Fatal(err)
	}
	s.Close(text("last"), 4450, "slow_consumer", true)
	for _, want := range []string{oversize, "last"} {
		if opcode, payload := nextFrame(t, r); opcode != textFrame || string(payload) != want {
			t.Fatalf("a frame %x of %d bytes", opcode, len(payload))
		}
	}
	if opcode, _ := nextFrame(t, r); opcode != closeFrame {
		t.Errorf("a frame %x", opcode)
	}
	_ = conn.Close() // nobody has to wait for an answer
	<-ended
}

// A socket whose client reads needs no writer, and a frame for it no memory.
func TestSendToAClientThatReadsCostsNothingElse(t *testing.T) {
	s, _, r, srv := bare(t, 1<<20)
	frame := text(strings.Repeat("x", 200))
	came := make(chan struct{})
	srv.goroutines.Go(func() {
		buffer := make([]byte, len(frame))
		for range came {
			if _, err := io.ReadFull(r, buffer); err != nil {
				t.Error(err)
			}
			came <- struct{}{}
		}
	})
	allocated := testing.AllocsPerRun(100, func() {
		if err := s.Send(frame); err != nil {
			t.Error(err)
		}
		came <- struct{}{}
		<-came
	})
	close(came)
	if started := srv.started.Load(); allocated >= 1 || started > 0 {
		t.Errorf("%v allocations a frame, %d goroutines", allocated, started)
	}
}
