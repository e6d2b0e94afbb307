package e2e_test

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	// arrivals is how many clients come in a round of BenchmarkConnectStorm.
	arrivals = 4000
	// arrivalsAtOnce is how many of them are on their way at once.
	arrivalsAtOnce = 64
)

const arrivalConfig = `
log: {format: json}
data_dir: %[1]q
edge: # everybody has the same address here
  listen: "127.0.0.1:0"
  max_connections_per_address: 0
  max_new_connections_per_address: 0
presence: {listen: "127.0.0.1:0"}
publish: {listen: "127.0.0.1:0", http_listen: "127.0.0.1:0"}
ops: {listen: "127.0.0.1:0", pprof: true}
auth:
  issuers:
    - {name: main, for: clients, algorithms: [HS256], secret: {env: E2E_CLIENTS_SECRET}}
    - {name: services, for: callers, algorithms: [HS256], secret: {env: E2E_CALLERS_SECRET}}
namespaces:
  - {name: news, history: {max_bytes: 64MiB}, rules: [{channel: "news.{rest...}", subscribe: "true"}]}
  - {name: room, history: {max_bytes: 64MiB}, presence: true, rules: [{channel: "room.{rest...}", subscribe: "true"}]}
`

// BenchmarkConnectStorm has clients come to serve, each with a token of its own and one
// subscription in connect, from sockets that do nothing else, and reports the CPU time
// of the server for a thousand of them. E2E_PROFILE names a directory for profiles.
//
//	go test -run '^$' -bench ConnectStorm -benchtime 3x ./services/e2e
func BenchmarkConnectStorm(b *testing.B) {
	for _, layout := range []struct {
		name    string
		channel func(i int) string
	}{
		{"one channel", func(int) string { return "news.all" }},
		{"a channel each", func(i int) string { return fmt.Sprintf("news.%d", i) }},
		{"one channel with presence", func(int) string { return "room.all" }},
	} {
		b.Run(layout.name, func(b *testing.B) {
			server := startArrivals(b)
			at := server.address(b, "edge")
			done := profile(b, server, strings.ReplaceAll(layout.name, " ", "-"))
			defer done()
			var spent time.Duration
			for round := range b.N {
				spent += arrive(b, server, at, newcomers(b, round), layout.channel)
			}
			b.ReportMetric(float64(spent.Microseconds())/float64(b.N)/arrivals, "ms/1000conns")
		})
	}
}

func startArrivals(b *testing.B) *process {
	b.Helper()
	dir := b.TempDir()
	file := filepath.Join(dir, "carillon.yaml")
	write(b, file, fmt.Sprintf(arrivalConfig, filepath.Join(dir, "data")))
	return start(b, command{
		name: "carillon serve", program: program(b, carillonProgram), arguments: []string{"serve", "--config=" + file},
		environ: []string{"E2E_CLIENTS_SECRET=" + strings.Repeat("c", 32), "E2E_CALLERS_SECRET=" + strings.Repeat("k", 32)},
	}).ready(b)
}

// newcomers are the tokens of users who have never been there.
func newcomers(b *testing.B, round int) []string {
	b.Helper()
	tokens := make([]string, arrivals)
	for i := range tokens {
		var err error
		if tokens[i], err = stormToken(round*arrivals + i); err != nil {
			b.Fatal(err)
		}
	}
	return tokens
}

// arrive has everybody come, and returns what that has cost; then all go.
func arrive(b *testing.B, server *process, at string, tokens []string, channel func(i int) string) time.Duration {
	b.Helper()
	before := cpuOf(b, server)
	conns := make([]net.Conn, arrivals)
	next := make(chan int)
	var working sync.WaitGroup
	for range arrivalsAtOnce {
		working.Go(func() {
			for i := range next {
				var err error
				if conns[i], err = arrival(at, tokens[i], channel(i)); err != nil {
					b.Error(err)
				}
			}
		})
	}
	for i := range conns {
		next <- i
	}
	close(next)
	working.Wait()
	spent := cpuOf(b, server) - before
	for _, conn := range conns {
		if conn != nil {
			_ = conn.Close() // nothing is read any more
		}
	}
	eventually(b, "all have gone", func() error {
		if _, text := server.get(b, "/metrics"); !strings.Contains(text, "\ncarillon_edge_connections 0\n") {
			return fmt.Errorf("some are there")
		}
		return nil
	})
	return spent
}

const arrivalRequest = "GET /v1/ws HTTP/1.1\r\nHost: edge\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n" +
	"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: carillon.v1.json\r\n\r\n"

// arrival connects and waits for connected.
func arrival(at, token, channel string) (net.Conn, error) {
	conn, err := net.Dial("tcp", at)
	if err != nil {
		return nil, err
	}
	_ = conn.(*net.TCPConn).SetLinger(0) // a port in TIME_WAIT could not be used again
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(conn, arrivalRequest); err != nil {
		return conn, err
	}
	in := bufio.NewReaderSize(conn, 4<<10)
	for line := ""; line != "\r\n"; {
		if line, err = in.ReadString('\n'); err != nil {
			return conn, err
		}
	}
	connect := fmt.Appendf(nil, `{"id":1,"connect":{"token":%q,"client":{"name":"bench","version":"1"},"subscriptions":[{"channel":%q}]}}`, token, channel)
	header := binary.BigEndian.AppendUint16([]byte{0x81, 0x80 | 126}, uint16(len(connect))) // longer than 125 bytes
	if _, err := conn.Write(append(append(header, 0, 0, 0, 0), connect...)); err != nil {   // a key of zeros masks nothing
		return conn, err
	}
	reply, err := unmaskedFrame(in)
	if err == nil && (!bytes.Contains(reply, []byte(`"connected"`)) || !bytes.Contains(reply, []byte(`"offset"`))) {
		err = fmt.Errorf("%s", reply)
	}
	return conn, err
}

// unmaskedFrame reads the payload of a frame of less than 64 KiB.
func unmaskedFrame(in *bufio.Reader) ([]byte, error) {
	var header [4]byte
	if _, err := io.ReadFull(in, header[:2]); err != nil {
		return nil, err
	}
	length := int(header[1])
	if length == 126 {
		if _, err := io.ReadFull(in, header[2:]); err != nil {
			return nil, err
		}
		length = int(binary.BigEndian.Uint16(header[2:]))
	}
	payload := make([]byte, length)
	_, err := io.ReadFull(in, payload)
	return payload, err
}

// profile writes profiles of a process of what happens until done, if they are wanted.
func profile(b *testing.B, p *process, name string) (done func()) {
	b.Helper()
	dir := os.Getenv("E2E_PROFILE")
	if dir == "" {
		return func() {}
	}
	fetch := func(path, file string) {
		response, err := http.Get("http://" + p.address(b, "ops") + "/debug/pprof/" + path)
		if err != nil {
			b.Error(err)
			return
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name+"."+file), body, 0o600)
		}
		if err != nil {
			b.Error(err)
		}
	}
	var profiling sync.WaitGroup
	profiling.Go(func() { fetch("profile?seconds=5", "cpu") })
	return func() {
		profiling.Wait()
		fetch("allocs", "allocs")
	}
}
