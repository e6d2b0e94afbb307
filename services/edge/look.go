package edge

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/control"
	"github.com/carillon-rt/carillon/services/internal/message"
)

// ChannelTraffic is what goes through a channel with subscribers here.
type ChannelTraffic struct {
	Channel     channel.Name
	Subscribers int
	Rates       Rates
}

// Traffic lists the channels that have subscribers here and whose names begin so, in no
// order. It looks at each, so it is not for every moment.
func (e *Edge) Traffic(prefix string) []ChannelTraffic {
	now := time.Now()
	var all []ChannelTraffic
	for i := range e.hub.shards {
		for _, t := range e.hub.shards[i].begin(prefix) {
			t.mu.Lock()
			if n := len(t.subscriptions); n > 0 {
				all = append(all, ChannelTraffic{t.name, n, t.tally.rates(now)})
			}
			t.mu.Unlock()
		}
	}
	return all
}

// begin are the topics whose names begin so.
func (s *hubShard) begin(prefix string) []*topic {
	s.mu.Lock()
	defer s.mu.Unlock()
	var found []*topic
	for name, t := range s.topics {
		if strings.HasPrefix(string(name), prefix) {
			found = append(found, t)
		}
	}
	return found
}

// UserHere is a user with connections here, or to a channel here.
type UserHere struct {
	User        channel.User
	Connections int
}

// ChannelHere is what this edge has of a channel.
type ChannelHere struct {
	ChannelTraffic
	// Users are those of the subscribers, in order of names, at most as many as asked for.
	Users []UserHere
	// Position is up to where messages were delivered.
	Position message.Position
}

// Channel tells of a channel; false if it has no subscribers here.
func (e *Edge) Channel(name channel.Name, limit int) (ChannelHere, bool) {
	shard := e.hub.shard(name)
	shard.mu.Lock()
	t := shard.topics[name]
	shard.mu.Unlock()
	if t == nil {
		return ChannelHere{}, false
	}
	t.mu.Lock()
	here := ChannelHere{ChannelTraffic: ChannelTraffic{name, len(t.subscriptions), t.tally.rates(time.Now())}, Position: t.position}
	sessions := make([]*session, len(t.subscriptions))
	for i, sub := range t.subscriptions {
		sessions[i] = sub.session
	}
	t.mu.Unlock()
	users := map[channel.User]int{}
	for _, s := range sessions {
		users[s.user]++
	}
	here.Users = firstUsers(users, limit)
	return here, here.Subscribers > 0
}

// firstUsers are the first of some users, in order of names.
func firstUsers(users map[channel.User]int, limit int) []UserHere {
	all := make([]UserHere, 0, len(users))
	for user, connections := range users {
		all = append(all, UserHere{user, connections})
	}
	slices.SortFunc(all, func(a, b UserHere) int { return cmp.Compare(a.User, b.User) })
	return all[:min(limit, len(all))]
}

// Users lists users who are connected here and whose names begin so, in order of names.
func (e *Edge) Users(prefix string, limit int) []UserHere {
	found := map[channel.User]int{}
	e.index.mu.Lock()
	for user, sessions := range e.index.users {
		if strings.HasPrefix(string(user), prefix) {
			found[user] = len(sessions)
		}
	}
	e.index.mu.Unlock()
	return firstUsers(found, limit)
}

// OwnerOf is the user of a connection; false if there is none here.
func (e *Edge) OwnerOf(connectionID string) (channel.User, bool) {
	for _, s := range e.index.of("") {
		if s.id == connectionID {
			return s.user, true
		}
	}
	return "", false
}

// ConnectionHere is a connection to this edge.
type ConnectionHere struct {
	control.Connection

	QueueBytes int
	// Subscribed are its channels, in order of names, at most as many as asked for; nil if
	// it was too busy to say.
	Subscribed []channel.Name
}

// Look lists the latest connections of a user with their channels, so many of each. It
// waits for those that have something to do, for a second at most.
func (e *Edge) Look(ctx context.Context, user channel.User, limit, channels int) (connections []ConnectionHere, total int) {
	if user == "" {
		return nil, 0
	}
	ctx, cancel := context.WithTimeout(ctx, applyTimeout)
	defer cancel()
	sessions := e.latest(user)
	total = len(sessions)
	sessions = sessions[:min(limit, total)]
	told := make([]func() []channel.Name, len(sessions))
	for i, s := range sessions {
		told[i] = s.askChannels(ctx, channels)
	}
	for i, s := range sessions {
		connections = append(connections, ConnectionHere{Connection: s.describe(), QueueBytes: s.socket.Queued(), Subscribed: told[i]()})
	}
	return connections, total
}

// askChannels asks a session which channels it has, which its worker knows, and returns
// what waits for the answer; that is nil if ctx ends before.
func (s *session) askChannels(ctx context.Context, limit int) (answer func() []channel.Name) {
	names := []channel.Name{} // read after over
	asked, _ := s.assign(func(context.Context) {
		for _, sub := range s.subscriptions[:min(limit, len(s.subscriptions))] {
			names = append(names, sub.topic.name)
		}
	})
	return func() []channel.Name {
		select {
		case <-asked.over:
			return names
		case <-ctx.Done():
			return nil
		}
	}
}
