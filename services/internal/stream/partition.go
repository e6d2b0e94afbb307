package stream

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/time/rate"

	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/message"
	"github.com/carillon-rt/carillon/services/internal/namespace"
)

// Subjects before the partition or the channel.
const (
	subjectIn        = "rt.in."
	subjectOut       = "rt.out."
	subjectEphemeral = "rt.eph."
)

// streamPrefix is what the names of Carillon's streams begin with.
const streamPrefix = "CARILLON_"

// group is a namespace with history and its partitions.
type group struct {
	ns         *namespace.Namespace
	partitions []*partition
}

// partition is a stream that keeps some of a namespace's channels.
type partition struct {
	stream string // its name
	label  string // for people: "stream chat/0"
	in     string // subject prefix of publications
	out    string // subject prefix of what is republished
	ns     *namespace.Namespace
	bounds *coalesced[message.Bounds]
	reads  *readQueue
	// renewal begins an epoch.
	renewal *coalesced[struct{}]
	// replicas is more than 1 if a direct get may be answered by a server that is
	// behind.
	replicas int

	// latest is that of memory, for Receive.
	latest atomic.Pointer[lineage]
	// asked is when the bounds were last told, and missing since when there is no
	// such stream, in Unix nanoseconds; 0 is never.
	asked, missing atomic.Int64
	// kept is what the stream was last said to keep; nil before.
	kept atomic.Pointer[Kept]

	mu      sync.Mutex
	memory  memory
	tenure  *tenure
	changed chan struct{} // closed when tenure changes
	err     error         // why there is no tenure
}

func newGroup(s *Store, ns *namespace.Namespace) *group {
	g := &group{ns: ns}
	for i := range ns.Partitions {
		number := strconv.Itoa(i)
		p := &partition{
			stream:   streamName(ns.Name, i),
			label:    "stream " + ns.Name + "/" + number,
			in:       subjectIn + number + ".",
			out:      subjectOut + number + ".",
			replicas: ns.Replicas,
			ns:       ns,
			changed:  make(chan struct{}),
		}
		p.bounds = shared(s, func(ctx context.Context) (message.Bounds, error) {
			return s.look(ctx, s.subscriber.nc, p)
		})
		p.bounds.pacing = rate.NewLimiter(rate.Every(pace), paceBurst)
		p.renewal = shared(s, func(ctx context.Context) (struct{}, error) {
			return struct{}{}, s.renew(ctx, p)
		})
		p.renewal.timeout = renewTimeout
		p.reads = newReadQueue(s, p)
		g.partitions = append(g.partitions, p)
	}
	return g
}

// streamName is that of the stream of a partition.
func streamName(namespace string, number int) string {
	return streamPrefix + namespace + "_" + strconv.Itoa(number)
}

// of returns the partition that keeps a channel: FNV-1a (64 bit) of its name modulo
// the number of partitions, for ever.
func (g *group) of(name channel.Name) *partition {
	return g.partitions[hash(name)%uint64(len(g.partitions))]
}

func hash(name channel.Name) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(name) {
		h = (h ^ uint64(name[i])) * 1099511628211
	}
	return h
}

// await returns the tenure, waiting until there is one; where its epoch is over it has
// the next one begun.
func (p *partition) await(ctx, store context.Context) (*tenure, error) {
	retry := newRetry()
	for {
		p.mu.Lock()
		t, changed, err := p.tenure, p.changed, p.err
		p.mu.Unlock()
		if t != nil && t.connected.Err() == nil {
			if !t.broken.Load() {
				return t, nil
			}
			if store.Err() != nil {
				return nil, errClosed
			}
			if _, err := p.renewal.do(ctx); err == nil || retry.wait(ctx) == nil {
				continue
			}
			return nil, fmt.Errorf("%s: %w", p.label, errSetBack)
		}
		select {
		case <-changed:
		case <-store.Done():
			return nil, errClosed
		case <-ctx.Done():
			return nil, fmt.Errorf("%s: %w (%w)", p.label, orNotConnected(err), ctx.Err())
		}
	}
}

func orNotConnected(err error) error {
	if err != nil {
		return err
	}
	return nats.ErrDisconnected
}

// occupy begins a tenure of the current epoch.
func (p *partition) occupy(connected context.Context, js jetstream.JetStream) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.replace(&tenure{lineage: p.memory.lineage, connected: connected, js: js})
}

// replace sets the tenure; the caller holds mu.
func (p *partition) replace(t *tenure) {
	p.tenure, p.err = t, nil
	close(p.changed)
	p.changed = make(chan struct{})
}

// remembered returns what was known before a question is asked.
func (p *partition) remembered() (asked *lineage, known message.Offset) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if asked = p.memory.lineage; asked != nil {
		known = asked.highest()
	}
	return asked, known
}

// doubt has the witness asked for before anything more is believed.
func (p *partition) doubt() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.memory.verified = false
}

// doubts tells whether the stream of a tenure may have been set back.
func (p *partition) doubts(t *tenure) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return t.broken.Load() || p.memory.lineage == t.lineage && !p.memory.verified
}

func (p *partition) suspect(asked *lineage, told standing) (witness, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.memory.suspect(asked, told)
}

// judge also replaces the tenure, and returns whether that was done because the stream
// is in another epoch.
func (p *partition) judge(asked *lineage, known message.Offset, told standing) (_ verdict, begun bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	before := p.memory.lineage
	v := p.memory.judge(asked, known, told, time.Now())
	if p.memory.lineage == before {
		return v, false
	}
	p.latest.Store(p.memory.lineage)
	if p.tenure != nil {
		p.replace(&tenure{lineage: p.memory.lineage, connected: p.tenure.connected, js: p.tenure.js})
	}
	return v, before != nil
}

// saw notes the offset of a message that was received.
func (p *partition) saw(offset message.Offset) {
	if l := p.latest.Load(); l != nil {
		l.saw(offset)
	}
}

// current returns the tenure; nil if there is none.
func (p *partition) current() *tenure {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.tenure == nil || p.tenure.connected.Err() != nil {
		return nil
	}
	return p.tenure
}

// fail notes why the stream cannot be used, and tells whether that is news.
func (p *partition) fail(err error) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	news := p.err == nil || p.err.Error() != err.Error()
	p.err = err
	return news
}

// problem is nil while the stream can be used.
func (p *partition) problem() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.tenure != nil && p.tenure.connected.Err() == nil:
		return nil
	case p.err != nil:
		return fmt.Errorf("%s: %w", p.label, p.err)
	default:
		return fmt.Errorf("%s: not checked yet", p.label)
	}
}

// channelOf cuts the channel out of a subject that messages are received on.
func channelOf(subject string) (_ channel.Name, ephemeral, ok bool) {
	if name, found := strings.CutPrefix(subject, subjectEphemeral); found {
		return channel.Name(name), true, name != ""
	}
	rest, found := strings.CutPrefix(subject, subjectOut)
	if !found {
		return "", false, false
	}
	_, name, found := strings.Cut(rest, ".")
	return channel.Name(name), false, found && name != ""
}
