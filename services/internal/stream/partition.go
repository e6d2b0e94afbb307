package stream

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

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
	bounds *coalesced[message.Bounds]
	// replicas is more than 1 if a direct get may be answered by a server that is
	// behind.
	replicas int

	mu      sync.Mutex
	tenure  *tenure
	changed chan struct{} // closed when tenure changes
	err     error         // why there is no tenure
}

// tenure is what is known of a stream for as long as one connection lasts.
type tenure struct {
	epoch     message.Epoch
	connected context.Context // ends with the connection
}

func newGroup(s *Store, ns *namespace.Namespace) *group {
	g := &group{ns: ns}
	for i := range ns.Partitions {
		number := strconv.Itoa(i)
		p := &partition{
			stream:   "CARILLON_" + ns.Name + "_" + number,
			label:    "stream " + ns.Name + "/" + number,
			in:       subjectIn + number + ".",
			out:      subjectOut + number + ".",
			replicas: ns.Replicas,
			changed:  make(chan struct{}),
		}
		p.bounds = shared(s, func(ctx context.Context) (message.Bounds, error) {
			return boundsOf(ctx, s.subscriber.nc, p.stream)
		})
		g.partitions = append(g.partitions, p)
	}
	return g
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

// await returns the tenure, waiting until there is one.
func (p *partition) await(ctx, store context.Context) (*tenure, error) {
	for {
		p.mu.Lock()
		t, changed, err := p.tenure, p.changed, p.err
		p.mu.Unlock()
		if t != nil && t.connected.Err() == nil {
			return t, nil
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

func (p *partition) set(t *tenure) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tenure, p.err = t, nil
	close(p.changed)
	p.changed = make(chan struct{})
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

// boundsOf asks for a stream's epochs and its first and last sequence.
func boundsOf(ctx context.Context, nc *nats.Conn, stream string) (message.Bounds, error) {
	reply, err := nc.RequestWithContext(ctx, jetstream.DefaultAPIPrefix+"STREAM.INFO."+stream, nil)
	if err != nil {
		return message.Bounds{}, err
	}
	var info struct {
		Error  *jetstream.APIError `json:"error"`
		Config struct {
			Metadata map[string]string `json:"metadata"`
		} `json:"config"`
		State struct {
			FirstSeq message.Offset `json:"first_seq"`
			LastSeq  message.Offset `json:"last_seq"`
		} `json:"state"`
	}
	if err := json.Unmarshal(reply.Data, &info); err != nil {
		return message.Bounds{}, fmt.Errorf("stream info: %w", err)
	}
	if info.Error != nil {
		return message.Bounds{}, info.Error
	}
	epochs, err := epochsOf(info.Config.Metadata)
	// A stream that never held a message says 0 where it means 1.
	return message.Bounds{Epochs: epochs, First: max(info.State.FirstSeq, 1), Last: info.State.LastSeq}, err
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
