package presence

import (
	"context"
	"encoding/base64"
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

// Sizes of a page.
const (
	defaultPageSize = 100
	maxPageSize     = 1000
)

// members serves carillon.presence.v1.PresenceService.
type members struct {
	presencev1.UnimplementedPresenceServiceServer
	service *Service
}

// ListMembers lists one page; its total is of the same moment.
func (m members) ListMembers(ctx context.Context, req *presencev1.ListMembersRequest) (*presencev1.ListMembersResponse, error) {
	name, err := channel.Parse(req.GetChannel())
	if err != nil {
		return nil, err
	}
	if err := m.service.mayList(ctx, name); err != nil {
		return nil, err
	}
	ns, err := m.service.namespaces.Of(name)
	if err != nil {
		return nil, err
	}
	if !ns.Presence {
		return nil, fault.New(fault.PresenceDisabled, "channel", "the namespace %q has no presence", ns.Name)
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
	page, total, more := m.service.view.Members(name, after, size)
	return membersResponse(page, total, more), nil
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

func membersResponse(page []view.Member, total int, more bool) *presencev1.ListMembersResponse {
	res := &presencev1.ListMembersResponse{
		Members: make([]*presencev1.Member, len(page)),
		Total:   uint32(min(total, math.MaxUint32)),
	}
	for i, member := range page {
		res.Members[i] = &presencev1.Member{
			UserId:      string(member.User),
			Connections: member.Connections,
			Since:       timestamppb.New(time.UnixMilli(member.Since)),
		}
	}
	if more {
		res.NextPageToken = pageToken(page[len(page)-1].User)
	}
	return res
}

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
