package presence

import (
	"context"
	"encoding/json"
	"unicode/utf8"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	presencev1 "github.com/carillon-rt/carillon/gen/carillon/presence/v1"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/twin"
)

// Twin is the JSON over HTTP of PresenceService but for WatchChannel, over a connection
// to its replicas: the names of gRPC in lowerCamelCase, times in Unix milliseconds, info
// as the JSON value that it is.
func Twin(replicas grpc.ClientConnInterface) twin.API {
	return twin.API{
		Register: func(ctx context.Context, mux *runtime.ServeMux, conn grpc.ClientConnInterface) error {
			return presencev1.RegisterPresenceServiceHandlerClient(ctx, mux, presencev1.NewPresenceServiceClient(conn))
		},
		Methods: map[string]twin.Method{
			"/v1/presence/members": {Query: &twin.Query{Parameter: checkMembersParameter}},
			"/v1/presence/count":   {},
			"/v1/presence/user":    {Query: &twin.Query{Parameter: checkUserParameter}},
		},
		Parse:  parse,
		Answer: answer,
		Conn:   replicas,
		Away:   fault.PresenceUnavailable,
	}
}

// parse reads a body into a request. Bounds are left to the contract.
func parse(body []byte, request any) (known bool, err error) {
	r, ok := request.(*presencev1.CountMembersRequest)
	if !ok {
		return false, nil
	}
	return true, twin.Form{}.Read("", body, func(name string, value []byte) (known bool, err error) {
		if name != "channels" {
			return false, nil
		}
		r.Channels, err = twin.Texts(name, value)
		return true, err
	})
}

func checkMembersParameter(name, value string) error {
	switch name {
	case "channel", "pageToken":
		return checkText(name, value)
	case "pageSize":
		n, err := twin.Integer(name, []byte(value))
		if err == nil && n > maxPageSize {
			err = fault.New(fault.FieldInvalid, name, "pageSize is %d, more than %d", n, maxPageSize)
		}
		return err
	default:
		return twin.UnknownParameter(name)
	}
}

func checkUserParameter(name, value string) error {
	if name != "userId" {
		return twin.UnknownParameter(name)
	}
	return checkText(name, value)
}

func checkText(name, value string) error {
	if !utf8.ValidString(value) {
		return fault.New(fault.FieldInvalid, name, "%s is not valid UTF-8", name)
	}
	return nil
}

// The bodies of answers.
type (
	membersBody struct {
		Members       []memberBody `json:"members"`
		Total         uint32       `json:"total"`
		NextPageToken string       `json:"nextPageToken,omitempty"`
	}
	memberBody struct {
		UserID      string          `json:"userId"`
		Connections uint32          `json:"connections"`
		Since       int64           `json:"since"`
		Info        json.RawMessage `json:"info,omitempty"`
	}
	countsBody struct {
		Counts []countBody `json:"counts"`
	}
	countBody struct {
		Channel     string `json:"channel"`
		Members     uint32 `json:"members"`
		Connections uint32 `json:"connections"`
	}
	userBody struct {
		UserID      string               `json:"userId"`
		Online      bool                 `json:"online"`
		Connections []userConnectionBody `json:"connections"`
		Total       uint32               `json:"total"`
		LastSeen    int64                `json:"lastSeen,omitempty"`
	}
	userConnectionBody struct {
		ConnectionID string          `json:"connectionId"`
		EdgeID       string          `json:"edgeId"`
		Since        int64           `json:"since"`
		Info         json.RawMessage `json:"info,omitempty"`
	}
)

func answer(response any) any {
	switch r := response.(type) {
	case *presencev1.ListMembersResponse:
		body := membersBody{Members: make([]memberBody, 0, len(r.GetMembers())), Total: r.GetTotal(), NextPageToken: r.GetNextPageToken()}
		for _, m := range r.GetMembers() {
			body.Members = append(body.Members, memberBody{m.GetUserId(), m.GetConnections(), unixMilli(m.GetSince()), json.RawMessage(m.GetInfo())})
		}
		return body
	case *presencev1.CountMembersResponse:
		body := countsBody{Counts: make([]countBody, 0, len(r.GetCounts()))}
		for _, c := range r.GetCounts() {
			body.Counts = append(body.Counts, countBody{c.GetChannel(), c.GetMembers(), c.GetConnections()})
		}
		return body
	case *presencev1.GetUserResponse:
		body := userBody{
			UserID: r.GetUserId(), Online: r.GetOnline(), Connections: make([]userConnectionBody, 0, len(r.GetConnections())),
			Total: r.GetTotal(), LastSeen: unixMilli(r.GetLastSeen()),
		}
		for _, c := range r.GetConnections() {
			body.Connections = append(body.Connections, userConnectionBody{
				c.GetConnectionId(), c.GetEdgeId(), unixMilli(c.GetSince()), json.RawMessage(c.GetInfo()),
			})
		}
		return body
	default:
		return nil
	}
}

// unixMilli is a time in Unix milliseconds; 0 where there is none.
func unixMilli(t *timestamppb.Timestamp) int64 {
	if t == nil {
		return 0
	}
	return t.AsTime().UnixMilli()
}
