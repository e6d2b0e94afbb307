package authorization

import (
	"context"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	authzv1 "github.com/carillon-rt/carillon/gen/carillon/authz/v1"
)

const (
	// hedgeAfter is how long a replica is waited for before another is asked beside it. One
	// that decides by rules takes some milliseconds, while gRPC takes up to 15 s to notice
	// that a host is gone without a word.
	hedgeAfter = 100 * time.Millisecond
	// patience is the same where hedges have not paid: all replicas are slow, and would
	// become slower by being asked twice.
	patience = askTimeout / 2
	// A replica that said nothing is asked after the others, for the lesser of these and
	// twice as long each time that it still says nothing when it is tried again.
	minAvoidance = time.Second
	maxAvoidance = 10 * time.Second
)

// Hedges that did not pay are limited to a tenth of the questions (as the throttling of
// gRFC A6): each costs hedgeCost, each question that needs none brings one back, and below
// half of maxCredit there are none.
const (
	maxCredit = 100
	hedgeCost = 10
)

// replicas are those who answer, asked in turn. Their methods may be called concurrently.
type replicas struct {
	all []*replica

	mu     sync.Mutex // of what follows, and of each replica's
	turn   int
	credit int
}

// replica is one of them.
type replica struct {
	service authzv1.AuthorizationServiceClient
	// avoidance is for how long it is avoided, and avoided until when; 0: it is not.
	avoidance time.Duration
	avoided   time.Time
	tried     bool // a question has been sent to it since its time was over
}

func newReplicas(conns []grpc.ClientConnInterface) *replicas {
	r := &replicas{credit: maxCredit}
	for _, conn := range conns {
		r.all = append(r.all, &replica{service: authzv1.NewAuthorizationServiceClient(conn)})
	}
	return r
}

// attempt is a replica that is asked, and its answer when it has come.
type attempt struct {
	replica *replica
	answer  *authzv1.CheckPermissionsResponse
	err     error
}

// ask asks the replica whose turn it is, and another when that cannot be reached or is
// silent for too long; asking changes nothing. The first answer counts, and who else was
// asked is told to stop. hedged tells whether several were asked because one was silent.
func (r *replicas) ask(ctx context.Context, req *authzv1.CheckPermissionsRequest) (answer *authzv1.CheckPermissionsResponse, hedged bool, err error) {
	if len(r.all) == 1 { // it may stand for several behind its name
		answer, err = r.all[0].service.CheckPermissions(ctx, req)
		if status.Code(err) == codes.Unavailable {
			answer, err = r.all[0].service.CheckPermissions(ctx, req)
		}
		return answer, false, err
	}
	return r.race(ctx, req)
}

// race is ask where there are several.
func (r *replicas) race(ctx context.Context, req *authzv1.CheckPermissionsRequest) (answer *authzv1.CheckPermissionsResponse, hedged bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	var asking sync.WaitGroup
	defer asking.Wait()
	defer cancel()
	left := r.order(time.Now())
	answers := make(chan *attempt, len(left))
	var silent []*attempt // in the order in which they were asked
	begin := func() {
		a := &attempt{replica: left[0]}
		left, silent = left[1:], append(silent, a)
		asking.Go(func() {
			a.answer, a.err = a.replica.service.CheckPermissions(ctx, req)
			answers <- a
		})
	}
	begin()
	wait := r.patience()
	silence := time.NewTimer(wait)
	defer silence.Stop()
	for {
		select {
		case <-silence.C:
			if len(left) > 0 {
				hedged = true
				begin()
				silence.Reset(wait)
			}
		case a := <-answers:
			if status.Code(a.err) != codes.Unavailable { // an answer, or what another would say too
				r.note(silent, a, hedged)
				return a.answer, hedged, a.err
			}
			r.avoid(a.replica)
			silent = slices.DeleteFunc(silent, func(other *attempt) bool { return other == a })
			switch {
			case len(left) > 0:
				begin()
				silence.Reset(wait) // who is asked in its place has as long
			case len(silent) == 0:
				return nil, hedged, a.err
			}
		}
	}
}

// order is in which order replicas are asked: in turn, those that are avoided last. One
// whose time is over is tried by one question at a time.
func (r *replicas) order(now time.Time) []*replica {
	r.mu.Lock()
	defer r.mu.Unlock()
	order := make([]*replica, 0, len(r.all))
	var avoided []*replica
	for i := range r.all {
		one := r.all[(r.turn+i)%len(r.all)]
		if one.avoidance > 0 && now.Before(one.avoided) {
			avoided = append(avoided, one)
		} else {
			order = append(order, one)
		}
	}
	r.turn = (r.turn + 1) % len(r.all)
	if len(order) > 0 && order[0].avoidance > 0 {
		order[0].tried, order[0].avoided = true, now.Add(order[0].avoidance)
	}
	return append(order, avoided...)
}

func (r *replicas) patience() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.credit > maxCredit/2 {
		return hedgeAfter
	}
	return patience
}

// note learns from an answer: who was asked before, and has said nothing yet, is avoided.
func (r *replicas) note(asked []*attempt, answered *attempt, hedged bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	spend := func() { r.credit = max(r.credit-hedgeCost, 0) }
	if answered.err != nil { // else, as where the caller has given up, there is nothing to learn
		if hedged && status.Code(answered.err) == codes.DeadlineExceeded { // all are silent
			spend()
		}
		return
	}
	answered.replica.avoidance = 0
	before := slices.Index(asked, answered)
	now := time.Now()
	for _, a := range asked[:before] {
		a.replica.avoid(now)
	}
	switch {
	case !hedged:
		r.credit = min(r.credit+1, maxCredit)
	case before == 0: // it would have come without
		spend()
	}
}

func (r *replicas) avoid(one *replica) {
	r.mu.Lock()
	defer r.mu.Unlock()
	one.avoid(time.Now())
}

// avoid has a replica be asked after the others for a while, longer each time that it was
// tried again and still silent. Its caller holds the lock.
func (r *replica) avoid(now time.Time) {
	switch {
	case r.avoidance == 0:
		r.avoidance = minAvoidance
	case r.tried:
		r.avoidance = min(2*r.avoidance, maxAvoidance)
	default: // as others that were asked at the same time have found
		return
	}
	r.tried, r.avoided = false, now.Add(r.avoidance)
}
