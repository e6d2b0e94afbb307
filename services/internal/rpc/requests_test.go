package rpc_test

import (
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	authzv1 "github.com/carillon-rt/carillon/gen/carillon/authz/v1"
	controlv1 "github.com/carillon-rt/carillon/gen/carillon/control/v1"
	presencev1 "github.com/carillon-rt/carillon/gen/carillon/presence/v1"
	publishv1 "github.com/carillon-rt/carillon/gen/carillon/publish/v1"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/rpc"
)

// requests are the types of what any method of Carillon's own services receives, in
// the order of their names.
func requests(t testing.TB) []protoreflect.MessageType {
	t.Helper()
	var names []string
	protoregistry.GlobalFiles.RangeFiles(func(file protoreflect.FileDescriptor) bool {
		if !strings.HasPrefix(string(file.Package()), "carillon.") {
			return true
		}
		for i := range file.Services().Len() {
			methods := file.Services().Get(i).Methods()
			for j := range methods.Len() {
				names = append(names, string(methods.Get(j).Input().FullName()))
			}
		}
		return true
	})
	slices.Sort(names)
	var types []protoreflect.MessageType
	for _, name := range slices.Compact(names) {
		found, err := protoregistry.GlobalTypes.FindMessageByName(protoreflect.FullName(name))
		if err != nil {
			t.Fatal(err)
		}
		types = append(types, found)
	}
	return types
}

// FuzzRequests decodes and checks what any method may be sent. What breaks a contract is
// refused as such, naming a field, in an answer that fits into the metadata of a call and
// repeats nothing that a receiver could not read.
func FuzzRequests(f *testing.F) {
	types := requests(f)
	if len(types) < 15 {
		f.Fatalf("only %d requests", len(types))
	}
	claims, err := structpb.NewStruct(map[string]any{"rooms": []any{"a", 1, nil}, "deep": map[string]any{"er": true}})
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range []proto.Message{
		&publishv1.PublishRequest{
			Target: &publishv1.PublishRequest_Channel{Channel: "chat.lobby"}, Payload: &publishv1.PublishRequest_Json{Json: "{}"},
			MessageId: "m", Headers: map[string]string{"a": "b", "\x01": strings.Repeat("c", 5000)}, Ttl: durationpb.New(-1), ExpectedLastOffset: new(uint64),
		},
		&publishv1.PublishBatchRequest{Messages: []*publishv1.PublishRequest{{}, {Target: &publishv1.PublishRequest_UserId{UserId: "ann"}}}},
		&publishv1.ListMessagesRequest{Target: &publishv1.ListMessagesRequest_Channel{Channel: "c"}, Limit: 1 << 31, NewestFirst: true},
		&authzv1.CheckPermissionsRequest{UserId: "ann", Claims: claims, Checks: []*authzv1.PermissionCheck{{Action: 9, Channel: strings.Repeat("x", 300)}}},
		&presencev1.ListMembersRequest{Channel: "chat.lobby", PageToken: "AAAA"},
		&controlv1.RevokeTokensRequest{IssuedBefore: &timestamppb.Timestamp{Seconds: 1 << 60, Nanos: -1}},
		&controlv1.DisconnectUserRequest{UserId: strings.Repeat("u", 500), Message: "\xff"},
	} {
		data, err := proto.MarshalOptions{AllowPartial: true}.Marshal(seed)
		for i, t := range types {
			if err == nil && t.Descriptor() == seed.ProtoReflect().Descriptor() {
				f.Add(uint8(i), data)
			}
		}
	}
	for i := range types {
		f.Add(uint8(i), []byte{})
	}
	validator := rpc.NewValidator()
	f.Fuzz(func(t *testing.T, kind uint8, data []byte) {
		request := types[int(kind)%len(types)].New().Interface()
		if proto.Unmarshal(data, request) != nil { // gRPC refuses it
			return
		}
		err := validator.Validate(request)
		if err == nil {
			return
		}
		refused, ok := errors.AsType[*fault.Error](err)
		if !ok || refused.Code() != codes.InvalidArgument || refused.Field == "" || refused.Message == "" {
			t.Fatalf("%T %v: %v, want an INVALID_ARGUMENT with a field", request, request, err)
		}
		answer, ok := status.FromError(err)
		if !ok || answer.Code() != codes.InvalidArgument {
			t.Fatalf("%T %v: %v", request, request, answer)
		}
		const most = 8 << 10 // of the 16 KiB that metadata may have
		if size := proto.Size(answer.Proto()); size > most || !utf8.ValidString(answer.Message()) {
			t.Errorf("%T %v: an answer of %d bytes: %q", request, request, size, answer.Message())
		}
	})
}

// What is called sound is not looked at again, and the rest is.
func TestSound(t *testing.T) {
	t.Parallel()
	opts := options(io.Discard)
	opts.Sound = func(m proto.Message) bool {
		request, ok := m.(*publishv1.PublishRequest)
		return ok && request.GetMessageId() == "sound"
	}
	r := start(t, opts, &service{publish: accept})
	client := publishv1.NewPublishServiceClient(r.conn)
	if _, err := client.Publish(t.Context(), &publishv1.PublishRequest{MessageId: "sound"}); err != nil {
		t.Error(err)
	}
	if _, err := client.Publish(t.Context(), &publishv1.PublishRequest{MessageId: "other"}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("%v, want it refused", err)
	}
	if _, err := client.Publish(t.Context(), request()); err != nil {
		t.Errorf("%v: what is not called sound may follow the rules", err)
	}
}
