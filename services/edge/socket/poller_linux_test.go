package socket_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/carillon-rt/carillon/services/edge/socket"
)

// wantParked fails unless a socket's reader may go until something comes.
func wantParked(t *testing.T, s *socket.Socket) {
	t.Helper()
	var b bytes.Buffer
	if _, err := s.Read(&b); !errors.Is(err, socket.ErrIdle) {
		t.Fatalf("nothing has come, but %q, %v", b.String(), err)
	}
	if here, err := s.Await(); here || err != nil {
		t.Fatalf("the reader waits: %t, %v", here, err)
	}
}

// Who says nothing has no reader, and has one again with each word.
func TestAnIdleSocketHasNoReader(t *testing.T) {
	t.Parallel()
	s, client, srv := pair(t, 100, 1<<20)
	for i := range 4 {
		wantParked(t, s)
		if len(srv.resumed) > 0 {
			t.Fatal("resumed before anything has come")
		}
		want := fmt.Sprint(i)
		if err := client.Write(t.Context(), websocket.MessageText, []byte(want)); err != nil {
			t.Fatal(err)
		}
		<-srv.resumed
		var b bytes.Buffer
		if _, err := s.Read(&b); err != nil || b.String() != want {
			t.Fatalf("%q, %v; want %q", b.String(), err, want)
		}
	}
}

// Whoever has shaken hands, or said its first word, waits for an answer, and its reader for
// nothing; after the next it stays a while, since there may be more.
func TestAReaderDoesNotWaitForAnswers(t *testing.T) {
	t.Parallel()
	s, client, srv := pair(t, 100, 1<<20)
	began := time.Now()
	wantParked(t, s)
	if took := time.Since(began); took > 100*time.Millisecond {
		t.Errorf("the reader waited %v for who waits itself", took)
	}
	wait := func() time.Duration {
		if err := client.Write(t.Context(), websocket.MessageText, []byte("x")); err != nil {
			t.Fatal(err)
		}
		<-srv.resumed
		var b bytes.Buffer
		if _, err := srv.read(s, &b); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		wantParked(t, s)
		return time.Since(began)
	}
	if took := wait(); took > 100*time.Millisecond {
		t.Errorf("the reader waited %v for who waits itself", took)
	}
	if took := wait(); took < 100*time.Millisecond {
		t.Errorf("the reader went after %v", took)
	}
	s.CloseNow()
	<-srv.resumed
}

// What came together is read together: only the rest is waited for.
func TestAReaderGoesWhenThereIsNoMore(t *testing.T) {
	t.Parallel()
	srv := newServer(t, 100, 1<<20)
	conn := upgrade(t, srv, nil)
	s := <-srv.sockets
	defer s.CloseNow()
	wantParked(t, s)
	word := []byte{0x81, 0x81, 0, 0, 0, 0, 'x'}
	if _, err := conn.Write(append(bytes.Repeat(word, 3000), word[:4]...)); err != nil { // more than is read at once
		t.Fatal(err)
	}
	<-srv.resumed
	for range 3000 {
		var b bytes.Buffer
		if _, err := srv.read(s, &b); err != nil || b.String() != "x" {
			t.Fatalf("%q, %v", b.String(), err)
		}
	}
	// What has begun is waited for, for longer than who is idle keeps its reader.
	time.AfterFunc(400*time.Millisecond, func() { _, _ = conn.Write(word[4:]) })
	var b bytes.Buffer
	if _, err := srv.read(s, &b); err != nil || b.String() != "x" {
		t.Fatalf("%q, %v", b.String(), err)
	}
	wantParked(t, s)
}

// However a connection ends, its reader learns it.
func TestAnEndResumesWhoHasNoReader(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(s *socket.Socket, conn net.Conn){
		"the client goes":      func(_ *socket.Socket, conn net.Conn) { _ = conn.Close() },
		"the server goes":      func(s *socket.Socket, _ net.Conn) { s.CloseNow() },
		"the client is silent": func(s *socket.Socket, _ net.Conn) { s.Close(nil, 1012, "draining", false) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := newServer(t, 100, 1<<20)
			conn := upgrade(t, srv, nil)
			s := <-srv.sockets
			wantParked(t, s)
			end(s, conn)
			<-srv.resumed
			var b bytes.Buffer
			if _, err := srv.read(s, &b); err == nil {
				t.Errorf("read %q", b.String())
			}
			s.CloseNow()
			<-s.Done()
		})
	}
}

// A connection is closed about when its reader goes: whoever is late sees to it that the
// end is learnt.
func TestAnEndWhileTheReaderGoes(t *testing.T) {
	t.Parallel()
	srvs := make([]*server, 50)
	for i := range srvs {
		srvs[i] = newServer(t, 100, 1<<20)
		conn := upgrade(t, srvs[i], nil)
		s := <-srvs[i].sockets
		ended := srvs[i].readAll(s)
		time.AfterFunc(240*time.Millisecond+time.Duration(i)*time.Millisecond/2, s.CloseNow)
		t.Cleanup(func() {
			<-ended
			_ = conn.Close()
		})
	}
}

// BenchmarkMessage has a client say something that is answered.
func BenchmarkMessage(b *testing.B) {
	srv := newServer(b, 100, 1<<20)
	conn := upgrade(b, srv, nil)
	if _, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil {
		b.Fatal(err)
	}
	s := <-srv.sockets
	word, answer, got := []byte{0x81, 0x81, 0, 0, 0, 0, 'x'}, text("y"), make([]byte, 3)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		var message bytes.Buffer
		for {
			if _, err := srv.read(s, &message); err != nil || s.Send(answer) != nil {
				return
			}
			message.Reset()
		}
	}()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := conn.Write(word); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(conn, got); err != nil {
			b.Fatal(err)
		}
	}
	s.CloseNow()
	<-ended
}
