package main

import (
	"fmt"
	"testing"

	"google.golang.org/grpc"

	"github.com/carillon-rt/carillon/services/edge/authorization"
	"github.com/carillon-rt/carillon/services/internal/config"
)

// Who decides is who is asked; what a service of the operator's own tells of its rules is
// not compared. What replicas of presence tell, the console of two edges shows (e2e).
func TestDeciders(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		presence, own []string
		want          string
	}{
		{nil, nil, "{process []}"},
		{[]string{"b:1", "a:1"}, nil, "{presence [{a:1 } {b:1 }]}"},
		{[]string{"b:1"}, []string{"c:1"}, "{service [{c:1 }]}"},
	} {
		p := &process{config: &config.Config{}, authorizer: authorization.New(nil), authorities: map[string]grpc.ClientConnInterface{}}
		p.config.Presence.Addresses, p.config.Authorization.Addresses = tt.presence, tt.own
		asked := tt.presence
		if tt.own != nil {
			asked = tt.own
		}
		for _, address := range asked {
			p.authorities[address] = nil
		}
		p.showRules(nil)
		if got := fmt.Sprint(p.deciders()); got != tt.want {
			t.Errorf("presence at %q, a service at %q: %s, want %s", tt.presence, tt.own, got, tt.want)
		}
	}
}
