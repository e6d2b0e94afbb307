package e2e_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/metadata"

	publishv1 "github.com/carillon-rt/carillon/gen/carillon/publish/v1"
	"github.com/carillon-rt/carillon/services/internal/rpc"
)

// fanOutChannel is of a namespace that keeps history and has no presence.
const fanOutChannel = "news.fan"

// BenchmarkFanOut publishes to many clients of one channel, through dev as a process of
// its own, and reports what a delivery costs that process, all of it: publishing,
// storing, NATS and the writes. It does so at 20 messages a second, and flat out with
// some messages in flight: a message is, until all clients have it. The clients are
// bare sockets that one goroutine of this process reads.
//
//	go test -run '^$' -bench FanOut -benchtime 1x ./services/e2e
func BenchmarkFanOut(b *testing.B) {
	const deliveries = 400_000 // of one round
	for _, load := range []struct {
		recipients, window int
		every              time.Duration // 0: flat out
	}{
		{recipients: 1000, window: 8, every: 50 * time.Millisecond},
		{recipients: 1000, window: 1},
		{recipients: 1000, window: 8},
		{recipients: 5000, window: 1},
		{recipients: 5000, window: 8},
	} {
		name, messages := fmt.Sprintf("recipients=%d/window=%d", load.recipients, load.window), deliveries/load.recipients
		if load.every > 0 {
			name, messages = fmt.Sprintf("recipients=%d/every=%v", load.recipients, load.every), 100
		}
		b.Run(name, func(b *testing.B) {
			server, s := startDev(b, b.TempDir(), append(fast, "--edge.max-connections-per-user=0")...)
			c := s.bareCrowd(b, load.recipients)
			publish := s.publishStream(b, load.window)
			var cpu time.Duration
			sent := 0
			round := func(messages int) {
				before := cpuOf(b, server)
				for range messages {
					publish()
					sent++
					c.await(b, sent-load.window+1)
					if load.every > 0 {
						<-time.After(load.every)
					}
				}
				c.await(b, sent)
				cpu += cpuOf(b, server) - before
			}
			round(messages / 10) // the heap grows, the sockets' buffers find their size
			cpu = 0
			b.ResetTimer()
			for range b.N {
				round(messages)
			}
			b.ReportMetric(float64(cpu.Nanoseconds())/1e3/float64(b.N*messages*load.recipients), "server-µs/delivery")
		})
	}
}

// publishStream returns what publishes one message, with so many unanswered at most.
func (s *system) publishStream(b *testing.B, window int) func() {
	conn, err := rpc.Dial(s.publishers, nil)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = conn.Close() })
	ctx := metadata.AppendToOutgoingContext(context.Background(), "authorization", "Bearer "+s.token(b, "service", s.caller))
	stream, err := publishv1.NewPublishServiceClient(conn).PublishStream(ctx)
	if err != nil {
		b.Fatal(err)
	}
	unanswered := make(chan struct{}, window)
	var answers sync.WaitGroup
	answers.Go(func() {
		for {
			reply, err := stream.Recv()
			if err != nil {
				return
			}
			if refused := reply.GetError(); refused != nil {
				b.Error(refused)
			}
			<-unanswered
		}
	})
	b.Cleanup(func() {
		_ = stream.CloseSend()
		answers.Wait()
	})
	text, id := fmt.Sprintf("%q", strings.Repeat("x", 100)), uint64(0)
	return func() {
		id++
		unanswered <- struct{}{}
		if err := stream.Send(&publishv1.PublishStreamRequest{Id: id, Message: &publishv1.PublishRequest{
			Target:  &publishv1.PublishRequest_Channel{Channel: fanOutChannel},
			Payload: &publishv1.PublishRequest_Json{Json: text},
		}}); err != nil {
			b.Fatal(err)
		}
	}
}

// bareCrowd is clients that count frames and read nothing of them. They read what comes
// as soon as it comes.
type bareCrowd struct {
	size     int
	received atomic.Int64 // by all clients together
	arrived  chan struct{}
}

// await waits until all clients have so many messages, or as many in the sum.
func (c *bareCrowd) await(b *testing.B, messages int) {
	for late := time.After(patience); c.received.Load() < int64(messages*c.size); {
		select {
		case <-c.arrived:
		case <-late:
			b.Fatalf("%d messages were sent to %d clients, and %d frames have come", messages, c.size, c.received.Load())
		}
	}
}

// bareClient is where a client stands in the frames that it is sent.
type bareClient struct {
	header []byte // what has come of one
	rest   int    // what is to come of a payload
}

func (s *system) bareCrowd(b *testing.B, size int) *bareCrowd {
	c := &bareCrowd{size: size, arrived: make(chan struct{}, 1)}
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		b.Fatal(err)
	}
	token := s.token(b, "user", "crowd")
	clients := make(map[int32]*bareClient, size)
	for range size {
		fd := bareDial(b, s.edges[0], token)
		b.Cleanup(func() { _ = unix.Close(fd) })
		clients[int32(fd)] = &bareClient{}
		if err := unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}); err != nil {
			b.Fatal(err)
		}
	}
	var reading sync.WaitGroup
	var over atomic.Bool
	reading.Go(func() {
		defer unix.Close(epoll)
		c.read(b, epoll, clients, &over)
	})
	b.Cleanup(func() {
		over.Store(true)
		reading.Wait()
	})
	return c
}

func (c *bareCrowd) read(b *testing.B, epoll int, clients map[int32]*bareClient, over *atomic.Bool) {
	const wake = 100 // milliseconds, to see whether it is over
	events, buffer := make([]unix.EpollEvent, 512), make([]byte, 64<<10)
	for !over.Load() {
		n, err := unix.EpollWait(epoll, events, wake)
		if err != nil && err != unix.EINTR {
			b.Error(err)
			return
		}
		frames := 0
		for _, event := range events[:max(n, 0)] {
			read, err := unix.Read(int(event.Fd), buffer)
			if err != nil || read == 0 {
				if !over.Load() {
					b.Error("a connection has ended: ", err)
				}
				return
			}
			frames += clients[event.Fd].count(buffer[:read])
		}
		c.received.Add(int64(frames))
		select {
		case c.arrived <- struct{}{}:
		default:
		}
	}
}

// count returns how many frames end in what has come.
func (c *bareClient) count(p []byte) (frames int) {
	for len(p) > 0 {
		if c.rest == 0 {
			c.header, p = append(c.header, p[0]), p[1:]
			var length int
			switch have := len(c.header); {
			case have >= 2 && c.header[1] < 126:
				length = int(c.header[1])
			case have == 4 && c.header[1] == 126:
				length = int(binary.BigEndian.Uint16(c.header[2:]))
			default:
				continue
			}
			c.header, c.rest = c.header[:0], length
			continue
		}
		n := min(c.rest, len(p))
		p = p[n:]
		if c.rest -= n; c.rest == 0 {
			frames++
		}
	}
	return frames
}

// bareDial returns the socket of a client that is connected and subscribed, and has read
// what it was told of that.
func bareDial(b *testing.B, edge, token string) int {
	conn, err := net.Dial("tcp", edge)
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	fmt.Fprintf(conn, "GET /v1/ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"+
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: carillon.v1.json\r\nAuthorization: Bearer %s\r\n\r\n", token)
	command := fmt.Appendf(nil, `{"id":1,"connect":{"subscriptions":[{"channel":%q}]}}`, fanOutChannel)
	if len(command) > 125 {
		b.Fatal("the command does not fit")
	}
	_, err = conn.Write(append([]byte{0x81, 0x80 | byte(len(command)), 0, 0, 0, 0}, command...)) // RFC 6455, 5.2, with a zero key
	var told []byte
	for buffer := make([]byte, 4096); err == nil && (!bytes.Contains(told, []byte(`{"subscribed":`)) || told[len(told)-1] != '}'); {
		var n int
		n, err = conn.Read(buffer)
		told = append(told, buffer[:n]...)
	}
	if err != nil {
		b.Fatalf("%v: %s", err, told)
	}
	raw, err := conn.(*net.TCPConn).File() // a copy
	if err != nil {
		b.Fatal(err)
	}
	defer raw.Close()
	fd, err := unix.Dup(int(raw.Fd()))
	if err != nil {
		b.Fatal(err)
	}
	return fd
}
