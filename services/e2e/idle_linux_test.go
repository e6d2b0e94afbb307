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
	"regexp"
	"strconv"
	"testing"
	"time"
)

// idleTime is for how long nothing happens: long enough for what the system counts in
// hundredths of a second.
const idleTime = 20 * time.Second

// Pings are off for as long as it takes, and channels keep no history, so that no head of
// one is asked for.
const idleConfig = `
data_dir: %s
log: {format: json}
edge:
  listen: "127.0.0.1:0"
  ping_interval: 1h
  max_connections_per_address: 0
  max_new_connections_per_address: 0
  max_new_connections: 0
publish: {listen: "127.0.0.1:0", http_listen: "127.0.0.1:0"}
presence: {listen: "127.0.0.1:0"}
ops: {listen: "127.0.0.1:0", pprof: true}
auth:
  issuers:
    - {name: main, for: clients, algorithms: [HS256], secret: {env: E2E_CLIENTS_SECRET}}
    - {name: services, for: callers, algorithms: [HS256], secret: {env: E2E_CALLERS_SECRET}}
callers: [{name: backend, publish: ["{rest...}"]}]
namespaces:
  - {name: chat, presence: true, history: {max_messages: 1000}, rules: [{channel: "chat.{id}", subscribe: "true"}]}
  - {name: cursor, ephemeral: true, presence: true, rules: [{channel: "cursor.{id}", subscribe: "true"}]}
`

// BenchmarkIdle reports what a whole process costs while nothing happens: its share of a
// core, and how often its threads are woken up.
//
//	go test -run '^$' -bench Idle -benchtime 1x ./services/e2e
func BenchmarkIdle(b *testing.B) {
	for _, n := range []int{0, 1000, 10_000} {
		b.Run(fmt.Sprint(n, " connections"), func(b *testing.B) {
			p, edge := startIdle(b)
			for i := range n {
				idle, err := net.Dial("tcp", edge)
				if err != nil {
					b.Fatal(err)
				}
				b.Cleanup(func() { _ = idle.Close() })
				if err := settleDown(idle, signed(b, clientSecret, fmt.Sprint("idle", i)), fmt.Sprint("cursor.", i), "cursor.all"); err != nil {
					b.Fatal(err)
				}
			}
			for range b.N {
				<-time.After(idleTime / 4) // for what was begun to end
				cpu, woken, began := cpuOf(b, p), wakeUps(b, p), time.Now()
				<-time.After(idleTime)
				took := time.Since(began).Seconds()
				b.ReportMetric(100*(cpuOf(b, p)-cpu).Seconds()/took, "%core")
				b.ReportMetric(float64(wakeUps(b, p)-woken)/took, "wakes/s")
			}
			p.kill(b)
		})
	}
}

func startIdle(b *testing.B) (p *process, edge string) {
	b.Helper()
	dir := b.TempDir()
	file := filepath.Join(dir, "carillon.yaml")
	write(b, file, fmt.Sprintf(idleConfig, filepath.Join(dir, "data")))
	p = start(b, command{
		name: "carillon serve", program: program(b, carillonProgram), arguments: []string{"serve", "--config=" + file},
		environ: []string{"E2E_CLIENTS_SECRET=" + clientSecret, "E2E_CALLERS_SECRET=" + callerSecret},
	}).ready(b)
	return p, p.address(b, "edge")
}

// settleDown connects and subscribes over a bare socket, up to the answer.
func settleDown(c net.Conn, token string, channels ...string) error {
	const handshake = "GET /v1/ws HTTP/1.1\r\nHost: edge\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
	if _, err := io.WriteString(c, handshake); err != nil {
		return err
	}
	in := bufio.NewReader(c)
	response, err := http.ReadResponse(in, nil)
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusSwitchingProtocols {
		return fmt.Errorf("status %s", response.Status)
	}
	command := fmt.Appendf(nil, `{"id":1,"connect":{"token":%q,"subscriptions":[`, token) // some hundred bytes
	for i, name := range channels {
		if i > 0 {
			command = append(command, ',')
		}
		command = fmt.Appendf(command, `{"channel":%q}`, name)
	}
	command = append(command, "]}}"...)
	const final, text, masked, extended = 0x80, 1, 0x80, 126 // RFC 6455 section 5.2
	frame := binary.BigEndian.AppendUint16([]byte{final | text, masked | extended}, uint16(len(command)))
	frame = append(append(frame, 0, 0, 0, 0), command...) // a mask of zeros changes nothing
	if _, err := c.Write(frame); err != nil {
		return err
	}
	var h [4]byte
	if _, err := io.ReadFull(in, h[:]); err != nil {
		return err
	}
	if h[1] != extended {
		return fmt.Errorf("the answer begins with % x", h)
	}
	answer := make([]byte, binary.BigEndian.Uint16(h[2:]))
	if _, err := io.ReadFull(in, answer); err != nil {
		return err
	}
	if !bytes.Contains(answer, []byte(`"connected"`)) || bytes.Contains(answer, []byte(`"error"`)) {
		return fmt.Errorf("the answer is %s", answer)
	}
	return nil
}

var voluntary = regexp.MustCompile(`(?m)^voluntary_ctxt_switches:\s+(\d+)$`)

// wakeUps is how often the threads of a process have waited for something, and got it.
func wakeUps(t testing.TB, p *process) int {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", p.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	sum := 0
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil { // the thread has ended
			continue
		}
		found := voluntary.FindSubmatch(text)
		if found == nil {
			t.Fatalf("%s: %s", file, text)
		}
		n, err := strconv.Atoi(string(found[1]))
		if err != nil {
			t.Fatal(err)
		}
		sum += n
	}
	return sum
}
