package fault_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	clientv1 "github.com/carillon-rt/carillon/gen/carillon/client/v1"
	"github.com/carillon-rt/carillon/services/internal/fault"
)

// reasons lists every reason of the contract.
func reasons() []fault.Reason {
	var all []fault.Reason
	for number, name := range clientv1.ErrorReason_name {
		if number != int32(clientv1.ErrorReason_ERROR_REASON_UNSPECIFIED) {
			all = append(all, fault.Reason(strings.TrimPrefix(name, "ERROR_REASON_")))
		}
	}
	return all
}

func TestEveryReasonOfTheContractHasACode(t *testing.T) {
	t.Parallel()
	for _, reason := range reasons() {
		if reason.Code() == codes.Unknown {
			t.Errorf("%s has no code", reason)
		}
	}
}

func TestErrorsSurviveGRPC(t *testing.T) {
	t.Parallel()
	for _, reason := range reasons() {
		sent := &fault.Error{Reason: reason, Field: "channel", Message: "no", RetryAfter: 1500 * time.Millisecond}
		// What a client gets is a status, not our type.
		got := fault.FromGRPC(status.Convert(sent).Err(), fault.Internal)
		if got.Reason != sent.Reason || got.Field != sent.Field || got.Message != sent.Message || got.RetryAfter != sent.RetryAfter {
			t.Errorf("%s arrived as %+v", reason, got)
		}
	}
}

func TestFromGRPCOfForeignErrors(t *testing.T) {
	t.Parallel()
	foreign := status.Error(codes.Unavailable, "connection refused")
	for _, err := range []error{foreign, io.EOF, context.DeadlineExceeded} {
		got := fault.FromGRPC(err, fault.PresenceUnavailable)
		if got.Reason != fault.PresenceUnavailable || !errors.Is(got, err) {
			t.Errorf("%v became %v", err, got)
		}
		if strings.Contains(got.Message, "refused") {
			t.Errorf("driver text reached the message: %q", got.Message)
		}
	}
	if fault.FromGRPC(nil, fault.Internal) != nil {
		t.Error("nil became an error")
	}
}

func TestFromHidesWhatIsNotAFault(t *testing.T) {
	t.Parallel()
	secret := errors.New("password=hunter2")
	got := fault.From(fmt.Errorf("opening: %w", secret))
	if got.Reason != fault.Internal || strings.Contains(got.Message, "hunter2") || !errors.Is(got, secret) {
		t.Errorf("got %+v", got)
	}
	wrapped := fmt.Errorf("reading: %w", fault.New(fault.FieldInvalid, "ttl", "too long"))
	if got := fault.From(wrapped); got.Reason != fault.FieldInvalid || got.Field != "ttl" {
		t.Errorf("got %+v", got)
	}
}
