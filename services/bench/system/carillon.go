//go:build linux

package system

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/metadata"

	publishv1 "github.com/carillon-rt/carillon/gen/carillon/publish/v1"
	"github.com/carillon-rt/carillon/services/bench/herd"
	"github.com/carillon-rt/carillon/services/bench/process"
	"github.com/carillon-rt/carillon/services/internal/auth"
	"github.com/carillon-rt/carillon/services/internal/rpc"
)

// Carillon is this system, with every bound and check that is on by default.
type Carillon struct {
	// Traced has it send spans of its default share of traces, 1 %, and its metrics.
	Traced bool
}

// Name is its word.
func (s Carillon) Name() string {
	if s.Traced {
		return "carillon-traced"
	}
	return "carillon"
}

// About says what it is.
func (s Carillon) About() string {
	if s.Traced {
		return "the same, which sends spans of 1 % of all traces, and its metrics, to a receiver of OTLP, whose CPU does not count"
	}
	return "Carillon with its defaults: JWT, rules, limits, metrics, every message stored on disk before it is delivered"
}

const carillonConfig = `
log: {format: json}
edge: {listen: "127.0.0.1:0"}
presence: {listen: "127.0.0.1:0"}
publish: {listen: "127.0.0.1:0", http_listen: "127.0.0.1:0"}
ops: {listen: "127.0.0.1:0"}
auth:
  issuers:
    - {name: clients, for: clients, algorithms: [HS256], secret: {file: %[1]q}}
    - {name: callers, for: callers, algorithms: [HS256], secret: {file: %[1]q}}
  roles_secret: {file: %[1]q}
callers:
  - {name: bench, publish: ["{rest...}"]}
namespaces:
  - name: news
    history: {max_bytes: %[2]s}
    rules: [{channel: "news.{rest...}", subscribe: "true"}]
`

// carillonInboxes makes every client hear a channel of its own, asked or not.
const carillonInboxes = `  - name: user
    history: {max_bytes: %[2]s}
    rules: [{channel: "user.{id}", subscribe: "id == user"}]
`

// carillon is one that runs.
type carillon struct {
	key       string // the file of the secret of all
	processes []*process.Process
	edges     []netip.AddrPort
	publish   []string // gRPC
	presence  string
	ops       []string // of the processes that have one
	collector *collector
}

// Start starts one process with everything, or each role and NATS as processes.
func (s Carillon) Start(ctx context.Context, o Options) (Server, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	c := &carillon{key: filepath.Join(o.Dir, "key")}
	if s.Traced {
		var err error
		if c.collector, err = startCollector(ctx); err != nil {
			return nil, err
		}
	}
	if err := c.start(ctx, o); err != nil {
		c.Stop()
		return nil, err
	}
	return c, nil
}

func (c *carillon) start(ctx context.Context, o Options) error {
	file := filepath.Join(o.Dir, "carillon.yaml")
	err1 := writeKey(c.key)
	text := carillonConfig
	if !o.SharedOnly {
		text += carillonInboxes
	}
	err2 := os.WriteFile(file, fmt.Appendf(nil, text, c.key, cmp.Or(o.History, "1GiB")), 0o600)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	common := []string{"--config=" + file, "--ops.pprof=" + strconv.FormatBool(o.Profile)}
	if c.collector != nil {
		common = append(common, "--telemetry.endpoint="+c.collector.url)
	}
	edge := slices.Clone(common)
	if o.Quiet {
		edge = append(edge, "--edge.ping-interval=1h")
	}
	if o.Edges == 0 {
		return c.startRole(ctx, o, "serve", append(edge, "--data-dir="+filepath.Join(o.Dir, "data")), "edge", "publish")
	}
	nats, err := c.startNATS(ctx, o)
	if err != nil {
		return err
	}
	if err := c.startRole(ctx, o, "presence", common, "presence"); err != nil {
		return err
	}
	if err := c.startRole(ctx, o, "publish", slices.Concat(common, []string{nats}), "publish"); err != nil {
		return err
	}
	for range o.Edges {
		if err := c.startRole(ctx, o, "edge", slices.Concat(edge, []string{nats}), "edge"); err != nil {
			return err
		}
	}
	return nil
}

// startNATS returns the flag that tells where it is.
func (c *carillon) startNATS(ctx context.Context, o Options) (string, error) {
	p, err := process.Start("nats-server", nil, o.NATSServer, "-a", "127.0.0.1", "-p", "-1", "-js", "-sd", filepath.Join(o.Dir, "nats"))
	if err != nil {
		return "", err
	}
	c.processes = append(c.processes, p)
	line, err := p.Line(ctx, "Listening for client connections on ")
	if err != nil {
		return "", err
	}
	_, address, _ := strings.Cut(line, "connections on ")
	_, err = p.Line(ctx, "Server is ready")
	return "--nats.url=nats://" + address, err
}

// startRole starts a role and keeps where it listens.
func (c *carillon) startRole(ctx context.Context, o Options, role string, arguments []string, listeners ...string) error {
	if role == "edge" {
		arguments = append(arguments, "--presence.addresses="+c.presence)
	}
	p, err := process.Start("carillon "+role, nil, o.Carillon, append([]string{role}, arguments...)...)
	if err != nil {
		return err
	}
	c.processes = append(c.processes, p)
	for _, on := range append(listeners, "ops") {
		address, err := listening(ctx, p, on)
		if err != nil {
			return err
		}
		switch on {
		case "edge":
			c.edges = append(c.edges, netip.MustParseAddrPort(address))
		case "presence":
			c.presence = address
		case "publish":
			c.publish = append(c.publish, address)
		case "ops":
			c.ops = append(c.ops, address)
		}
	}
	return awaitReady(ctx, c.ops[len(c.ops)-1])
}

func awaitReady(ctx context.Context, ops string) error {
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for {
		status, text, err := get(ctx, "http://"+ops+"/readyz")
		if err == nil && status == http.StatusOK {
			return nil
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return fmt.Errorf("not ready: %d %s: %w", status, text, errors.Join(err, ctx.Err()))
		}
	}
}

func get(ctx context.Context, url string) (int, string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return 0, "", err
	}
	request.Close = true // once a start is not worth a connection that is kept
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return response.StatusCode, string(text), err
}

func (c *carillon) Processes() []*process.Process { return c.processes }

// Ops are the addresses of /metrics and of profiles.
func (c *carillon) Ops() []string { return c.ops }

// Stop ends the processes, those first that need others.
func (c *carillon) Stop() {
	for _, p := range slices.Backward(c.processes) {
		p.Stop()
	}
	if c.collector != nil {
		c.collector.stop()
	}
}

// Spans is how many spans have come out; false: none are asked for.
func (c *carillon) Spans() (count int64, ok bool) {
	if c.collector == nil {
		return 0, false
	}
	return c.collector.spans.Load(), true
}

func (c *carillon) Client(n, edge int, channels ...Subscription) (herd.Client, error) {
	signed, err := token(c.key, auth.ForClients, user(n))
	if err != nil {
		return herd.Client{}, err
	}
	entries := make([]string, len(channels))
	for i, s := range channels {
		entries[i] = fmt.Sprintf(`{"channel":%q}`, s.Channel)
		if s.Since.Epoch != "" {
			entries[i] = fmt.Sprintf(`{"channel":%q,"since":{"epoch":%q,"offset":%d}}`, s.Channel, s.Since.Epoch, s.Since.Offset)
		}
	}
	connect := fmt.Sprintf(`{"id":1,"connect":{"token":%q,"subscriptions":[%s]}}`, signed, strings.Join(entries, ","))
	address := c.edges[edge%len(c.edges)]
	return herd.Client{
		Server: address, Source: source(n), Handshake: handshake(address, "/v1/ws", "carillon.v1.json"),
		Steps: []herd.Step{{Say: herd.Text(connect)}, {Await: []byte(`"connected"`)}},
	}, nil
}

func (c *carillon) Publisher(context.Context) (Publisher, error) {
	signed, err := token(c.key, auth.ForCallers, "bench")
	if err != nil {
		return nil, err
	}
	conn, err := rpc.Dial(c.publish, nil)
	if err != nil {
		return nil, err
	}
	return &grpcPublisher{conn, publishv1.NewPublishServiceClient(conn), metadata.Pairs("authorization", "Bearer "+signed)}, nil
}
