package presence

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	presencev1 "github.com/carillon-rt/carillon/gen/carillon/presence/v1"
	"github.com/carillon-rt/carillon/services/internal/auth"
	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/message"
	"github.com/carillon-rt/carillon/services/presence/view"
)

// Bounds of what an edge reports.
const (
	// maxPart bounds each list of one request.
	maxPart = 1000
	// maxConnections bounds what one edge may say of one user, so that sums stay
	// numbers that mean something.
	maxConnections = 1_000_000
	// maxHeld bounds how long a member is held.
	maxHeld = time.Hour
	// maxConnectionIDBytes bounds what an edge calls a connection.
	maxConnectionIDBytes = 64
)

// snapshotPart checks a part of a snapshot: all in it is there, or held.
func snapshotPart(in *presencev1.Snapshot) (view.Part, error) {
	var part view.Part
	var err error
	if part.Attendances, err = checked("attendances", in.GetAttendances(), func(a *presencev1.Attendance) (view.Attendance, error) {
		if a.GetConnections() == 0 && a.GetHeldMs() == 0 {
			return view.Attendance{}, fault.New(fault.FieldInvalid, "connections", "connections is 0, and the member is not held: nobody to be told of")
		}
		return attendance(a)
	}); err != nil {
		return view.Part{}, err
	}
	if part.Connections, err = checked("connections", in.GetConnections(), func(c *presencev1.Connection) (view.Connection, error) {
		if c.GetEnded() != nil {
			return view.Connection{}, fault.New(fault.FieldInvalid, "ended", "ended is for changes: a snapshot has what has not ended")
		}
		return connection(c)
	}); err != nil {
		return view.Part{}, err
	}
	part.LastSeen, err = checked("lastSeen", in.GetLastSeen(), lastSeen)
	return part, err
}

// changesPart checks changes.
func changesPart(in *presencev1.Changes) (view.Part, error) {
	var part view.Part
	var err error
	if part.Attendances, err = checked("attendances", in.GetAttendances(), attendance); err != nil {
		return view.Part{}, err
	}
	part.Connections, err = checked("connections", in.GetConnections(), connection)
	return part, err
}

// checked checks each entry of a list, whose errors are about fields of the entry.
func checked[In, Out any](field string, in []In, check func(In) (Out, error)) ([]Out, error) {
	if len(in) > maxPart {
		return nil, fault.New(fault.FieldInvalid, field, "%s has %d entries, more than %d", field, len(in), maxPart)
	}
	out := make([]Out, len(in))
	for i, entry := range in {
		var err error
		if out[i], err = check(entry); err != nil {
			return nil, within(fmt.Sprintf("%s[%d]", field, i), err)
		}
	}
	return out, nil
}

func attendance(a *presencev1.Attendance) (view.Attendance, error) {
	name, err := channel.Parse(a.GetChannel())
	if err != nil {
		return view.Attendance{}, err
	}
	user, err := channel.ParseUser(a.GetUserId())
	if err != nil {
		return view.Attendance{}, err
	}
	n, held := a.GetConnections(), time.Duration(a.GetHeldMs())*time.Millisecond
	switch {
	case n > maxConnections:
		return view.Attendance{}, fault.New(fault.FieldInvalid, "connections", "connections is %d, more than %d", n, maxConnections)
	case held > maxHeld:
		return view.Attendance{}, fault.New(fault.FieldInvalid, "heldMs", "heldMs is %d, more than %d", a.GetHeldMs(), maxHeld.Milliseconds())
	case n > 0 && held > 0:
		return view.Attendance{}, fault.New(fault.FieldInvalid, "heldMs", "heldMs is for a user without connections; there are %d", n)
	case n == 0 && held == 0: // gone
		return view.Attendance{Channel: name, User: user}, nil
	}
	since, err := moment("since", a.GetSince())
	if err != nil {
		return view.Attendance{}, err
	}
	return view.Attendance{Channel: name, User: user, Connections: n, Since: since, Held: held}, nil
}

func connection(c *presencev1.Connection) (view.Connection, error) {
	if n := len(c.GetConnectionId()); n < 1 || n > maxConnectionIDBytes {
		return view.Connection{}, fault.New(fault.FieldInvalid, "connectionId", "connectionId has %d bytes; it needs 1 to %d", n, maxConnectionIDBytes)
	}
	user, err := channel.ParseUser(c.GetUserId())
	if err != nil {
		return view.Connection{}, err
	}
	out := view.Connection{ID: c.GetConnectionId(), User: user}
	if c.GetEnded() != nil {
		out.Ended, err = moment("ended", c.GetEnded())
		return out, err
	}
	if out.Since, err = moment("since", c.GetSince()); err != nil {
		return view.Connection{}, err
	}
	out.Info, err = info(c.GetInfo())
	return out, err
}

// info checks what is said of a user; what it is spliced into counts on that.
func info(text string) (string, error) {
	if text == "" {
		return "", nil
	}
	if n := len(text); n > auth.MaxInfoBytes {
		return "", fault.New(fault.PayloadTooLarge, "info", "info has %d bytes, more than %d", n, auth.MaxInfoBytes)
	}
	compact, err := message.JSONWithin("info", []byte(text), auth.MaxInfoDepth)
	if err != nil {
		return "", err
	}
	if len(compact.Data) != len(text) {
		return "", fault.New(fault.PayloadInvalid, "info", "info is not compact")
	}
	return text, nil
}

func lastSeen(l *presencev1.LastSeen) (view.LastSeen, error) {
	user, err := channel.ParseUser(l.GetUserId())
	if err != nil {
		return view.LastSeen{}, err
	}
	at, err := moment("time", l.GetTime())
	return view.LastSeen{User: user, Time: at}, err
}

// moment is a time in Unix milliseconds, above 0.
func moment(field string, t *timestamppb.Timestamp) (int64, error) {
	if t == nil {
		return 0, fault.New(fault.FieldRequired, field, "%s is required", field)
	}
	if ms := t.AsTime().UnixMilli(); t.IsValid() && ms > 0 {
		return ms, nil
	}
	return 0, fault.New(fault.FieldInvalid, field, "%s is not a time after 1970", field)
}
