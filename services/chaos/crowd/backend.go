package crowd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	presencev1 "github.com/carillon-rt/carillon/gen/carillon/presence/v1"
	"github.com/carillon-rt/carillon/services/chaos/attendance"
	"github.com/carillon-rt/carillon/services/internal/lifecycle"
)

const (
	// askInterval is how often a replica is asked something.
	askInterval = 150 * time.Millisecond
	askTimeout  = 3 * time.Second
	// pageSize is small, so that there are pages.
	pageSize = 8
	// A stream that says nothing for quiet is broken: it says something every 5 s.
	quiet = 8 * time.Second
	// watchAgain is the pause between two streams.
	watchAgain = 200 * time.Millisecond
)

// asker asks one replica about one room after the other.
type asker struct {
	crowd   *Crowd
	replica string
	conn    *grpc.ClientConn
	client  presencev1.PresenceServiceClient

	mu       sync.Mutex
	complete int // rounds in which everything was answered
	failed   int
	err      error
}

func newAsker(c *Crowd, replica string, conn *grpc.ClientConn) *asker {
	return &asker{crowd: c, replica: replica, conn: conn, client: presencev1.NewPresenceServiceClient(conn)}
}

func (a *asker) rounds() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.complete
}

func (a *asker) failures() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.failed
}

func (a *asker) lastError() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.err
}

func (a *asker) run(ctx context.Context) {
	tick := time.NewTicker(askInterval)
	defer tick.Stop()
	for {
		answered := true
		for i := range len(a.crowd.options.Rooms) + 1 {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
			var err error
			if i < len(a.crowd.options.Rooms) {
				err = a.list(ctx, a.crowd.options.Rooms[i])
			} else {
				err = a.count(ctx)
			}
			answered = a.took(ctx, err) && answered
		}
		if answered {
			a.mu.Lock()
			a.complete++
			a.mu.Unlock()
		}
	}
}

// took takes the outcome of a question.
func (a *asker) took(ctx context.Context, err error) (answered bool) {
	if err == nil || ctx.Err() != nil {
		return err == nil
	}
	a.crowd.note("backend", "is not answered by %s: %v", a.replica, err)
	a.crowd.expect(fmt.Errorf("%s: %w", a.replica, err))
	a.conn.ResetConnectBackoff() // a replica that has just started is to be asked at once
	a.mu.Lock()
	defer a.mu.Unlock()
	a.failed++
	a.err = err
	return false
}

// expect wants an error to be one that passes.
func (c *Crowd) expect(err error) {
	switch status.Code(err) {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled, codes.Unauthenticated, codes.ResourceExhausted:
	default:
		c.problem(err)
	}
}

// call returns a context for one call as the backend.
func (c *Crowd) call(ctx context.Context) (context.Context, error) {
	ctx, err := c.options.Tokens.Caller(ctx, c.options.Backend)
	if err != nil {
		return nil, status.Error(codes.Unauthenticated, err.Error())
	}
	return ctx, nil
}

// list asks for all members of a room.
func (a *asker) list(ctx context.Context, room string) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	ctx, err := a.crowd.call(ctx)
	if err != nil {
		return err
	}
	question := a.crowd.options.Check.Ask(a.replica, room)
	users, request := []string{}, &presencev1.ListMembersRequest{Channel: room, PageSize: pageSize}
	for {
		page, err := a.client.ListMembers(ctx, request)
		if err != nil {
			return err
		}
		for _, m := range page.GetMembers() {
			users = append(users, m.GetUserId())
		}
		if request.PageToken = page.GetNextPageToken(); request.GetPageToken() == "" {
			break
		}
	}
	question.Listed(users)
	if !slices.IsSorted(users) {
		a.crowd.problem(fmt.Errorf("%s lists the members of %s out of order: %v", a.replica, room, users))
	}
	return nil
}

// count asks for the numbers of members of every room.
func (a *asker) count(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	ctx, err := a.crowd.call(ctx)
	if err != nil {
		return err
	}
	var questions []attendance.Poll
	for _, room := range a.crowd.options.Rooms {
		questions = append(questions, a.crowd.options.Check.Ask(a.replica, room))
	}
	answer, err := a.client.CountMembers(ctx, &presencev1.CountMembersRequest{Channels: a.crowd.options.Rooms})
	if err != nil {
		return err
	}
	if len(answer.GetCounts()) != len(questions) {
		return fmt.Errorf("%d counts of %d rooms", len(answer.GetCounts()), len(questions))
	}
	for i, count := range answer.GetCounts() {
		questions[i].Counted(int(count.GetMembers()))
	}
	return nil
}

// follower watches one room for the backend, over one stream after the other.
type follower struct {
	crowd *Crowd
	room  string
	turn  int // of the replica

	watcher *attendance.Watcher
	token   string
	parts   []string // of a snapshot that is not complete
}

func (f *follower) run(ctx context.Context) {
	f.watcher = f.crowd.options.Check.Watcher("a backend", f.room, "")
	for ctx.Err() == nil {
		err := f.stream(ctx)
		f.watcher.Lost()
		f.turn++
		if ctx.Err() == nil {
			f.crowd.note("backend", "is not told of %s any more: %v", f.room, err)
			f.crowd.expect(fmt.Errorf("watching %s: %w", f.room, err))
		}
		lifecycle.Pause(ctx, watchAgain)
	}
}

// stream is one stream, until it breaks.
func (f *follower) stream(ctx context.Context) error {
	replica := f.crowd.asked[f.turn%len(f.crowd.asked)]
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	silent := time.AfterFunc(quiet, cancel)
	defer silent.Stop()
	ctx, err := f.crowd.call(ctx)
	if err != nil {
		return err
	}
	stream, err := replica.client.WatchChannel(ctx, &presencev1.WatchChannelRequest{Channel: f.room, ResumeToken: f.token})
	if err != nil {
		return err
	}
	f.parts = nil
	for {
		answer, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return status.Error(codes.Unavailable, "the stream has ended")
		}
		if err != nil {
			return err
		}
		silent.Reset(quiet)
		f.take(replica.replica, answer)
	}
}

func (f *follower) take(replica string, answer *presencev1.WatchChannelResponse) {
	f.token = answer.GetResumeToken()
	switch event := answer.GetEvent().(type) {
	case *presencev1.WatchChannelResponse_Snapshot:
		f.parts = append(f.parts, namesOf(event.Snapshot.GetMembers())...)
		if !event.Snapshot.GetComplete() {
			return
		}
		f.crowd.note("backend", "is told by %s that %d are in %s: %v", replica, event.Snapshot.GetTotal(), f.room, f.parts)
		f.watcher.Snapshot(f.parts, int(event.Snapshot.GetTotal()))
		f.parts = nil
	case *presencev1.WatchChannelResponse_Changed:
		joined, left := namesOf(event.Changed.GetJoined()), namesOf(event.Changed.GetLeft())
		if len(joined)+len(left) > 0 {
			f.crowd.note("backend", "is told by %s of %s: +%v -%v, %d", replica, f.room, joined, left, event.Changed.GetTotal())
		}
		f.watcher.Changed(joined, left, int(event.Changed.GetTotal()))
	}
}

func namesOf(members []*presencev1.Member) []string {
	names := make([]string, len(members))
	for i, m := range members {
		names[i] = m.GetUserId()
	}
	return names
}
