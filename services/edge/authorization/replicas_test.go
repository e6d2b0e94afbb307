package authorization

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	authzv1 "github.com/carillon-rt/carillon/gen/carillon/authz/v1"
	"github.com/carillon-rt/carillon/services/internal/rpc"
	"github.com/carillon-rt/carillon/services/internal/telemetry/telemetrytest"
	"github.com/carillon-rt/carillon/services/internal/tracing"
	"github.com/carillon-rt/carillon/services/internal/tracing/tracingtest"
)

// moody is a replica that takes its time, and counts what it is asked.
type moody struct {
	authzv1.UnimplementedAuthorizationServiceServer
	takes atomic.Int64 // nanoseconds
	asked atomic.Int64
	away  atomic.Bool // it says so then, in place of an answer
}

const forGood = time.Hour

func (m *moody) CheckPermissions(ctx context.Context, req *authzv1.CheckPermissionsRequest) (*authzv1.CheckPermissionsResponse, error) {
	m.asked.Add(1)
	thought := time.NewTimer(time.Duration(m.takes.Load()))
	defer thought.Stop()
	select {
	case <-thought.C:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if m.away.Load() {
		return nil, status.Error(codes.Unavailable, "away")
	}
	res := &authzv1.CheckPermissionsResponse{}
	for range req.GetChecks() {
		res.Decisions = append(res.Decisions, &authzv1.Decision{Allowed: true, CacheFor: durationpb.New(0)})
	}
	return res, nil
}

// among returns a Client of replicas that take so long to answer.
func among(t *testing.T, takes ...time.Duration) (*Client, []*moody) {
	t.Helper()
	var all []*moody
	var conns []grpc.ClientConnInterface
	for _, d := range takes {
		m := &moody{}
		m.takes.Store(int64(d))
		all, conns = append(all, m), append(conns, dial(t, m))
	}
	return New(conns...), all
}

// took asks a question that nobody has the answer of yet, and is how long that took.
func took(t *testing.T, c *Client, ok bool) time.Duration {
	t.Helper()
	began := time.Now()
	_, err := c.Check(t.Context(), subject("ann"), subscribe("chat.a"))
	checkUnavailable(t, err, ok)
	return time.Since(began)
}

func calls(all []*moody) (each []int64) {
	for _, m := range all {
		each = append(each, m.asked.Load())
	}
	return each
}

// A replica whose host is gone without a word costs a tenth of a second, and not the answer.
func TestAReplicaThatSaysNothing(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		takes []time.Duration
		ok    bool
		lasts time.Duration
		asked []int64
	}{
		{"none", []time.Duration{0, 0}, true, 0, []int64{1, 0}},
		{"the first", []time.Duration{forGood, 0}, true, hedgeAfter, []int64{1, 1}},
		{"two", []time.Duration{forGood, forGood, 0}, true, 2 * hedgeAfter, []int64{1, 1, 1}},
		{"all", []time.Duration{forGood, forGood}, false, askTimeout, []int64{1, 1}},
		{"all are slow", []time.Duration{3 * hedgeAfter, 3 * hedgeAfter}, true, 3 * hedgeAfter, []int64{1, 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				cl, all := among(t, c.takes...)
				if lasted := took(t, cl, c.ok); lasted != c.lasts {
					t.Errorf("took %v, want %v", lasted, c.lasts)
				}
				if asked := calls(all); !slices.Equal(asked, c.asked) {
					t.Errorf("asked %v times, want %v", asked, c.asked)
				}
			})
		})
	}
}

// Who is asked in place of a replica that cannot be reached has as long as that had.
func TestWhoIsAskedInsteadHasTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const each = hedgeAfter * 3 / 5
		cl, all := among(t, each, each, 0)
		all[0].away.Store(true)
		if lasted := took(t, cl, true); lasted != 2*each {
			t.Errorf("took %v, want %v", lasted, 2*each)
		}
		if asked := calls(all); !slices.Equal(asked, []int64{1, 1, 0}) {
			t.Errorf("asked %v times", asked)
		}
	})
}

// Where nobody answers any more few are asked: who is overloaded is not given all questions
// of the others too.
func TestWhereAllAreSilentFewAreAsked(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		cl, all := among(t, forGood, forGood, forGood, forGood, forGood)
		const questions, free = 20, (maxCredit - maxCredit/2) / hedgeCost
		for range questions {
			took(t, cl, false)
		}
		sum, most := int64(0), int64(free*len(all)+(questions-free)*3)
		for _, asked := range calls(all) {
			sum += asked
		}
		if sum > most {
			t.Errorf("%d questions were asked %d times, want %d at most", questions, sum, most)
		}
	})
}

// Who was silent is left alone, tried by one question now and then, less and less often, and
// asked in turn again once it answers.
func TestASilentReplicaIsAvoided(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		cl, all := among(t, forGood, 0)
		var together sync.WaitGroup
		for range 20 { // half of which meet it
			together.Go(func() { took(t, cl, true) })
		}
		together.Wait()
		if asked := calls(all); asked[0] != 10 {
			t.Fatalf("asked %v times at first", asked)
		}
		for _, avoidance := range []time.Duration{minAvoidance, 2 * minAvoidance, 4 * minAvoidance, 8 * minAvoidance, maxAvoidance, maxAvoidance} {
			before := all[0].asked.Load()
			for began := time.Now(); time.Since(began) < avoidance-time.Millisecond; time.Sleep(avoidance / 10) {
				if lasted := took(t, cl, true); lasted != 0 {
					t.Fatalf("took %v while it is avoided for %v", lasted, avoidance)
				}
			}
			time.Sleep(time.Millisecond)
			probes := []time.Duration{0, 0, 0, 0}
			for i := range probes {
				together.Go(func() { probes[i] = took(t, cl, true) })
			}
			together.Wait()
			slices.Sort(probes)
			if tried := all[0].asked.Load() - before; tried != 1 || probes[3] != hedgeAfter || probes[2] != 0 {
				t.Fatalf("tried %d times after %v, which took %v", tried, avoidance, probes)
			}
		}
		all[0].takes.Store(0)
		time.Sleep(maxAvoidance)
		before := all[0].asked.Load()
		for range 10 {
			took(t, cl, true)
		}
		if asked := all[0].asked.Load() - before; asked < 5 {
			t.Errorf("asked %d of 10 times since it is back", asked)
		}
	})
}

// Nobody is asked more for hedges: not where all are fast, and hardly where all are slow.
func TestHedgesAreNoLoad(t *testing.T) {
	t.Parallel()
	const questions = 500
	for _, c := range []struct {
		takes time.Duration
		most  int64
	}{{0, questions}, {hedgeAfter / 2, questions}, {hedgeAfter * 3 / 2, questions * 111 / 100}} {
		synctest.Test(t, func(t *testing.T) {
			cl, all := among(t, c.takes, c.takes)
			for range questions {
				if lasted := took(t, cl, true); lasted != c.takes {
					t.Fatalf("took %v, want %v", lasted, c.takes)
				}
			}
			asked := calls(all)
			if sum := asked[0] + asked[1]; sum < questions || sum > c.most {
				t.Errorf("%d questions of %v were asked %v times, want %d at most", questions, c.takes, asked, c.most)
			}
			if d := asked[0] - asked[1]; max(d, -d) > questions/10 {
				t.Errorf("not in turn: %v", asked)
			}
		})
	}
}

// A question that was asked twice is one, and that the slower was told to stop is no failure.
func TestHedgesAreMeasured(t *testing.T) {
	t.Parallel()
	tracer, recorded := tracingtest.Record(t, 1)
	meter, measured := telemetrytest.Measure(t)
	var conns []grpc.ClientConnInterface
	for _, d := range []time.Duration{forGood, 0} {
		m := &moody{}
		m.takes.Store(int64(d))
		conns = append(conns, dial(t, m, rpc.Traced(tracer)))
	}
	c := New(conns...)
	if err := c.Observe(tracer, meter); err != nil {
		t.Fatal(err)
	}
	parent := tracing.Parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	if _, err := c.Check(parent.In(t.Context()), subject("ann"), subscribe("chat.a")); err != nil {
		t.Fatal(err)
	}
	got := measured()
	for name, want := range map[string]int64{
		"carillon.authorization.checks{outcome=allowed}": 1, "carillon.authorization.checks{outcome=error}": 0,
		"carillon.authorization.hedges": 1, "carillon.authorization.duration": 1,
	} {
		if got[name] != want {
			t.Errorf("%s is %d, want %d", name, got[name], want)
		}
	}
	statuses := map[any]int{}
	for _, span := range recorded() {
		if span.Status.Description != "" {
			t.Errorf("the span %s says %s", span.Name, span.Status.Description)
		}
		statuses[tracingtest.Attributes(span)["rpc.response.status_code"]]++
	}
	if len(statuses) != 3 || statuses["OK"] != 1 || statuses["CANCELLED"] != 1 {
		t.Errorf("spans by status: %v", statuses)
	}
}
