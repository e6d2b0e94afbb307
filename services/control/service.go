// Package control owns the Control API: it decides whether a caller may do something to
// the connections of users, and answers over gRPC and, as JSON, over HTTP. How a command
// gets to every edge belongs to the dispatcher that it is given, tokens to the gRPC
// server.
package control

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	controlv1 "github.com/carillon-rt/carillon/gen/carillon/control/v1"
	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/control"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/namespace"
	"github.com/carillon-rt/carillon/services/internal/rpc"
)

// ServiceName is the full name of the service, which wants a caller's credential.
const ServiceName = "carillon.control.v1.ControlService"

const (
	// keepCommands is how long a command can be carried out by an edge that was away.
	keepCommands = 24 * time.Hour
	// maxRevocation bounds how long a revocation holds, and is its default.
	maxRevocation = 365 * 24 * time.Hour
	// maxAhead is by how much the clock of a caller may be ahead.
	maxAhead = time.Minute
	// defaultLimit is that of a list that names none.
	defaultLimit = 100
)

// Dispatcher hands commands to all edges.
type Dispatcher interface {
	Issue(ctx context.Context, c control.Command) (control.Outcome, error)
	Connections(ctx context.Context, user channel.User, limit int) (control.List, error)
}

// Callers knows which caller may do what; its errors are *fault.Error.
type Callers interface {
	// MayControl is about a method of the ControlService.
	MayControl(name, method string) error
	// MaySubscribe is about the channel that a user is subscribed to or unsubscribed from.
	MaySubscribe(name string, ch channel.Name) error
}

// Options configure a Service. All but the Meter are required.
type Options struct {
	Dispatcher Dispatcher
	Callers    Callers
	Namespaces namespace.Set
	Logger     *slog.Logger
	// Meter measures commands; nil: nothing is measured.
	Meter metric.Meter
}

// Service implements ControlService. It is safe for concurrent use.
type Service struct {
	controlv1.UnimplementedControlServiceServer

	options  Options
	commands metric.Int64Counter // nil: they are not counted
}

// New returns a service; its error is that of an instrument that could not be made.
func New(o Options) (*Service, error) {
	s := &Service{options: o}
	if o.Meter == nil {
		return s, nil
	}
	var err error
	s.commands, err = o.Meter.Int64Counter("carillon.control.commands",
		metric.WithDescription("Commands about users' connections, by outcome: done, unreachable where not every edge has answered, or the reason of the failure."))
	return s, err
}

// Register adds the service to a server, which must authenticate callers.
func (s *Service) Register(server grpc.ServiceRegistrar) {
	controlv1.RegisterControlServiceServer(server, s)
}

// DisconnectUser implements carillon.control.v1.ControlService.
func (s *Service) DisconnectUser(ctx context.Context, r *controlv1.DisconnectUserRequest) (*controlv1.DisconnectUserResponse, error) {
	caller, err := s.caller(ctx, "DisconnectUser")
	if err != nil {
		return nil, err
	}
	user, err := channel.ParseUser(r.GetUserId())
	if err != nil {
		return nil, err
	}
	outcome, err := s.issue(ctx, caller, control.Command{Kind: control.DisconnectUser, User: user, Message: r.GetMessage()})
	if err != nil {
		return nil, err
	}
	return &controlv1.DisconnectUserResponse{Edges: edges(outcome), Unreachable: unreachable(outcome.Unreachable)}, nil
}

// DisconnectConnection implements carillon.control.v1.ControlService.
func (s *Service) DisconnectConnection(ctx context.Context, r *controlv1.DisconnectConnectionRequest) (*controlv1.DisconnectConnectionResponse, error) {
	caller, err := s.caller(ctx, "DisconnectConnection")
	if err != nil {
		return nil, err
	}
	outcome, err := s.issue(ctx, caller, control.Command{
		Kind: control.DisconnectConnection, Connection: r.GetConnectionId(), Message: r.GetMessage(),
	})
	if err != nil {
		return nil, err
	}
	return &controlv1.DisconnectConnectionResponse{Edges: edges(outcome), Unreachable: unreachable(outcome.Unreachable)}, nil
}

// SubscribeUser implements carillon.control.v1.ControlService.
func (s *Service) SubscribeUser(ctx context.Context, r *controlv1.SubscribeUserRequest) (*controlv1.SubscribeUserResponse, error) {
	outcome, err := s.subscription(ctx, "SubscribeUser", control.SubscribeUser, r)
	if err != nil {
		return nil, err
	}
	return &controlv1.SubscribeUserResponse{Edges: edges(outcome), Unreachable: unreachable(outcome.Unreachable)}, nil
}

// UnsubscribeUser implements carillon.control.v1.ControlService.
func (s *Service) UnsubscribeUser(ctx context.Context, r *controlv1.UnsubscribeUserRequest) (*controlv1.UnsubscribeUserResponse, error) {
	outcome, err := s.subscription(ctx, "UnsubscribeUser", control.UnsubscribeUser, r)
	if err != nil {
		return nil, err
	}
	return &controlv1.UnsubscribeUserResponse{Edges: edges(outcome), Unreachable: unreachable(outcome.Unreachable)}, nil
}

// RevokeTokens implements carillon.control.v1.ControlService.
func (s *Service) RevokeTokens(ctx context.Context, r *controlv1.RevokeTokensRequest) (*controlv1.RevokeTokensResponse, error) {
	caller, err := s.caller(ctx, "RevokeTokens")
	if err != nil {
		return nil, err
	}
	command, err := revocation(r, time.Now())
	if err != nil {
		return nil, err
	}
	outcome, err := s.issue(ctx, caller, command)
	if err != nil {
		return nil, err
	}
	return &controlv1.RevokeTokensResponse{Edges: edges(outcome), Unreachable: unreachable(outcome.Unreachable)}, nil
}

// ListConnections implements carillon.control.v1.ControlService.
func (s *Service) ListConnections(ctx context.Context, r *controlv1.ListConnectionsRequest) (*controlv1.ListConnectionsResponse, error) {
	if _, err := s.caller(ctx, "ListConnections"); err != nil {
		return nil, err
	}
	var user channel.User
	if r.GetUserId() != "" {
		var err error
		if user, err = channel.ParseUser(r.GetUserId()); err != nil {
			return nil, err
		}
	}
	limit := int(r.GetLimit())
	if limit == 0 {
		limit = defaultLimit
	}
	list, err := s.options.Dispatcher.Connections(ctx, user, limit)
	if err != nil {
		return nil, err
	}
	response := &controlv1.ListConnectionsResponse{Total: uint32(list.Total), Unreachable: unreachable(list.Unreachable)}
	for _, c := range list.Connections {
		response.Connections = append(response.Connections, connection(c))
	}
	return response, nil
}

// caller is who calls a method, if the caller may.
func (s *Service) caller(ctx context.Context, method string) (string, error) {
	identity, ok := rpc.IdentityFrom(ctx)
	if !ok {
		return "", fault.From(errors.New("the server does not authenticate the Control API"))
	}
	return identity.Subject, s.options.Callers.MayControl(identity.Subject, method)
}

// subscribing is a request about a user's subscription.
type subscribing interface {
	GetUserId() string
	GetChannel() string
	GetConnectionId() string
}

func (s *Service) subscription(ctx context.Context, method string, kind control.Kind, r subscribing) (control.Outcome, error) {
	caller, err := s.caller(ctx, method)
	if err != nil {
		return control.Outcome{}, err
	}
	user, err := channel.ParseUser(r.GetUserId())
	if err != nil {
		return control.Outcome{}, err
	}
	name, err := channel.Parse(r.GetChannel())
	if err != nil {
		return control.Outcome{}, err
	}
	if _, err := s.options.Namespaces.Of(name); err != nil {
		return control.Outcome{}, err
	}
	if err := s.options.Callers.MaySubscribe(caller, name); err != nil {
		return control.Outcome{}, err
	}
	if kind == control.UnsubscribeUser && name == user.Inbox() {
		return control.Outcome{}, fault.New(fault.FieldInvalid, "channel", "channel is the user's own inbox, which is always subscribed")
	}
	return s.issue(ctx, caller, control.Command{Kind: kind, User: user, Channel: name, Connection: r.GetConnectionId()})
}

// revocation is what a request wants revoked, and until when.
func revocation(r *controlv1.RevokeTokensRequest, now time.Time) (control.Command, error) {
	user, err := channel.ParseUser(r.GetUserId())
	if err != nil {
		return control.Command{}, err
	}
	c := control.Command{
		Kind: control.RevokeTokens, User: user, TokenID: r.GetTokenId(), ExpiresAt: now.Add(maxRevocation), Message: r.GetMessage(),
	}
	issuedBefore, err := moment("issuedBefore", r.GetIssuedBefore())
	switch {
	case err != nil:
		return control.Command{}, err
	case c.TokenID != "" && !issuedBefore.IsZero():
		return control.Command{}, fault.New(fault.FieldInvalid, "issuedBefore", "tokenId and issuedBefore are two choices; send one")
	case issuedBefore.After(now.Add(maxAhead)):
		return control.Command{}, fault.New(fault.FieldInvalid, "issuedBefore", "issuedBefore lies ahead; tokens of the future cannot be revoked")
	case c.TokenID == "" && issuedBefore.IsZero():
		issuedBefore = now
	}
	if !issuedBefore.IsZero() {
		c.IssuedBefore = issuedBefore.Truncate(time.Second)
	}
	expiresAt, err := moment("expiresAt", r.GetExpiresAt())
	switch {
	case err != nil:
		return control.Command{}, err
	case expiresAt.IsZero():
		return c, nil
	case !expiresAt.After(now):
		return control.Command{}, fault.New(fault.FieldInvalid, "expiresAt", "expiresAt has passed")
	case expiresAt.After(c.ExpiresAt):
		return control.Command{}, fault.New(fault.FieldInvalid, "expiresAt", "expiresAt must be at most 365 days ahead")
	}
	c.ExpiresAt = expiresAt
	return c, nil
}

// moment is zero where there is none.
func moment(field string, at *timestamppb.Timestamp) (time.Time, error) {
	if at == nil {
		return time.Time{}, nil
	}
	if at.CheckValid() != nil || at.GetSeconds() < 0 {
		return time.Time{}, fault.New(fault.FieldInvalid, field, "%s is not a time since 1970", field)
	}
	return at.AsTime(), nil
}

// issue hands a command to all edges, and notes for the operator who did what to whom.
func (s *Service) issue(ctx context.Context, caller string, c control.Command) (control.Outcome, error) {
	c.By, c.At = caller, time.Now()
	if c.ExpiresAt.IsZero() {
		c.ExpiresAt = c.At.Add(keepCommands)
	}
	outcome, err := s.options.Dispatcher.Issue(ctx, c)
	s.count(ctx, c.Kind, outcome, err)
	if err != nil {
		return outcome, err
	}
	connections := 0
	for _, edge := range outcome.Edges {
		connections += edge.Connections
	}
	s.options.Logger.LogAttrs(ctx, slog.LevelInfo, "control command",
		slog.String("kind", string(c.Kind)), slog.String("by", c.By), slog.String("user_id", string(c.User)),
		slog.String("connection_id", c.Connection), slog.String("channel", string(c.Channel)), slog.String("message", c.Message),
		slog.Uint64("sequence", outcome.Sequence), slog.Int("connections", connections),
		slog.Int("edges", len(outcome.Edges)), slog.Int("unreachable", len(outcome.Unreachable)))
	return outcome, nil
}

func (s *Service) count(ctx context.Context, kind control.Kind, outcome control.Outcome, err error) {
	if s.commands == nil {
		return
	}
	result := "done"
	switch {
	case err != nil:
		result = strings.ToLower(string(fault.From(err).Reason))
	case len(outcome.Unreachable) > 0:
		result = "unreachable"
	}
	s.commands.Add(ctx, 1, metric.WithAttributes(attribute.String("command", string(kind)), attribute.String("outcome", result)))
}

func edges(o control.Outcome) []*controlv1.EdgeResult {
	results := make([]*controlv1.EdgeResult, 0, len(o.Edges))
	for _, e := range o.Edges {
		results = append(results, &controlv1.EdgeResult{EdgeId: e.EdgeID, Connections: uint32(e.Connections)})
	}
	return results
}

func unreachable(list []control.Unreachable) []*controlv1.UnreachableEdge {
	all := make([]*controlv1.UnreachableEdge, 0, len(list))
	for _, e := range list {
		all = append(all, &controlv1.UnreachableEdge{EdgeId: e.EdgeID, LastSeen: timestamppb.New(e.LastSeen)})
	}
	return all
}

func connection(c control.Located) *controlv1.Connection {
	listed := &controlv1.Connection{
		ConnectionId: c.ID, EdgeId: c.EdgeID, UserId: string(c.User), Address: c.Address,
		ClientName: c.ClientName, ClientVersion: c.ClientVersion,
		ConnectedAt: timestamppb.New(c.ConnectedAt), Subscriptions: uint32(c.Subscriptions),
	}
	if !c.ExpiresAt.IsZero() {
		listed.ExpiresAt = timestamppb.New(c.ExpiresAt)
	}
	return listed
}
