package rpc_test

import (
	"errors"
	"fmt"
	"log/slog"
	"testing"

	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/rpc"
)

// The first failure of an outage is loud; after a server has said that it stops, only that
// it has not come back for long.
func TestOutage(t *testing.T) {
	t.Parallel()
	broken, stops := errors.New("broken"), fault.Unavailable(fault.Draining, nil, "stops").GRPCStatus().Err()
	levels := func(o *rpc.Outage, err error, times int) string {
		told := ""
		for range times {
			told += fmt.Sprint(o.Failed(err), " ")
		}
		return told
	}
	var o rpc.Outage
	for range 2 {
		if got := levels(&o, broken, 3); got != "WARN DEBUG DEBUG " || o.Failures() != 3 {
			t.Errorf("an outage: %safter %d", got, o.Failures())
		}
		o.Over()
		if got := levels(&o, stops, 1) + levels(&o, broken, 3); got != "INFO DEBUG DEBUG DEBUG " {
			t.Errorf("a restart: %s", got)
		}
		o.Over()
	}
	levels(&o, stops, 1)
	loud := 0
	for range 100 {
		if o.Failed(broken) == slog.LevelWarn {
			loud++
		}
	}
	if loud != 1 {
		t.Errorf("warned %d times of a server that does not come back", loud)
	}
}
