package publish

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	publishv1 "github.com/carillon-rt/carillon/gen/carillon/publish/v1"
	"github.com/carillon-rt/carillon/services/internal/rpc"
)

// changes are what may be done to a request, at the bounds of the contract and beyond.
func changes() []func(*publishv1.PublishRequest) {
	var all []func(*publishv1.PublishRequest)
	for _, size := range []int{0, 1, 64, 65, 128, 129, 255, 256} {
		text := strings.Repeat("a", size)
		all = append(all,
			func(r *publishv1.PublishRequest) { r.Target = &publishv1.PublishRequest_Channel{Channel: text} },
			func(r *publishv1.PublishRequest) { r.Target = &publishv1.PublishRequest_UserId{UserId: text} },
			func(r *publishv1.PublishRequest) { r.ContentType = text },
			func(r *publishv1.PublishRequest) { r.MessageId = text },
			func(r *publishv1.PublishRequest) { r.ExpectedEpoch = text },
			func(r *publishv1.PublishRequest) { r.Payload = &publishv1.PublishRequest_Json{Json: text} },
			func(r *publishv1.PublishRequest) { r.Payload = &publishv1.PublishRequest_Data{Data: []byte(text)} },
		)
	}
	for _, id := range []string{" ", "a b", "~", "!", "\x7f", "\n", "a\n", "ä", "\x00"} {
		all = append(all, func(r *publishv1.PublishRequest) { r.MessageId = id })
	}
	for _, offset := range []uint64{0, 1<<53 - 1, 1 << 53, 1<<64 - 1} {
		all = append(all, func(r *publishv1.PublishRequest) { r.ExpectedLastOffset = &offset })
	}
	for _, ttl := range []time.Duration{-1, 0, 1, 365 * 24 * time.Hour, 366 * 24 * time.Hour} {
		all = append(all, func(r *publishv1.PublishRequest) { r.Ttl = durationpb.New(ttl) })
	}
	for _, count := range []int{0, 32, 33} {
		headers := map[string]string{}
		for i := range count {
			headers[fmt.Sprint(i)] = ""
		}
		all = append(all, func(r *publishv1.PublishRequest) { r.Headers = headers })
	}
	const trace, span = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
	for _, text := range []string{
		"00-" + trace + "-" + span + "-01", "00-" + trace + "-" + span + "-01-more", "cc-" + trace + "-" + span + "-01",
		"00-" + strings.ToUpper(trace) + "-" + span + "-01", "00-" + trace + "-" + span, "00_" + trace + "-" + span + "-01",
		"00-" + strings.Repeat("0", 32) + "-" + span + "-01", "00-" + trace + "-" + span + "-0g", "hello",
	} {
		all = append(all, func(r *publishv1.PublishRequest) { r.Traceparent = text })
	}
	return append(all,
		func(r *publishv1.PublishRequest) { r.Target = nil }, func(r *publishv1.PublishRequest) { r.Payload = nil })
}

// What is called sound is what the rules allow: they are asked about every two changes.
func TestSoundIsWhatTheContractAllows(t *testing.T) {
	t.Parallel()
	rules, all, found := rpc.NewValidator(), changes(), 0
	for _, one := range all {
		for _, other := range all {
			request := &publishv1.PublishRequest{
				Target:  &publishv1.PublishRequest_Channel{Channel: "chat.a"},
				Payload: &publishv1.PublishRequest_Json{Json: "1"},
			}
			one(request)
			other(request)
			err := rules.Validate(request)
			sound := Sound(request)
			if sound {
				found++
			}
			if sound && err != nil {
				t.Fatalf("%v: %v", request, err)
			}
			if !sound && err == nil && request.GetTtl() == nil {
				t.Fatalf("%v is not called sound", request)
			}
		}
	}
	if found < len(all) {
		t.Errorf("%d were sound", found)
	}
	for id := range uint64(2) {
		request := &publishv1.PublishStreamRequest{Id: id}
		if Sound(request) != (rules.Validate(request) == nil) {
			t.Error(id)
		}
	}
	if Sound(&publishv1.PublishBatchRequest{}) {
		t.Error("a batch")
	}
}

// To tell costs next to nothing.
func TestSoundAllocatesNothing(t *testing.T) {
	var request proto.Message = &publishv1.PublishRequest{
		Target: &publishv1.PublishRequest_UserId{UserId: "ann"}, MessageId: "m-1", Payload: &publishv1.PublishRequest_Json{Json: "1"},
	}
	if allocations := testing.AllocsPerRun(100, func() {
		if !Sound(request) {
			t.Error("not sound")
		}
	}); allocations != 0 {
		t.Errorf("%v allocations", allocations)
	}
}
