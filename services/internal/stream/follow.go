package stream

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/carillon-rt/carillon/services/internal/metronome"
)

const (
	// followQueue is how many republished entries wait for a follower. What finds it
	// full is read from the stream.
	followQueue = 1024
	// followEvery is how often a follower asks where the log ends. That is what
	// guarantees that it misses nothing; what is republished only comes sooner.
	followEvery = time.Second
	// followPage is how many entries are read at once.
	followPage = 256
	// followMargin is by how much the clocks of a cluster's servers may differ.
	followMargin = 10 * time.Second
)

// logged is one entry of the control log.
type logged struct {
	sequence uint64
	data     []byte
	stored   time.Time
}

// applying takes the next entry.
type applying = func(ctx context.Context, sequence uint64, data []byte)

// Follow calls apply for each entry that the log keeps, from the first, in order, and
// goes on with what is appended, through whatever befalls NATS, until ctx ends; apply
// may take its time. Once everything has been applied that was stored when Follow began,
// it calls caughtUp. An entry may come twice only if the log was set back. The error is
// about the connection having been closed.
func (c *Control) Follow(ctx context.Context, apply applying, caughtUp func()) error {
	live := make(chan *nats.Msg, followQueue)
	sub, err := c.store.publisher.nc.ChanSubscribe(subjectControlOut, live)
	if err != nil {
		return fmt.Errorf("stream: follow the control log: %w", err)
	}
	defer func() { _ = sub.Unsubscribe() }() // fails only with the connection
	f := &follower{control: c, apply: apply}
	retry := newRetry()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for failing := false; ; {
		select {
		case m := <-live:
			if !f.reached || f.take(ctx, m) {
				continue
			}
		case <-timer.C:
		case <-c.store.ctx.Done():
			return errClosed
		case <-ctx.Done():
			return nil
		}
		first := !f.reached
		err := f.check(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil:
			failing, retry = false, newRetry()
			timer.Reset(metronome.Next(followEvery))
			if first {
				caughtUp()
			}
			continue
		case !failing && f.reached:
			c.store.logger.Warn("the control log cannot be followed; trying again", "error", err)
		}
		failing = true
		timer.Reset(retry.pause())
	}
}

// follower is what one Follow knows.
type follower struct {
	control *Control
	apply   applying
	reached bool         // the end of the log, at least once
	told    controlPlace // at the last check, after which everything was applied

	applied uint64    // the last entry, as the stream numbers it
	time    time.Time // when that was stored
	created time.Time // the stream
	doubted time.Time // since when the stream ends before applied; zero: it does not
}

// take applies a republished entry if it is the next one. It returns false if something
// is missing before it.
func (f *follower) take(ctx context.Context, m *nats.Msg) bool {
	e, err := entryOf(m)
	switch {
	case err != nil: // nobody else writes there
		return true
	case f.another(e):
		f.again(e.sequence)
		return false
	case e.sequence <= f.applied: // it has been read
		return true
	}
	previous, err := strconv.ParseUint(last(m.Header, headerLastSequence), 10, 64)
	if err != nil || previous > f.applied {
		return false
	}
	f.done(ctx, e)
	return true
}

func (f *follower) done(ctx context.Context, e logged) {
	// Of a log that was set back, what is older than the last entry applied has been.
	if f.time.IsZero() || e.stored.After(f.time.Add(-followMargin)) {
		f.apply(ctx, e.sequence, e.data)
	}
	f.applied = e.sequence
	if e.stored.After(f.time) {
		f.time = e.stored
	}
}

// check applies everything that is stored when it is called.
func (f *follower) check(ctx context.Context) error {
	nc := f.control.store.publisher.nc
	asking, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	told, err := controlStanding(asking, nc)
	if err != nil {
		return err
	}
	f.control.found.Store(time.Now().UnixNano())
	if err := f.judge(told, time.Now()); err != nil {
		return err
	}
	if !told.same(f.told) {
		if err := f.recognize(ctx, nc); err != nil {
			return err
		}
	}
	for f.applied < told.last && ctx.Err() == nil {
		entries, err := f.read(ctx)
		if err == nil && entries == nil { // the end, or a replica that is behind
			entries, err = f.next(ctx, nc, f.applied+1)
		}
		if err != nil {
			return err
		}
		if entries == nil {
			break // what came last has expired
		}
		for _, e := range entries {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			f.done(ctx, e)
		}
	}
	if ctx.Err() == nil {
		f.reached, f.told = true, told
	}
	return ctx.Err()
}

// recognize begins from the first entry where another stands in the place of the last one
// applied: the log was set back, and has grown since to what it was.
func (f *follower) recognize(ctx context.Context, nc *nats.Conn) error {
	if f.applied == 0 {
		return nil
	}
	entries, err := f.next(ctx, nc, f.applied)
	if err == nil && len(entries) > 0 && f.another(entries[0]) { // else it may have expired
		f.again(entries[0].sequence)
	}
	return err
}

// another tells whether an entry has a number that an earlier one had: what was applied
// under it was not stored later than f.time.
func (f *follower) another(e logged) bool { return e.sequence <= f.applied && e.stored.After(f.time) }

// again begins from the first entry of a log that now ends at last, or goes on from there.
func (f *follower) again(last uint64) {
	if f.applied > 0 {
		f.control.store.logger.Error("the control log was set back or made anew: commands may be lost", "known", f.applied, "last", last)
	}
	f.applied, f.doubted = 0, time.Time{}
}

// judge begins from the first entry where the log is not the one that was followed.
func (f *follower) judge(told controlPlace, now time.Time) error {
	switch {
	case f.created.IsZero():
	case !told.created.Equal(f.created): // made anew
	case told.last >= f.applied:
		f.doubted = time.Time{}
		return nil
	case f.doubted.IsZero(): // a new leader may have to catch up with itself
		f.doubted = now
		return errDoubt
	case now.Sub(f.doubted) < doubtFor:
		return errDoubt
	}
	f.again(told.last)
	f.created = told.created
	return nil
}

// read reads what follows, in order; nil if the server that answers has nothing.
func (f *follower) read(ctx context.Context) (entries []logged, err error) {
	request := fmt.Appendf(nil, `{"seq":%d,"next_by_subj":%q,"batch":%d,"max_bytes":%d}`, f.applied+1, subjectControlLog, followPage, pageBytes)
	_, err = f.control.store.direct.ask(ctx, controlStream, request, followPage, func(m *nats.Msg) error {
		e, err := entryOf(m)
		entries = append(entries, e)
		return err
	})
	return entries, err
}

// next asks the leader, which is never behind, for the first entry from a number on.
func (f *follower) next(ctx context.Context, nc *nats.Conn, from uint64) ([]logged, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	reply, err := nc.RequestWithContext(ctx, jetstream.DefaultAPIPrefix+"STREAM.MSG.GET."+controlStream,
		fmt.Appendf(nil, `{"seq":%d,"next_by_subj":%q}`, from, subjectControlLog))
	if err != nil {
		return nil, err
	}
	var answer struct {
		Error   *jetstream.APIError `json:"error"`
		Message struct {
			Sequence uint64    `json:"seq"`
			Data     []byte    `json:"data"`
			Time     time.Time `json:"time"`
		} `json:"message"`
	}
	switch err := json.Unmarshal(reply.Data, &answer); {
	case err != nil:
		return nil, err
	case answer.Error == nil:
		m := answer.Message
		return []logged{{sequence: m.Sequence, data: m.Data, stored: m.Time}}, nil
	case answer.Error.ErrorCode == jetstream.JSErrCodeMessageNotFound:
		return nil, nil
	default:
		return nil, answer.Error
	}
}

// entryOf reads an entry as it is republished, or as a direct get brings it.
func entryOf(m *nats.Msg) (logged, error) {
	sequence, err := strconv.ParseUint(last(m.Header, headerSequence), 10, 64)
	if err != nil {
		return logged{}, err
	}
	stored, err := time.Parse(time.RFC3339Nano, last(m.Header, headerTimestamp))
	return logged{sequence: sequence, data: m.Data, stored: stored}, err
}

// controlPlace is where the log ends.
type controlPlace struct {
	created time.Time
	last    uint64
	time    time.Time // when that was stored
}

func (p controlPlace) same(other controlPlace) bool {
	return p.created.Equal(other.created) && p.last == other.last && p.time.Equal(other.time)
}

// controlStanding asks the leader of the log's stream, or returns errNotLed or
// errDeposed.
func controlStanding(ctx context.Context, nc *nats.Conn) (controlPlace, error) {
	reply, err := nc.RequestWithContext(ctx, jetstream.DefaultAPIPrefix+"STREAM.INFO."+controlStream, nil)
	if err != nil {
		return controlPlace{}, err
	}
	var info struct {
		Error   *jetstream.APIError `json:"error"`
		Created time.Time           `json:"created"`
		State   struct {
			LastSeq  uint64    `json:"last_seq"`
			LastTime time.Time `json:"last_ts"`
		} `json:"state"`
		Cluster *quorum `json:"cluster"`
	}
	if err := json.Unmarshal(reply.Data, &info); err != nil {
		return controlPlace{}, fmt.Errorf("stream info: %w", err)
	}
	if info.Error != nil {
		return controlPlace{}, info.Error
	}
	return controlPlace{created: info.Created, last: info.State.LastSeq, time: info.State.LastTime}, info.Cluster.check()
}
