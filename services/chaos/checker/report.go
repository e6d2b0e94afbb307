package checker

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Kind is a way to break a promise.
type Kind string

const (
	// Lost is a message that was acknowledged and is not in the channel in the end, or
	// that a subscriber did not get although nothing was announced.
	Lost Kind = "lost"
	// Doubled is a message that is in a channel twice, or that a subscriber got twice, or
	// whose publish was twice answered as the first.
	Doubled Kind = "doubled"
	// Reordered is a message that came after, or was stored after, a later one.
	Reordered Kind = "reordered"
	// Phantom is a message that nobody sent, or that was refused, or has other content.
	Phantom Kind = "phantom"
	// SilentGap is a message, not acknowledged but known to be stored, that a subscriber did
	// not get although nothing was announced.
	SilentGap Kind = "silent gap"
)

// Kinds lists them all, in the order of reports.
func Kinds() []Kind { return []Kind{Lost, Doubled, Reordered, Phantom, SilentGap} }

// mostExamples bounds the examples of each kind.
const mostExamples = 20

// Example is one broken promise.
type Example struct {
	Kind Kind `json:"kind"`
	// Who is the subscriber, or the lane that published.
	Who     string `json:"who"`
	Channel string `json:"channel"`
	Epoch   string `json:"epoch"`
	Offset  uint64 `json:"offset"`
	// Publisher and ID name the message.
	Publisher string `json:"publisher"`
	ID        string `json:"id"`
	// At is when, since the records began: the delivery, or where there was none the
	// publish.
	At time.Duration `json:"atNs"`
	// Detail says what is wrong.
	Detail string `json:"detail"`
}

// String is one line.
func (e Example) String() string {
	return fmt.Sprintf("%s: %s, %s at %s/%d, %s %q, %v: %s",
		e.Kind, e.Who, e.Channel, e.Epoch, e.Offset, e.Publisher, e.ID, e.At.Round(time.Millisecond), e.Detail)
}

// Report is what a Checker has found.
type Report struct {
	// Violations counts broken promises by kind; all of them should be 0.
	Violations map[Kind]int `json:"violations"`
	// Examples has up to 20 of each kind.
	Examples []Example `json:"examples"`

	// Attempted counts messages; each was acked, or else is unknown, refused, or neither.
	Attempted int `json:"attempted"`
	Acked     int `json:"acked"`
	Unknown   int `json:"unknown"`
	Refused   int `json:"refused"`
	// UnknownAppeared counts those of Unknown that were stored after all.
	UnknownAppeared int `json:"unknownAppeared"`
	// Duplicates counts the answers that a message had been stored before.
	Duplicates int `json:"duplicates"`
	// LostWithEpoch counts acknowledged messages that a new epoch has announced as gone: a
	// stream was restored from an older copy, or lost its end in a power cut.
	LostWithEpoch int `json:"lostWithEpoch"`
	// Delivered counts deliveries, Resumed and Resets what became of subscriptions made
	// again, Gaps announcements by reason.
	Delivered int            `json:"delivered"`
	Resumed   int            `json:"resumed"`
	Resets    int            `json:"resets"`
	Gaps      map[string]int `json:"gaps"`
	// Subscribers counts them, a channel each; Channels those that were used.
	Subscribers int `json:"subscribers"`
	Channels    int `json:"channels"`
}

// OK tells whether every promise was kept.
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
	fmt.Fprintf(&b, "\npublishes    %d attempted, %d acknowledged (%d answers duplicate), %d refused, %d unknown of which %d appeared\n",
		r.Attempted, r.Acked, r.Duplicates, r.Refused, r.Unknown, r.UnknownAppeared)
	fmt.Fprintf(&b, "deliveries   %d to %d subscribers of %d channels, %d resumed, %d resets\n", r.Delivered, r.Subscribers, r.Channels, r.Resumed, r.Resets)
	fmt.Fprintf(&b, "announced    %d acknowledged messages gone with an epoch", r.LostWithEpoch)
	for _, reason := range slices.Sorted(maps.Keys(r.Gaps)) {
		fmt.Fprintf(&b, ", %d gaps %s", r.Gaps[reason], reason)
	}
	b.WriteByte('\n')
	for _, e := range r.Examples {
		fmt.Fprintf(&b, "\n%v", e)
	}
	if len(r.Examples) > 0 {
		b.WriteByte('\n')
	}
	return b.String()
}

// found counts a broken promise.
func (r *Report) found(e Example) {
	r.Violations[e.Kind]++
	if r.Violations[e.Kind] <= mostExamples {
		r.Examples = append(r.Examples, e)
	}
}
