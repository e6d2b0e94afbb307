package chaos

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/carillon-rt/carillon/services/chaos/attendance"
	"github.com/carillon-rt/carillon/services/chaos/checker"
)

// Report is the outcome of a run.
type Report struct {
	Seed   uint64        `json:"seed"`
	Lasted time.Duration `json:"lastedNs"`
	// Ran counts the faults by nemesis; Failed those that could not be carried out, as
	// when nobody led a stream whose leader was to be killed.
	Ran    map[string]int `json:"ran"`
	Failed map[string]int `json:"failed"`
	// NotRun says which faults there were none of, and why.
	NotRun []string `json:"notRun"`
	// Problems are what must not be, beside broken promises: a process that crashed or did
	// not stop, a system that did not recover, a client that was not served in the end.
	Problems []string `json:"problems"`
	// Verdict is the checker's, Presence that of who was said to be where; nil if there was
	// none. Unanswered counts questions to replicas of presence that had no answer, as
	// while they do not know.
	Verdict    *checker.Report    `json:"verdict"`
	Presence   *attendance.Report `json:"presence"`
	Unanswered int                `json:"unanswered"`
	// HeapBytes is what clients and checker had in memory in the end.
	HeapBytes uint64 `json:"heapBytes"`
}

// OK tells whether everything was as it should be.
func (r *Report) OK() bool {
	return len(r.Problems) == 0 && r.Verdict != nil && r.Verdict.OK() && r.Presence != nil && r.Presence.OK()
}

// String is the report for a person.
func (r *Report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "seed %d, %v\n\nfaults      ", r.Seed, r.Lasted.Round(time.Second))
	for i, name := range slices.Sorted(maps.Keys(r.Ran)) {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%d %s", r.Ran[name], name)
	}
	b.WriteByte('\n')
	for _, name := range slices.Sorted(maps.Keys(r.Failed)) {
		fmt.Fprintf(&b, "not done    %d %s\n", r.Failed[name], name)
	}
	for _, line := range r.NotRun {
		fmt.Fprintf(&b, "not run     %s\n", line)
	}
	b.WriteByte('\n')
	if r.Verdict != nil {
		b.WriteString(r.Verdict.String())
	}
	if r.Presence != nil {
		fmt.Fprintf(&b, "\n%vunanswered   %d questions to replicas of presence\n", r.Presence, r.Unanswered)
	}
	fmt.Fprintf(&b, "\nproblems    %d\n", len(r.Problems))
	for _, line := range r.Problems {
		fmt.Fprintf(&b, "  %s\n", line)
	}
	outcome := "OK"
	if !r.OK() {
		outcome = "NOT OK"
	}
	fmt.Fprintf(&b, "\n%s\n", outcome)
	return b.String()
}
