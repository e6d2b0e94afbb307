package carillon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"time"

	"go.opentelemetry.io/otel/trace"
)

// SessionOptions say where a Session connects, as whom, and what it follows.
type SessionOptions struct {
	// URLs are those of the edges, for example ws://127.0.0.1:8080/v1/ws; at least one.
	// Each connection goes to the one after that of the last, beginning anywhere.
	URLs []string
	// Token returns the user's JWT. It is asked before the first connection, when the last
	// token has expired or was refused, and when it is about to expire, so that the
	// connection goes on with another one; never twice at once, but not always from Run's
	// goroutine. An error is tried again with backoff, unless it is ErrNoToken, which ends
	// the session once it has no other token. Nil: the session is anonymous, and a
	// different user with each connection.
	Token func(context.Context) (string, error)
	// Name and Version tell the server's log who is speaking; at most 64 bytes each.
	Name, Version string
	// Channels are subscribed, each to stay so. The user's inbox, which the server
	// subscribes by itself, is followed too, and needs to be named only to have a
	// position in From.
	Channels []string
	// Presence has those of Channels of which the session also tells who is in them: after
	// each Subscribed and Reset there are Members, and then PresenceChanged whenever somebody
	// comes or goes. A MemberList keeps the two together. What the server subscribes by
	// itself while the session lasts is told without, until the next connection.
	Presence []string
	// Info is what the members of a channel are to see of this user, unless its token says
	// so: a JSON text of at most 1,024 bytes; empty: nothing.
	Info string
	// From says where to resume channels, those of Channels and the inbox; where it says
	// nothing the subscription begins with what is published from now on.
	From map[string]Position
	// HTTPClient makes connections; nil: http.DefaultClient. Its Transport says how to
	// dial, and through what.
	HTTPClient *http.Client
	// Buffer is the number of frames that wait for the handler; 0: 64. When they are so
	// many the session stops reading, and then the server sees a slow consumer.
	Buffer int
	// TracerProvider makes spans (OpenTelemetry): of each Publish, and of handling each
	// message that is part of a trace; nil: none are made.
	TracerProvider trace.TracerProvider
	// Log gets a line for each connection made and lost; nil: none.
	Log *slog.Logger
}

// ErrNoToken is wrapped by the error of a source of tokens that will not have one for
// this user: the user has logged out, or was sent away.
var ErrNoToken = errors.New("carillon: there is no token for the user")

const (
	connectTimeout = 15 * time.Second // to dial, to shake hands, to connect: an edge answers within 10 s
	writeTimeout   = 10 * time.Second
	pongTimeout    = 10 * time.Second
	goodbyeTimeout = 2 * time.Second
)

// Session is a user who stays: it keeps channels subscribed over any number of
// connections, resumes each where it was, and publishes what has to arrive. Its
// methods may be called concurrently.
type Session struct {
	options SessionOptions
	handle  func(Event)
	log     *slog.Logger
	tracer  trace.Tracer
	jitter  func(time.Duration) time.Duration // a random part

	// Of Run's goroutine.
	names    []string // keys of channels, in the order in which they came
	channels map[string]*subscription
	presence map[string]bool
	turn     int       // index of the next URL
	token    string    // "" : to be asked for
	obtained time.Time // when the source gave it
	expires  time.Time // of token, by the clock here; zero: not known, or never
	refused  int       // tokens in a row
	failures int       // connections in a row

	mu        sync.Mutex
	positions map[string]Position
	client    *Client       // nil: not connected
	changed   chan struct{} // closed when client changes
	lanes     map[string]*lane
	ended     bool
}

// subscription is a channel that the session wants.
type subscription struct {
	retry    time.Time // when to subscribe again; zero: not to
	failures int       // in a row
	fresh    bool      // without since, which was refused
	ended    bool      // by the server, for good
	unasked  bool      // the server's idea
	watch    watch
}

// NewSession makes a session, which does nothing before Run. The handler gets every
// event, in order, from Run's goroutine; while it works nothing else is handled. It may
// not wait for Publish.
func NewSession(options SessionOptions, handle func(Event)) (*Session, error) {
	if len(options.URLs) == 0 {
		return nil, errors.New("carillon: a session needs the URL of an edge")
	}
	if options.Buffer == 0 {
		options.Buffer = 64
	}
	var err error
	if options.Info, err = checkInfo(options.Info); err != nil {
		return nil, err
	}
	s := &Session{
		options: options, handle: handle, log: options.Log, tracer: tracerOf(options.TracerProvider), turn: rand.IntN(len(options.URLs)),
		jitter:   rand.N[time.Duration],
		channels: map[string]*subscription{}, presence: map[string]bool{}, positions: map[string]Position{}, changed: make(chan struct{}), lanes: map[string]*lane{},
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	for _, name := range options.Channels {
		s.want(name)
	}
	for _, name := range options.Presence {
		if s.channels[name] == nil {
			return nil, fmt.Errorf("carillon: %q is in Presence but not in Channels", name)
		}
		s.presence[name] = true
	}
	for name, at := range options.From {
		s.want(name)
		s.positions[name] = at
	}
	return s, nil
}

// Follow is NewSession and Run, for those who only read.
func Follow(ctx context.Context, options SessionOptions, handle func(Event)) error {
	s, err := NewSession(options, handle)
	if err != nil {
		return err
	}
	return s.Run(ctx)
}

// want has a channel subscribed with every connection.
func (s *Session) want(name string) *subscription {
	sub, ok := s.channels[name]
	if !ok {
		sub = &subscription{}
		s.channels[name] = sub
		s.names = append(s.names, name)
	}
	return sub
}

// known is the subscription of a channel that the server named: it is wanted from now
// on too.
func (s *Session) known(name string) *subscription {
	_, ok := s.channels[name]
	sub := s.want(name)
	sub.unasked = sub.unasked || !ok
	return sub
}

// forgetUser drops what the server subscribed by itself, for the sake of the user of the
// last connection.
func (s *Session) forgetUser() {
	s.names = slices.DeleteFunc(s.names, func(name string) bool { return s.channels[name].unasked })
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, sub := range s.channels {
		if sub.unasked {
			delete(s.channels, name)
			delete(s.positions, name)
		}
	}
}

// Positions returns where each channel is: everything up to there has been handled. A
// program that keeps them can begin its next session From there.
func (s *Session) Positions() map[string]Position {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.positions)
}

// Run connects, and connects again, until ctx ends or the server refuses for good; the
// error, never nil, is that of ctx or an *Ending. It may be called once.
func (s *Session) Run(ctx context.Context) error {
	defer s.finish()
	for {
		url := s.options.URLs[s.turn%len(s.options.URLs)]
		s.turn++
		ending := s.once(ctx, url)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if ending.tokenRefused() {
			s.token = ""
			s.refused++
		}
		final := ending.isFinal(s.refused) || ending.tokenRefused() && s.options.Token == nil
		var wait time.Duration
		if !final {
			wait = ending.wait(s.failures, s.jitter)
		}
		s.failures++
		s.log.Info("disconnected", "url", url, "error", ending, "close_code", ending.CloseCode, "reconnect_after", wait, "final", final)
		s.handle(Disconnected{URL: url, Err: ending, Next: wait, Final: final})
		if final {
			return ending
		}
		if !sleep(ctx, wait) {
			return ctx.Err()
		}
	}
}

// once is one connection, from dialling to its end.
func (s *Session) once(ctx context.Context, url string) *Ending {
	if s.token != "" && !s.expires.IsZero() && !time.Now().Before(s.expires) {
		s.token = ""
	}
	dialling, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	switch {
	case s.options.Token == nil:
		s.forgetUser()
	case s.token == "":
		token, err := s.options.Token(dialling)
		if err != nil {
			return &Ending{Err: fmt.Errorf("carillon: no token: %w", err)}
		}
		s.token, s.obtained, s.expires = token, time.Now(), time.Time{}
	}
	c, err := dial(dialling, Options{
		URL: url, Token: s.token, Name: s.options.Name, Version: s.options.Version, Info: s.options.Info, PushBuffer: s.options.Buffer, HTTPClient: s.options.HTTPClient,
	}, s.entries())
	if err != nil {
		ending, _ := errors.AsType[*Ending](err)
		return ending
	}
	cancel()
	s.refused, s.failures = 0, 0
	s.setClient(c)
	defer s.setClient(nil)
	s.log.Info("connected", "url", url, "connection_id", c.Connected().GetConnectionId())
	l := &link{Session: s, client: c, asked: map[uint64]string{}, looks: map[uint64]string{}, alarm: time.NewTimer(0)}
	defer l.alarm.Stop()
	if at := timeOf(c.Connected().GetServerTime()); !at.IsZero() {
		l.ahead = time.Until(at)
	}
	s.expires = l.local(timeOf(c.Connected().GetExpiresAt()))
	defer l.endRenewal()
	return l.run(ctx, url)
}

func (s *Session) setClient(c *Client) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.client = c
	close(s.changed)
	s.changed = make(chan struct{})
}

// finish has those who wait to publish told that there will be no connection.
func (s *Session) finish() {
	s.mu.Lock()
	s.ended = true
	s.mu.Unlock()
	s.setClient(nil)
}

func (s *Session) position(name string) Position {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.positions[name]
}

func (s *Session) setPosition(name string, at Position) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.positions[name] = at
}
