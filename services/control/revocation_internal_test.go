package control

import (
	"errors"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	controlv1 "github.com/carillon-rt/carillon/gen/carillon/control/v1"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/rpc"
)

// FuzzRevocation reads what is to be revoked once the contract's rules have let it
// through: one choice of tokens, none of the future, and not for ever.
func FuzzRevocation(f *testing.F) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	for _, seed := range []*controlv1.RevokeTokensRequest{
		{UserId: "ann"},
		{UserId: "a.b", TokenId: "t", ExpiresAt: timestamppb.New(now.Add(time.Hour))},
		{UserId: "ann", IssuedBefore: timestamppb.New(now.Add(-time.Hour)), Message: "left"},
		{UserId: "service:billing", IssuedBefore: &timestamppb.Timestamp{Seconds: 1 << 60, Nanos: -1}},
		{UserId: "ann", TokenId: "t", IssuedBefore: &timestamppb.Timestamp{}},
		{UserId: "ann", ExpiresAt: timestamppb.New(now.AddDate(2, 0, 0))},
	} {
		data, err := proto.Marshal(seed)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	validator := rpc.NewValidator()
	f.Fuzz(func(t *testing.T, data []byte) {
		request := &controlv1.RevokeTokensRequest{}
		if proto.Unmarshal(data, request) != nil || validator.Validate(request) != nil {
			return
		}
		c, err := revocation(request, now)
		if err != nil {
			if refused, ok := errors.AsType[*fault.Error](err); !ok || refused.Code() != codes.InvalidArgument || refused.Field == "" {
				t.Fatalf("%v: %v, want INVALID_ARGUMENT with a field", request, err)
			}
			return
		}
		switch {
		case c.User == "" || (c.TokenID == "") == c.IssuedBefore.IsZero():
			t.Errorf("%v revokes %+v", request, c)
		case c.IssuedBefore.After(now.Add(maxAhead)) || c.IssuedBefore.Nanosecond() != 0:
			t.Errorf("%v revokes tokens until %v", request, c.IssuedBefore)
		case !c.ExpiresAt.After(now) || c.ExpiresAt.After(now.Add(maxRevocation)):
			t.Errorf("%v is kept until %v", request, c.ExpiresAt)
		}
	})
}
