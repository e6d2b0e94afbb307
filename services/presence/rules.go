package presence

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"google.golang.org/grpc"

	authzv1 "github.com/carillon-rt/carillon/gen/carillon/authz/v1"
	"github.com/carillon-rt/carillon/services/internal/namespace"
	"github.com/carillon-rt/carillon/services/presence/policy"
	"github.com/carillon-rt/carillon/services/presence/view"
)

// rules are those that decide until others take their place.
type rules struct {
	policy   *policy.Policy
	replaced chan struct{} // closed when they have
}

// compile makes rules of the namespaces; its error has a line for each problem.
func compile(set namespace.Set) (*rules, error) {
	var namespaces []namespace.Namespace
	for _, name := range slices.Sorted(maps.Keys(set)) {
		namespaces = append(namespaces, *set[name])
	}
	compiled, problems := policy.Compile(namespaces)
	if len(problems) > 0 {
		errs := make([]error, len(problems))
		for i, problem := range problems {
			errs[i] = errors.New(problem)
		}
		return nil, errors.Join(errs...)
	}
	return &rules{policy: compiled, replaced: make(chan struct{})}, nil
}

// Replace puts other rules in the place of those that decide, and tells the edges, or
// returns why not, a line for each problem, and changes nothing. A question is decided
// by the one or the other, never by some of both. Of the namespaces only the rules
// count: what else they say is that of New.
func (s *Service) Replace(set namespace.Set) error {
	next, err := compile(set)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if next.policy.Version() == s.rules.Load().policy.Version() {
		return nil
	}
	close(s.rules.Swap(next).replaced)
	return nil
}

// Version names the rules that decide: equal for equal rules.
func (s *Service) Version() string { return s.rules.Load().policy.Version() }

// WatchPolicy tells the version of the rules, at once and whenever it changes; of
// changes that follow each other quickly perhaps only the last.
func (a authorization) WatchPolicy(_ *authzv1.WatchPolicyRequest, stream grpc.ServerStreamingServer[authzv1.WatchPolicyResponse]) error {
	for {
		current := a.service.rules.Load()
		if err := stream.Send(&authzv1.WatchPolicyResponse{Version: current.policy.Version()}); err != nil {
			return fmt.Errorf("telling the version of the rules: %w", err)
		}
		select {
		case <-current.replaced:
		case <-stream.Context().Done():
			return stream.Context().Err()
		case <-a.service.closing:
			return faultOf(view.ErrClosed)
		}
	}
}
