package e2e_test

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// footprintSteps are how many connections there are when memory is looked at. What a
// connection takes is the slope between the last two.
var footprintSteps = []int{0, 2000, 10_000}

const (
	// footprintDialers is how many clients connect at once.
	footprintDialers = 16
	// footprintRest is how long nothing is done before memory is looked at.
	footprintRest = 5 * time.Second
	// footprintGoal bounds what a connection may take, resident, of the whole process.
	footprintGoal = 9 << 10
)

// footprintConfig has everything on that is on by default; everybody has the same
// address here, and nobody answers pings.
const footprintConfig = `
data_dir: %[1]q
log: {format: json}
edge: {listen: "127.0.0.1:0", ping_interval: 1h, max_connections_per_address: 0, max_new_connections_per_address: 0}
presence: {listen: "127.0.0.1:0"}
publish: {listen: "127.0.0.1:0", http_listen: "127.0.0.1:0"}
ops: {listen: "127.0.0.1:0", pprof: true}
auth:
  issuers:
    - {name: main, for: clients, algorithms: [HS256], secret: {env: E2E_CLIENTS_SECRET}}
    - {name: services, for: callers, algorithms: [HS256], secret: {env: E2E_CALLERS_SECRET}}
callers:
  - {name: backend, publish: ["{rest...}"]}
namespaces:
  - name: news
    history: {max_bytes: 64MiB}
    rules: [{channel: "news.{rest...}", subscribe: "true"}]
  - name: user
    history: {max_bytes: 64MiB}
    rules: [{channel: "user.{id}", subscribe: "id == user"}]
`

// BenchmarkFootprint has 10,000 clients connect to carillon serve, each with a token, its
// inbox and a channel that all have, and do nothing. It reports the resident memory of the
// whole process, of which NATS, presence and publish are part, and what a connection
// takes: as the process is after some seconds, and when it has collected its garbage
// twice, as it does by itself within some minutes.
//
//	go test -run '^$' -bench Footprint -benchtime 1x ./services/e2e
func BenchmarkFootprint(b *testing.B) {
	for range b.N {
		footprint(b)
	}
}

func footprint(b *testing.B) {
	b.Helper()
	dir := b.TempDir()
	file := filepath.Join(dir, "carillon.yaml")
	write(b, file, fmt.Sprintf(footprintConfig, filepath.Join(dir, "data")))
	environ := []string{"E2E_CLIENTS_SECRET=" + clientSecret, "E2E_CALLERS_SECRET=" + callerSecret}
	p := start(b, command{
		name: "carillon serve", program: program(b, carillonProgram), environ: environ, arguments: []string{"serve", "--config=" + file},
	}).ready(b)
	edge := p.address(b, "edge")

	var clients []net.Conn
	defer func() {
		for _, c := range clients {
			_ = c.Close()
		}
	}()
	rows := []string{footprintHead}
	var fresh, settled []int // resident bytes at each step
	for _, count := range footprintSteps {
		clients = append(clients, idlers(b, edge, len(clients), count)...)
		<-time.After(footprintRest)
		fresh = append(fresh, resident(b, p))
		p.collect(b)
		memory := p.collect(b)
		<-time.After(footprintRest) // the scavenger gives back what is free, little by little
		settled = append(settled, resident(b, p))
		rows = append(rows, fmt.Sprintf("| %d | %.1f | %.1f | %s |", count, mib(fresh[len(fresh)-1]), mib(settled[len(settled)-1]), memory))
	}
	last := len(footprintSteps) - 1
	slope := func(bytes []int) float64 {
		return float64(bytes[last]-bytes[last-1]) / float64(footprintSteps[last]-footprintSteps[last-1])
	}
	b.ReportMetric(slope(fresh), "fresh-B/conn")
	b.ReportMetric(slope(settled), "settled-B/conn")
	b.ReportMetric(mib(settled[last]), "settled-MiB")
	_, _ = fmt.Fprintln(os.Stdout, strings.Join(rows, "\n")) // not by b.Log, of which a benchmark shows ten lines
	if keep := os.Getenv("E2E_HEAP_PROFILE"); keep != "" {
		_, profile := p.get(b, "/debug/pprof/heap")
		write(b, keep, profile)
	}
	if got := slope(settled); got > footprintGoal {
		b.Errorf("an idle connection takes %.0f bytes, more than %d", got, footprintGoal)
	}
}

const footprintHead = `| connections | resident MiB | settled MiB | live heap MiB | heap in use | stacks | spans and caches | other |
|---|---|---|---|---|---|---|---|`

func mib(bytes int) float64 { return float64(bytes) / (1 << 20) }

var memoryStat = regexp.MustCompile(`(?m)^# (\w+) = (\d+)(?: / (\d+))?$`)

// collect has a process collect its garbage, and tells what its memory is then.
func (p *process) collect(b *testing.B) string {
	b.Helper()
	status, text := p.get(b, "/debug/pprof/heap?gc=1&debug=1")
	if status != http.StatusOK {
		b.Fatalf("%s: no heap profile: %d", p.name, status)
	}
	stats := map[string]float64{}
	for _, found := range memoryStat.FindAllStringSubmatch(text, -1) {
		bytes, err := strconv.Atoi(found[2])
		if err != nil {
			b.Fatal(err)
		}
		stats[found[1]] = mib(bytes)
	}
	return fmt.Sprintf("%.1f | %.1f | %.1f | %.1f | %.1f", stats["HeapAlloc"], stats["HeapInuse"], stats["Stack"],
		stats["MSpan"]+stats["MCache"], stats["GCSys"]+stats["OtherSys"]+stats["BuckHashSys"])
}

// idlers connects clients of the numbers from to to, which then say nothing. They have no
// goroutine, and what comes stays in their sockets.
func idlers(b *testing.B, edge string, from, to int) []net.Conn {
	b.Helper()
	conns := make([]net.Conn, to-from)
	failures := make([]error, to-from)
	var working sync.WaitGroup
	slots := make(chan struct{}, footprintDialers)
	for i := range conns {
		slots <- struct{}{}
		token := signed(b, clientSecret, fmt.Sprintf("u%06d", from+i))
		working.Go(func() {
			defer func() { <-slots }()
			conns[i], failures[i] = idler(edge, token)
		})
	}
	working.Wait()
	for _, err := range failures {
		if err != nil {
			b.Fatal(err)
		}
	}
	return conns
}

// idler connects one client, and returns when it is connected.
func idler(edge, token string) (net.Conn, error) {
	conn, err := net.Dial("tcp", edge)
	if err != nil {
		return nil, err
	}
	_ = conn.SetDeadline(time.Now().Add(patience))
	_, err = fmt.Fprintf(conn, "GET /v1/ws HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: carillon.v1.json\r\n"+
		"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\nOrigin: https://app.example\r\n\r\n", edge)
	if err != nil {
		return conn, err
	}
	reader := bufio.NewReader(conn)
	response, err := http.ReadResponse(reader, nil)
	if err != nil {
		return conn, err
	}
	if response.StatusCode != http.StatusSwitchingProtocols {
		return conn, fmt.Errorf("handshake: %s", response.Status)
	}
	connect := fmt.Sprintf(`{"id":1,"connect":{"token":%q,"client":{"name":"carillon-ts","version":"0.1.0"},"subscriptions":[{"channel":"news.all"}]}}`, token)
	if _, err := conn.Write(maskedText(connect)); err != nil {
		return conn, err
	}
	start, err := reader.Peek(len(`....{"id":1,"connected":`)) // behind a frame's header
	if err == nil && !strings.Contains(string(start), `"connected":`) {
		err = fmt.Errorf("no connected: %q", start)
	}
	_ = conn.SetDeadline(time.Time{})
	return conn, err
}

// maskedText is a text message with a mask of zeros.
func maskedText(text string) []byte {
	const final, masked, twoBytes = 0x81, 0x80, 126
	frame := binary.BigEndian.AppendUint16([]byte{final, masked | twoBytes}, uint16(len(text)))
	return append(append(frame, 0, 0, 0, 0), text...)
}
