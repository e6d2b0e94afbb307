package edge

import (
	"os"
	"strconv"
	"strings"
	"testing"

	clientv1 "github.com/carillon-rt/carillon/gen/carillon/client/v1"
	"github.com/carillon-rt/carillon/services/edge/frame"
	"github.com/carillon-rt/carillon/services/internal/fault"
)

// Every reason that can end a connection ends it with a code of the protocol page,
// under the name that the page gives it.
func TestClosingsAreThoseOfTheProtocol(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	for number, name := range clientv1.ErrorReason_name {
		if number == 0 {
			continue
		}
		code, reason := closingOf(&fault.Error{Reason: fault.Reason(strings.TrimPrefix(name, "ERROR_REASON_"))})
		if row := "| " + strconv.Itoa(int(code)) + " | `" + reason + "`"; !strings.Contains(string(page), row) {
			t.Errorf("%s closes with %d %s, which docs/protocol.md does not have", name, code, reason)
		}
	}
}

func TestCodecCount(t *testing.T) {
	t.Parallel()
	if len(frame.Codecs()) != codecCount {
		t.Errorf("there are %d codecs; codecCount is %d", len(frame.Codecs()), codecCount)
	}
}
