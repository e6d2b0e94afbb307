package e2e_test

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/metadata"

	publishv1 "github.com/carillon-rt/carillon/gen/carillon/publish/v1"
	"github.com/carillon-rt/carillon/services/internal/rpc"
)

// BenchmarkPublishToReceive publishes over gRPC at a fixed rate to a user who listens,
// through dev as a process of its own, and reports how long a message takes from the
// call, and from the moment that the call was due (due-…): there a generator that is
// late, as Go's timers are by up to a millisecond, counts as slow too.
//
//	go test -run '^$' -bench PublishToReceive -benchtime 30000x ./services/e2e
func BenchmarkPublishToReceive(b *testing.B) {
	const every = time.Millisecond // 1,000 a second
	_, s := startDev(b, b.TempDir(), fast...)
	listener := s.connect(b, s.edges[0], "alice", "chat.bench")
	conn, err := rpc.Dial(s.publishers, nil)
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	api := publishv1.NewPublishServiceClient(conn)
	ctx := metadata.AppendToOutgoingContext(b.Context(), "authorization", "Bearer "+s.token(b, "service", s.caller))
	called := make([]atomic.Pointer[time.Time], b.N)
	publish := func(i int) {
		if i >= 0 {
			called[i].Store(new(time.Now()))
		}
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		request := &publishv1.PublishRequest{
			Target:  &publishv1.PublishRequest_Channel{Channel: "chat.bench"},
			Payload: &publishv1.PublishRequest_Json{Json: strconv.Itoa(i)},
		}
		if _, err := api.Publish(ctx, request); err != nil {
			b.Error(err)
		}
	}
	publish(-1) // connects
	listener.message(b, "chat.bench")

	b.ResetTimer()
	began := time.Now()
	due := func(i int) time.Time { return began.Add(time.Duration(i) * every) }
	var publishing sync.WaitGroup
	publishing.Go(func() {
		ticker := time.NewTicker(every)
		defer ticker.Stop()
		for i := range b.N {
			for time.Until(due(i)) > 0 {
				<-ticker.C
			}
			publishing.Go(func() { publish(i) })
		}
	})
	fromCall, fromDue := make([]time.Duration, 0, b.N), make([]time.Duration, 0, b.N)
	for range b.N {
		m := listener.message(b, "chat.bench")
		i, err := strconv.Atoi(m.GetJson())
		if err != nil {
			b.Fatal(err)
		}
		now := time.Now()
		fromCall = append(fromCall, now.Sub(*called[i].Load()))
		fromDue = append(fromDue, now.Sub(due(i)))
	}
	publishing.Wait()
	b.StopTimer()
	report := func(prefix string, took []time.Duration) {
		slices.Sort(took)
		for _, percentile := range []float64{50, 99, 99.9} {
			at := took[int(float64(len(took)-1)*percentile/100)]
			b.ReportMetric(float64(at.Microseconds()), fmt.Sprintf("%sp%v-µs", prefix, percentile))
		}
	}
	report("", fromCall)
	report("due-", fromDue)
}
