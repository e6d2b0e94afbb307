package edge

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/carillon-rt/carillon/services/edge/frame"
	"github.com/carillon-rt/carillon/services/edge/socket"
	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/tracing"
)

// IncidentKind is what kind of thing went wrong.
type IncidentKind string

// Kinds of incidents.
const (
	Refused IncidentKind = "refused" // a handshake, or connect
	Denied  IncidentKind = "denied"  // a command, or a subscription that there was, by a rule
	Failed  IncidentKind = "failed"  // a command, by something that is away or wrong, or by a limit
	Slow    IncidentKind = "slow"    // a client reads too slowly
	Gap     IncidentKind = "gap"     // a subscriber, or all of a channel, missed messages
	Closed  IncidentKind = "closed"  // a connection, otherwise than by a client that leaves in peace
)

// Incident is something that somebody on call may be asked about. Of what does not apply
// to its kind, or is not known, there is the zero value. What clients merely got wrong is
// none.
type Incident struct {
	Kind       IncidentKind
	Reason     fault.Reason
	Command    string
	Channel    channel.Name
	User       channel.User
	Connection string
	Address    string
	// Rule decided, such as "chat[0].publish".
	Rule    string
	Message string
	TraceID string
	// Policy is what a slow client gets: disconnect, latest or drop.
	Policy string
	// Code and By are of a closed connection: as the labels of carillon.edge.closes, or 0
	// and "lost"; Lasted is for how long there was one.
	Code   int
	By     string
	Lasted time.Duration
}

func (e *Edge) incident(i Incident) {
	if e.options.Incidents != nil {
		e.options.Incidents(i)
	}
}

func (h *hub) incident(i Incident) {
	if h.incidents != nil {
		h.incidents(i)
	}
}

// incident tells of one of this connection.
func (s *session) incident(i Incident) {
	if s.edge.options.Incidents == nil {
		return
	}
	if s.grant.Load() != nil { // only then there is a user
		i.User = s.user
	}
	i.Connection, i.Address = s.id, s.address
	s.edge.options.Incidents(i)
}

// failed tells of a command that was answered with a refusal, if that is an incident.
func (s *session) failed(ctx context.Context, body any, refusal *fault.Error) {
	if s.edge.options.Incidents == nil {
		return
	}
	i := Incident{
		Reason: refusal.Reason, Rule: refusal.Rule, Message: refusal.Message,
		Command: commandName(body), Channel: channelOf(body), TraceID: tracing.From(ctx).TraceID(),
	}
	switch refusal.Code() {
	case codes.PermissionDenied:
		i.Kind = Denied
	case codes.Unauthenticated:
		i.Kind = Refused
	case codes.Unavailable, codes.Internal, codes.Unknown, codes.ResourceExhausted, codes.DeadlineExceeded, codes.DataLoss:
		i.Kind = Failed
	default:
		return
	}
	s.incident(i)
}

// channelOf is what a command is about; "" if that is no channel's name.
func channelOf(body any) channel.Name {
	var text string
	switch b := body.(type) {
	case frame.Subscribe:
		text = b.Channel
	case frame.Unsubscribe:
		text = b.Channel
	case frame.Publish:
		text = b.Channel
	case frame.Presence:
		text = b.Channel
	case frame.History:
		text = b.Channel
	}
	name, err := channel.Parse(text)
	if err != nil {
		return ""
	}
	return name
}

// closed tells that the server closes a connection. Of a drain, which everybody knows of
// and which concerns all, nothing is told.
func (s *session) closed(code socket.CloseCode, by string, cause *fault.Error) {
	i := Incident{Kind: Closed, Reason: cause.Reason, Message: cause.Message, Code: int(knownCode(code)), By: by, Lasted: time.Since(s.opened)}
	switch cause.Reason {
	case fault.Draining:
		return
	case fault.SlowConsumer:
		i.Kind, i.Policy = Slow, slowDisconnect.name()
	}
	s.incident(i)
}

// left tells of a connection that has ended with an error of its reader, if neither the
// server has closed it nor the client in peace.
func (s *session) left(byServer bool, err error) {
	code, closed := socket.Received(err)
	if byServer || closed && (code == closeNormal || code == closeGoingAway || code == closeNoStatus) {
		return
	}
	by := "client"
	if !closed {
		code, by = 0, "lost"
	}
	s.incident(Incident{Kind: Closed, Code: int(knownCode(code)), By: by, Lasted: time.Since(s.opened)})
}

func (p slowPolicy) name() string {
	switch p {
	case slowLatest:
		return "latest"
	case slowDrop:
		return "drop"
	default:
		return "disconnect"
	}
}
