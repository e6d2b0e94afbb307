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

	Log      Log      `yaml:"log" help:"What is logged, on standard error."`
	NATS     NATS     `yaml:"nats" help:"Where messages are stored."`
	Edge     Edge     `yaml:"edge" help:"The WebSocket edge; the bounds are per edge."`
	Presence Presence `yaml:"presence" help:"The presence and authorization service, and where edges find it."`
	Publish  Publish  `yaml:"publish" help:"The Publish API."`
	Ops      Ops      `yaml:"ops" help:"What an operator looks at."`
	// Telemetry is what is sent to a collector.
	Telemetry Telemetry `yaml:"telemetry" help:"Where traces and metrics are sent (OpenTelemetry)."`
	Console   Console   `yaml:"console" help:"The page that shows what an edge does."`
	Auth      Auth      `yaml:"auth" help:"Whose tokens are good."`
	// Authorization is zero where the presence role decides.
	Authorization Authorization         `yaml:"authorization" help:"An AuthorizationService of your own, which edges ask in place of the presence role."`
	Callers       []auth.Caller         `yaml:"callers" help:"Backend services and what their tokens give them; a caller that is not here may do nothing."`
	Namespaces    []namespace.Namespace `yaml:"namespaces" help:"Namespaces: the first token of a channel, which decides what is kept and who may do what."`
}

// Log says what is logged, on standard error.
type Log struct {
	Level  string `yaml:"level" default:"info" enum:"debug,info,warn,error" help:"Least level that is logged."`
	Format string `yaml:"format" default:"text" enum:"text,json" help:"Form of a line."`
}

// NATS says where messages are stored.
type NATS struct {
	URL          string        `yaml:"url" check:"nats" help:"NATS servers, joined by commas: nats://host:4222; empty: the one inside this process."`
	Credentials  string        `yaml:"credentials" help:"Credentials file (.creds) for NATS, read again at each connection."`
	User         string        `yaml:"user" help:"User name for NATS; with password."`
	Password     auth.Secret   `yaml:"password" help:"Password for NATS."`
	TLS          ClientTLS     `yaml:"tls" help:"TLS towards NATS; the scheme tls:// in nats.url is enough where the system's authorities suffice."`
	SyncInterval time.Duration `yaml:"sync_interval" default:"1s" min:"1ms" max:"10m" help:"How often the embedded server syncs to disk: what a power cut may take."`
}

// Edge is the WebSocket edge. Its bounds are per edge.
type Edge struct {
	Listen                      string          `yaml:"listen" default:":8080" check:"listen" help:"Address of HTTP: /v1/ws, and in dev the console at /."`
	TLS                         ServerTLS       `yaml:"tls" help:"TLS of edge.listen; nothing given: none."`
	AllowedOrigins              []string        `yaml:"allowed_origins" check:"origin" help:"Origins whose pages may use the cookie, exactly as browsers send them: https://app.example."`
	TrustedProxies              []string        `yaml:"trusted_proxies" check:"cidr" help:"Addresses or networks (10.0.0.0/8) of proxies that are believed about the client's address, in X-Forwarded-For and the PROXY protocol."`
	ProxyProtocol               bool            `yaml:"proxy_protocol" default:"false" help:"Whether connections of trusted_proxies begin with a PROXY protocol header, version 1 or 2."`
	TokenCookie                 string          `yaml:"token_cookie" help:"Name of a cookie that may hold the token; needs allowed_origins. Empty: none."`
	TokenInQuery                bool            `yaml:"token_in_query" default:"false" help:"Whether the query parameter access_token may hold the token; addresses end up in the logs of proxies."`
	TokenNotice                 time.Duration   `yaml:"token_notice" default:"60s" min:"1s" max:"1h" help:"How long before its token expires a client is sent tokenExpiring."`
	MaxFrameBytes               namespace.Bytes `yaml:"max_frame_bytes" default:"64KiB" min:"1KiB" max:"16MiB" help:"Largest frame of a client; a larger one closes 1009."`
	MaxSubscriptions            int             `yaml:"max_subscriptions" default:"128" min:"1" max:"100000" help:"Most subscriptions of one connection."`
	MaxQueueBytes               namespace.Bytes `yaml:"max_queue_bytes" default:"1MiB" min:"4KiB" max:"1GiB" help:"Most bytes that wait for one slow reader, no less than max_frame_bytes; more closes 4450."`
	MaxInflight                 int             `yaml:"max_inflight" default:"64" min:"1" max:"100000" help:"Most commands of one connection that wait for their reply."`
	MaxConnections              int             `yaml:"max_connections" default:"20000" min:"1" max:"10000000" help:"Most connections; more are refused."`
	MaxConnectionsPerUser       int             `yaml:"max_connections_per_user" default:"16" min:"0" max:"10000000" help:"Most connections of one user; 0: no bound."`
	MaxConnectionsPerAddress    int             `yaml:"max_connections_per_address" default:"1000" min:"0" max:"10000000" help:"Most connections of one address, or of one /64 of IPv6; 0: no bound, as in dev."`
	MaxNewConnections           int             `yaml:"max_new_connections" default:"10000" min:"0" max:"10000000" help:"Most new connections a second, also at once; 0: no bound."`
	MaxNewConnectionsPerAddress int             `yaml:"max_new_connections_per_address" default:"200" min:"0" max:"10000000" help:"The same of one address, or of one /64 of IPv6; 0: no bound, as in dev."`
	MaxHandshakes               int             `yaml:"max_handshakes" default:"1024" min:"1" max:"1000000" help:"Most connections that have not said connect yet; at one more the oldest is closed."`
	MaxHeaderBytes              namespace.Bytes `yaml:"max_header_bytes" default:"8KiB" min:"4KiB" max:"1MiB" help:"Most bytes of a handshake's request line and headers."`
	MaxJSONDepth                int             `yaml:"max_json_depth" default:"64" min:"4" max:"64" help:"Deepest nesting of a JSON value that a client publishes."`
	Rate                        Rate            `yaml:"rate" help:"Token bucket of one connection's commands; ping has its own."`
	PingRate                    PingRate        `yaml:"ping_rate" help:"Token bucket of one connection's pings, of WebSocket and the protocol's; a connection that has more is read more slowly."`
	UserRate                    SharedRate      `yaml:"user_rate" help:"Token bucket that all connections of a user share."`
	AddressRate                 SharedRate      `yaml:"address_rate" help:"Token bucket that all connections of an address share, or of one /64 of IPv6."`
	RateExceeded                string          `yaml:"rate_exceeded" default:"refuse" enum:"refuse,throttle,disconnect" help:"What a command meets that finds a bucket empty: refuse (RATE_LIMITED; 100 in 60s close 1008), throttle (the connection is not read until there is room) or disconnect (close 1008, where the bucket is its own)."`
	ConnectTimeout              time.Duration   `yaml:"connect_timeout" default:"5s" min:"10ms" max:"10m" help:"Time in which a client must send connect, or be closed 4408."`
	PingInterval                time.Duration   `yaml:"ping_interval" default:"25s" min:"10ms" max:"1h" help:"Time between pings of the server."`
	PongTimeout                 time.Duration   `yaml:"pong_timeout" default:"10s" min:"10ms" max:"1h" help:"Time in which a client must answer a ping, or be closed 4408."`
	DrainWindow                 time.Duration   `yaml:"drain_window" default:"5s" min:"0s" max:"10m" help:"Time over which clients are told to reconnect when the edge stops, less than shutdown_timeout."`
}

// Rate is the token bucket of one connection's commands. It converts to
// namespace.Rate.
type Rate struct {
	Messages int             `yaml:"messages" default:"50" min:"1" max:"1000000" help:"Commands refilled in the time of per; also the burst."`
	Per      time.Duration   `yaml:"per" default:"10s" min:"1ms" max:"1h" help:"Time in which they are refilled."`
	Bytes    namespace.Bytes `yaml:"bytes" default:"0" min:"0" max:"1GiB" help:"Bytes of commands refilled in the time of per, and at once, no fewer than max_frame_bytes; 0: no bound."`
}

// PingRate is the token bucket of one connection's pings. It converts to
// namespace.Rate.
type PingRate struct {
	Messages int             `yaml:"messages" default:"1000" min:"1" max:"1000000" help:"Pings refilled in the time of per; also the burst."`
	Per      time.Duration   `yaml:"per" default:"10s" min:"1ms" max:"1h" help:"Time in which they are refilled."`
	Bytes    namespace.Bytes `yaml:"bytes" default:"0" min:"0" max:"1GiB" help:"Bytes of pings refilled in the time of per; 0: no bound."`
}

// SharedRate is a token bucket that connections share. It converts to namespace.Rate.
type SharedRate struct {
	Messages int             `yaml:"messages" default:"0" min:"0" max:"10000000" help:"Commands refilled in the time of per; also the burst; 0: no bound."`
	Per      time.Duration   `yaml:"per" default:"10s" min:"1ms" max:"1h" help:"Time in which they are refilled."`
	Bytes    namespace.Bytes `yaml:"bytes" default:"0" min:"0" max:"1GiB" help:"Bytes of commands refilled in the time of per, and at once, no fewer than max_frame_bytes; 0: no bound."`
}

// ServerTLS is the certificate of a listener. Files are read again when they change.
type ServerTLS struct {
	CertFile     string `yaml:"cert_file" help:"Certificate chain in PEM; empty: no TLS."`
	KeyFile      string `yaml:"key_file" help:"Its private key in PEM."`
	ClientCAFile string `yaml:"client_ca_file" help:"Authorities in PEM that sign client certificates; a client may then show one. Empty: none is asked for."`
}

// ClientTLS is TLS towards a server. Files are read again when they change.
type ClientTLS struct {
	Enabled    bool   `yaml:"enabled" default:"false" help:"Whether TLS is used; any of the other options implies it."`
	CAFile     string `yaml:"ca_file" help:"Authorities in PEM that sign the server's certificate; empty: the system's."`
	CertFile   string `yaml:"cert_file" help:"Client certificate chain in PEM; empty: none."`
	KeyFile    string `yaml:"key_file" help:"Its private key in PEM."`
	ServerName string `yaml:"server_name" help:"Name that the server's certificate must have; empty: the one that is dialled."`
}

// Presence is the presence and authorization service, and where edges find it.
type Presence struct {
	Listen         string        `yaml:"listen" default:":9091" check:"listen" help:"Address of gRPC: authorization and presence."`
	Addresses      []string      `yaml:"addresses" check:"address" help:"Addresses of all replicas, which edges dial, and publish to answer /v1/presence; empty: the role in this process."`
	TLS            ServerTLS     `yaml:"tls" help:"TLS of presence.listen; nothing given: none."`
	DialTLS        ClientTLS     `yaml:"dial_tls" help:"TLS with which presence.addresses are dialled."`
	MaxConnections int           `yaml:"max_connections" default:"10000" min:"1" max:"10000000" help:"Most connections of presence.listen; more are closed at once."`
	Grace          time.Duration `yaml:"grace" default:"10s" min:"0s" max:"10m" help:"How long a user whose connection was lost stays a member, so that reloading a page is no leave; after a drain, that much longer than the client was told to wait."`
}

// Authorization is an AuthorizationService that is not Carillon's. Edges show it the
// credential of a role, a token signed with auth.roles_secret.
type Authorization struct {
	Addresses []string  `yaml:"addresses" check:"address" help:"Addresses of its replicas; empty: the presence role decides by the rules of the namespaces."`
	TLS       ClientTLS `yaml:"tls" help:"TLS with which edges dial it."`
}

// Publish is the Publish API.
type Publish struct {
	Listen         string    `yaml:"listen" default:":9090" check:"listen" help:"Address of gRPC: the Publish API."`
	HTTPListen     string    `yaml:"http_listen" default:":8081" check:"listen" help:"Address of the same as JSON over HTTP."`
	TLS            ServerTLS `yaml:"tls" help:"TLS of both; nothing given: none."`
	MaxConnections int       `yaml:"max_connections" default:"10000" min:"1" max:"10000000" help:"Most connections of each; more are closed at once."`
}

// Ops is what an operator looks at.
type Ops struct {
	Listen string    `yaml:"listen" default:":9464" check:"listen" help:"Address of /metrics, /healthz and /readyz."`
	PProf  bool      `yaml:"pprof" default:"false" help:"Serves /debug/pprof/ too; ops.listen must then be loopback."`
	TLS    ServerTLS `yaml:"tls" help:"TLS of ops.listen; nothing given: none. With authorities of client certificates, callers that are known by theirs may look at the console."`
}

// Telemetry says where traces and metrics are sent, over OTLP.
type Telemetry struct {
	Endpoint        string        `yaml:"endpoint" check:"otlp" help:"Receiver of OTLP, as http://localhost:4317, or https:// for TLS; empty: nothing is sent, and nothing is traced."`
	Protocol        string        `yaml:"protocol" default:"grpc" enum:"grpc,http" help:"Transport of OTLP: grpc, port 4317 as a rule, or http, port 4318."`
	Headers         auth.Secret   `yaml:"headers" help:"Headers that the receiver wants, as name=value, joined by commas."`
	TLS             ClientTLS     `yaml:"tls" help:"TLS towards the receiver; https:// is enough where the system's authorities suffice."`
	ServiceName     string        `yaml:"service_name" default:"carillon" check:"required" help:"service.name of what is sent."`
	SampleRatio     Ratio         `yaml:"sample_ratio" default:"0.01" min:"0" max:"1" help:"Share of the traces that begin here that is kept, 0 to 1, 1 in dev. Those that a caller of gRPC or HTTP has sampled are kept in any case, and so is whatever failed."`
	ClientTraces    int           `yaml:"client_traces" default:"10" min:"0" max:"1000000" help:"Traces a second that clients of an edge may have sampled by a traceparent of theirs; beyond that sample_ratio decides."`
	MetricsInterval time.Duration `yaml:"metrics_interval" default:"15s" min:"0s" max:"1h" help:"How often metrics are sent; 0s: never. They are at /metrics in any case."`
}

// Console is the page that shows what an edge does.
type Console struct {
	Enabled  bool   `yaml:"enabled" default:"false" help:"Whether an edge serves it, at /console/ of ops.listen, to callers that may use it. In dev it is at / of edge.listen, for whoever is on this machine."`
	TraceURL string `yaml:"trace_url" check:"trace" help:"Address at which a trace can be looked at, {trace} standing for its id: http://localhost:16686/trace/{trace}; empty: traces have no link."`
}

// Auth says whose tokens are good.
type Auth struct {
	Issuers []auth.Issuer `yaml:"issuers" help:"Issuers of tokens. An issuer is for clients or for callers, and has a secret, a public key or a jwks_url."`
	// RolesSecret is zero if roles need not talk across processes.
	RolesSecret auth.Secret `yaml:"roles_secret" help:"The secret that edges and presence share, at least 32 bytes."`
	// PreviousRolesSecret lets roles through that do not sign with the present one yet, or any more.
	PreviousRolesSecret auth.Secret    `yaml:"previous_roles_secret" help:"Another secret whose tokens are good too, and with which nothing is signed, for a rotation."`
	Anonymous           auth.Anonymous `yaml:"anonymous" help:"Clients without a token."`
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
	// Health asks a process of the configuration how it is; see OpsListen.
	Health Command = "health"
	// Epoch is for those who begin epochs in the streams of an external NATS.
	Epoch Command = "epoch"
)
