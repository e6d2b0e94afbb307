package presence

import (
	"fmt"
	"iter"
	"time"

	"google.golang.org/grpc"

	presencev1 "github.com/carillon-rt/carillon/gen/carillon/presence/v1"
	"github.com/carillon-rt/carillon/services/internal/auth"
	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/rpc"
	"github.com/carillon-rt/carillon/services/presence/view"
)

const (
	// callerHeartbeat is how long at most a caller hears nothing over WatchChannel.
	callerHeartbeat = 5 * time.Second
	// Bounds of max_members.
	defaultMost = 1000
	maxMost     = 100_000
	// maxListed bounds the members of one response, which with infos of the full size
	// are a third of what a gRPC client takes.
	maxListed = 1000
)

// WatchChannel tells who is in a channel until something ends it: also the end of the
// caller's token, or of its right to list the members.
func (m members) WatchChannel(req *presencev1.WatchChannelRequest, stream grpc.ServerStreamingServer[presencev1.WatchChannelResponse]) error {
	s, ctx := m.service, stream.Context()
	name, err := s.listed(ctx, req.GetChannel())
	if err != nil {
		return err
	}
	most := int(req.GetMaxMembers())
	if most > maxMost {
		return fault.New(fault.FieldInvalid, "maxMembers", "maxMembers is %d, more than %d", most, maxMost)
	}
	if most == 0 {
		most = defaultMost
	}
	at, err := parseResumeToken(name, req.GetResumeToken())
	if err != nil {
		return err
	}
	watcher, err := s.view.Watch()
	if err != nil {
		return faultOf(err)
	}
	defer watcher.Close()
	watcher.Add(name, most, at)
	w := &channelWatch{name: name, stream: stream, token: req.GetResumeToken(), may: func() error {
		_, err := s.listed(ctx, req.GetChannel())
		return err
	}}
	t := telling{service: s, watcher: watcher, tell: w.event, beat: w.beat, quiet: callerHeartbeat}
	if identity, _ := rpc.IdentityFrom(ctx); identity.Kind == auth.ForCallers {
		t.expires = identity.ExpiresAt
	}
	return t.run(ctx, nil)
}

// channelWatch is one WatchChannel.
type channelWatch struct {
	name   channel.Name
	stream grpc.ServerStreamingServer[presencev1.WatchChannelResponse]
	// may is asked before anything is told: a caller's patterns change.
	may func() error

	// Of what was told last.
	token     string
	total     uint32
	truncated bool
}

func (w *channelWatch) event(e view.Event) error {
	w.total, w.truncated = number(e.Total), e.Truncated
	after := resumeToken(w.name, &e.Position)
	if e.Snapshot {
		for part := range snapshotParts(e) {
			token := resumeToken(w.name, nil)
			if part.GetComplete() {
				token = after
			}
			if err := w.send(&presencev1.WatchChannelResponse{Event: &presencev1.WatchChannelResponse_Snapshot{Snapshot: part}, ResumeToken: token}); err != nil {
				return err
			}
		}
		return nil
	}
	before := w.token
	for part, last := range changedParts(e) {
		token := before
		if last {
			token = after
		}
		if err := w.send(&presencev1.WatchChannelResponse{Event: &presencev1.WatchChannelResponse_Changed{Changed: part}, ResumeToken: token}); err != nil {
			return err
		}
	}
	return nil
}

// beat says that nothing has changed.
func (w *channelWatch) beat() error {
	changed := &presencev1.MembersChanged{Total: w.total, Truncated: w.truncated}
	return w.send(&presencev1.WatchChannelResponse{Event: &presencev1.WatchChannelResponse_Changed{Changed: changed}, ResumeToken: w.token})
}

func (w *channelWatch) send(res *presencev1.WatchChannelResponse) error {
	if err := w.may(); err != nil {
		return err
	}
	if err := w.stream.Send(res); err != nil {
		return fmt.Errorf("telling a watcher: %w", err)
	}
	w.token = res.GetResumeToken()
	return nil
}

// snapshotParts cuts a snapshot, also an empty one, into messages.
func snapshotParts(e view.Event) iter.Seq[*presencev1.MembersSnapshot] {
	return func(yield func(*presencev1.MembersSnapshot) bool) {
		rest := e.Members
		for {
			n := min(len(rest), maxListed)
			part := &presencev1.MembersSnapshot{
				Members: membersOf(rest[:n]), Total: number(e.Total), Complete: n == len(rest), Truncated: e.Truncated,
			}
			rest = rest[n:]
			if !yield(part) || part.GetComplete() {
				return
			}
		}
	}
}

// changedParts cuts changes, also none, into messages, and tells which is the last.
func changedParts(e view.Event) iter.Seq2[*presencev1.MembersChanged, bool] {
	return func(yield func(*presencev1.MembersChanged, bool) bool) {
		joined, left := e.Joined, e.Left
		for {
			j, l := min(len(joined), maxListed), min(len(left), maxListed)
			part := &presencev1.MembersChanged{
				Joined: membersOf(joined[:j]), Left: make([]*presencev1.Member, l), Total: number(e.Total), Truncated: e.Truncated,
			}
			for i, user := range left[:l] {
				part.Left[i] = &presencev1.Member{UserId: string(user)}
			}
			joined, left = joined[j:], left[l:]
			last := len(joined) == 0 && len(left) == 0
			if !yield(part, last) || last {
				return
			}
		}
	}
}
