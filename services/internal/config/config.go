// Package config owns Carillon's configuration: the tree of options with their
// defaults, bounds and documentation, and how it is loaded from a YAML file, the
// environment and flags. What an option does belongs to the package that takes it.
//
// The structs below are the only place where an option is defined. Of a field's tags,
// yaml is its key, help its documentation, default what holds if nobody says
// otherwise, min and max its bounds, enum its values, and check the syntax of a text
// (see func check). Scalars and lists of strings can also be set by flag and environment;
// lists of structs only by file.
package config

import (
	"time"

	"github.com/carillon-rt/carillon/services/internal/auth"
	"github.com/carillon-rt/carillon/services/internal/namespace"
)

// Config is the whole configuration of a process. It is not modified once loaded.
type Config struct {
	DataDir         string        `yaml:"data_dir" default:"./data" check:"required" help:"Directory of the embedded NATS store and of the keys of dev."`
	ShutdownTimeout time.Duration `yaml:"shutdown_timeout" default:"30s" min:"1s" max:"10m" help:"Time in which everything must have stopped after a signal."`

	Log        Log                   `yaml:"log" help:"What is logged, on standard error."`
	NATS       NATS                  `yaml:"nats" help:"Where messages are stored."`
	Edge       Edge                  `yaml:"edge" help:"The WebSocket edge; the bounds are per edge."`
	Presence   Presence              `yaml:"presence" help:"The presence and authorization service, and where edges find it."`
	Publish    Publish               `yaml:"publish" help:"The Publish API."`
	Ops        Ops                   `yaml:"ops" help:"What an operator looks at."`
	Auth       Auth                  `yaml:"auth" help:"Whose tokens are good."`
	Callers    []auth.Caller         `yaml:"callers" help:"Backend services and what their tokens give them; a caller that is not here may do nothing."`
	Namespaces []namespace.Namespace `yaml:"namespaces" help:"Namespaces: the first token of a channel, which decides what is kept and who may do what."`
}

// Log says what is logged, on standard error.
type Log struct {
	Level  string `yaml:"level" default:"info" enum:"debug,info,warn,error" help:"Least level that is logged."`
	Format string `yaml:"format" default:"text" enum:"text,json" help:"Form of a line."`
}

// NATS says where messages are stored.
type NATS struct {
	URL          string        `yaml:"url" check:"nats" help:"NATS servers, joined by commas: nats://host:4222; empty: the one inside this process."`
	SyncInterval time.Duration `yaml:"sync_interval" default:"1s" min:"1ms" max:"10m" help:"How often the embedded server syncs to disk: what a power cut may take."`
}

// Edge is the WebSocket edge. Its bounds are per edge.
type Edge struct {
	Listen           string          `yaml:"listen" default:":8080" check:"listen" help:"Address of HTTP: /v1/ws, and in dev the console at /."`
	MaxFrameBytes    namespace.Bytes `yaml:"max_frame_bytes" default:"64KiB" min:"1KiB" max:"16MiB" help:"Largest frame of a client; a larger one closes 1009."`
	MaxSubscriptions int             `yaml:"max_subscriptions" default:"128" min:"1" max:"100000" help:"Most subscriptions of one connection."`
	MaxQueueBytes    namespace.Bytes `yaml:"max_queue_bytes" default:"1MiB" min:"4KiB" max:"1GiB" help:"Most bytes that wait for one slow reader, no less than max_frame_bytes; more closes 4450."`
	MaxInflight      int             `yaml:"max_inflight" default:"64" min:"1" max:"100000" help:"Most commands of one connection that wait for their reply."`
	MaxConnections   int             `yaml:"max_connections" default:"20000" min:"1" max:"10000000" help:"Most connections; more are refused."`
	Rate             Rate            `yaml:"rate" help:"Token bucket of one connection's commands; ping is exempt."`
	ConnectTimeout   time.Duration   `yaml:"connect_timeout" default:"5s" min:"10ms" max:"10m" help:"Time in which a client must send connect, or be closed 4408."`
	PingInterval     time.Duration   `yaml:"ping_interval" default:"25s" min:"10ms" max:"1h" help:"Time between pings of the server."`
	PongTimeout      time.Duration   `yaml:"pong_timeout" default:"10s" min:"10ms" max:"1h" help:"Time in which a client must answer a ping, or be closed 4408."`
	DrainWindow      time.Duration   `yaml:"drain_window" default:"5s" min:"0s" max:"10m" help:"Time over which connections are closed 1012 when the edge stops, less than shutdown_timeout."`
}

// Rate is the token bucket of one connection's commands. It converts to
// namespace.Rate.
type Rate struct {
	Messages int           `yaml:"messages" default:"50" min:"1" max:"1000000" help:"Commands refilled in the time of per; also the burst."`
	Per      time.Duration `yaml:"per" default:"10s" min:"1ms" max:"1h" help:"Time in which they are refilled."`
}

// Presence is the presence and authorization service, and where edges find it.
type Presence struct {
	Listen    string   `yaml:"listen" default:":9091" check:"listen" help:"Address of gRPC: authorization and presence."`
	Addresses []string `yaml:"addresses" check:"address" help:"Addresses of all replicas, which edges dial; empty: the role in this process."`
}

// Publish is the Publish API.
type Publish struct {
	Listen     string `yaml:"listen" default:":9090" check:"listen" help:"Address of gRPC: the Publish API."`
	HTTPListen string `yaml:"http_listen" default:":8081" check:"listen" help:"Address of the same as JSON over HTTP."`
}

// Ops is what an operator looks at.
type Ops struct {
	Listen string `yaml:"listen" default:":9464" check:"listen" help:"Address of /metrics, /healthz and /readyz."`
	PProf  bool   `yaml:"pprof" default:"false" help:"Serves /debug/pprof/ too; ops.listen must then be loopback."`
}

// Auth says whose tokens are good.
type Auth struct {
	Issuers []auth.Issuer `yaml:"issuers" help:"Issuers of tokens. An issuer is for clients or for callers, and has a secret or a public key."`
	// RolesSecret is zero if roles need not talk across processes.
	RolesSecret auth.Secret `yaml:"roles_secret" help:"The secret that edges and presence share, at least 32 bytes."`
}

// Command is what a configuration is for; each requires other options.
type Command string

// The commands that take a configuration.
const (
	Dev          Command = "dev"
	Serve        Command = "serve"
	EdgeRole     Command = "edge"
	PresenceRole Command = "presence"
	PublishRole  Command = "publish"
	NoRole       Command = "" // requires nothing: to read a configuration only
)
