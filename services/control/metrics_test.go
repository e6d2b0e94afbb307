package control_test

import (
	"errors"
	"maps"
	"testing"

	"go.opentelemetry.io/otel/sdk/metric/metricdata"

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
	var got metricdata.ResourceMetrics
	if err := a.reader.Collect(t.Context(), &got); err != nil {
		t.Fatal(err)
	}
	counts := map[string]int64{}
	for _, m := range got.ScopeMetrics[0].Metrics {
		sum, _ := m.Data.(metricdata.Sum[int64])
		for _, p := range sum.DataPoints {
			command, _ := p.Attributes.Value("command")
			outcome, _ := p.Attributes.Value("outcome")
			counts[m.Name+" "+command.AsString()+" "+outcome.AsString()] = p.Value
		}
	}
	of := "carillon.control.commands " + string(commands.DisconnectUser) + " "
	if want := map[string]int64{of + "done": 1, of + "unreachable": 1, of + "internal": 1}; !maps.Equal(counts, want) {
		t.Errorf("%v, want %v", counts, want)
	}
}
