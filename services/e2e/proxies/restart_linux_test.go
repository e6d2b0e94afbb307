package proxies_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"

	carillon "github.com/carillon-rt/carillon/clients/go"
	"github.com/carillon-rt/carillon/services/chaos/checker"
	"github.com/carillon-rt/carillon/services/chaos/load"
)

// enough is how many messages have to arrive between two steps.
const enough = 1500

// restarts ends an edge and a publisher and starts them again, asked to and not, under
// load: no message is lost or doubled, and nobody who comes meanwhile is turned away.
func restarts(t *testing.T, s *system, f front) {
	underLoad(t, s, f, []string{f.websocket}, []string{f.grpc}, func() {
		for _, name := range []string{"edge-0", "publish-0"} {
			for _, end := range []func(){s.running[name].Stop, func() { s.running[name].Kill() }} {
				flow(t)
				end()
				flow(t)
				s.startRole(t, name)
				s.ready(t, name)
				flow(t)
			}
		}
	})
}

// underLoad has something happen while people and backends use edges and publishers, and
// others come and go: every promise is kept.
func underLoad(t *testing.T, s *system, f front, edges, publishers []string, what func()) {
	t.Helper()
	records := checker.New()
	o := load.Options{
		Edges: edges, Publishers: publishers, Clients: 30, PerClient: 4, Rate: 120, Seed: 1,
		Tokens: s.tokens, Check: records, Logger: slog.New(slog.DiscardHandler), Events: io.Discard, History: io.Discard,
	}
	for i := range 12 {
		o.Channels = append(o.Channels, fmt.Sprintf("chat.load.%d", i))
	}
	o.Chained = []string{"chat.chain"}
	starting, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	l, err := load.Start(starting, o)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}()
	coming, gone := context.WithCancel(t.Context())
	defer gone()
	var newcomers sync.WaitGroup
	newcomers.Go(func() { f.comeAndGo(coming, t, s) })

	what()
	gone()
	newcomers.Wait()
	finish(t, l, records)
}

// finish ends the load, and wants every promise kept.
func finish(t *testing.T, l *load.Load, records *checker.Checker) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	l.StopPublishing(ctx)
	if err := errors.Join(l.AwaitHeads(ctx), l.Record(ctx), l.Close()); err != nil {
		t.Error(err)
	}
	report := records.Check()
	t.Logf("\n%v", report)
	if !report.OK() || report.Resumed == 0 || report.Acked == 0 || report.Resets > 0 || len(report.Gaps) > 0 || len(l.Problems()) > 0 {
		t.Errorf("problems: %v", l.Problems())
	}
}

// flow waits until enough messages more have been delivered by the edges that run.
func flow(t *testing.T) {
	t.Helper()
	began := map[string]float64{}
	eventually(t, "the load flows", func(ctx context.Context) error {
		sum := 0.0
		for _, edge := range []string{"edge-0", "edge-1"} {
			n, err := metric(ctx, edge, "carillon_edge_deliveries_total")
			if err != nil {
				continue // it does not run
			}
			if was, ok := began[edge]; !ok || n < was {
				began[edge] = n
			}
			sum += n - began[edge]
		}
		if sum < enough {
			return fmt.Errorf("%.0f of %d deliveries", sum, enough)
		}
		return nil
	})
}

// comeAndGo opens WebSockets, one after the other, none of which is refused: what an edge
// that is gone would refuse the load balancer takes to the other.
func (f front) comeAndGo(ctx context.Context, t *testing.T, s *system) {
	token, err := s.tokens.Client(ctx, "newcomer")
	if err != nil {
		t.Error(err)
		return
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for came := 0; ; came++ {
		select {
		case <-ctx.Done():
			t.Logf("%d newcomers", came)
			return
		case <-tick.C:
		}
		ws, _, err := websocket.Dial(ctx, f.websocket, &websocket.DialOptions{
			HTTPClient: f.httpClient("10.77.3.1"), HTTPHeader: http.Header{"Authorization": {"Bearer " + token}},
		})
		if ctx.Err() != nil {
			continue
		}
		if err != nil {
			t.Errorf("a newcomer is refused: %v", err)
			continue
		}
		_ = ws.CloseNow() // it has been let in
	}
}

// idlers say nothing for longer than the load balancers wait for a silent connection:
// the pings of the edge keep them. They are on both edges, half of them on each.
type idlers struct {
	opened  time.Time
	clients []*carillon.Client
}

const (
	idleClients = 6
	idleTime    = 80 * time.Second
)

func idle(t *testing.T, s *system, f front) idlers {
	t.Helper()
	var all idlers
	for i := range idleClients {
		all.clients = append(all.clients, f.connect(t, s, fmt.Sprint("idle", i), ""))
	}
	all.opened = time.Now()
	return all
}

// stay wants those of the edge that was not restarted to be there, after long enough.
func (all idlers) stay(t *testing.T) {
	t.Helper()
	enough := time.NewTimer(time.Until(all.opened.Add(idleTime)))
	defer enough.Stop()
	<-enough.C
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	there := 0
	for _, c := range all.clients {
		if _, err := c.Subscribe(ctx, "chat.idle"); err == nil {
			there++
		} else {
			t.Logf("gone: %v", err)
		}
	}
	if there < idleClients/2 {
		t.Errorf("%d of %d idle connections are there, want those of one edge at least", there, idleClients)
	}
}

// unready has an edge that listens and cannot serve, since it does not reach NATS: nobody
// is left with it.
func unready(t *testing.T, s *system, f front) {
	s.running["edge-0"].Stop()
	s.startRole(t, "edge-0", "--nats.url=tls://10.77.0.99:4222") // where nobody is
	eventually(t, "an edge that is not ready", func(ctx context.Context) error {
		status, text, err := get(ctx, "edge-0", "/readyz")
		if err == nil && (status != http.StatusServiceUnavailable || strings.Contains(text, "starting")) {
			err = fmt.Errorf("%d %s", status, text)
		}
		return err
	})
	before := connections(t)[1]
	const many = 20
	began, slowest := time.Now(), time.Duration(0)
	for i := range many {
		came := time.Now()
		f.connect(t, s, fmt.Sprint("late", i), "")
		slowest = max(slowest, time.Since(came))
	}
	took := time.Since(began)
	t.Logf("%d connects beside an edge that is not ready: %v, the slowest %v", many, took.Round(time.Millisecond), slowest.Round(time.Millisecond))
	if took > many*time.Second/2 { // alone each takes some milliseconds; one that waited for that edge, two seconds
		t.Errorf("they took %v", took)
	}
	if after := connections(t)[1]; after-before != many {
		t.Errorf("the other edge has got %.0f of %d", after-before, many)
	}
	s.running["edge-0"].Stop()
	s.startRole(t, "edge-0")
	s.ready(t, "edge-0")
}

// reloaded has the load balancer read its file, which has changed: who is connected stays.
func reloaded(t *testing.T, s *system, f front, signal syscall.Signal) {
	old := f.connect(t, s, "loyal", "", "chat.reload")
	text := file(t, filepath.Dir(f.file), filepath.Base(f.file))
	changed := regexp.MustCompile(`"ok(\\n)?"`).ReplaceAllString(text, `"read again"`)
	if changed == text {
		t.Fatal("the answer of /healthz is not in the file")
	}
	write(t, f.file, changed)
	if err := syscall.Kill(f.pid, signal); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the changed file is read", func(ctx context.Context) error {
		_, said, err := fetch(ctx, "http://proxy:8404/healthz")
		if err == nil && said != "read again" {
			err = errors.New(said)
		}
		return err
	})
	ctx, cancel := s.caller(t)
	defer cancel()
	fresh := f.connect(t, s, "fresh", "", "chat.reload")
	if _, err := fresh.Publish(ctx, "chat.reload", "1", ""); err != nil {
		t.Error(err)
	}
	for _, c := range []*carillon.Client{old, fresh} {
		next(t, c, "chat.reload")
	}
}

// spokenFor has the load balancer take PROXY headers from another before it.
func spokenFor(t *testing.T, s *system, b balancer) {
	f := b.start(t, "proxy")
	f.websocket, f.announced = strings.Replace(f.websocket, ":8080", ":8446", 1), true
	addressed(t, s, f)
}

// passedThrough has the edges take PROXY headers, from the load balancer alone.
func passedThrough(t *testing.T, s *system, b balancer) {
	for _, edge := range []string{"edge-0", "edge-1"} {
		s.running[edge].Stop()
		s.startRole(t, edge, "--edge.proxy-protocol=true")
		s.ready(t, edge)
	}
	f := b.start(t, "proxy")
	f.websocket = strings.Replace(f.websocket, ":8080", ":8445", 1)
	addressed(t, s, f)
}

// certificates makes an authority and certificates of it with deployments/nats/certificates.
func certificates(t *testing.T, dir string, names ...string) {
	t.Helper()
	check(t, nil, filepath.Join(deployments, "nats", "certificates"), append([]string{dir}, names...)...)
}

func TestLoadBalancers(t *testing.T) {
	for _, b := range balancers {
		t.Run(b.name, func(t *testing.T) {
			b.checkFile(t)
			if !*network {
				return
			}
			s := startSystem(t, "cluster.conf")
			t.Run("plain", func(t *testing.T) {
				f := b.start(t)
				silent, gone := idle(t, s, f), lose(t, s, f)
				t.Run("journey", func(t *testing.T) { journey(t, s, f, "chat.journey") })
				t.Run("closed", func(t *testing.T) { closed(t, s, f) })
				t.Run("addressed", func(t *testing.T) { addressed(t, s, f) })
				t.Run("forged", func(t *testing.T) { forged(t, s, f) })
				t.Run("restarts", func(t *testing.T) { restarts(t, s, f) })
				t.Run("unready", func(t *testing.T) { unready(t, s, f) })
				silent.stay(t)
				gone.missed(t, b.misses)
				t.Run("reloaded", func(t *testing.T) { reloaded(t, s, f, b.reload) })
			})
			t.Run("tls", func(t *testing.T) {
				f := b.start(t, "tls")
				journey(t, s, f, "chat.secret")
				closed(t, s, f)
			})
			t.Run("proxy", func(t *testing.T) { b.announced(t, s, b) })
			for _, name := range nodes {
				if refused := s.refusedByNATS(t, name); len(refused) > 0 {
					t.Errorf("%s refused:\n%s", name, strings.Join(refused, "\n"))
				}
			}
		})
	}
}
