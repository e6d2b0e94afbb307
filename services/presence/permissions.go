package presence

import (
	"context"
	"fmt"

	"google.golang.org/protobuf/types/known/durationpb"

	authzv1 "github.com/carillon-rt/carillon/gen/carillon/authz/v1"
	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/presence/policy"
)

// maxChecks bounds one request, as its contract says.
const maxChecks = 256

// authorization serves carillon.authz.v1.AuthorizationService.
type authorization struct {
	authzv1.UnimplementedAuthorizationServiceServer
	service *Service
}

// CheckPermissions decides each check by the rules. A check of no namespace is
// denied; one of no channel or action fails the request.
func (a authorization) CheckPermissions(ctx context.Context, req *authzv1.CheckPermissionsRequest) (*authzv1.CheckPermissionsResponse, error) {
	user, err := channel.ParseUser(req.GetUserId())
	if err != nil {
		return nil, err
	}
	checks := req.GetChecks()
	if n := len(checks); n < 1 || n > maxChecks {
		return nil, fault.New(fault.FieldInvalid, "checks", "checks has %d entries; it needs 1 to %d", n, maxChecks)
	}
	rules := a.service.rules.Load().policy // one for all checks
	claims := req.GetClaims().AsMap()
	res := &authzv1.CheckPermissionsResponse{Decisions: make([]*authzv1.Decision, len(checks))}
	for i, check := range checks {
		if err := ctx.Err(); err != nil { // the asker is gone; an evaluation may be dear
			return nil, fmt.Errorf("checking permissions: %w", err)
		}
		action, ok := actionOf(check.GetAction())
		if !ok {
			return nil, fault.New(fault.FieldInvalid, fmt.Sprintf("checks[%d].action", i), "action is not subscribe, publish, presence or history")
		}
		name, err := channel.Parse(check.GetChannel())
		if err != nil {
			return nil, fault.From(err).At(fmt.Sprintf("checks[%d].channel", i))
		}
		d := rules.Decide(policy.Question{User: user, Claims: claims, Action: action, Channel: name, MessageType: check.GetMessageType()})
		res.Decisions[i] = &authzv1.Decision{
			Allowed:            d.Allowed,
			Rule:               d.Rule,
			Message:            d.Message,
			CacheFor:           durationpb.New(d.CacheFor),
			MessageTypeMatters: d.MessageTypeMatters,
		}
	}
	return res, nil
}

func actionOf(a authzv1.Action) (policy.Action, bool) {
	switch a {
	case authzv1.Action_ACTION_SUBSCRIBE:
		return policy.Subscribe, true
	case authzv1.Action_ACTION_PUBLISH:
		return policy.Publish, true
	case authzv1.Action_ACTION_PRESENCE:
		return policy.Presence, true
	case authzv1.Action_ACTION_HISTORY:
		return policy.History, true
	default:
		return "", false
	}
}
