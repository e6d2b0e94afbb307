package stream

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/carillon-rt/carillon/services/internal/fault"
)

const (
	// controlStream keeps what is appended to the control log.
	controlStream = streamPrefix + "CONTROL"
	// subjectControl is before the topics of Tell and Hear.
	subjectControl = "rt.ctl."
	// subjectControlLog is what the stream stores, and then republishes to
	// subjectControlOut.
	subjectControlLog = subjectControl + "log"
	subjectControlOut = subjectControl + "out"

	// Bounds of the log. Beyond them nothing can be appended until something expires:
	// what is kept may be a revocation that still holds.
	maxControlEntries = 1_000_000
	maxControlBytes   = 256 << 20

	// headerKeep is how long NATS keeps a message (NATS ADR-43).
	headerKeep = "Nats-TTL"
	// codeStoreFailed is that of a message that a full stream refuses, among others.
	codeStoreFailed jetstream.ErrorCode = 10077
)

// Control is the log of what services tell all edges, and what edges and services say
// to each other beside it. Its methods may be called concurrently. A Store makes or
// adopts the log's stream as it does those of the namespaces.
type Control struct {
	store    *Store
	replicas int
	found    atomic.Int64 // when a follower was last told where the log ends, in Unix nanoseconds
	missing  atomic.Int64 // since when there is no stream, in Unix nanoseconds; 0: there is

	mu        sync.Mutex
	connected context.Context     // of the connection on which the stream was found; nil: it was not yet
	js        jetstream.JetStream // of that connection
	changed   chan struct{}       // closed when connected changes
	err       error               // why there is none
}

// Control returns the store's control log.
func (s *Store) Control() *Control { return s.control }

func newControl(s *Store) *Control {
	c := &Control{store: s, replicas: 1, changed: make(chan struct{})}
	for _, ns := range s.namespaces {
		c.replicas = max(c.replicas, ns.Replicas)
	}
	return c
}

// Append stores an entry for the time given, rounded up to seconds, and returns its
// place in the log: every follower gets it. It tries for 10 seconds, or until ctx ends.
// Its error is CONTROL_UNAVAILABLE; the entry may be stored all the same, unless the
// log is full.
func (c *Control) Append(ctx context.Context, entry []byte, ttl time.Duration) (sequence uint64, err error) {
	ctx, done, err := c.store.begin(ctx)
	if err != nil {
		return 0, notAppended(err)
	}
	defer done()
	seconds := max(1, int64((ttl+time.Second-1)/time.Second))
	m := &nats.Msg{Subject: subjectControlLog, Data: entry, Header: nats.Header{
		headerNATSID: {rand.Text()}, // however often it is tried, it is stored once
		headerKeep:   {strconv.FormatInt(seconds, 10) + "s"},
	}}
	retry := newRetry()
	for {
		sequence, err := c.attempt(ctx, m)
		if err == nil {
			return sequence, nil
		}
		refusal, refused := errors.AsType[*jetstream.APIError](err)
		switch {
		case refused && refusal.ErrorCode == codeStoreFailed && strings.Contains(refusal.Description, "exceeded"):
			return 0, fault.Unavailable(fault.ControlUnavailable, err, "the control log is full: it keeps %d commands or %d MiB until they expire",
				maxControlEntries, maxControlBytes>>20)
		case !transient(err), c.store.ctx.Err() != nil, retry.wait(ctx) != nil:
			return 0, notAppended(err)
		}
	}
}

func notAppended(cause error) error {
	return fault.Unavailable(fault.ControlUnavailable, cause, "the command cannot be stored now")
}

func (c *Control) attempt(ctx context.Context, m *nats.Msg) (sequence uint64, err error) {
	connected, err := c.await(ctx)
	if err != nil {
		return 0, err
	}
	reply, err := c.store.requests.do(ctx, connected, m)
	if err != nil {
		return 0, err
	}
	var ack struct {
		Error    *jetstream.APIError `json:"error"`
		Sequence uint64              `json:"seq"`
	}
	if err := json.Unmarshal(reply.Data, &ack); err != nil {
		return 0, err
	}
	if ack.Error != nil {
		return 0, ack.Error
	}
	return ack.Sequence, nil
}

// Tell sends a text to whoever hears the topic now, perhaps nobody; it may get lost. A
// topic is one or more tokens of a NATS subject.
func (c *Control) Tell(topic string, text []byte) error {
	if err := c.store.publisher.nc.Publish(subjectControl+topic, text); err != nil {
		return fmt.Errorf("stream: tell %s: %w", topic, err)
	}
	return nil
}

// Hear calls heard with what is told about a topic, one after the other, until stop,
// which waits for a call under way. What heard cannot keep up with gets lost.
func (c *Control) Hear(topic string, heard func(text []byte)) (stop func(), err error) {
	sub, err := c.store.publisher.nc.Subscribe(subjectControl+topic, func(m *nats.Msg) { heard(m.Data) })
	if err != nil {
		return nil, fmt.Errorf("stream: hear %s: %w", topic, err)
	}
	closed := make(chan struct{})
	sub.SetClosedHandler(func(string) { close(closed) })
	return sync.OnceFunc(func() {
		if sub.Unsubscribe() == nil { // else the connection is closed, and waits for the call
			<-closed
		}
	}), nil
}

// await returns the context of a connection on which the log can be used.
func (c *Control) await(ctx context.Context) (connected context.Context, err error) {
	for {
		c.mu.Lock()
		connected, changed, err := c.connected, c.changed, c.err
		c.mu.Unlock()
		if connected != nil && connected.Err() == nil {
			return connected, nil
		}
		select {
		case <-changed:
		case <-c.store.ctx.Done():
			return nil, errClosed
		case <-ctx.Done():
			return nil, fmt.Errorf("control log: %w (%w)", orNotConnected(err), ctx.Err())
		}
	}
}

// problem is nil while the log can be used.
func (c *Control) problem() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.connected != nil && c.connected.Err() == nil:
		return nil
	case c.err != nil:
		return fmt.Errorf("control log: %w", c.err)
	default:
		return errors.New("control log: not checked yet")
	}
}

// occupy makes or adopts the log's stream, until it succeeds or the connection is lost.
func (c *Control) occupy(connected context.Context, js jetstream.JetStream) {
	retry := backoff{next: 100 * time.Millisecond, max: ensureMaxWait}
	for {
		err := c.ensure(connected, js)
		news := c.settle(connected, js, err)
		if err == nil || connected.Err() != nil {
			return
		}
		if news {
			c.store.logger.Error("the control log cannot be used; trying again", "stream", controlStream, "error", err)
		}
		if retry.wait(connected) != nil {
			return
		}
	}
}

// settle notes what came of ensuring the stream, and tells whether a failure is news.
func (c *Control) settle(connected context.Context, js jetstream.JetStream, err error) (news bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		news = c.err == nil || c.err.Error() != err.Error()
		c.err = err
		return news
	}
	c.connected, c.js, c.err = connected, js, nil
	close(c.changed)
	c.changed = make(chan struct{})
	return false
}

func (c *Control) ensure(ctx context.Context, js jetstream.JetStream) error {
	ctx, cancel := context.WithTimeout(ctx, ensureTimeout)
	defer cancel()
	stream, err := findStream(ctx, js, controlStream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		stream, err = js.CreateStream(ctx, c.configuration(jetstream.StreamConfig{Name: controlStream}))
		if err == nil {
			c.store.logger.Info("stream made", "stream", controlStream)
		}
		if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) { // another process was first
			stream, err = findStream(ctx, js, controlStream)
		}
	}
	if err != nil {
		return err
	}
	found := stream.CachedInfo().Config
	wanted := c.configuration(found)
	if reflect.DeepEqual(found, wanted) {
		return nil
	}
	if _, err := js.UpdateStream(ctx, wanted); err != nil {
		return fmt.Errorf("its configuration cannot be updated: %w", err)
	}
	c.store.logger.Info("stream updated to the configuration", "stream", controlStream, "replicas", wanted.Replicas)
	return nil
}

// configuration sets what Carillon decides and leaves the rest of base as it is.
func (c *Control) configuration(base jetstream.StreamConfig) jetstream.StreamConfig {
	base.Subjects = []string{subjectControlLog}
	base.RePublish = &jetstream.RePublish{Source: subjectControlLog, Destination: subjectControlOut}
	base.Storage = jetstream.FileStorage
	base.Retention = jetstream.LimitsPolicy
	base.Discard = jetstream.DiscardNew
	base.Replicas = c.replicas
	base.MaxMsgs = maxControlEntries
	base.MaxBytes = maxControlBytes
	base.MaxAge = 0 // each entry says for itself
	base.AllowMsgTTL = true
	base.MaxMsgsPerSubject = -1
	base.MaxMsgSize = -1
	base.Duplicates = 2 * time.Minute
	base.AllowDirect = true
	return base
}

// keep makes the stream anew where it was deleted under a connection and has not come
// back. Where somebody follows the log, that one asks often enough.
func (c *Control) keep(ctx context.Context, every time.Duration) {
	c.mu.Lock()
	connected, js := c.connected, c.js
	c.mu.Unlock()
	if connected == nil || connected.Err() != nil {
		return // it is being ensured
	}
	if time.Since(time.Unix(0, c.found.Load())) < every {
		c.missing.Store(0)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	if _, err := controlStanding(ctx, js.Conn()); !isCode(err, jetstream.JSErrCodeStreamNotFound) {
		c.missing.Store(0)
		return
	}
	now := time.Now().UnixNano()
	if c.missing.CompareAndSwap(0, now) || now-c.missing.Load() < int64(doubtFor) {
		return
	}
	c.occupy(connected, js)
}
