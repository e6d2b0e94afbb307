package publish

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	publishv1 "github.com/carillon-rt/carillon/gen/carillon/publish/v1"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/message"
	"github.com/carillon-rt/carillon/services/internal/rpc"
)

// FuzzContent reads what a request says once the contract's rules have let it through:
// what is accepted can be stored and spliced into frames.
func FuzzContent(f *testing.F) {
	for _, seed := range []*publishv1.PublishRequest{
		{Payload: &publishv1.PublishRequest_Json{Json: ` {"a": [1, "}\u2028"]} `}, Headers: map[string]string{"a": "b"}, Ttl: durationpb.New(time.Millisecond)},
		{Payload: &publishv1.PublishRequest_Json{Json: `1}],{"x":2`}},
		{Payload: &publishv1.PublishRequest_Json{Json: strings.Repeat("[", 70) + strings.Repeat("]", 70)}},
		{Payload: &publishv1.PublishRequest_Data{Data: []byte{0, 255}}, ContentType: "a/b; c=\"d\"", MessageId: "m", Ttl: &durationpb.Duration{Seconds: 1 << 62}},
		{Payload: &publishv1.PublishRequest_Data{}, ContentType: "text/plain\r\nX: y", Headers: map[string]string{"Nats-Msg-Id": "forged"}},
		{Payload: &publishv1.PublishRequest_Json{Json: "1"}, Headers: map[string]string{"x": "a\r\nCarillon-Publisher: service:billing"}},
		{Payload: &publishv1.PublishRequest_Json{Json: "1"}, ExpectedLastOffset: new(uint64), ExpectedEpoch: "e"},
	} {
		seed.Target = &publishv1.PublishRequest_Channel{Channel: "chat.lobby"}
		data, err := proto.Marshal(seed)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	validator := rpc.NewValidator()
	f.Fuzz(func(t *testing.T, data []byte) {
		request := &publishv1.PublishRequest{}
		if proto.Unmarshal(data, request) != nil || validator.Validate(request) != nil {
			return
		}
		p, err := content(request)
		if err != nil {
			if refused, ok := errors.AsType[*fault.Error](err); !ok || refused.Code() != codes.InvalidArgument || len(refused.Message) > 1024 {
				t.Fatalf("%v: %v, want a bounded INVALID_ARGUMENT", request, err)
			}
			return
		}
		if p.TTL < 0 || p.TTL%time.Second != 0 || p.TTL == 0 && request.GetTtl().AsDuration() > 0 {
			t.Errorf("%v: a ttl of %v", request, p.TTL)
		}
		if p.Payload.IsJSON() && !json.Valid(p.Payload.Data) || len(p.Payload.Data) > message.MaxPayloadBytes {
			t.Errorf("%v: a payload of %q", request, p.Payload.Data)
		}
		for name, value := range p.Headers {
			if strings.ContainsAny(name+value, "\r\n\x00") || strings.HasPrefix(strings.ToLower(name), "nats-") || strings.HasPrefix(strings.ToLower(name), "carillon-") {
				t.Errorf("the header %q: %q", name, value)
			}
		}
		if strings.ContainsAny(p.ID+p.Payload.ContentType, "\r\n\x00") {
			t.Errorf("the id %q, the type %q", p.ID, p.Payload.ContentType)
		}
	})
}
