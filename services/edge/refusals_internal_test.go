package edge

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/carillon-rt/carillon/services/internal/fault"
)

// A flood of refusals is not one of log lines, and what was left out is told; what is the
// server's fault always is.
func TestAFloodOfRefusalsIsNotLogged(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		logger := slog.New(slog.NewTextHandler(&log, nil))
		r := newRefusals()
		flood := func(reason fault.Reason) (lines int) {
			log.Reset()
			for range 1000 {
				r.log(t.Context(), logger, "command refused", fault.New(reason, "", "no"))
			}
			return strings.Count(log.String(), "\n")
		}
		if lines := flood(fault.PolicyDenied); lines != refusalBurst {
			t.Errorf("%d lines of 1000 refusals", lines)
		}
		time.Sleep(time.Second)
		if lines := flood(fault.PolicyDenied); lines != refusalRate {
			t.Errorf("%d lines of 1000 refusals, a second later", lines)
		}
		if !strings.Contains(log.String(), "left_out_before=800") {
			t.Errorf("what was left out is not told:\n%s", log.String())
		}
		if lines := flood(fault.StoreUnavailable); lines != 1000 {
			t.Errorf("%d lines of 1000 faults", lines)
		}
		if lines := flood(fault.ChannelInvalid); lines != 0 {
			t.Errorf("%d lines of what nobody may ask about", lines)
		}
	})
}
