// Package carillon is the Go client: one connection to an edge, in the protobuf
// codec. It does not reconnect: when Pushes is closed, dial again, any edge, and
// resume.
package carillon

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"

	"github.com/coder/websocket"
	"google.golang.org/protobuf/proto"

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
	// Token is the user's JWT.
	Token string
	// Name and Version tell the server's log who is speaking; at most 64 bytes each.
	Name, Version string
	// Subscriptions are made together with the connection.
	Subscriptions []string
	// PushBuffer is the number of pushes that wait to be taken from Pushes before the
	// client stops reading; 0: 256.
	PushBuffer int
}

// readLimit bounds a frame from the server: a message of 256 KiB and its envelope.
const readLimit = 1 << 20

// Client is a connection. Its methods may be called concurrently.
type Client struct {
	ws        *websocket.Conn
	connected *clientv1.ConnectedReply
	pushes    chan *clientv1.ServerFrame
	stop      context.CancelFunc
	done      chan struct{}

	mu      sync.Mutex
	lastID  uint64
	waiting map[uint64]chan *clientv1.ServerFrame // one place each
	err     error                                 // set before done is closed
}

// Dial connects and authenticates; ctx bounds that only.
func Dial(ctx context.Context, options Options) (*Client, error) {
	ws, response, err := websocket.Dial(ctx, options.URL, &websocket.DialOptions{ //nolint:bodyclose // the library closes it
		Subprotocols: []string{Subprotocol},
		HTTPHeader:   http.Header{"Authorization": {"Bearer " + options.Token}},
	})
	if err != nil {
		if response != nil {
			return nil, fmt.Errorf("dial %s: %s: %w", options.URL, response.Status, err)
		}
		return nil, fmt.Errorf("dial: %w", err)
	}
	ws.SetReadLimit(readLimit)
	buffer := options.PushBuffer
	if buffer == 0 {
		buffer = 256
	}
	reading, stop := context.WithCancel(context.Background())
	c := &Client{
		ws: ws, stop: stop, done: make(chan struct{}), pushes: make(chan *clientv1.ServerFrame, buffer),
		waiting: map[uint64]chan *clientv1.ServerFrame{},
	}
	go c.read(reading)
	connect := &clientv1.ConnectCommand{Client: &clientv1.ClientInfo{Name: options.Name, Version: options.Version}}
	for _, name := range options.Subscriptions {
		connect.Subscriptions = append(connect.Subscriptions, &clientv1.SubscribeCommand{Channel: name})
	}
	reply, err := c.Call(ctx, &clientv1.ClientFrame{Command: &clientv1.ClientFrame_Connect{Connect: connect}})
	if err != nil {
		return nil, errors.Join(err, c.Close())
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
// *Error. After ctx has ended the outcome of the command is unknown.
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
	data, err := proto.Marshal(command)
	if err != nil {
		return nil, fmt.Errorf("carillon: encode: %w", err)
	}
	if err := c.ws.Write(ctx, websocket.MessageBinary, data); err != nil {
		return nil, fmt.Errorf("carillon: send: %w", err)
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
		return nil, errors.Join(ErrClosed, c.err)
	}
}

func answer(f *clientv1.ServerFrame) (*clientv1.ServerFrame, error) {
	if refusal := f.GetError(); refusal != nil {
		return nil, &Error{refusal}
	}
	return f, nil
}

// Subscribe asks for a channel's messages, which come as pushes.
func (c *Client) Subscribe(ctx context.Context, channel string) (*clientv1.SubscribedEvent, error) {
	f, err := c.Call(ctx, &clientv1.ClientFrame{Command: &clientv1.ClientFrame_Subscribe{
		Subscribe: &clientv1.SubscribeCommand{Channel: channel},
	}})
	return f.GetSubscribed(), err
}

// Resume asks for a channel's messages after a position: the epoch and the offset of
// the last message that was handled. If the answer's recovered is false, some of them
// are gone or too many: reload.
func (c *Client) Resume(ctx context.Context, channel, epoch string, offset uint64) (*clientv1.SubscribedEvent, error) {
	f, err := c.Call(ctx, &clientv1.ClientFrame{Command: &clientv1.ClientFrame_Subscribe{Subscribe: &clientv1.SubscribeCommand{
		Channel: channel, Since: &clientv1.Position{Epoch: epoch, Offset: offset},
	}}})
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
	f, err := c.Call(ctx, &clientv1.ClientFrame{Command: &clientv1.ClientFrame_Publish{Publish: &clientv1.PublishCommand{
		Channel: channel, Payload: &clientv1.PublishCommand_Json{Json: json}, MessageId: messageID,
	}}})
	return f.GetPublished(), err
}

// Presence asks who is in a channel.
func (c *Client) Presence(ctx context.Context, channel string) (*clientv1.PresenceReply, error) {
	f, err := c.Call(ctx, &clientv1.ClientFrame{Command: &clientv1.ClientFrame_Presence{
		Presence: &clientv1.PresenceCommand{Channel: channel},
	}})
	return f.GetPresence(), err
}

// Close says goodbye and waits until the connection has ended.
func (c *Client) Close() error {
	err := c.ws.Close(websocket.StatusNormalClosure, "normal")
	c.stop()
	<-c.done
	return err
}

// read sorts frames into replies and pushes until the connection ends.
func (c *Client) read(ctx context.Context) {
	defer close(c.pushes) // after done, so that Err has the reason by then
	defer close(c.done)
	for {
		f, err := c.readFrame(ctx)
		if err != nil {
			c.err = err
			_ = c.ws.CloseNow()
			return
		}
		if f.GetId() == 0 {
			select {
			case c.pushes <- f:
			case <-ctx.Done():
				c.err = ctx.Err()
				return
			}
			continue
		}
		c.mu.Lock()
		if reply, ok := c.waiting[f.GetId()]; ok {
			delete(c.waiting, f.GetId())
			reply <- f
		}
		c.mu.Unlock()
	}
}

func (c *Client) readFrame(ctx context.Context) (*clientv1.ServerFrame, error) {
	_, data, err := c.ws.Read(ctx)
	if err != nil {
		return nil, fmt.Errorf("carillon: read: %w", err)
	}
	var f clientv1.ServerFrame
	if err := proto.Unmarshal(data, &f); err != nil {
		return nil, fmt.Errorf("carillon: decode: %w", err)
	}
	return &f, nil
}
