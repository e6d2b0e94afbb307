// Package carillon is the Go client, in the protobuf codec. A Session keeps its
// subscriptions and its publishes over any number of connections to any of several
// edges; that is what a program wants. A Client is one connection: it does not
// reconnect, and is for tools and tests that look at what one edge says.
package carillon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	clientv1 "github.com/carillon-rt/carillon/gen/carillon/client/v1"
)

// Subprotocol is the WebSocket subprotocol that the client speaks.
const Subprotocol = "carillon.v1.protobuf"

// ErrClosed means that the connection has ended; Client.Err says why.
var ErrClosed = errors.New("carillon: the connection is closed")

// Error is a command that the server refused.
type Error struct{ *clientv1.ErrorReply }

// Error tells the code, the reason and the server's words.
func (e *Error) Error() string {
	s := fmt.Sprintf("%s (%s): %s", e.GetCode(), strings.TrimPrefix(e.GetReason().String(), "ERROR_REASON_"), e.GetMessage())
	if e.GetField() != "" {
		s += " [" + e.GetField() + "]"
	}
	return s
}

// Options say where to connect and as whom.
type Options struct {
	// URL is that of the edge, for example ws://127.0.0.1:8080/v1/ws.
	URL string
	// Token is the user's JWT; empty: none is shown, and the server must take anonymous
	// users.
	Token string
	// Name and Version tell the server's log who is speaking; at most 64 bytes each.
	Name, Version string
	// Subscriptions are made together with the connection.
	Subscriptions []string
	// Presence has those of Subscriptions that also have pushes of presence_changed come.
	Presence []string
	// Info is what the members of a channel are to see of this user, unless its token says
	// so: a JSON text of at most 1,024 bytes; empty: nothing.
	Info string
	// PushBuffer is the number of pushes that wait to be taken from Pushes before the
	// client stops reading; 0: 256.
	PushBuffer int
	// HTTPClient makes the connection; nil: http.DefaultClient. Its Transport says how
	// to dial, and through what.
	HTTPClient *http.Client
	// TracerProvider makes a span of each Publish (OpenTelemetry); nil: none are made. What
	// Pushes brings has the traceparent that it came with.
	TracerProvider trace.TracerProvider
}

// readLimit bounds a frame from the server: a message of 256 KiB and its envelope.
const readLimit = 1 << 20

// Client is a connection. Its methods may be called concurrently.
type Client struct {
	ws        *websocket.Conn
	connected *clientv1.ConnectedReply
	pushes    chan *clientv1.ServerFrame
	tracer    trace.Tracer
	stop      context.CancelFunc
	done      chan struct{}
	opened    time.Time
	quiet     atomic.Int64 // nanoseconds from opened to when waiting for the server began; 0: not waiting

	mu      sync.Mutex
	lastID  uint64
	waiting map[uint64]chan *clientv1.ServerFrame // one place each; nil: the reply goes to pushes
	err     error                                 // set before done is closed
}

// Dial connects and authenticates; ctx bounds that only. The error is an *Ending, and
// if the server refused, over HTTP or in reply to connect, an *Error too.
func Dial(ctx context.Context, options Options) (*Client, error) {
	entries := make([]*clientv1.SubscribeCommand, len(options.Subscriptions))
	for i, name := range options.Subscriptions {
		entries[i] = &clientv1.SubscribeCommand{Channel: name, Presence: slices.Contains(options.Presence, name)}
	}
	return dial(ctx, options, entries)
}

// dial is Dial with the entries of connect.
func dial(ctx context.Context, options Options, entries []*clientv1.SubscribeCommand) (*Client, error) {
	buffer := options.PushBuffer
	if buffer == 0 {
		buffer = 256
	}
	c := &Client{
		done: make(chan struct{}), pushes: make(chan *clientv1.ServerFrame, buffer), opened: time.Now(),
		waiting: map[uint64]chan *clientv1.ServerFrame{}, tracer: tracerOf(options.TracerProvider),
	}
	header := http.Header{}
	if options.Token != "" {
		header.Set("Authorization", "Bearer "+options.Token)
	}
	ws, response, err := websocket.Dial(ctx, options.URL, &websocket.DialOptions{ //nolint:bodyclose // the library closes it
		HTTPClient:   options.HTTPClient,
		Subprotocols: []string{Subprotocol},
		HTTPHeader:   header,
		OnPingReceived: func(context.Context, []byte) bool {
			c.heard()
			return true
		},
	})
	if err != nil {
		return nil, handshakeEnding(options.URL, response, err)
	}
	ws.SetReadLimit(readLimit)
	c.ws = ws
	reading, stop := context.WithCancel(context.Background())
	c.stop = stop
	go c.read(reading)
	reply, err := c.Call(ctx, &clientv1.ClientFrame{Command: &clientv1.ClientFrame_Connect{Connect: &clientv1.ConnectCommand{
		Client: &clientv1.ClientInfo{Name: options.Name, Version: options.Version}, Subscriptions: entries, Info: options.Info,
	}}})
	if err != nil {
		c.abort()
		return nil, c.ending(err)
	}
	c.connected = reply.GetConnected()
	return c, nil
}

// Connected is the server's answer to connect.
func (c *Client) Connected() *clientv1.ConnectedReply { return c.connected }

// Pushes brings what the server says unasked: messages, gaps, the end of
// subscriptions, disconnect. It is closed when the connection ends. A client that
// does not take from it is disconnected by the server as a slow consumer.
func (c *Client) Pushes() <-chan *clientv1.ServerFrame { return c.pushes }

// Err is why the connection ended; nil while it lasts.
func (c *Client) Err() error {
	select {
	case <-c.done:
		return c.err
	default:
		return nil
	}
}

// Call sends a command, whose id it sets, and waits for the reply. A refusal is an
// *Error. After ctx has ended the outcome of the command is unknown. Where ctx stands in
// a trace the command is part of that, unless it says of which it is part.
func (c *Client) Call(ctx context.Context, command *clientv1.ClientFrame) (*clientv1.ServerFrame, error) {
	reply := make(chan *clientv1.ServerFrame, 1)
	c.mu.Lock()
	c.lastID++
	id := c.lastID
	c.waiting[id] = reply
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.waiting, id)
		c.mu.Unlock()
	}()

	command.Id = id
	if command.GetTraceparent() == "" {
		command.Traceparent = traceparentOf(ctx)
	}
	if err := c.write(ctx, command); err != nil {
		return nil, err
	}
	select {
	case f := <-reply:
		return answer(f)
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-c.done:
	}
	select { // the server may have answered and then closed
	case f := <-reply:
		return answer(f)
	default:
		return nil, fmt.Errorf("%w: %w", ErrClosed, c.err)
	}
}

// post sends a command whose reply comes among the pushes, in its place, and returns
// the id of both.
func (c *Client) post(ctx context.Context, command *clientv1.ClientFrame) (uint64, error) {
	c.mu.Lock()
	c.lastID++
	id := c.lastID
	c.waiting[id] = nil
	c.mu.Unlock()
	command.Id = id
	return id, c.write(ctx, command)
}

func (c *Client) write(ctx context.Context, command *clientv1.ClientFrame) error {
	data, err := proto.Marshal(command)
	if err != nil {
		return fmt.Errorf("carillon: encode: %w", err)
	}
	if err := c.ws.Write(ctx, websocket.MessageBinary, data); err != nil {
		return fmt.Errorf("carillon: send: %w", err)
	}
	return nil
}

func answer(f *clientv1.ServerFrame) (*clientv1.ServerFrame, error) {
	if refusal := f.GetError(); refusal != nil {
		return nil, &Error{refusal}
	}
	return f, nil
}

// Subscribe asks for a channel's messages, which come as pushes.
func (c *Client) Subscribe(ctx context.Context, channel string, options ...SubscribeOption) (*clientv1.SubscribedEvent, error) {
	return c.subscribe(ctx, &clientv1.SubscribeCommand{Channel: channel}, options)
}

// Resume asks for a channel's messages after a position: the epoch and the offset of
// the last message that was handled. If the answer's recovered is false, some of them
// are gone or too many: reload.
func (c *Client) Resume(ctx context.Context, channel, epoch string, offset uint64, options ...SubscribeOption) (*clientv1.SubscribedEvent, error) {
	return c.subscribe(ctx, &clientv1.SubscribeCommand{
		Channel: channel, Since: &clientv1.Position{Epoch: epoch, Offset: offset},
	}, options)
}

func (c *Client) subscribe(ctx context.Context, command *clientv1.SubscribeCommand, options []SubscribeOption) (*clientv1.SubscribedEvent, error) {
	for _, option := range options {
		option(command)
	}
	f, err := c.Call(ctx, &clientv1.ClientFrame{Command: &clientv1.ClientFrame_Subscribe{Subscribe: command}})
	return f.GetSubscribed(), err
}

// Unsubscribe ends that: no push of the channel comes after it has returned.
func (c *Client) Unsubscribe(ctx context.Context, channel string) error {
	_, err := c.Call(ctx, &clientv1.ClientFrame{Command: &clientv1.ClientFrame_Unsubscribe{
		Unsubscribe: &clientv1.UnsubscribeCommand{Channel: channel},
	}})
	return err
}

// Publish sends a JSON text to a channel; messageID, which may be empty, makes a
// retry safe.
func (c *Client) Publish(ctx context.Context, channel, json, messageID string) (*clientv1.PublishedReply, error) {
	p := Publication{Channel: channel, JSON: json, MessageID: messageID}
	ctx, span := startPublish(ctx, c.tracer, &p)
	f, err := c.Call(ctx, p.frame())
	published := f.GetPublished()
	endPublish(span, Position{published.GetEpoch(), published.GetOffset()}, err)
	return published, err
}

// Presence asks who is in a channel. With presence_changed pushed after the reply
// applied, in order, that stays right.
func (c *Client) Presence(ctx context.Context, channel string) (*clientv1.PresenceReply, error) {
	f, err := c.Call(ctx, &clientv1.ClientFrame{Command: &clientv1.ClientFrame_Presence{
		Presence: &clientv1.PresenceCommand{Channel: channel},
	}})
	return f.GetPresence(), err
}

// Refresh shows a newer token of the same user and issuer, so that the connection
// outlives the present one, and returns when the newer one expires. What its claims do
// not allow any more ends with a push of unsubscribed. A refusal leaves the connection
// as it was.
func (c *Client) Refresh(ctx context.Context, token string) (time.Time, error) {
	f, err := c.Call(ctx, refreshCommand(token))
	if err != nil {
		return time.Time{}, err
	}
	return timeOf(f.GetRefreshed().GetExpiresAt()), nil
}

func refreshCommand(token string) *clientv1.ClientFrame {
	return &clientv1.ClientFrame{Command: &clientv1.ClientFrame_Refresh{Refresh: &clientv1.RefreshCommand{Token: token}}}
}

// timeOf is the time of a timestamp; zero if there is none.
func timeOf(t *timestamppb.Timestamp) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.AsTime()
}

// Close says goodbye and waits until the connection has ended.
func (c *Client) Close() error {
	err := c.ws.Close(websocket.StatusNormalClosure, "normal")
	c.stop()
	<-c.done
	return err
}

// ending is why a connection has ended, which its last push may tell. Nothing else
// takes from pushes any more.
func (c *Client) ending(err error) *Ending {
	var said *clientv1.DisconnectPush
	for f := range c.pushes {
		if d := f.GetDisconnect(); d != nil {
			said = d
		}
	}
	return endingOf(err, said)
}

// abort ends the connection without a goodbye.
func (c *Client) abort() {
	c.stop()
	_ = c.ws.CloseNow() // whatever is wrong with it, it is over
	<-c.done
}

// read sorts frames into replies and pushes until the connection ends.
func (c *Client) read(ctx context.Context) {
	defer close(c.pushes) // after done, so that Err has the reason by then
	defer close(c.done)
	for {
		c.heard()
		f, err := c.readFrame(ctx)
		c.quiet.Store(0)
		if err != nil {
			c.err = err
			_ = c.ws.CloseNow()
			return
		}
		if !c.isPush(f) {
			continue
		}
		select {
		case c.pushes <- f:
		case <-ctx.Done():
			c.err = ctx.Err()
			return
		}
	}
}

// isPush hands a reply to who waits for it, and tells whether a frame belongs among
// the pushes. A reply that nobody waits for any more is dropped.
func (c *Client) isPush(f *clientv1.ServerFrame) bool {
	if f.GetId() == 0 {
		return true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	reply, ok := c.waiting[f.GetId()]
	delete(c.waiting, f.GetId())
	if reply != nil {
		reply <- f
	}
	return ok && reply == nil
}

// heard notes that the server lives.
func (c *Client) heard() { c.quiet.Store(max(1, int64(time.Since(c.opened)))) }

// silence is for how long nothing has come of what could have: nothing can while
// Pushes is full.
func (c *Client) silence() time.Duration {
	since := c.quiet.Load()
	if since == 0 {
		return 0
	}
	return time.Since(c.opened) - time.Duration(since)
}

// hearing notes with every piece of a frame that the server lives.
type hearing struct {
	io.Reader
	client *Client
}

func (h hearing) Read(p []byte) (int, error) {
	n, err := h.Reader.Read(p)
	h.client.heard()
	return n, err
}

func (c *Client) readFrame(ctx context.Context) (*clientv1.ServerFrame, error) {
	_, r, err := c.ws.Reader(ctx)
	if err != nil {
		return nil, fmt.Errorf("carillon: read: %w", err)
	}
	data, err := io.ReadAll(hearing{r, c})
	if err != nil {
		return nil, fmt.Errorf("carillon: read: %w", err)
	}
	var f clientv1.ServerFrame
	if err := proto.Unmarshal(data, &f); err != nil {
		return nil, fmt.Errorf("carillon: decode: %w", err)
	}
	return &f, nil
}
