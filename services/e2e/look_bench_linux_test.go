package e2e_test

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/carillon-rt/carillon/services/edge/roster"
	"github.com/carillon-rt/carillon/services/internal/auth"
	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/namespace"
	"github.com/carillon-rt/carillon/services/internal/rpc"
	"github.com/carillon-rt/carillon/services/presence"
)

// BenchmarkLook is what a presence command costs an edge and a replica together where the
// channel is watched.
//
//	go test -run '^$' -bench Look ./services/e2e
func BenchmarkLook(b *testing.B) {
	for _, members := range []int{10, 1000} {
		b.Run(fmt.Sprint(members, " members"), func(b *testing.B) {
			const name = "room.a"
			here := startRoster(b)
			for i := range members {
				user := channel.User(crowdUser(i))
				here.Connect(roster.Connection{ID: fmt.Sprint(i), User: user, Since: time.Now()})
				here.Join(name, user)
			}
			defer here.Watch(name, func(roster.Update) {})()
			looks, before := 0, time.Duration(0)
			b.ReportAllocs()
			for b.Loop() {
				if looks++; looks == 2 { // the first waits for the watch to begin
					before = ownCPU(b)
				}
				seen := 0
				if _, err := here.Look(b.Context(), name, func(list []roster.Member, _ int, _ bool) { seen = len(list) }); err != nil || seen != members {
					b.Fatal(seen, err)
				}
			}
			b.ReportMetric(float64((ownCPU(b)-before).Microseconds())/float64(max(looks-1, 1)), "cpu-us/op")
		})
	}
}

// startRoster starts the presence of a process that has all roles.
func startRoster(b *testing.B) *roster.Roster {
	b.Helper()
	key, err := auth.NewRoleKey([]byte(clientSecret))
	if err != nil {
		b.Fatal(err)
	}
	logger := slog.New(slog.DiscardHandler)
	service, err := presence.New(presence.Options{
		Namespaces: namespace.NewSet([]namespace.Namespace{{Name: "room", Ephemeral: true, Presence: true}}), Alone: true, Logger: logger,
	})
	if err != nil {
		b.Fatal(err)
	}
	server := rpc.NewServer(rpc.Options{Logger: logger, Authenticate: map[string]rpc.Authenticator{
		presence.AuthorizationService: rpc.Bearer(key), presence.ReportService: rpc.Bearer(key), presence.MembersService: rpc.Bearer(key),
	}})
	service.Register(server)
	memory := rpc.NewMemory()
	here, err := roster.New(roster.Options{
		EdgeID: "edge", Addresses: []string{"in this process"}, Logger: logger,
		Dial: func(string) (*grpc.ClientConn, error) { return memory.Dial(key.Credentials()) },
	})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(b.Context()))
	var running sync.WaitGroup
	running.Go(func() { service.Run(ctx) })
	running.Go(func() {
		if err := server.Serve(ctx, memory); err != nil {
			b.Error(err)
		}
	})
	running.Go(func() { here.Run(ctx) })
	b.Cleanup(func() {
		cancel()
		service.Close()
		running.Wait()
	})
	return here
}
