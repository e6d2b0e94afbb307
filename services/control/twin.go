package control

import (
	"context"
	"unicode/utf8"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	controlv1 "github.com/carillon-rt/carillon/gen/carillon/control/v1"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/twin"
)

// Twin is the JSON over HTTP of the service: the names of gRPC in lowerCamelCase, times
// in Unix milliseconds.
func Twin() twin.API {
	return twin.API{
		Register: func(ctx context.Context, mux *runtime.ServeMux, conn grpc.ClientConnInterface) error {
			return controlv1.RegisterControlServiceHandlerClient(ctx, mux, controlv1.NewControlServiceClient(conn))
		},
		Methods: map[string]twin.Method{
			"/v1/control/disconnect-user": {}, "/v1/control/disconnect-connection": {},
			"/v1/control/subscribe-user": {}, "/v1/control/unsubscribe-user": {}, "/v1/control/revoke-tokens": {},
			"/v1/control/connections": {Query: &twin.Query{Parameter: checkParameter}},
		},
		Parse:  parse,
		Answer: answer,
	}
}

// maxMilliseconds is the end of the year 9999, where google.protobuf.Timestamp ends.
const maxMilliseconds = 253_402_300_799_999

// parse reads a body into a request. Bounds are left to the contract.
func parse(body []byte, request any) (known bool, err error) {
	texts := map[string]*string{}
	times := map[string]**timestamppb.Timestamp{}
	switch r := request.(type) {
	case *controlv1.DisconnectUserRequest:
		texts = map[string]*string{"userId": &r.UserId, "message": &r.Message}
	case *controlv1.DisconnectConnectionRequest:
		texts = map[string]*string{"connectionId": &r.ConnectionId, "message": &r.Message}
	case *controlv1.SubscribeUserRequest:
		texts = map[string]*string{"userId": &r.UserId, "channel": &r.Channel, "connectionId": &r.ConnectionId}
	case *controlv1.UnsubscribeUserRequest:
		texts = map[string]*string{"userId": &r.UserId, "channel": &r.Channel, "connectionId": &r.ConnectionId}
	case *controlv1.RevokeTokensRequest:
		texts = map[string]*string{"userId": &r.UserId, "tokenId": &r.TokenId, "message": &r.Message}
		times = map[string]**timestamppb.Timestamp{"issuedBefore": &r.IssuedBefore, "expiresAt": &r.ExpiresAt}
	default:
		return false, nil
	}
	return true, twin.Form{}.Read("", body, func(name string, value []byte) (bool, error) {
		var err error
		if at, ok := texts[name]; ok {
			*at, err = twin.Text(name, value)
			return true, err
		}
		if at, ok := times[name]; ok {
			*at, err = milliseconds(name, value)
			return true, err
		}
		return false, nil
	})
}

func milliseconds(field string, value []byte) (*timestamppb.Timestamp, error) {
	n, err := twin.Integer(field, value)
	if err != nil || n > maxMilliseconds {
		return nil, fault.New(fault.FieldInvalid, field, "%s must be a time in Unix milliseconds, a whole number", field)
	}
	return &timestamppb.Timestamp{Seconds: int64(n / 1000), Nanos: int32(n%1000) * 1_000_000}, nil
}

func checkParameter(name, value string) error {
	switch name {
	case "userId":
		if !utf8.ValidString(value) {
			return fault.New(fault.FieldInvalid, name, "%s is not valid UTF-8", name)
		}
		return nil
	case "limit":
		n, err := twin.Integer(name, []byte(value))
		if err == nil && n > 1000 {
			err = fault.New(fault.FieldInvalid, name, "limit must be less than or equal to 1000")
		}
		return err
	default:
		return twin.UnknownParameter(name)
	}
}

// The bodies of answers.
type (
	doneBody struct {
		Edges       []edgeBody        `json:"edges"`
		Unreachable []unreachableBody `json:"unreachable"`
	}
	edgeBody struct {
		EdgeID      string `json:"edgeId"`
		Connections uint32 `json:"connections"`
	}
	unreachableBody struct {
		EdgeID   string `json:"edgeId"`
		LastSeen int64  `json:"lastSeen"`
	}
	listBody struct {
		Connections []connectionBody  `json:"connections"`
		Total       uint32            `json:"total"`
		Unreachable []unreachableBody `json:"unreachable"`
	}
	connectionBody struct {
		ConnectionID  string `json:"connectionId"`
		EdgeID        string `json:"edgeId"`
		UserID        string `json:"userId"`
		Address       string `json:"address"`
		ClientName    string `json:"clientName,omitempty"`
		ClientVersion string `json:"clientVersion,omitempty"`
		ConnectedAt   int64  `json:"connectedAt"`
		ExpiresAt     int64  `json:"expiresAt,omitempty"`
		Subscriptions uint32 `json:"subscriptions"`
	}
)

// done is what the answer to every command has.
type done interface {
	GetEdges() []*controlv1.EdgeResult
	GetUnreachable() []*controlv1.UnreachableEdge
}

func answer(response any) any {
	switch r := response.(type) {
	case done:
		body := doneBody{Edges: make([]edgeBody, 0, len(r.GetEdges())), Unreachable: unreachableBodies(r.GetUnreachable())}
		for _, e := range r.GetEdges() {
			body.Edges = append(body.Edges, edgeBody{EdgeID: e.GetEdgeId(), Connections: e.GetConnections()})
		}
		return body
	case *controlv1.ListConnectionsResponse:
		body := listBody{
			Connections: make([]connectionBody, 0, len(r.GetConnections())), Total: r.GetTotal(),
			Unreachable: unreachableBodies(r.GetUnreachable()),
		}
		for _, c := range r.GetConnections() {
			body.Connections = append(body.Connections, connectionOf(c))
		}
		return body
	default:
		return nil
	}
}

func unreachableBodies(list []*controlv1.UnreachableEdge) []unreachableBody {
	bodies := make([]unreachableBody, 0, len(list))
	for _, e := range list {
		bodies = append(bodies, unreachableBody{EdgeID: e.GetEdgeId(), LastSeen: e.GetLastSeen().AsTime().UnixMilli()})
	}
	return bodies
}

func connectionOf(c *controlv1.Connection) connectionBody {
	body := connectionBody{
		ConnectionID: c.GetConnectionId(), EdgeID: c.GetEdgeId(), UserID: c.GetUserId(), Address: c.GetAddress(),
		ClientName: c.GetClientName(), ClientVersion: c.GetClientVersion(),
		ConnectedAt: c.GetConnectedAt().AsTime().UnixMilli(), Subscriptions: c.GetSubscriptions(),
	}
	if c.GetExpiresAt() != nil {
		body.ExpiresAt = c.GetExpiresAt().AsTime().UnixMilli()
	}
	return body
}
