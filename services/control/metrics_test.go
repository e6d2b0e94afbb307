package control_test

import (
	"errors"
	"maps"
	"testing"

	controlv1 "github.com/carillon-rt/carillon/gen/carillon/control/v1"
	commands "github.com/carillon-rt/carillon/services/internal/control"
)

// Commands are counted by what became of them.
func TestCommandsAreCounted(t *testing.T) {
	t.Parallel()
	a := start(t, everything)
	ctx := as(t.Context(), "billing")
	issue := func() {
		_, _ = a.client.DisconnectUser(ctx, &controlv1.DisconnectUserRequest{UserId: "ann"})
	}
	issue()
	a.issuer.outcome = commands.Outcome{Unreachable: []commands.Unreachable{{EdgeID: "C"}}}
	issue()
	a.issuer.err = errors.New("broken")
	issue()
	of := "carillon.control.commands{command=" + string(commands.DisconnectUser) + ",outcome="
	if got, want := a.measured(), map[string]int64{of + "done}": 1, of + "unreachable}": 1, of + "internal}": 1}; !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}
