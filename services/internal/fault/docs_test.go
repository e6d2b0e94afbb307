package fault_test

import (
	"os"
	"regexp"
	"slices"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/code"

	"github.com/carillon-rt/carillon/services/internal/fault"
)

// reasonRow is the beginning of a row about a reason in docs/errors.md.
var reasonRow = regexp.MustCompile("(?m)^\\| `([A-Z_]+)` \\| ([^|]*) \\|")

// Every reason of the contract has one row in docs/errors.md, with its code, and no
// row is about anything else.
func TestEveryReasonIsDocumented(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../../docs/errors.md")
	if err != nil {
		t.Fatal(err)
	}
	known, documented := reasons(), map[fault.Reason]bool{}
	for _, row := range reasonRow.FindAllStringSubmatch(string(page), -1) {
		reason := fault.Reason(row[1])
		if !slices.Contains(known, reason) {
			t.Errorf("the page has a row for %s, which is no reason", reason)
			continue
		}
		if documented[reason] {
			t.Errorf("the page has two rows for %s", reason)
		}
		documented[reason] = true
		if want := code.Code(reason.Code()).String(); row[2] != want {
			t.Errorf("%s: the page says %q, its code is %s", reason, row[2], want)
		}
	}
	for _, reason := range known {
		if !documented[reason] {
			t.Errorf("the page has no row for %s", reason)
		}
	}
}
