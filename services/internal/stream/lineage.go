package stream

import (
	"context"
	"slices"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/carillon-rt/carillon/services/internal/message"
)

const (
	// doubtFor is how long a stream must end before what is known of it until that is
	// believed: a new leader may have to catch up with itself.
	doubtFor = 4 * time.Second
	// doubtAnswers is how many answers must say so.
	doubtAnswers = 3
	// maxRetired bounds the epochs that are remembered as past.
	maxRetired = 64
)

// tenure is what is known of a stream for as long as one connection lasts, or until it
// begins an epoch.
type tenure struct {
	*lineage
	connected context.Context // ends with the connection
	js        jetstream.JetStream
}

// lineage is what this process knows of the messages of an epoch. Whatever it has seen
// must be there: if not, offsets are being used again, and the epoch is over.
type lineage struct {
	epoch message.Epoch
	// known is the highest offset that was acknowledged, received or told of.
	known atomic.Uint64
	// broken is set for good when something that was known is proved to be lost, or the
	// next epoch has begun.
	broken atomic.Bool
}

func newLineage(epoch message.Epoch, last message.Offset) *lineage {
	l := &lineage{epoch: epoch}
	l.saw(last)
	return l
}

// saw notes that an offset has been given to a message.
func (l *lineage) saw(offset message.Offset) {
	for known := l.known.Load(); uint64(offset) > known; known = l.known.Load() {
		if l.known.CompareAndSwap(known, uint64(offset)) {
			return
		}
	}
}

// highest returns the highest offset that is known to have been given.
func (l *lineage) highest() message.Offset { return message.Offset(l.known.Load()) }

// witness is a message by which a stream is recognised: a restored copy that has grown
// again has another one in its place. The zero witness is none.
type witness struct {
	offset message.Offset
	time   time.Time // when it was stored, to the nanosecond
}

// memory is what a partition remembers of its stream from one connection to the next.
type memory struct {
	lineage *lineage // nil until the stream was seen
	witness witness
	// verified is false while the witness must be asked for, before anything is
	// believed: after a reconnect and after a doubt.
	verified bool
	// retired are the epochs before the lineage's, as far as this process saw them end.
	retired []message.Epoch
	// doubted is when the stream first ended before what is known, answers how often it
	// did since then; zero when it does not.
	doubted time.Time
	answers int
}

// verdict is what an answer about a stream means.
type verdict int

const (
	// believed: it holds everything that is known.
	believed verdict = iota
	// doubtful: something is missing that may yet come.
	doubtful
	// gone: something is missing for good.
	gone
)

// judge compares what the leader of a stream tells with what was known before it was
// asked, and takes over what is new.
func (m *memory) judge(asked *lineage, known message.Offset, told standing, now time.Time) verdict {
	switch {
	case asked != m.lineage: // another answer has begun an epoch meanwhile: this one may be older
		return doubtful
	case !m.past(told.Epoch()):
		m.follow(told)
		return believed
	case m.lineage.broken.Load():
		return gone
	case told.Epoch() != m.lineage.epoch || told.Last < known:
		m.verified = false
		if m.answers++; m.answers == 1 {
			m.doubted = now
		}
		if m.answers >= doubtAnswers && now.Sub(m.doubted) >= doubtFor {
			m.lineage.broken.Store(true)
			return gone
		}
		return doubtful
	}
	m.answers, m.verified = 0, true
	m.witness = told.witness()
	m.lineage.saw(told.Last)
	return believed
}

// follow begins the epoch that the stream is in.
func (m *memory) follow(told standing) {
	if m.lineage != nil {
		m.lineage.broken.Store(true) // what is answered from now on is not of that epoch
		m.retired = append(m.retired, m.lineage.epoch)
		m.retired = m.retired[max(0, len(m.retired)-maxRetired):]
	}
	m.lineage = newLineage(told.Epoch(), told.Last)
	m.witness, m.verified, m.answers = told.witness(), true, 0
}

// past tells whether an epoch is over, as far as is known.
func (m *memory) past(epoch message.Epoch) bool {
	return m.lineage != nil && epoch == m.lineage.epoch || slices.Contains(m.retired, epoch)
}

// suspect returns the witness if it has to be asked for, since a stream that holds
// enough may not hold the same.
func (m *memory) suspect(asked *lineage, told standing) (witness, bool) {
	ask := asked != nil && asked == m.lineage && !m.verified && told.Epoch() == m.lineage.epoch &&
		m.witness.offset >= told.First && m.witness.offset <= told.Last
	return m.witness, ask
}
