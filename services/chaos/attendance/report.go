package attendance

import (
	"fmt"
	"strings"
	"time"
)

// Kind is a way not to tell the truth.
type Kind string

const (
	// Ghost is a user who is shown without being there, longer than it may be.
	Ghost Kind = "ghost"
	// Missing is a user who is there without being shown, longer than it may be.
	Missing Kind = "missing"
	// Blink is a user who is said to have left, and was there all the time.
	Blink Kind = "blink"
	// Doubled is a user who is listed twice.
	Doubled Kind = "listed twice"
	// Miscounted is a number of members that cannot be.
	Miscounted Kind = "miscounted"
	// Diverged is a list or a number that is not what it has to be once all is quiet.
	Diverged Kind = "diverged"
)

// Kinds lists them all, in the order of reports.
func Kinds() []Kind { return []Kind{Ghost, Missing, Blink, Doubled, Miscounted, Diverged} }

// mostExamples bounds the examples of each kind.
const mostExamples = 20

// Example is one untruth.
type Example struct {
	Kind Kind `json:"kind"`
	// Who has told it, or was told.
	Who     string `json:"who"`
	Channel string `json:"channel"`
	// User is whom it is about; empty for a number.
	User string `json:"user,omitempty"`
	// At is when, since the records began.
	At time.Duration `json:"atNs"`
	// Detail says what is wrong.
	Detail string `json:"detail"`
}

// String is one line.
func (e Example) String() string {
	about := e.Channel
	if e.User != "" {
		about = e.User + " in " + e.Channel
	}
	return fmt.Sprintf("%s: %s, %s, %v: %s", e.Kind, about, e.Who, e.At.Round(time.Millisecond), e.Detail)
}

// Stats count what was taken down.
type Stats struct {
	// Connections counts them, Joins subscriptions that were confirmed.
	Connections int `json:"connections"`
	Joins       int `json:"joins"`
	Faults      int `json:"faults"`
	// Lists and Counts are answers of replicas, Snapshots and Changes what watchers were
	// told, ToldJoined and ToldLeft the users in Changes.
	Lists      int `json:"lists"`
	Counts     int `json:"counts"`
	Snapshots  int `json:"snapshots"`
	Changes    int `json:"changes"`
	ToldJoined int `json:"toldJoined"`
	ToldLeft   int `json:"toldLeft"`
}

// Report is what a Checker has found.
type Report struct {
	// Violations counts untruths by kind; all of them should be 0.
	Violations map[Kind]int `json:"violations"`
	// Examples has up to 20 of each kind.
	Examples []Example `json:"examples"`

	Stats
	Users    int `json:"users"`
	Channels int `json:"channels"`
	Watchers int `json:"watchers"`
	// Certain counts for how many users, over all Lists, it was known whether they had to
	// be in it, Uncertain for how many it was not; Exact the lists that were compared with
	// who was there once all was quiet.
	Certain   int `json:"certain"`
	Uncertain int `json:"uncertain"`
	Exact     int `json:"exact"`
}

// OK tells whether nothing was wrong.
func (r *Report) OK() bool {
	for _, n := range r.Violations {
		if n > 0 {
			return false
		}
	}
	return true
}

// String is the report for a person.
func (r *Report) String() string {
	var b strings.Builder
	for _, k := range Kinds() {
		fmt.Fprintf(&b, "%-12s %d\n", k, r.Violations[k])
	}
	certain := 100.0
	if r.Certain+r.Uncertain > 0 {
		certain *= float64(r.Certain) / float64(r.Certain+r.Uncertain)
	}
	fmt.Fprintf(&b, "\nmembers      %d users in %d channels, %d joins over %d connections\n", r.Users, r.Channels, r.Joins, r.Connections)
	fmt.Fprintf(&b, "asked        %d lists, %d counts; %.0f %% of who was to be in a list was certain\n", r.Lists, r.Counts, certain)
	fmt.Fprintf(&b, "watched      %d watchers, %d snapshots, %d changes with %d joined and %d left; %d lists compared once all was quiet\n",
		r.Watchers, r.Snapshots, r.Changes, r.ToldJoined, r.ToldLeft, r.Exact)
	for _, e := range r.Examples {
		fmt.Fprintf(&b, "\n%v", e)
	}
	if len(r.Examples) > 0 {
		b.WriteByte('\n')
	}
	return b.String()
}

// found counts an untruth.
func (r *Report) found(e Example) {
	r.Violations[e.Kind]++
	if r.Violations[e.Kind] <= mostExamples {
		r.Examples = append(r.Examples, e)
	}
}
