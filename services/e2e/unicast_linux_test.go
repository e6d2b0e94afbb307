package e2e_test

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/metadata"

	publishv1 "github.com/carillon-rt/carillon/gen/carillon/publish/v1"
	"github.com/carillon-rt/carillon/services/internal/rpc"
)

// BenchmarkUnicast publishes over gRPC, 2,000 times a second, to one of 100 users who
// are connected, through dev as a process of its own, and reports its CPU time a message,
// and how long a message takes from the call until the user has it. Each call is made
// when it is due, whatever became of those before.
//
//	go test -run '^$' -bench Unicast -benchtime 20000x ./services/e2e
func BenchmarkUnicast(b *testing.B) {
	const every, users = 500 * time.Microsecond, 100
	dev, s := startDev(b, b.TempDir(), fast...)
	conn, err := rpc.Dial(s.publishers, nil)
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	api := publishv1.NewPublishServiceClient(conn)
	ctx := metadata.AppendToOutgoingContext(b.Context(), "authorization", "Bearer "+s.token(b, "service", s.caller))
	publish := func(user int, text string) {
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		if _, err := api.Publish(ctx, &publishv1.PublishRequest{
			Target:  &publishv1.PublishRequest_UserId{UserId: fmt.Sprintf("user%d", user)},
			Payload: &publishv1.PublishRequest_Json{Json: text},
		}); err != nil {
			b.Error(err)
		}
	}
	called, took := make([]time.Time, b.N), make([]time.Duration, b.N)
	listeners := make([]client, users)
	for user := range listeners {
		name := fmt.Sprintf("user%d", user)
		listeners[user] = s.connect(b, s.edges[0], name, "news.unicast")
		publish(user, "-1") // the inbox is subscribed
		listeners[user].message(b, "user."+name)
	}
	before := cpuOf(b, dev)
	b.ResetTimer()
	var receiving, publishing sync.WaitGroup
	for user, listener := range listeners {
		receiving.Go(func() {
			for range (b.N - user + users - 1) / users {
				i, err := strconv.Atoi(listener.message(b, fmt.Sprintf("user.user%d", user)).GetJson())
				if err != nil {
					b.Error(err)
					return
				}
				took[i] = time.Since(called[i])
			}
		})
	}
	// Timers of Go are late by up to a millisecond, which is a burst of two.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	began := time.Now()
	for i := range b.N {
		for wait := time.Until(began.Add(time.Duration(i) * every)); wait > 0; wait = time.Until(began.Add(time.Duration(i) * every)) {
			pause := syscall.NsecToTimespec(wait.Nanoseconds())
			_ = syscall.Nanosleep(&pause, nil) // the loop sees to it when it was interrupted
		}
		called[i] = time.Now()
		publishing.Go(func() { publish(i%users, strconv.Itoa(i)) })
	}
	publishing.Wait()
	receiving.Wait()
	b.StopTimer()
	b.ReportMetric(float64((cpuOf(b, dev)-before).Microseconds())/float64(b.N), "server-µs/msg")
	slices.Sort(took)
	for _, percentile := range []float64{50, 99} {
		b.ReportMetric(float64(took[int(float64(len(took)-1)*percentile/100)].Microseconds()), fmt.Sprintf("p%v-µs", percentile))
	}
}
