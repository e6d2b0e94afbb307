package presence

import (
	"context"
	"encoding/base64"
	"fmt"
	"math"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	presencev1 "github.com/carillon-rt/carillon/gen/carillon/presence/v1"
	"github.com/carillon-rt/carillon/services/internal/auth"
	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/rpc"
	"github.com/carillon-rt/carillon/services/presence/view"
)

const (
	defaultPageSize = 100
	maxPageSize     = 1000
	// maxCounted bounds the channels of one CountMembers.
	maxCounted = 1000
)

// members serves carillon.presence.v1.PresenceService.
type members struct {
	presencev1.UnimplementedPresenceServiceServer
	service *Service
}

// ListMembers lists one page; its total is of the same moment.
func (m members) ListMembers(ctx context.Context, req *presencev1.ListMembersRequest) (*presencev1.ListMembersResponse, error) {
	name, err := m.service.listed(ctx, req.GetChannel())
	if err != nil {
		return nil, err
	}
	size := int(req.GetPageSize())
	if size > maxPageSize {
		return nil, fault.New(fault.FieldInvalid, "pageSize", "pageSize is %d, more than %d", size, maxPageSize)
	}
	if size == 0 {
		size = defaultPageSize
	}
	after, err := parsePageToken(req.GetPageToken())
	if err != nil {
		return nil, err
	}
	var page []view.Member
	var total int
	var more bool
	if err := m.service.truly(func() { page, total, more = m.service.view.Members(name, after, size) }); err != nil {
		return nil, err
	}
	return membersResponse(page, total, more), nil
}

// CountMembers counts each channel at a moment of its own.
func (m members) CountMembers(ctx context.Context, req *presencev1.CountMembersRequest) (*presencev1.CountMembersResponse, error) {
	channels := req.GetChannels()
	if n := len(channels); n < 1 || n > maxCounted {
		return nil, fault.New(fault.FieldInvalid, "channels", "channels has %d entries; it needs 1 to %d", n, maxCounted)
	}
	names := make([]channel.Name, len(channels))
	for i, text := range channels {
		var err error
		if names[i], err = m.service.listed(ctx, text); err != nil {
			return nil, about(fmt.Sprintf("channels[%d]", i), err)
		}
	}
	res := &presencev1.CountMembersResponse{Counts: make([]*presencev1.ChannelCount, len(names))}
	if err := m.service.truly(func() {
		for i, name := range names {
			count, connections := m.service.view.Count(name)
			res.Counts[i] = &presencev1.ChannelCount{Channel: channels[i], Members: number(count), Connections: number(connections)}
		}
	}); err != nil {
		return nil, err
	}
	return res, nil
}

// GetUser tells what is known of a user on all edges.
func (m members) GetUser(ctx context.Context, req *presencev1.GetUserRequest) (*presencev1.GetUserResponse, error) {
	user, err := channel.ParseUser(req.GetUserId())
	if err != nil {
		return nil, err
	}
	if err := m.service.mayList(ctx, user.Inbox()); err != nil {
		return nil, about("userId", err)
	}
	var known view.User
	if err := m.service.truly(func() { known = m.service.view.User(user) }); err != nil {
		return nil, err
	}
	res := &presencev1.GetUserResponse{
		UserId: string(user), Online: known.Total > 0, Total: number(known.Total),
		Connections: make([]*presencev1.UserConnection, len(known.Connections)),
	}
	for i, c := range known.Connections {
		res.Connections[i] = &presencev1.UserConnection{ConnectionId: c.ID, EdgeId: c.EdgeID, Since: milliseconds(c.Since), Info: c.Info}
	}
	if known.Total == 0 && known.LastSeen > 0 {
		res.LastSeen = milliseconds(known.LastSeen)
	}
	return res, nil
}

// listed checks that a channel's members may be told to whoever calls.
func (s *Service) listed(ctx context.Context, text string) (channel.Name, error) {
	name, err := channel.Parse(text)
	if err != nil {
		return "", err
	}
	if err := s.mayList(ctx, name); err != nil {
		return "", err
	}
	ns, err := s.namespaces.Of(name)
	if err != nil {
		return "", err
	}
	if !ns.Presence {
		return "", fault.New(fault.PresenceDisabled, "channel", "the namespace %q has no presence", ns.Name)
	}
	return name, nil
}

// mayList lets roles list everything and callers what their patterns cover.
func (s *Service) mayList(ctx context.Context, name channel.Name) error {
	identity, _ := rpc.IdentityFrom(ctx)
	switch identity.Kind {
	case auth.ForRoles:
		return nil
	case auth.ForCallers:
		return s.callers.MayList(identity.Subject, name)
	default:
		return fault.New(fault.TokenAudienceInvalid, "", "listing members wants a caller's token")
	}
}

// about blames a field of the request for what is wrong with a value in it.
func about(field string, err error) error {
	f := fault.From(err)
	if f.Field == "" {
		return f
	}
	return f.At(field)
}

// within blames a field of a message for what is wrong with a field of that field.
func within(outer string, err error) error {
	f := fault.From(err)
	return f.At(outer + "." + f.Field)
}

func membersResponse(page []view.Member, total int, more bool) *presencev1.ListMembersResponse {
	res := &presencev1.ListMembersResponse{Members: membersOf(page), Total: number(total)}
	if more {
		res.NextPageToken = pageToken(page[len(page)-1].User)
	}
	return res
}

func membersOf(list []view.Member) []*presencev1.Member {
	members := make([]*presencev1.Member, len(list))
	for i, m := range list {
		members[i] = &presencev1.Member{UserId: string(m.User), Connections: m.Connections, Since: milliseconds(m.Since), Info: m.Info}
	}
	return members
}

func milliseconds(unix int64) *timestamppb.Timestamp { return timestamppb.New(time.UnixMilli(unix)) }

func number(n int) uint32 { return uint32(min(n, math.MaxUint32)) }

// pageToken names the last user of a page.
func pageToken(last channel.User) string { return base64.RawURLEncoding.EncodeToString([]byte(last)) }

func parsePageToken(token string) (channel.User, error) {
	if token == "" {
		return "", nil
	}
	id, _ := base64.RawURLEncoding.DecodeString(token) // what is wrong shows below
	user, err := channel.ParseUser(string(id))
	if err == nil && pageToken(user) == token {
		return user, nil
	}
	return "", fault.New(fault.FieldInvalid, "pageToken", "pageToken is not the nextPageToken of a page before")
}
