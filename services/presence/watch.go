package presence

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc"

	presencev1 "github.com/carillon-rt/carillon/gen/carillon/presence/v1"
	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/presence/view"
)

const (
	// coalesce is how far apart at least what a watcher is told by itself is, so that a
	// user who comes and goes in between costs nothing, and many who come one message.
	coalesce = 20 * time.Millisecond
	// edgeHeartbeat is how long at most an edge hears nothing over Watch.
	edgeHeartbeat = 2 * time.Second
	// edgeMost is the size of a channel beyond which edges get samples.
	edgeMost = 1000
	// maxWatched bounds the channels of one Watch.
	maxWatched = 100_000
)

// telling is one watcher being told.
type telling struct {
	service *Service
	watcher *view.Watcher
	// tell sends one event; beat sends that nothing happened for as long as quiet.
	tell  func(view.Event) error
	beat  func() error
	quiet time.Duration
	// expires is when who watches may not any more; zero: never.
	expires time.Time
	// wishes are what an edge says meanwhile; nil where nothing can be said.
	wishes <-chan received[*presencev1.WatchRequest]

	sent time.Time // when something was sent last
}

// run tells the watcher what happens until the caller, the view or the service ends it.
// wish does what an edge says.
func (t *telling) run(ctx context.Context, wish func(*presencev1.WatchRequest) error) error {
	t.sent = time.Now()
	beat, due := time.NewTimer(t.quiet), time.NewTimer(0)
	defer beat.Stop()
	defer due.Stop()
	var expired <-chan time.Time
	if !t.expires.IsZero() {
		expiry := time.NewTimer(time.Until(t.expires))
		defer expiry.Stop()
		expired = expiry.C
	}
	wake := t.watcher.Wake()
	for {
		select {
		case <-wake:
			wake = nil // until the round that is due now
			due.Reset(coalesce - time.Since(t.sent))
		case <-due.C:
			wake = t.watcher.Wake()
			if err := t.round(); err != nil {
				return err
			}
		case <-beat.C:
			left := t.quiet - time.Since(t.sent)
			if left <= 0 {
				if err := t.say(t.beat); err != nil {
					return err
				}
				left = t.quiet
			}
			beat.Reset(left)
		case in := <-t.wishes:
			if errors.Is(in.err, io.EOF) {
				return nil
			}
			if in.err != nil {
				return in.err
			}
			if err := wish(in.req); err != nil {
				return err
			}
		case <-t.watcher.Ended():
			return faultOf(t.watcher.Err())
		case <-expired:
			return fault.New(fault.TokenExpired, "", "the token expired at %s", t.expires.UTC().Format(time.RFC3339))
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// round tells everything that was applied before it began; an error if the watcher ended
// meanwhile.
func (t *telling) round() error {
	for {
		event, ok := t.watcher.Next()
		if !ok {
			return faultOf(t.watcher.Err())
		}
		if err := t.say(func() error { return t.tell(event) }); err != nil {
			return err
		}
	}
}

func (t *telling) say(what func() error) error {
	if err := what(); err != nil {
		return err
	}
	t.sent = time.Now()
	return nil
}

type watchStream = grpc.BidiStreamingServer[presencev1.WatchRequest, presencev1.WatchResponse]

// Watch tells an edge who is in its channels. Which namespaces have presence is the
// edge's affair here, as it is in its report.
func (r reports) Watch(stream watchStream) error {
	s := r.service
	watcher, err := s.view.Watch()
	if err != nil {
		return faultOf(err)
	}
	defer watcher.Close()
	left := make(chan struct{})
	defer close(left)
	wishes, err := receive(s, left, stream.Recv)
	if err != nil {
		return err
	}
	w := &edgeWatch{stream: stream, watched: map[channel.Name]struct{}{}}
	w.telling = telling{
		service: s, watcher: watcher, tell: w.event, quiet: edgeHeartbeat, wishes: wishes,
		beat: func() error { return w.send(&presencev1.WatchResponse{}) },
	}
	return w.run(stream.Context(), w.wish)
}

// edgeWatch is one Watch of an edge.
type edgeWatch struct {
	telling
	stream  watchStream
	watched map[channel.Name]struct{}
}

func (w *edgeWatch) wish(req *presencev1.WatchRequest) error {
	switch wish := req.GetRequest().(type) {
	case *presencev1.WatchRequest_Watch:
		name, err := channel.Parse(wish.Watch.GetChannel())
		if err != nil {
			return within("watch", err)
		}
		if _, again := w.watched[name]; !again && len(w.watched) == maxWatched {
			return fault.New(fault.WatchLimit, "watch.channel", "an edge may watch at most %d channels", maxWatched)
		}
		w.watched[name] = struct{}{}
		w.watcher.Add(name, edgeMost, nil)
		return nil
	case *presencev1.WatchRequest_Unwatch:
		name, err := channel.Parse(wish.Unwatch.GetChannel())
		if err != nil {
			return within("unwatch", err)
		}
		delete(w.watched, name)
		w.watcher.Remove(name)
		return nil
	case *presencev1.WatchRequest_Sync:
		if err := w.round(); err != nil {
			return err
		}
		for _, text := range wish.Sync.GetChannels() {
			if err := w.list(channel.Name(text)); err != nil {
				return err
			}
		}
		return w.say(func() error {
			return w.send(&presencev1.WatchResponse{Event: &presencev1.WatchResponse_Synced{Synced: wish.Sync}})
		})
	default:
		return fault.New(fault.FieldRequired, "request", "request is required")
	}
}

// list tells who is in a channel at this moment, if it is watched; an error if the watcher
// ended meanwhile.
func (w *edgeWatch) list(name channel.Name) error {
	if _, watched := w.watched[name]; !watched {
		return nil
	}
	e := w.service.view.List(name, edgeMost)
	if err := w.watcher.Err(); err != nil { // then that may be a view that forgets
		return faultOf(err)
	}
	for part := range snapshotParts(e) {
		if err := w.send(&presencev1.WatchResponse{Channel: string(name), Event: &presencev1.WatchResponse_Listed{Listed: part}}); err != nil {
			return err
		}
	}
	return nil
}

func (w *edgeWatch) event(e view.Event) error {
	if e.Snapshot {
		for part := range snapshotParts(e) {
			if err := w.send(&presencev1.WatchResponse{Channel: string(e.Channel), Event: &presencev1.WatchResponse_Snapshot{Snapshot: part}}); err != nil {
				return err
			}
		}
		return nil
	}
	for part := range changedParts(e) {
		if err := w.send(&presencev1.WatchResponse{Channel: string(e.Channel), Event: &presencev1.WatchResponse_Changed{Changed: part}}); err != nil {
			return err
		}
	}
	return nil
}

func (w *edgeWatch) send(res *presencev1.WatchResponse) error {
	if err := w.stream.Send(res); err != nil {
		return fmt.Errorf("telling an edge: %w", err)
	}
	return nil
}
