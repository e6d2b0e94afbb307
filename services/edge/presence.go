package edge

import (
	"bytes"
	"context"

	"github.com/carillon-rt/carillon/services/edge/authorization"
	"github.com/carillon-rt/carillon/services/edge/frame"
	"github.com/carillon-rt/carillon/services/edge/roster"
	"github.com/carillon-rt/carillon/services/internal/auth"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/message"
	"github.com/carillon-rt/carillon/services/internal/namespace"
)

const (
	// maxMembers bounds the list in a presence reply, which says if it is not all.
	maxMembers = 1000
	// maxInfosBytes bounds what the members of one reply or push say of themselves.
	maxInfosBytes = 256 << 10
)

func noPresence(field string, ns *namespace.Namespace) error {
	return fault.New(fault.PresenceDisabled, field, "the namespace %q keeps no presence", ns.Name)
}

// clientInfo checks what a client says of its user, and compacts it.
func clientInfo(text []byte) (string, error) {
	if len(text) == 0 || bytes.Equal(text, []byte("null")) {
		return "", nil
	}
	info, err := message.JSONWithin("info", text, auth.MaxInfoDepth)
	if err != nil {
		return "", err
	}
	if len(info.Data) > auth.MaxInfoBytes {
		return "", fault.New(fault.PayloadTooLarge, "info", "info has %d bytes, more than %d", len(info.Data), auth.MaxInfoBytes)
	}
	return string(info.Data), nil
}

// present says, or says anew, who has connected: what the token says of the user comes
// before what the client does.
func (s *session) present(identity auth.Identity) {
	c := roster.Connection{ID: s.id, User: s.user, Since: s.opened, Info: s.info}
	if len(identity.Info) > 0 {
		c.Info = string(identity.Info)
	}
	s.edge.options.Roster.Connect(c)
}

// presence answers with the members of a channel. If the client is told who joins and
// leaves there, what comes after the reply is later than the reply.
func (s *session) presence(ctx context.Context, id uint64, p frame.Presence) error {
	name, err := s.channelIn(p.Channel)
	if err != nil {
		return err
	}
	if ns := s.edge.options.Namespaces[name.Namespace()]; !ns.Presence {
		return noPresence("channel", ns)
	}
	if err := s.allow(ctx, authorization.Presence, name); err != nil {
		return err
	}
	var spectator *spectator
	if sub := s.subscriptions.of(name); sub != nil && sub.spectator != nil {
		spectator = sub.spectator
		defer spectator.resume(nil) // where there is no reply
	}
	reply := frame.Members{Channel: p.Channel}
	watched, err := s.edge.options.Roster.Look(ctx, name, func(members []roster.Member, total int, _ bool) {
		reply.Members, reply.Total = membersOf(members), total
		if spectator != nil {
			spectator.pause()
		}
	})
	if err == nil && !watched {
		var members []roster.Member
		members, reply.Total, err = s.edge.options.Roster.Members(ctx, name, maxMembers)
		reply.Members = membersOf(members)
	}
	if err != nil {
		return err
	}
	s.settle(id)
	answer := s.codec.build(id, reply)
	if spectator == nil {
		s.send(answer)
	} else {
		spectator.resume(answer)
	}
	return nil
}

// membersOf are the first of the members, as many as a frame may hold.
func membersOf(members []roster.Member) []frame.Member {
	shown := make([]frame.Member, 0, min(len(members), maxMembers))
	infos := 0
	for _, m := range members[:min(len(members), maxMembers)] {
		if infos += len(m.Info); infos > maxInfosBytes {
			break
		}
		shown = append(shown, memberOf(m))
	}
	return shown
}

func memberOf(m roster.Member) frame.Member {
	return frame.Member{UserID: string(m.User), Connections: m.Connections, Since: m.Since, Info: m.Info}
}
