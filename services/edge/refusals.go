package edge

import (
	"context"
	"log/slog"
	"sync/atomic"

	"golang.org/x/time/rate"
	"google.golang.org/grpc/codes"

	"github.com/carillon-rt/carillon/services/internal/fault"
)

// Of refusals that clients bring about so many are logged at once, and then a second: a
// flood of them must not become one of log lines. What is left out is counted.
const (
	refusalBurst = 200
	refusalRate  = 50
)

// refusals logs why somebody was refused.
type refusals struct {
	limiter *rate.Limiter
	left    atomic.Int64 // out, since the last that was logged
}

func newRefusals() *refusals { return &refusals{limiter: rate.NewLimiter(refusalRate, refusalBurst)} }

// log writes a line about a refusal, as loud as it deserves, which belongs to the trace
// in which ctx stands.
func (r *refusals) log(ctx context.Context, logger *slog.Logger, text string, refusal *fault.Error, attributes ...any) {
	level := levelOf(refusal)
	if !logger.Enabled(ctx, level) {
		return
	}
	if level == slog.LevelInfo && !r.limiter.Allow() {
		r.left.Add(1)
		return
	}
	attributes = append(attributes, "reason", string(refusal.Reason), "error", refusal)
	if refusal.Rule != "" {
		attributes = append(attributes, "rule", refusal.Rule)
	}
	if left := r.left.Swap(0); left > 0 {
		attributes = append(attributes, "left_out_before", left)
	}
	logger.Log(ctx, level, text, attributes...)
}

// logRefusal logs and counts why a command was refused.
func (s *session) logRefusal(ctx context.Context, refusal *fault.Error) {
	s.edge.metrics.limitedBy(refusal)
	s.edge.refusals.log(ctx, s.logger(), "command refused", refusal, "user_id", string(s.user))
}

// levelOf is warn for what is the server's fault, info for what somebody may ask about
// or should know of, debug for the rest: what a client got wrong by itself and was told.
func levelOf(refusal *fault.Error) slog.Level {
	switch refusal.Reason {
	case fault.Internal, fault.StoreUnavailable, fault.AuthorizationUnavailable, fault.PresenceUnavailable:
		return slog.LevelWarn
	case fault.Timeout, fault.Draining, fault.EndedByService: // the last is logged with who did it
		return slog.LevelDebug
	case fault.FrameMalformed, fault.FrameTooLarge:
		return slog.LevelInfo
	}
	switch refusal.Code() {
	case codes.Unauthenticated, codes.PermissionDenied, codes.ResourceExhausted:
		return slog.LevelInfo
	default:
		return slog.LevelDebug
	}
}

// shortened is enough of what a client wrote to tell what it is.
func shortened(text string) string { return text[:min(len(text), 200)] }
