package edge_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/carillon-rt/carillon/services/edge"
	"github.com/carillon-rt/carillon/services/internal/message"
)

// crowd is clients of cursor.a that count bytes, and so allocate nothing.
type crowd struct {
	size int
	came atomic.Int64 // bytes
	more chan struct{}
}

// crowd has so many clients subscribe.
func (w *world) crowd(t testing.TB, size int) *crowd {
	t.Helper()
	c := &crowd{size: size, more: make(chan struct{}, 1)}
	var reading sync.WaitGroup
	t.Cleanup(reading.Wait)
	token := token(t, "alice", time.Hour)
	for range size {
		conn := w.bare(t, token)
		t.Cleanup(func() { _ = conn.Close() })
		reading.Go(func() {
			for buffer := make([]byte, 4096); ; {
				n, err := conn.Read(buffer)
				if err != nil {
					return
				}
				c.came.Add(int64(n))
				select {
				case c.more <- struct{}{}:
				default:
				}
			}
		})
	}
	return c
}

// bare is the socket of a client that is subscribed to cursor.a.
func (w *world) bare(t testing.TB, token string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimSuffix(strings.TrimPrefix(w.url, "ws://"), "/v1/ws"))
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(conn, "GET /v1/ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"+
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nAuthorization: Bearer %s\r\n\r\n", token)
	const command = `{"id":1,"connect":{"subscriptions":[{"channel":"cursor.a"}]}}`
	_, err = conn.Write(append([]byte{0x81, 0x80 | byte(len(command)), 0, 0, 0, 0}, command...)) // RFC 6455, 5.2, with a zero key
	var told []byte
	for buffer := make([]byte, 4096); err == nil && !bytes.HasSuffix(told, []byte(`"recovered":false}}`)); { // the inbox comes last
		var n int
		n, err = conn.Read(buffer)
		told = append(told, buffer[:n]...)
	}
	if err != nil {
		t.Fatalf("%v: %s", err, told)
	}
	return conn
}

// await waits until all have got so many bytes.
func (c *crowd) await(bytes int64) {
	for c.came.Load() < bytes*int64(c.size) {
		<-c.more
	}
}

// deliver returns what delivers a message to all, and waits until they have it.
func (w *world) deliver(t testing.TB, size int) func() {
	t.Helper()
	c := w.crowd(t, size)
	m := &message.Message{Channel: "cursor.a", Payload: message.Payload{Data: []byte(`"` + strings.Repeat("x", 100) + `"`)}, Time: time.Now()}
	probe := w.bare(t, token(t, "bob", time.Hour))
	w.receiver.Receive(m)
	header := make([]byte, 4) // of 126 bytes and more (RFC 6455, 5.2)
	if _, err := io.ReadFull(probe, header); err != nil {
		t.Fatal(err)
	}
	_ = probe.Close()
	each := int64(len(header)) + int64(header[2])<<8 + int64(header[3])
	c.await(each)
	sent := int64(1)
	return func() {
		w.receiver.Receive(m)
		sent++
		c.await(sent * each)
	}
}

func manyConnections(o *edge.Options) { o.Limits.MaxConnections = 2000 }

// BenchmarkDelivery is of one message to 1,000 clients on real sockets. Its CPU time is
// that of both ends.
func BenchmarkDelivery(b *testing.B) {
	const recipients = 1000
	deliver := start(b, manyConnections).deliver(b, recipients)
	b.ReportAllocs()
	for b.Loop() {
		deliver()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*recipients), "ns/delivery")
}

// What a message costs in memory does not depend on how many get it.
func TestADeliveryAllocatesNothingForARecipient(t *testing.T) {
	const recipients = 500
	deliver := start(t, manyConnections).deliver(t, recipients)
	// Some are for the message; and the race detector makes pools forget.
	if allocated := testing.AllocsPerRun(50, deliver); allocated >= recipients {
		t.Errorf("%v allocations for %d recipients", allocated, recipients)
	}
}
