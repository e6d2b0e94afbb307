package load

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	carillon "github.com/carillon-rt/carillon/clients/go"
	"github.com/carillon-rt/carillon/services/chaos/checker"
	"github.com/carillon-rt/carillon/services/internal/lifecycle"
)

func userName(i int) string { return fmt.Sprint("u", i) }

// client is a user who follows some channels, and may publish to others.
type client struct {
	load     *Load
	user     string
	channels []string
	began    chan struct{} // closed when every channel was subscribed once

	// Of the session's goroutine.
	subscribers map[string]*checker.Subscriber
	missing     int

	mu      sync.Mutex
	session *carillon.Session
	changed chan struct{} // closed when there is another session
}

func newClient(l *Load, index int) (*client, error) {
	random := rand.New(rand.NewPCG(l.options.Seed, uint64(index)+1<<32))
	c := &client{load: l, user: userName(index), began: make(chan struct{}), subscribers: map[string]*checker.Subscriber{}, changed: make(chan struct{})}
	all := append(append(append([]string{}, l.options.Channels...), l.options.Purged...), l.options.Chained...)
	for n := range min(l.options.PerClient, len(all)) {
		i := n + random.IntN(len(all)-n)
		if n == 0 { // every channel has a follower, if there are enough clients
			i = index % len(all)
		}
		all[n], all[i] = all[i], all[n]
		c.channels = append(c.channels, all[n])
	}
	c.missing = len(c.channels) + 1 // the inbox
	return c, c.renew(nil)
}

// renew makes a session that goes on from some positions.
func (c *client) renew(from map[string]carillon.Position) error {
	session, err := carillon.NewSession(carillon.SessionOptions{
		URLs: c.load.options.Edges, Name: "chaos", Channels: c.channels, From: from,
		Token: func(ctx context.Context) (string, error) { return c.load.options.Tokens.Client(ctx, c.user) },
		Log:   c.load.options.Sessions.With("user", c.user),
	}, c.handle)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.session = session
	close(c.changed)
	c.changed = make(chan struct{})
	return nil
}

func (c *client) current() (*carillon.Session, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.session, c.changed
}

// loginPause is how long a user who was sent away waits before logging in again.
const loginPause = time.Second

// run follows until ctx ends. A session that was sent away for good, for example since
// two of its tokens were refused, is followed by another that goes on where it was, as
// of a user who logs in again.
func (c *client) run(ctx context.Context) {
	for {
		session, _ := c.current()
		err := session.Run(ctx)
		if ctx.Err() != nil {
			return
		}
		c.load.options.Logger.Info("a client was sent away", "user", c.user, "error", err)
		if !lifecycle.Pause(ctx, loginPause) {
			return
		}
		if err := c.renew(maps.Clone(session.Positions())); err != nil {
			c.load.problem(fmt.Errorf("%s: %w", c.user, err))
			return
		}
	}
}

// handle tells the checker what the session tells.
func (c *client) handle(event carillon.Event) {
	c.note(event)
	switch e := event.(type) {
	case carillon.Subscribed:
		s, known := c.subscriber(e.Channel)
		switch {
		case !known:
			s.Start(e.Position.Epoch, e.Position.Offset)
		case e.Recovered:
			s.Resumed(e.Position.Epoch, e.Position.Offset)
		default:
			c.load.problem(fmt.Errorf("%s: %s was subscribed as if for the first time", c.user, e.Channel))
		}
	case carillon.Reset:
		s, _ := c.subscriber(e.Channel)
		s.Reset(e.Position.Epoch, e.Position.Offset)
	case carillon.Message:
		s, _ := c.subscriber(e.GetChannel())
		s.Message(e.Epoch, e.GetOffset(), e.GetPublisher(), e.GetMessageId(), contentOf(e.GetJson()))
	case carillon.Gap:
		s, _ := c.subscriber(e.Channel)
		s.Gap(e.Epoch, e.From, e.To, strings.TrimPrefix(e.Reason.String(), "ERROR_REASON_"))
	case carillon.Moved:
		s, _ := c.subscriber(e.Channel)
		s.Moved(e.Position.Epoch, e.Position.Offset)
	case carillon.Refused:
		if e.Retry == 0 {
			c.load.problem(fmt.Errorf("%s: %s: refused for good: %w", c.user, e.Channel, e.Err))
		}
	}
}

// note writes down what the session tells.
func (c *client) note(event carillon.Event) {
	text := fmt.Sprintf("%+v", event)
	if m, ok := event.(carillon.Message); ok {
		text = fmt.Sprintf("{Channel:%s Epoch:%s Offset:%d ID:%s}", m.GetChannel(), m.Epoch, m.GetOffset(), m.GetMessageId())
	}
	c.load.eventsMu.Lock()
	defer c.load.eventsMu.Unlock()
	fmt.Fprintln(c.load.options.Events, time.Now().UTC().Format("15:04:05.000"), c.user, strings.TrimPrefix(fmt.Sprintf("%T", event), "carillon."), text)
}

// subscriber is the checker's of a channel; known tells whether there was one.
func (c *client) subscriber(channel string) (s *checker.Subscriber, known bool) {
	if s, known = c.subscribers[channel]; known {
		return s, true
	}
	s = c.load.options.Check.Subscriber(c.user, channel)
	c.subscribers[channel] = s
	if c.missing--; c.missing == 0 {
		close(c.began)
	}
	return s, false
}

// positions are where the channels of the client are.
func (c *client) positions() map[string]carillon.Position {
	session, _ := c.current()
	return session.Positions()
}

// publish sends what a source makes, over the client's own connections.
func (c *client) publish(ctx context.Context, s *source) {
	tick := s.ticks(1)
	defer tick.Stop()
	for {
		select {
		case <-c.load.stop:
			return
		case <-tick.C:
		}
		m := s.next()
		m.begin(s, c.user)
		c.publishOne(ctx, m)
	}
}

// publishOne tries until the message is stored, on as many sessions as that takes.
func (c *client) publishOne(ctx context.Context, m *message) {
	ctx, cancel := context.WithDeadline(ctx, m.until)
	defer cancel()
	for {
		session, changed := c.current()
		receipt, err := session.Publish(ctx, carillon.Publication{Channel: m.channel, JSON: m.json, MessageID: m.id})
		if err == nil {
			m.attempt.Acked(receipt.Position.Epoch, receipt.Position.Offset, receipt.Duplicate)
			return
		}
		m.unknown = m.unknown || errors.Is(err, carillon.ErrUnknown)
		if !errors.Is(err, carillon.ErrEnded) {
			m.abandon()
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			m.abandon()
			return
		}
	}
}
