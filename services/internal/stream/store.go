// Package stream owns how messages are kept and moved in NATS: the embedded server,
// the stream of each partition and its epochs, publishing with de-duplication, and
// listening to channels. It is the only package that knows of subjects, sequences and
// NATS headers; what a channel, a position or a message is belongs to others, and so
// does who may publish or listen.
//
// Subjects: a publication goes to rt.in.<partition>.<channel>, which the partition's
// stream stores and then republishes to rt.out.<partition>.<channel>; ephemeral
// messages go to rt.eph.<channel>. What services and edges tell each other goes to
// rt.ctl, where one subject is a log.
package stream

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/time/rate"

	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/message"
	"github.com/carillon-rt/carillon/services/internal/namespace"
	"github.com/carillon-rt/carillon/services/internal/tracing"
)

const (
	// defaultTimeout bounds an operation, so that it says what is wrong before a more
	// patient caller gives up: longer than a failover of a cluster takes.
	defaultTimeout = 10 * time.Second
	// requestTimeout bounds one question to NATS; some failures get no reply.
	requestTimeout = 2 * time.Second
	// closeGrace is how long Close lets operations finish that have begun.
	closeGrace = 2 * time.Second
	// maxInFlight bounds the publishes that are under way at once.
	maxInFlight = 256
)

// Receiver takes the messages of the channels that a Store listens to.
type Receiver interface {
	// Receive takes messages of one channel, at least one, those that had come: one
	// goroutine per channel at a time, in stored order. The slice is the caller's.
	// It must not block for long: meanwhile messages of other channels queue up, and
	// what finds the queue full is lost (Missed). A message that was on its way when
	// Unlisten was called may still come.
	Receive(messages ...*message.Message)
	// Missed says that messages of any channel may have been missed: after a
	// reconnect and after a queue was full. Calls come from one goroutine and are
	// coalesced; it may block.
	Missed()
}

// Options configure a Store.
type Options struct {
	// URL is that of an external NATS, or several joined by commas; Embedded is the
	// server of this process. Exactly one.
	URL      string
	Embedded *Embedded
	// Login is how an external NATS is told who this is.
	Login Login
	// TLS returns what a connection to an external NATS speaks TLS with, which is then
	// demanded; it is called for each. Nil: TLS as the URL says.
	TLS func() *tls.Config
	// Namespaces are those whose channels exist. Their streams are made or adopted.
	Namespaces namespace.Set
	// Receiver takes messages; nil where the Store only publishes.
	Receiver Receiver
	Logger   *slog.Logger
	// Tracer makes a span of each message that is stored; nil: none are made.
	Tracer *tracing.Tracer
	// Name is what NATS shows of the connections, for example "carillon edge".
	Name string

	// queue is the capacity of the queues of received messages together; 0 is
	// receiveQueue.
	queue int
	// keepEvery is how often streams are looked at; 0 is keepEvery.
	keepEvery time.Duration
}

// Store publishes and listens. It is safe for concurrent use.
type Store struct {
	namespaces namespace.Set
	alone      bool              // nobody else uses the server
	groups     map[string]*group // by namespace, those with history
	control    *Control
	receiver   Receiver
	logger     *slog.Logger
	tracer     *tracing.Tracer // nil: no spans are made
	damaged    rate.Sometimes  // limits the log lines about messages that do not parse

	ctx    context.Context // ends when Close gives up waiting
	cancel context.CancelFunc
	wg     sync.WaitGroup // the Store's goroutines

	publisher  *connection
	subscriber *connection // publisher where there is no receiver
	reader     *connection // of history, so that a replay holds up nothing else
	direct     *direct     // of reader
	// Slots of the readQueues.
	fetches, ranges, windows chan struct{}
	readCounters             readCounters
	requests                 *requests // of publisher
	slots                    *slots
	published                *coalesced[struct{}] // flush of publisher
	subscribed               *coalesced[struct{}] // flush of subscriber

	queues     []chan *nats.Msg
	overflowed atomic.Bool // until a queue has been emptied
	missed     chan struct{}
	stopped    chan struct{} // closed when nothing more will be queued

	mu      sync.Mutex
	closed  bool
	working sync.WaitGroup // operations under way; Add under mu

	interestsMu sync.Mutex // held while NATS is told, so that it hears in order
	interests   map[channel.Name]*nats.Subscription
}

// Open connects to NATS and makes or adopts the streams of the namespaces in the
// background, for as long as it takes; Ready tells. It returns at once also while NATS
// is away, or after seconds if the address does not even refuse. The error is about
// the options. ctx bounds only the opening.
func Open(ctx context.Context, o Options) (*Store, error) {
	if (o.URL == "") == (o.Embedded == nil) {
		return nil, errors.New("stream: exactly one of a URL and an embedded server is needed")
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("stream: open: %w", err)
	}
	s := newStore(o)
	if err := s.connect(o); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	s.wg.Go(func() { s.keep(cmp.Or(o.keepEvery, keepEvery)) })
	return s, nil
}

func newStore(o Options) *Store {
	s := &Store{
		namespaces: o.Namespaces,
		alone:      o.Embedded != nil,
		groups:     make(map[string]*group, len(o.Namespaces)),
		receiver:   o.Receiver,
		logger:     o.Logger,
		tracer:     o.Tracer,
		damaged:    rate.Sometimes{First: 3, Interval: 10 * time.Second},
		slots:      newSlots(maxInFlight),
		direct:     newDirect(),
		fetches:    make(chan struct{}, maxFetches),
		ranges:     make(chan struct{}, maxRanges),
		windows:    make(chan struct{}, maxWindows),
		missed:     make(chan struct{}, 1),
		stopped:    make(chan struct{}),
		interests:  make(map[channel.Name]*nats.Subscription),
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.published = shared(s, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, s.publisher.nc.FlushWithContext(ctx)
	})
	s.subscribed = shared(s, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, s.subscriber.nc.FlushWithContext(ctx)
	})
	for name, ns := range o.Namespaces {
		if !ns.Ephemeral {
			s.groups[name] = newGroup(s, ns)
		}
	}
	s.control = newControl(s)
	if s.receiver != nil {
		s.startDelivery(o.queue)
	}
	return s
}

func shared[T any](s *Store, ask func(context.Context) (T, error)) *coalesced[T] {
	return &coalesced[T]{ask: ask, timeout: requestTimeout, ctx: s.ctx, running: &s.wg}
}

// Ready returns nil when messages can be published and, with a receiver, listened
// to; else one line for each thing that is missing, joined.
func (s *Store) Ready() error {
	away := s.publisher.problem()
	if away == nil {
		away = s.subscriber.problem()
	}
	var missing []error
	for _, g := range s.groups {
		for _, p := range g.partitions {
			if err := p.problem(); err != nil {
				missing = append(missing, err)
			}
		}
	}
	if err := s.control.problem(); err != nil {
		missing = append(missing, err)
	}
	slices.SortStableFunc(missing, func(a, b error) int {
		return strings.Compare(a.Error(), b.Error())
	})
	return errors.Join(append([]error{away}, missing...)...) // what it all comes from first
}

// begin enters an operation, which the context that it returns bounds; the caller must
// call done.
func (s *Store) begin(ctx context.Context) (_ context.Context, done func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, nil, closing()
	}
	s.working.Add(1)
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) <= defaultTimeout { // as that of a command
		return ctx, s.working.Done, nil
	}
	ctx, cancel := context.WithTimeout(ctx, defaultTimeout)
	return ctx, func() { cancel(); s.working.Done() }, nil
}

func closing() error {
	return fault.Unavailable(fault.StoreUnavailable, errClosed, "the message store is closing")
}

var errClosed = errors.New("closed")

// Close refuses new operations, lets those under way finish for two seconds, delivers
// what has been received, and returns when the Store's goroutines have ended. Calls
// after the first do nothing.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	s.mu.Unlock()

	grace := time.AfterFunc(closeGrace, s.cancel)
	s.working.Wait()
	grace.Stop()
	if s.subscriber != nil {
		s.subscriber.close()
	}
	if s.publisher != nil && s.publisher != s.subscriber {
		s.publisher.close()
	}
	if s.reader != nil {
		s.reader.close()
	}
	close(s.stopped)
	s.cancel()
	s.wg.Wait()
	return nil
}
