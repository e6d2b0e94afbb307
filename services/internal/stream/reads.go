package stream

import (
	"context"
	"errors"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/message"
)

const (
	// maxFetches bounds the fetches that are under way at once, beside one in each
	// partition that nothing can take from it: so one stream that does not answer, or
	// all but one, hold up nobody else's readers.
	maxFetches = 16
	// maxPartitionFetches bounds those of one partition. One that has just failed has one.
	maxPartitionFetches = 8
	// maxRanges bounds the range reads that are under way at once; a partition has one.
	maxRanges = 4
	// maxWaiting bounds the reads that wait for a partition; more are refused.
	maxWaiting = 32_768
)

var errTooManyReads = errors.New("too many reads are waiting")

// ReadStats count the pages that Read has answered with, by what brought them.
type ReadStats struct {
	// Fetched came from a fetch of the channel for one reader, Shared from one for
	// several.
	Fetched, Shared uint64
	// Ranged came from a range read, which serves readers of many channels, or from what
	// the last one left.
	Ranged uint64
	// Fetches and Ranges are how often NATS was read from, and RangeMessages how many
	// messages the range reads brought, of all channels.
	Fetches, Ranges, RangeMessages uint64
}

// readCounters are those of ReadStats.
type readCounters struct {
	fetched, shared, ranged, fetches, ranges, rangeMessages atomic.Uint64
}

// ReadStats returns the counts since the Store was opened.
func (s *Store) ReadStats() ReadStats {
	c := &s.readCounters
	return ReadStats{
		Fetched: c.fetched.Load(), Shared: c.shared.Load(), Ranged: c.ranged.Load(),
		Fetches: c.fetches.Load(), Ranges: c.ranges.Load(), RangeMessages: c.rangeMessages.Load(),
	}
}

// readQueue holds the reads of a partition that wait, and serves them: those of one
// channel by one fetch, those of many channels by one range read where that is
// cheaper. Its goroutines exist only while reads wait.
type readQueue struct {
	store *Store
	part  *partition

	mu       sync.Mutex
	channels map[channel.Name]*readers
	waiting  int        // reads, of all channels
	ready    []*readers // to be served, in the order they came
	single   []*readers // to be served by a fetch: a range read has left them
	workers  int        // all but one of them hold one of Store.fetches
	ranging  bool       // one of them reads a range, or is about to
	failing  bool       // the last answer was an error
	// head is where the partition ended when it was last asked; messageBytes the average
	// size of what was read last.
	head         message.Offset
	messageBytes int
	// spent is what fetches have cost since the last range read, as of spentAt.
	spent   time.Duration
	spentAt time.Time
	// window is what range reads have brought lately; nil if nothing, and while one uses
	// it. Keeping it takes one of Store.windows.
	window  *window
	keeping bool
	forget  *time.Timer
}

// readers are the reads of one channel that wait.
type readers struct {
	name   channel.Name
	reads  []*read
	queued bool // in ready or single
	busy   bool // reads that came before these are being served
}

func newReadQueue(s *Store, p *partition) *readQueue {
	q := &readQueue{store: s, part: p, channels: make(map[channel.Name]*readers), messageBytes: usualBytes}
	q.forget = time.AfterFunc(windowLinger, q.expire)
	q.forget.Stop()
	return q
}

// read waits for a page, which was read after the call.
func (q *readQueue) read(ctx context.Context, name channel.Name, r *read) (message.Page, error) {
	r.answer = make(chan answer, 1)
	if err := q.enter(name, r); err != nil {
		return message.Page{}, err
	}
	select {
	case a := <-r.answer:
		return a.page, a.err
	case <-ctx.Done():
		q.leave(name, r)
		return message.Page{}, ctx.Err()
	}
}

func (q *readQueue) enter(name channel.Name, r *read) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.waiting >= maxWaiting {
		return errTooManyReads
	}
	q.add(name, r)
	q.start()
	return nil
}

// add has a read wait. The caller holds q.mu.
func (q *readQueue) add(name channel.Name, r *read) {
	c := q.channels[name]
	if c == nil {
		c = &readers{name: name}
		q.channels[name] = c
	}
	c.reads = append(c.reads, r)
	q.waiting++
	q.queue(c)
}

// queue makes the reads of a channel ready, unless earlier ones are being served: they
// go together. The caller holds q.mu.
func (q *readQueue) queue(c *readers) {
	if !c.busy && !c.queued {
		c.queued = true
		q.ready = append(q.ready, c)
	}
}

// leave drops a read that nobody waits for, if it has not been taken yet.
func (q *readQueue) leave(name channel.Name, r *read) {
	q.mu.Lock()
	defer q.mu.Unlock()
	c := q.channels[name]
	if c == nil {
		return
	}
	for i, other := range c.reads {
		if other == r {
			c.reads = append(c.reads[:i], c.reads[i+1:]...)
			q.waiting--
			return
		}
	}
}

// start starts as many workers as there is work for. The caller holds q.mu.
func (q *readQueue) start() {
	for {
		work := len(q.single)
		if !q.ranging {
			work += len(q.ready)
		}
		most := maxPartitionFetches
		if q.failing {
			most = 1
		}
		if q.workers >= min(work, most) || q.workers > 0 && !acquire(q.store.fetches) {
			return
		}
		q.workers++
		q.store.wg.Go(q.work)
	}
}

func acquire(slots chan struct{}) bool {
	select {
	case slots <- struct{}{}:
		return true
	default:
		return false
	}
}

// work serves until there is nothing for it to do.
func (q *readQueue) work() {
	for {
		j := q.next()
		switch {
		case j == nil:
			return
		case j.channel != nil:
			q.fetch(j)
		default:
			q.readRange()
		}
	}
}

// job is what a worker does next: a fetch, or without a channel a range read.
type job struct {
	channel *readers
	reads   []*read
}

// next takes a job; nil ends the worker.
func (q *readQueue) next() *job {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.failing && q.workers > 1 {
		return q.end()
	}
	if c := q.pop(&q.single); c != nil {
		return q.toFetch(c)
	}
	if q.ranging {
		return q.end()
	}
	if _, ok := q.worth(); ok && acquire(q.store.ranges) {
		q.ranging = true
		return &job{}
	}
	if c := q.pop(&q.ready); c != nil {
		return q.toFetch(c)
	}
	return q.end()
}

// end ends a worker. The caller holds q.mu.
func (q *readQueue) end() *job {
	q.workers--
	if q.workers > 0 {
		<-q.store.fetches
	}
	return nil
}

// pop takes the first whose readers have not all left. The caller holds q.mu.
func (q *readQueue) pop(list *[]*readers) *readers {
	for len(*list) > 0 {
		c := (*list)[0]
		(*list)[0] = nil
		*list = (*list)[1:]
		c.queued = false
		if len(c.reads) > 0 {
			return c
		}
		delete(q.channels, c.name)
	}
	return nil
}

// toFetch takes what waits for a channel and is to be served by a fetch. The caller holds
// q.mu.
func (q *readQueue) toFetch(c *readers) *job {
	now := time.Now()
	q.spent = q.lately(now) + fetchCost + time.Duration(q.distance(c))*lookCost
	q.spentAt = now
	return q.take(c)
}

// lately is what fetches have cost since the last range read, of which half is forgotten
// with each windowLinger. The caller holds q.mu.
func (q *readQueue) lately(now time.Time) time.Duration {
	return time.Duration(float64(q.spent) * math.Exp2(-float64(now.Sub(q.spentAt))/float64(windowLinger)))
}

// take takes what waits for a channel. The caller holds q.mu.
func (q *readQueue) take(c *readers) *job {
	c.busy = true
	reads := c.reads
	c.reads = nil
	q.waiting -= len(reads)
	return &job{channel: c, reads: reads}
}

// done makes a channel's later reads ready, and with them those that a job could not
// answer. The caller holds q.mu.
func (q *readQueue) done(j *job, unanswered []*read) {
	j.channel.busy = false
	for _, r := range unanswered {
		q.add(j.channel.name, r)
	}
	if len(j.channel.reads) > 0 {
		q.queue(j.channel)
	} else if !j.channel.queued {
		delete(q.channels, j.channel.name)
	}
}
