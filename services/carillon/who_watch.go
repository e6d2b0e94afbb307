package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"

	presencev1 "github.com/carillon-rt/carillon/gen/carillon/presence/v1"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/lifecycle"
)

const (
	// watchMost is the size of a channel beyond which only its size is told.
	watchMost = 10_000
	// watchSilence is how long a stream may say nothing, which says something every 5 s.
	watchSilence = 8 * time.Second
	// watchDoubt is how long a member whom another stream does not know is kept: the
	// replica may be a little behind the one before.
	watchDoubt = 2 * time.Second

	minWatchPause = 250 * time.Millisecond
	maxWatchPause = 5 * time.Second
)

// watching prints who joins and leaves, over streams that end.
type watching struct {
	command *whoCommand
	env     environment
	client  presencev1.PresenceServiceClient

	begun   bool            // something has been told
	token   string          // where to go on
	members map[string]bool // those printed
	total   uint32          // printed last where the channel is too large for its members
	// snapshot are the parts of one so far.
	snapshot map[string]*presencev1.Member
	// doubted are members whom the latest snapshot did not know; until when.
	doubted map[string]bool
	until   time.Time
	pause   time.Duration
}

func newWatching(w *whoCommand, env environment, client presencev1.PresenceServiceClient) *watching {
	return &watching{command: w, env: env, client: client, members: map[string]bool{}, pause: minWatchPause}
}

// run watches until a signal. It goes on when a stream ends; not if the first cannot be
// had.
func (w *watching) run() error {
	for {
		err := w.follow()
		select {
		case <-w.env.ctx.Done():
			return nil
		default:
		}
		if errors.Is(err, errOutput) {
			return err
		}
		refusal := fault.FromGRPC(err, "")
		if refusal.Field == "resumeToken" { // of another version, perhaps
			w.token = ""
		} else if !w.passes(refusal) {
			return explain(strings.Join(w.command.Server, ","), err)
		}
		wait := max(refusal.RetryAfter, w.pause/2+rand.N(w.pause/2))
		w.pause = min(2*w.pause, maxWatchPause)
		if w.begun {
			fmt.Fprintf(w.env.stderr, "%v; trying again in %v\n", explain(strings.Join(w.command.Server, ","), err), wait.Round(time.Millisecond))
		}
		if !lifecycle.Pause(w.env.ctx, wait) {
			return nil
		}
	}
}

// passes tells whether trying again may help.
func (w *watching) passes(refusal *fault.Error) bool {
	switch {
	case refusal.Reason == fault.PresenceUnavailable || refusal.Reason == fault.Draining:
		return true
	case !w.begun:
		return false
	case refusal.Reason == fault.TokenExpired:
		return w.command.Token == ""
	case refusal.Reason == "":
		return true
	}
	switch refusal.Code() {
	case codes.Unavailable, codes.DeadlineExceeded, codes.ResourceExhausted, codes.Internal:
		return true
	default:
		return false
	}
}

// errOutput: nobody reads any more.
var errOutput = errors.New("printing")

// follow watches over one stream, which is cut off where it is silent.
func (w *watching) follow() error {
	ctx, err := w.command.as(w.env.ctx, w.env)
	if err != nil {
		return fmt.Errorf("%w: %w", errOutput, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	silence := time.AfterFunc(watchSilence, cancel)
	defer silence.Stop()
	stream, err := w.client.WatchChannel(ctx, &presencev1.WatchChannelRequest{
		Channel: w.command.Channel, ResumeToken: w.token, MaxMembers: watchMost,
	})
	if err != nil {
		return err
	}
	w.snapshot = map[string]*presencev1.Member{}
	for {
		step, err := stream.Recv()
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
		silence.Reset(watchSilence)
		if err := w.apply(step); err != nil {
			return fmt.Errorf("%w: %w", errOutput, err)
		}
		w.token, w.pause = step.GetResumeToken(), minWatchPause
	}
}

func (w *watching) apply(step *presencev1.WatchChannelResponse) error {
	if snapshot := step.GetSnapshot(); snapshot != nil {
		return w.begin(snapshot)
	}
	changed := step.GetChanged()
	if changed.GetTruncated() {
		return w.count(changed.GetTotal())
	}
	for _, m := range changed.GetJoined() {
		if err := w.join(m); err != nil {
			return err
		}
	}
	for _, m := range changed.GetLeft() {
		if err := w.leave(m.GetUserId()); err != nil {
			return err
		}
	}
	if w.doubted == nil || time.Now().Before(w.until) {
		return nil
	}
	for _, user := range slices.Sorted(maps.Keys(w.doubted)) {
		if err := w.leave(user); err != nil {
			return err
		}
	}
	w.doubted = nil
	return nil
}

// begin takes a part of a snapshot, and with the last tells how it differs from what was
// told.
func (w *watching) begin(part *presencev1.MembersSnapshot) error {
	for _, m := range part.GetMembers() {
		w.snapshot[m.GetUserId()] = m
	}
	if !part.GetComplete() {
		return nil
	}
	members := w.snapshot
	w.snapshot = map[string]*presencev1.Member{}
	if !w.begun {
		w.begun = true
		fmt.Fprintf(w.env.stderr, "watching %s: %d members\n", w.command.Channel, part.GetTotal())
	}
	if part.GetTruncated() {
		return w.count(part.GetTotal())
	}
	w.total, w.doubted, w.until = 0, map[string]bool{}, time.Now().Add(watchDoubt)
	for user := range w.members {
		if members[user] == nil {
			w.doubted[user] = true
		}
	}
	for _, user := range slices.Sorted(maps.Keys(members)) {
		if err := w.join(members[user]); err != nil {
			return err
		}
	}
	return nil
}

func (w *watching) join(m *presencev1.Member) error {
	user := m.GetUserId()
	delete(w.doubted, user)
	if w.members[user] {
		return nil
	}
	w.members[user] = true
	return w.command.line(w.env, map[string]any{"time": now(), "joined": memberLine(m)}, "+ "+user, since(m.GetSince()), m.GetInfo())
}

func (w *watching) leave(user string) error {
	delete(w.doubted, user)
	if !w.members[user] {
		return nil
	}
	delete(w.members, user)
	return w.command.line(w.env, map[string]any{"time": now(), "left": user}, "- "+user, now())
}

// count tells the size of a large channel.
func (w *watching) count(total uint32) error {
	w.doubted = nil
	if w.total == total {
		return nil
	}
	w.total = total
	return w.command.line(w.env, map[string]any{"time": now(), "total": total}, fmt.Sprintf("= %d members", total), now())
}

func now() string { return time.Now().UTC().Format(time.RFC3339) }
