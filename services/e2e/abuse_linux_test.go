package e2e_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	publishv1 "github.com/carillon-rt/carillon/gen/carillon/publish/v1"
	"github.com/carillon-rt/carillon/services/internal/auth"
)

const (
	abusePhase = 10 * time.Second
	abuserFrom = "127.0.0.2"
	// What honest people may meet beside any abuse: twice what they meet without, or this.
	abuseP99 = 20 * time.Millisecond
	// abuseGrowth bounds the resident memory that the server may take more than before.
	abuseGrowth = 128 << 20
	// abuserUsers is how many users an abuser is.
	abuserUsers = 200
)

// abuseConfig is what a small team would write: nothing of edge but the address.
const abuseConfig = `
data_dir: %[1]q
log: {format: json}
edge: {listen: "127.0.0.1:0"}
presence: {listen: "127.0.0.1:0"}
publish: {listen: "127.0.0.1:0", http_listen: "127.0.0.1:0"}
ops: {listen: "127.0.0.1:0"}
auth:
  issuers:
    - {name: main, for: clients, algorithms: [HS256], secret: {env: E2E_CLIENTS_SECRET}}
    - {name: sso, for: clients, issuer: "https://sso.example", algorithms: [ES256], public_key: {file: %[2]q}, user_prefix: "sso-"}
    - {name: services, for: callers, algorithms: [HS256], secret: {env: E2E_CALLERS_SECRET}}
callers:
  - {name: backend, publish: ["{rest...}"]}
namespaces:
  - name: chat
    history: {max_bytes: 256MiB}
    presence: true
    rules: [{channel: "chat.{rest...}", subscribe: "true", publish: "true"}]` + userNamespace + "\n"

// abuse is a kind that the abuser knows, with its tokens.
type abuse struct {
	name, kind string
	tokens     func(b *testing.B) []string
}

var abuses = []abuse{
	{"1,000 slow handshakes", "slow-handshakes", goodTokens},
	{"connection flood", "flood", goodTokens},
	{"100 times its rate", "rate", goodTokens},
	{"16 that never read", "deaf", goodTokens},
	{"pings without end", "pings", goodTokens},
	{"oversized frames", "oversized", goodTokens},
	{"deeply nested JSON", "nested", goodTokens},
	{"bad tokens, HS256", "bad-tokens", badTokensHS},
	{"bad tokens, ES256", "bad-tokens", badTokensES},
}

// BenchmarkAbuse has people served by carillon serve on one core, with its limits as
// they come, first in quiet and then beside each kind of abuse, which comes from another
// address and another process on the other core. It fails where honest people lose
// anything or wait too long, the server takes too much memory, or it restarts.
//
//	make abuse
func BenchmarkAbuse(b *testing.B) {
	pinSelf(b, generatorCore)
	server, s := startAbused(b)
	people := newHonest(b, s, func(user string) string { return signed(b, clientSecret, user) })
	people.weigh(b)
	abuser := abuserProgram(b)
	b.ResetTimer()
	for range b.N {
		quiet := watched(b, server, people)
		quiet.wantPunctual(b, "quiet")
		rows := []string{abuseRow("quiet", quiet, abuserReport{})}
		most := max(abuseP99, 2*percentile(quiet.took, 99))
		for _, a := range abuses {
			report, met := a.run(b, abuser, server, s, people)
			rows = append(rows, abuseRow(a.name, met, report))
			met.wantPunctual(b, a.name)
			switch {
			case met.lost > 0 || met.failed > 0:
				b.Errorf("%s: %d deliveries lost, %d publishes failed", a.name, met.lost, met.failed)
			case percentile(met.took, 99) > most:
				b.Errorf("%s: honest p99 %v, more than %v", a.name, percentile(met.took, 99), most)
			case met.peak > met.before+abuseGrowth:
				b.Errorf("%s: memory from %d to %d MiB", a.name, met.before>>20, met.peak>>20)
			}
		}
		// Not by b.Log, of which a benchmark shows ten lines.
		_, _ = fmt.Fprintf(os.Stdout, "honest: %d connections, %d publishes/s to rooms of %d; milliseconds from when a publish was due\n%s\n%s\n", honestPeople,
			time.Second/honestEvery, honestPerRoom, abuseHead, strings.Join(rows, "\n"))
	}
	server.stop(b)
}

const abuseHead = `| beside | p50 | p99 | p99.9 | load late p99 | lost | attempted/s | taken/s | refused/s | server CPU | others' CPU | MiB before | MiB peak | restarts |
|---|---|---|---|---|---|---|---|---|---|---|---|---|---|`

func abuseRow(name string, met abused, did abuserReport) string {
	ms := func(d time.Duration) string { return strconv.FormatFloat(d.Seconds()*1000, 'f', 1, 64) }
	rate := func(n int64) string {
		if did.Elapsed == 0 {
			return "–"
		}
		return strconv.FormatFloat(float64(n)/did.Elapsed.Seconds(), 'f', 0, 64)
	}
	const restarts = 0 // else watched has failed
	return fmt.Sprintf("| %s | %s | %s | %s | %s | %d | %s | %s | %s | %.0f %% | %.0f %% | %d | %d | %d |", name,
		ms(percentile(met.took, 50)), ms(percentile(met.took, 99)), ms(percentile(met.took, 99.9)), ms(percentile(met.late, 99)), met.lost,
		rate(did.Attempted), rate(did.Taken), rate(did.Refused), met.cpu*100, met.others*100, met.before>>20, met.peak>>20, restarts)
}

// abuserReport is what the abuser says at its end.
type abuserReport struct {
	Attempted, Taken, Refused int64
	Elapsed                   time.Duration
}

// abused is what honest people met, and what it cost the server.
type abused struct {
	measure

	cpu          float64 // of the core
	others       float64 // of a core: what neither the server nor the load nor the abuser used
	before, peak int     // resident bytes
}

// wantPunctual wants the load to have been on time, or what was measured is how busy the
// machine is with other things.
func (met *abused) wantPunctual(b *testing.B, beside string) {
	b.Helper()
	if late := percentile(met.late, 99); late > abuseP99/2 {
		b.Errorf("%s: the load was %v late, and others had %.0f %% of a core: measure again when they do not", beside, late, met.others*100)
	}
}

// watched measures honest people, and the server meanwhile.
func watched(b *testing.B, server *process, people *honest, abusers ...*process) abused {
	b.Helper()
	var met abused
	met.before = resident(b, server)
	met.peak = met.before
	done, sampled := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(sampled)
		again := time.NewTicker(100 * time.Millisecond)
		defer again.Stop()
		for {
			select {
			case <-again.C:
				met.peak = max(met.peak, resident(b, server))
			case <-done:
				return
			}
		}
	}()
	ours := func() time.Duration {
		sum := ownCPU(b)
		for _, p := range append(abusers, server) {
			sum += cpuOf(b, p)
		}
		return sum
	}
	cpu, own, all, began := cpuOf(b, server), ours(), machineCPU(b), time.Now()
	met.measure = people.measure(abusePhase)
	elapsed := time.Since(began).Seconds()
	met.cpu = (cpuOf(b, server) - cpu).Seconds() / elapsed
	met.others = max(0, (machineCPU(b)-all-(ours()-own)).Seconds()/elapsed)
	close(done)
	<-sampled
	select {
	case <-server.ended:
		b.Fatalf("the server has ended: %v", server.cmd.ProcessState)
	default:
	}
	return met
}

// run abuses the server for a while, and waits until it has got over it.
func (a abuse) run(b *testing.B, program string, server *process, s *system, people *honest) (abuserReport, abused) {
	b.Helper()
	// Honest people do not wait for the abuser's own work, which gets what they leave.
	p := start(b, command{name: a.kind, program: program, launch: pinned(generatorCore, unix.SCHED_IDLE)})
	order, err := json.Marshal(map[string]any{
		"kind": a.kind, "edge": s.edges[0], "from": abuserFrom, "tokens": a.tokens(b), "channel": heavyChannel,
	})
	if err != nil {
		b.Fatal(err)
	}
	if _, err := p.stdin.Write(append(order, '\n')); err != nil {
		b.Fatal(err)
	}
	p.line(b, &p.stdout, "under way")
	met := watched(b, server, people, p)
	if err := p.stdin.Close(); err != nil {
		b.Fatal(err)
	}
	var report abuserReport
	if err := json.Unmarshal([]byte(p.line(b, &p.stdout, `"attempted"`)), &report); err != nil {
		b.Fatal(err)
	}
	if status := p.status(b); status != 0 {
		b.Fatalf("%s: exit status %d", a.name, status)
	}
	if report.Attempted == 0 {
		b.Errorf("%s: nothing was done", a.name)
	}
	eventually(b, a.name+": the server gets over it", func() error {
		_, text := server.get(b, "/metrics")
		if want := fmt.Sprintf("\ncarillon_edge_connections %d\n", honestPeople); !strings.Contains(text, want) {
			return fmt.Errorf("there are not %d connections", honestPeople)
		}
		return nil
	})
	return report, met
}

const (
	clientSecret = "cccccccccccccccccccccccccccccccc"
	callerSecret = "kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk"
)

// startAbused starts serve, built without the race detector, on its core.
func startAbused(b *testing.B) (*process, *system) {
	b.Helper()
	dir := b.TempDir()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		b.Fatal(err)
	}
	keyFile, file := filepath.Join(dir, "sso.pem"), filepath.Join(dir, "carillon.yaml")
	write(b, keyFile, string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public})))
	write(b, file, fmt.Sprintf(abuseConfig, filepath.Join(dir, "data"), keyFile))
	environ := []string{"E2E_CLIENTS_SECRET=" + clientSecret, "E2E_CALLERS_SECRET=" + callerSecret}
	p := start(b, command{
		name: "carillon serve", program: program(b, carillonProgram), environ: environ, arguments: []string{"serve", "--config=" + file},
		launch: pinned(serverCore, unix.SCHED_NORMAL),
	}).ready(b)
	return p, &system{
		caller: "backend", signs: []string{"--config", file}, env: environ, ops: []*process{p},
		edges: []string{p.address(b, "edge")}, publishers: []string{p.address(b, "publish")},
	}
}

func abuserProgram(b *testing.B) string {
	b.Helper()
	path, err := build("abuser", "./services/e2e/abuser")
	if err != nil {
		b.Fatal(err)
	}
	return path
}

// signed makes a token of the issuer main.
func signed(b *testing.B, secret, user string) string {
	b.Helper()
	issuer := auth.Issuer{Name: "main", For: auth.ForClients, Algorithms: []string{"HS256"}, Secret: auth.Secret{Env: "E2E_CLIENTS_SECRET"}}
	token, err := auth.Sign(issuer, func(auth.Secret) ([]byte, error) { return []byte(secret), nil }, user, time.Hour, nil)
	if err != nil {
		b.Fatal(err)
	}
	return token
}

func goodTokens(b *testing.B) []string {
	b.Helper()
	var tokens []string
	for i := range abuserUsers {
		tokens = append(tokens, signed(b, clientSecret, fmt.Sprint("abuser", i)))
	}
	return tokens
}

// badTokensHS are right but for the key.
func badTokensHS(b *testing.B) []string {
	b.Helper()
	var tokens []string
	for i := range abuserUsers {
		tokens = append(tokens, signed(b, callerSecret, fmt.Sprint("abuser", i)))
	}
	return tokens
}

// badTokensES are too; to check one costs more.
func badTokensES(b *testing.B) []string {
	b.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	var tokens []string
	for i := range abuserUsers {
		token, err := jwt.NewWithClaims(jwt.SigningMethodES256, jwt.MapClaims{
			"iss": "https://sso.example", "sub": fmt.Sprint("abuser", i), "exp": time.Now().Add(time.Hour).Unix(),
		}).SignedString(key)
		if err != nil {
			b.Fatal(err)
		}
		tokens = append(tokens, token)
	}
	return tokens
}

// heavyChannel has a history of 200 messages of 16 KiB, for those who ask for much.
const heavyChannel = "chat.heavy"

func (h *honest) weigh(b *testing.B) {
	b.Helper()
	payload := &publishv1.PublishRequest_Json{Json: strconv.Quote(strings.Repeat("x", 16<<10))}
	var batch publishv1.PublishBatchRequest
	for range 200 {
		batch.Messages = append(batch.Messages, &publishv1.PublishRequest{
			Target: &publishv1.PublishRequest_Channel{Channel: heavyChannel}, Payload: payload,
		})
	}
	if size := proto.Size(&batch); size > 4<<20 {
		b.Fatalf("a batch of %d bytes", size)
	}
	reply, err := h.api.PublishBatch(h.ctx, &batch)
	if err != nil {
		b.Fatal(err)
	}
	for _, result := range reply.GetResults() {
		if result.GetError() != nil {
			b.Fatal(result.GetError())
		}
	}
}

// resident is the memory that a process has now, in bytes.
func resident(t testing.TB, p *process) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", p.cmd.Process.Pid))
	if err != nil {
		t.Error(err)
		return 0
	}
	fields := strings.Fields(string(text)) // proc(5): the second is resident pages
	pages, err := strconv.Atoi(fields[1])
	if err != nil {
		t.Error(err)
	}
	return pages * os.Getpagesize()
}

// ownCPU is the CPU time that the tests have used themselves.
func ownCPU(t testing.TB) time.Duration {
	t.Helper()
	var used unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &used); err != nil {
		t.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// machineCPU is the time that all cores were busy, to a hundredth of a second.
func machineCPU(t testing.TB) time.Duration {
	t.Helper()
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		t.Fatal(err)
	}
	line, _, _ := strings.Cut(string(text), "\n")
	var ticks int64                                   // of USER_HZ
	for i, field := range strings.Fields(line)[1:9] { // proc(5): user nice system idle iowait irq softirq steal
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		if i != 3 && i != 4 {
			ticks += n
		}
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}
