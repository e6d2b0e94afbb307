package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/metric"
	sdk "go.opentelemetry.io/otel/sdk/metric"
	"google.golang.org/grpc"

	"github.com/carillon-rt/carillon/services/control"
	"github.com/carillon-rt/carillon/services/edge"
	"github.com/carillon-rt/carillon/services/edge/authorization"
	"github.com/carillon-rt/carillon/services/edge/console/api"
	"github.com/carillon-rt/carillon/services/edge/roster"
	"github.com/carillon-rt/carillon/services/internal/auth"
	"github.com/carillon-rt/carillon/services/internal/config"
	commands "github.com/carillon-rt/carillon/services/internal/control"
	"github.com/carillon-rt/carillon/services/internal/lifecycle"
	"github.com/carillon-rt/carillon/services/internal/metronome"
	"github.com/carillon-rt/carillon/services/internal/namespace"
	"github.com/carillon-rt/carillon/services/internal/ops"
	"github.com/carillon-rt/carillon/services/internal/rpc"
	"github.com/carillon-rt/carillon/services/internal/secure"
	"github.com/carillon-rt/carillon/services/internal/stream"
	"github.com/carillon-rt/carillon/services/internal/tracing"
	"github.com/carillon-rt/carillon/services/internal/twin"
	"github.com/carillon-rt/carillon/services/presence"
	"github.com/carillon-rt/carillon/services/publish"
)

// process is the roles that run in this process and what they share.
type process struct {
	command    config.Command
	config     *config.Config
	env        environment
	logger     *slog.Logger
	parts      *lifecycle.Group
	listeners  listeners
	bounded    map[string]*rpc.Bounded // of listeners, by name
	ops        *ops.Server
	tracer     *tracing.Tracer // nil: tracing is off
	level      *slog.LevelVar
	metering   []sdk.Option // of the meter provider, beside what the configuration asks for
	meter      metric.Meter
	namespaces namespace.Set
	callers    *auth.Callers
	roleKey    *auth.RoleKey
	embedded   *stream.Embedded // nil beside an external NATS
	store      *stream.Store
	presence   *rpc.Memory // reaches the presence role of this process; nil without one
	authorizes *rpc.Server // is that role's
	edge       *edge.Edge
	instance   string                        // the id of the process, and of its edge
	agent      *commands.Agent               // of edge
	look       *api.API                      // of the console; nil without one
	rules      atomic.Pointer[namespace.Set] // as they are now, for the console
	// rulesVersion is that of rules, as a presence role would tell it.
	rulesVersion atomic.Pointer[string]
	started      atomic.Bool
	stopping     atomic.Bool

	// clientTokens and callerTokens check tokens; auth.Replace takes both at once.
	clientTokens *auth.Verifier
	callerTokens *auth.Verifier
	flags        *config.Flags // with which config was loaded
	// authority decides what users may do; nil without the presence role.
	authority *presence.Service
	// authorizer asks those who decide, each of authorities by its address.
	authorizer  *authorization.Client
	authorities map[string]grpc.ClientConnInterface

	// certificates are the files of all listeners and connections.
	certificates certificates
}

// listeners are bound before anything else, so that a port taken is said at once.
type listeners struct{ ops, presence, publish, publishHTTP, edge net.Listener }

func newProcess(command config.Command, c *config.Config, flags *config.Flags, env environment, logger *slog.Logger, level *slog.LevelVar) *process {
	return &process{
		command: command, config: c, flags: flags, env: env, logger: logger, level: level,
		parts: lifecycle.New(logger), namespaces: namespace.NewSet(c.Namespaces), instance: rand.Text(),
		bounded: map[string]*rpc.Bounded{},
	}
}

// has tells whether a role runs in this process.
func (p *process) has(role config.Command) bool {
	return p.command == role || p.command == config.Dev || p.command == config.Serve
}

// run starts the roles, waits, and stops them in the reverse order: first the edge,
// so that its clients go elsewhere, then the APIs, then the store, then metrics.
func (p *process) run(ctx context.Context) error {
	err := p.start(ctx)
	if err != nil {
		stopped, cancel := context.WithCancel(ctx)
		cancel()
		return errors.Join(err, p.parts.Wait(stopped, p.config.ShutdownTimeout, func() {}))
	}
	err = p.parts.Wait(ctx, p.config.ShutdownTimeout, func() {
		p.stopping.Store(true)
		p.logger.Info("stopping")
	})
	if err == nil {
		p.logger.Info("stopped")
	}
	return err
}

func (p *process) start(ctx context.Context) error {
	if err := p.openTelemetry(ctx); err != nil {
		return err
	}
	if err := p.listen(ctx); err != nil {
		return err
	}
	p.meter = p.ops.MeterProvider().Meter(meterName)
	if err := p.observe(); err != nil {
		return err
	}
	p.ops.AddCheck("process", func() error {
		switch {
		case p.stopping.Load():
			return errors.New("stopping")
		case !p.started.Load(): // not all checks are there yet
			return errors.New("starting")
		default:
			return nil
		}
	})
	if p.command == config.Dev {
		p.ops.LocalOnly()
	}
	opsTLS, err := p.serverTLS("ops", p.config.Ops.TLS, secure.HTTP1)
	if err != nil {
		return err
	}
	p.ops.TLS = opsTLS
	p.parts.Start("ops", func(ctx context.Context) error { return p.ops.Serve(ctx, p.listeners.ops) })
	if err := p.loadKeys(); err != nil {
		return err
	}
	steps := []struct {
		needed bool
		step   func(context.Context) error
	}{
		{p.has(config.EdgeRole) || p.has(config.PublishRole), p.startEmbedded},
		{p.has(config.PresenceRole), p.startPresence},
		{p.has(config.PublishRole) && !p.has(config.EdgeRole), p.openPublisher},
		{p.has(config.EdgeRole), p.openEdge},
		{p.has(config.PublishRole), p.startPublish},
		{p.has(config.EdgeRole), p.startEdge},
		{true, p.watchConfiguration},
	}
	for _, s := range steps {
		if s.needed {
			if err := s.step(ctx); err != nil {
				return err
			}
		}
	}
	p.started.Store(true)
	if p.command == config.Dev {
		return p.greet()
	}
	return nil
}

// listen binds every address and logs it.
func (p *process) listen(ctx context.Context) error {
	c := p.config
	for _, l := range []struct {
		role    config.Command
		name    string
		address string
		bound   *net.Listener
		tls     string // the option; empty if there is none
		files   config.ServerTLS
		most    int // connections; 0: its server has a bound of its own, or none
	}{
		{p.command, "ops", c.Ops.Listen, &p.listeners.ops, p.opsTLS(), c.Ops.TLS, 0},
		{config.PresenceRole, "presence", c.Presence.Listen, &p.listeners.presence, "presence.tls", c.Presence.TLS, c.Presence.MaxConnections},
		{config.PublishRole, "publish", c.Publish.Listen, &p.listeners.publish, "publish.tls", c.Publish.TLS, c.Publish.MaxConnections},
		{config.PublishRole, "publish.http", c.Publish.HTTPListen, &p.listeners.publishHTTP, "publish.tls", c.Publish.TLS, c.Publish.MaxConnections},
		{config.EdgeRole, "edge", c.Edge.Listen, &p.listeners.edge, "edge.tls", c.Edge.TLS, 0},
	} {
		if !p.has(l.role) {
			continue
		}
		bound, err := new(net.ListenConfig).Listen(ctx, "tcp", l.address)
		if err != nil {
			return fmt.Errorf("%s cannot listen: %w", l.name, err)
		}
		*l.bound = bound
		if l.most > 0 {
			b := rpc.NewBounded(bound, l.most, p.logger.With("on", l.name))
			*l.bound = b
			p.bounded[l.name] = b
		}
		p.parts.OnStop(l.name+" listener", func() error {
			_ = bound.Close() // closed already if its server ran
			return nil
		})
		p.logger.Info("listening", "on", l.name, "address", bound.Addr().String())
		if l.tls != "" {
			p.warnOpen(l.tls, bound.Addr(), l.files)
		}
	}
	return nil
}

// startEmbedded starts the NATS inside, unless there is one outside.
func (p *process) startEmbedded(context.Context) error {
	if p.config.NATS.URL != "" {
		return nil
	}
	embedded, err := stream.StartEmbedded(stream.EmbeddedOptions{
		Dir: filepath.Join(p.config.DataDir, "nats"), SyncInterval: p.config.NATS.SyncInterval, Logger: p.logger,
	})
	if err != nil {
		return err
	}
	p.embedded = embedded
	p.parts.OnStop("embedded NATS", embedded.Close)
	return nil
}

// openStore connects to NATS; receiver is nil where nobody listens.
func (p *process) openStore(ctx context.Context, receiver stream.Receiver) error {
	natsTLS, err := p.natsTLS()
	if err != nil {
		return err
	}
	store, err := stream.Open(ctx, stream.Options{
		URL: p.config.NATS.URL, Login: p.natsLogin(), TLS: natsTLS, Embedded: p.embedded, Namespaces: p.namespaces, Receiver: receiver,
		Logger: p.logger, Tracer: p.tracer, Name: "carillon " + string(p.command),
	})
	if err != nil {
		return err
	}
	p.store = store
	p.ops.AddCheck("store", store.Ready)
	p.parts.OnStop("store", store.Close)
	return errors.Join(observeReads(p.meter, store.ReadStats), observeStore(p.meter, store.Stats))
}

func (p *process) openPublisher(ctx context.Context) error { return p.openStore(ctx, nil) }

func (p *process) startPresence(context.Context) error {
	service, err := presence.New(presence.Options{
		Namespaces: p.namespaces, Callers: p.callers, Logger: p.logger, Meter: p.meter,
		Alone: p.has(config.EdgeRole) && len(p.config.Presence.Addresses) == 0,
	})
	if err != nil {
		return err
	}
	presenceTLS, err := p.serverTLS("presence", p.config.Presence.TLS, secure.HTTP2)
	if err != nil {
		return err
	}
	p.authority = service
	server := rpc.NewServer(rpc.Options{Logger: p.logger, Tracer: p.tracer, Meter: p.meter, TLS: presenceTLS, Authenticate: map[string]rpc.Authenticator{
		presence.AuthorizationService: rpc.Bearer(p.roleKey),
		presence.ReportService:        rpc.Bearer(p.roleKey),
		presence.MembersService:       rpc.Callers(rpc.FirstOf(p.roleKey, p.callerTokens), p.callers),
	}})
	service.Register(server)
	p.ops.AddCheck("presence", service.Ready)
	p.presence, p.authorizes = rpc.NewMemory(), server
	p.parts.Start("presence view", func(ctx context.Context) error {
		service.Run(ctx)
		return nil
	})
	p.parts.Start("presence", func(ctx context.Context) error {
		context.AfterFunc(ctx, service.Close)
		return serveWhile(ctx, server, map[string]func() error{
			presence.AuthorizationService: nil, presence.ReportService: nil, presence.MembersService: service.Ready,
		}, p.listeners.presence, p.presence)
	})
	return nil
}

// serveWhile serves until ctx ends, and keeps the health service told which services are
// ready; those without a question always are. Who is to become ready is asked often: others
// wait for that. Who ceases to be refuses what it is asked for by itself.
func serveWhile(ctx context.Context, server *rpc.Server, ready map[string]func() error, listeners ...net.Listener) error {
	health := time.NewTimer(0)
	defer health.Stop()
	served := make(chan error, 1)
	go func() { served <- server.Serve(ctx, listeners...) }()
	for {
		select {
		case err := <-served:
			return err
		case <-health.C:
		}
		next := metronome.Next(readyInterval)
		for name, ask := range ready {
			is := ask == nil || ask() == nil
			server.SetServing(name, is)
			if !is {
				next = healthInterval
			}
		}
		health.Reset(next)
	}
}

// dialPresence reaches one replica of the presence role: that of this process if no
// addresses are configured.
func (p *process) dialPresence(addresses ...string) (*grpc.ClientConn, error) {
	if len(p.config.Presence.Addresses) == 0 {
		return p.presence.Dial(p.roleKey.Credentials(), rpc.Traced(p.tracer))
	}
	return p.dial(addresses, p.roleKey.Credentials(), "presence.dial_tls", p.config.Presence.DialTLS, rpc.Impatient, rpc.Traced(p.tracer))
}

// openEdge makes the edge, and with it the store, which publishing shares.
func (p *process) openEdge(ctx context.Context) error {
	err := p.openAuthorizer()
	if err != nil {
		return err
	}
	replicas := p.config.Presence.Addresses
	if len(replicas) == 0 {
		replicas = []string{"in this process"}
	}
	members, err := roster.New(roster.Options{
		EdgeID: p.instance, Addresses: replicas, Logger: p.logger,
		Dial: func(address string) (*grpc.ClientConn, error) { return p.dialPresence(address) },
	})
	if err != nil {
		return err
	}
	p.parts.Start("roster", func(ctx context.Context) error {
		members.Run(ctx)
		return nil
	})
	edgeTLS, err := p.serverTLS("edge", p.config.Edge.TLS, secure.HTTP1)
	if err != nil {
		return err
	}
	proxies, err := edge.ParseProxies(p.config.Edge.TrustedProxies)
	if err != nil {
		return err
	}
	options := edge.Options{
		TLS: edgeTLS, TrustedProxies: proxies, LocalOnly: p.command == config.Dev,
		Verifier: p.clientTokens, Authorizer: p.authorizer, Roster: members, Namespaces: p.namespaces,
		Ready: p.obeying, Credentials: credentialsOf(p.config), Limits: limitsOf(p.config.Edge), DrainWindow: p.config.Edge.DrainWindow, PresenceGrace: p.config.Presence.Grace,
		Logger: p.logger, Meter: p.meter, Tracer: p.tracer, ClientTraces: p.config.Telemetry.ClientTraces,
		OpenBroker: func(receiver edge.Receiver) (edge.Broker, error) {
			if err := p.openStore(ctx, receiver); err != nil {
				return nil, err
			}
			return p.store, nil
		},
	}
	if p.hasConsole() {
		p.look = api.New()
		options.Incidents = p.look.Incident
	}
	if p.command == config.Dev {
		options.Console = p.console()
	}
	if p.edge, err = edge.New(options); err != nil {
		return err
	}
	if err := observeControl(p.meter, p.store.Stats); err != nil {
		return err
	}
	p.followControl()
	p.watchRules()
	return p.openConsole(members)
}

// startEdge is the last to start, so that it is the first to stop; but for its console,
// whose streams would hold it up.
func (p *process) startEdge(context.Context) error {
	listener, err := p.edgeListener()
	if err != nil {
		return err
	}
	p.parts.Start("edge", func(ctx context.Context) error { return p.edge.Serve(ctx, listener) })
	p.startConsole()
	return nil
}

func (p *process) startPublish(context.Context) error {
	service, err := publish.New(publish.Options{
		Store: p.store, Pipeline: func() publish.Pipeline { return p.store.Pipeline() },
		Namespaces: p.namespaces, Callers: p.callers, Logger: p.logger, Meter: p.meter, Tracer: p.tracer,
	})
	if err != nil {
		return err
	}
	controlling, err := p.newControl()
	if err != nil {
		return err
	}
	publishTLS, err := p.serverTLS("publish", p.config.Publish.TLS, secure.HTTP2)
	if err != nil {
		return err
	}
	server := rpc.NewServer(rpc.Options{
		Logger: p.logger, Tracer: p.tracer, Meter: p.meter, TLS: publishTLS, EndStreams: service.Close, Sound: publish.Sound, Authenticate: map[string]rpc.Authenticator{
			publish.PublishService: rpc.Callers(p.callerTokens, p.callers),
			publish.HistoryService: rpc.Callers(p.callerTokens, p.callers),
			control.ServiceName:    rpc.Callers(p.callerTokens, p.callers),
		},
	})
	service.Register(server)
	controlling.Register(server)
	memory := rpc.NewMemory()
	p.parts.Start("publish", func(ctx context.Context) error {
		return serveWhile(ctx, server, map[string]func() error{
			publish.PublishService: p.store.Ready, publish.HistoryService: p.store.Ready, control.ServiceName: p.store.Ready,
		}, p.listeners.publish, memory)
	})
	conn, err := memory.Dial(nil)
	if err != nil {
		return err
	}
	p.parts.OnStop("publish.http client", conn.Close)
	apis, err := p.twins()
	if err != nil {
		return err
	}
	handler, err := twin.New(conn, p.logger, apis...)
	if err != nil {
		return err
	}
	handler.LocalOnly, handler.Tracer = p.command == config.Dev, p.tracer
	if handler.TLS, err = p.serverTLS("publish", p.config.Publish.TLS, secure.HTTP1); err != nil {
		return err
	}
	p.parts.Start("publish.http", func(ctx context.Context) error { return handler.Serve(ctx, p.listeners.publishHTTP) })
	return nil
}

const (
	// healthInterval is how often the health services look whether who is not ready is.
	healthInterval = 100 * time.Millisecond
	// readyInterval is how often they look whether all that are ready still are.
	readyInterval = time.Second
)
