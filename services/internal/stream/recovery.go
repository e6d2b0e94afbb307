package stream

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/bits"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/message"
)

// What reads cost in processor time, client and server together, as BenchmarkRecovery
// measured it; only the proportions matter. A fetch has the server look at every
// message of the partition from its first to the head; a range read moves them all,
// but once.
const (
	fetchCost   = 400 * time.Microsecond
	lookCost    = 90 * time.Nanosecond // of each message that a fetch passes
	rangeCost   = 450 * time.Microsecond
	messageCost = 12 * time.Microsecond // of each message that a range read brings
	byteCost    = 2 * time.Nanosecond
	// consumedCost is messageCost where a consumer brings them.
	consumedCost = 6 * time.Microsecond
	// rangePatience is what fetches may cost before those count that are expected still.
	rangePatience = 20 * time.Millisecond
	// usualBytes is the size of a message until a range has been read.
	usualBytes = 256
)

const (
	// maxRange is how many offsets a range read may span, and maxTransfer how many bytes:
	// later reads of the partition wait for it.
	maxRange    = 250_000
	maxTransfer = 128 << 20
	// A range read asks for so much at a time: the server stores nothing meanwhile.
	batchMessages = 1000
	batchBytes    = 1 << 20
	// maxRangeBytes bounds the pages that a range read fills; then they are cut.
	maxRangeBytes = 32 << 20
	// gatherTime is how long a range read waits for more readers while there is a window.
	gatherTime = 5 * time.Millisecond
	// maxRounds is how often a range read goes on to where the partition ends by then.
	maxRounds = 3
)

var (
	// errIncomplete means that a server answered which does not have everything yet.
	errIncomplete = errors.New("the answer ends before what is known to be stored")
	errReplaced   = errors.New("the stream was replaced while it was read")
	errTooLarge   = errors.New("the range is larger than it seemed")
)

// fetch serves the reads of one channel by one direct get.
func (q *readQueue) fetch(j *job) {
	s := q.store
	s.readCounters.fetches.Add(1)
	counter := &s.readCounters.fetched
	if len(j.reads) > 1 {
		counter = &s.readCounters.shared
	}
	bounds, incomplete, err := q.fetchPage(j)
	var again []*read
	for _, r := range j.reads {
		switch {
		case err != nil:
			r.answer <- answer{err: err}
		case !r.empty():
			counter.Add(1)
			r.answer <- answer{page: r.page}
		case incomplete: // asking again at once would find the same
			r.answer <- answer{err: errIncomplete}
		default: // the page ended before what this one asks for
			again = append(again, r)
		}
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.done(j, again)
	q.settle(bounds, err)
}

// fetchPage fills the pages of a job. Incomplete means that they end where more may
// follow. The bounds, asked after reading, are zero where nobody needs them.
func (q *readQueue) fetchPage(j *job) (bounds message.Bounds, incomplete bool, err error) {
	s := q.store
	ctx, cancel := context.WithTimeout(s.ctx, defaultTimeout)
	defer cancel()
	after, limit, wanted := span(j.reads)
	subject := q.part.in + string(j.channel.name)
	reached := after
	request := fmt.Appendf(nil, `{"seq":%d,"next_by_subj":%q,"batch":%d,"max_bytes":%d}`, after+1, subject, limit, pageBytes)
	end, err := s.direct.ask(ctx, q.part.stream, request, limit, func(m *nats.Msg) error {
		e, err := s.recordOf(m)
		if err != nil {
			return err
		}
		reached = e.offset
		for _, r := range j.reads {
			r.add(e, true)
		}
		return nil
	})
	if err != nil {
		return bounds, false, err
	}
	pending, _ := strconv.Atoi(first(end, headerPending)) // none where nothing was found
	unsure := pending == 0 && q.part.replicas > 1
	if wanted || unsure {
		// What is kept now was kept while it was read.
		if bounds, err = s.askBounds(ctx, q.part); err != nil {
			return bounds, false, err
		}
	}
	// What was trimmed is not waited for.
	if from := max(reached, bounds.First-1); unsure && from < bounds.Last {
		if incomplete, err = s.goesOn(ctx, q.part, j.channel.name, from, bounds.Last); err != nil {
			return bounds, false, err
		}
		if incomplete {
			pending = 1
		}
	}
	for _, r := range j.reads {
		r.page.Pending += pending
		r.finish(max(bounds.First, 1) - 1)
	}
	return bounds, incomplete, nil
}

// span is what a fetch for some reads asks for: after which offset, and how many.
func span(reads []*read) (after message.Offset, limit int, wanted bool) {
	after, limit = leastOf(reads), 0
	for _, r := range reads {
		r.begin()
		limit = max(limit, r.limit)
		wanted = wanted || !r.probe
		if r.after != after {
			limit = MaxPage
		}
	}
	return after, limit, wanted
}

// goesOn tells whether more of a channel follows after an offset, or may follow: no only
// on the word of a server that has everything up to last. A leader's word would not do:
// one that has been replaced, and has not heard of it yet, answers too.
func (s *Store) goesOn(ctx context.Context, part *partition, name channel.Name, after, last message.Offset) (bool, error) {
	subjects := strconv.Quote(part.in + string(name))
	for range 2 {
		found := false
		request := fmt.Appendf(nil, `{"multi_last":[%s],"seq":%d}`, subjects, after+1)
		end, err := s.direct.ask(ctx, part.stream, request, maxLasts, func(m *nats.Msg) error {
			found = found || first(m.Header, headerSubject) == part.in+string(name)
			return nil
		})
		if found || err != nil {
			return found, err
		}
		if end != nil {
			upTo, _ := strconv.ParseUint(first(end, headerUpTo), 10, 64)
			return message.Offset(upTo) < last, nil
		}
		// Where nothing is found, what the answer covers is not said: so a message is added
		// that will be found.
		t, err := part.await(ctx, s.ctx)
		if err != nil {
			return false, err
		}
		witness, err := s.getMessage(ctx, t, part, fmt.Appendf(nil, `{"seq":%d}`, last))
		if errors.Is(err, errNoMessage) {
			return true, nil
		}
		if err != nil {
			return false, err
		}
		subjects += "," + strconv.Quote(witness.Subject)
	}
	return true, nil
}

// settle notes how a job ended. The caller holds q.mu.
func (q *readQueue) settle(bounds message.Bounds, err error) {
	q.failing = err != nil && !errors.Is(err, errIncomplete)
	if err == nil && bounds.Last > 0 {
		q.head = bounds.Last
	}
	q.start()
}

// distance is how far a channel's reads are behind the head, in offsets.
func (q *readQueue) distance(c *readers) message.Offset {
	return q.head - min(q.head, leastOf(c.reads))
}

// worth tells up to which distance a range read costs less than fetches for the
// channels that it serves, as far as is known. Clients come one after the other, so as many
// are expected still as wait or have been served lately; where nobody follows, that has cost
// about twice of what would have been right. The caller holds q.mu.
func (q *readQueue) worth() (farthest message.Offset, ok bool) {
	var classes [65]struct { // by the magnitude of the distance
		count         int
		sum, farthest message.Offset
	}
	for _, c := range q.ready {
		if len(c.reads) == 0 {
			continue
		}
		d := q.distance(c)
		class := &classes[bits.Len64(uint64(d))]
		class.count++
		class.sum += d
		class.farthest = max(class.farthest, d)
	}
	var fetches, best time.Duration
	lately := q.lately(time.Now()) - rangePatience
	for _, class := range classes {
		if class.count == 0 {
			continue
		}
		if class.farthest > maxRange || int(class.farthest)*q.messageBytes > maxTransfer {
			break
		}
		fetches += time.Duration(class.count)*fetchCost + time.Duration(class.sum)*lookCost
		expected := max(0, lately+fetches)
		if saved := fetches + expected - q.costOfRange(class.farthest); saved > best {
			farthest, best, ok = class.farthest, saved, true
		}
	}
	return farthest, ok
}

// costOfRange counts only what the window does not have. The caller holds q.mu.
func (q *readQueue) costOfRange(distance message.Offset) time.Duration {
	moved := distance
	if w := q.window; w != nil {
		from := q.head - distance
		moved = min(moved, q.head-min(q.head, w.upTo)+w.after-min(w.after, from))
	}
	each := messageCost
	if moved > batchMessages {
		each = consumedCost
	}
	return rangeCost + time.Duration(moved)*(each+time.Duration(q.messageBytes)*byteCost)
}

// readRange serves the reads of many channels by one contiguous read.
func (q *readQueue) readRange() {
	s := q.store
	ctx, cancel := context.WithTimeout(s.ctx, defaultTimeout)
	defer cancel()
	q.gather(ctx)
	bounds, err := s.askBounds(ctx, q.part)
	p := q.beginRange(bounds, err)
	if err == nil && len(p.jobs) > 0 {
		bounds, err = p.run(ctx, bounds)
		s.readCounters.ranges.Add(1)
		s.readCounters.rangeMessages.Add(uint64(p.moved))
	}
	again := make(map[*job][]*read)
	for _, j := range p.jobs {
		for _, r := range j.reads {
			switch {
			case errors.Is(err, errTooLarge), err == nil && r.empty():
				again[j] = append(again[j], r)
			case err != nil:
				r.answer <- answer{err: err}
			default:
				s.readCounters.ranged.Add(1)
				r.answer <- answer{page: r.page}
			}
		}
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.ranging = false
	<-s.ranges
	for _, j := range p.jobs {
		q.done(j, again[j])
	}
	if p.moved >= batchMessages/10 {
		q.messageBytes = p.movedBytes / p.moved
	}
	if err != nil {
		q.keep(nil)
	} else { // for a while from now, also where it was not used
		q.keep(cmp.Or(p.window, q.window))
	}
	if errors.Is(err, errTooLarge) { // fetches serve them: now its size is known
		err = nil
	}
	q.settle(bounds, err)
}

// gather lets more readers come where the window may serve them: what is left to pay for
// is then the question where the partition ends.
func (q *readQueue) gather(ctx context.Context) {
	q.mu.Lock()
	alone := q.window == nil
	q.mu.Unlock()
	if alone {
		return
	}
	wait := time.NewTimer(gatherTime)
	defer wait.Stop()
	select {
	case <-wait.C:
	case <-ctx.Done():
	}
}

// beginRange takes the reads that a range read is to serve: none if it turns out not
// to be worth it, all that are ready if there is an error to tell them.
func (q *readQueue) beginRange(bounds message.Bounds, err error) *pass {
	q.mu.Lock()
	defer q.mu.Unlock()
	p := &pass{q: q, jobs: make(map[channel.Name]*job)}
	var farthest message.Offset
	if err == nil {
		q.head = bounds.Last
		if q.window != nil && !q.window.continues(bounds) {
			q.keep(nil)
		}
		var ok bool
		if farthest, ok = q.worth(); !ok {
			return p
		}
		p.window, q.window = q.window, nil
	}
	q.spent = 0
	ready := q.ready
	q.ready = nil
	for c := q.pop(&ready); c != nil; c = q.pop(&ready) {
		if err == nil && q.distance(c) > farthest {
			c.queued = true
			q.single = append(q.single, c)
			continue
		}
		p.jobs[c.name] = q.take(c)
	}
	q.start()
	return p
}
