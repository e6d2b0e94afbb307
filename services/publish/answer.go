package publish

import (
	"encoding/json"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/durationpb"

	publishv1 "github.com/carillon-rt/carillon/gen/carillon/publish/v1"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/twin"
)

// The bodies of the HTTP twins' answers: 64-bit integers are numbers, times are Unix
// milliseconds, and data is the payload's JSON itself.
type (
	publishedBody struct {
		Epoch     string `json:"epoch"`
		Offset    uint64 `json:"offset"`
		Duplicate bool   `json:"duplicate"`
	}
	batchBody struct {
		Results []resultBody `json:"results"`
	}
	resultBody struct {
		Published *publishedBody    `json:"published,omitempty"`
		Error     *twin.ErrorFields `json:"error,omitempty"`
	}
	messagesBody struct {
		Epoch    string        `json:"epoch"`
		Messages []messageBody `json:"messages"`
		More     bool          `json:"more"`
	}
	messageBody struct {
		Offset      uint64            `json:"offset"`
		Time        int64             `json:"time"`
		Data        json.RawMessage   `json:"data,omitempty"`
		DataBase64  *[]byte           `json:"dataBase64,omitempty"`
		ContentType string            `json:"contentType,omitempty"`
		MessageID   string            `json:"messageId,omitempty"`
		Publisher   string            `json:"publisher,omitempty"`
		Headers     map[string]string `json:"headers,omitempty"`
		TTL         string            `json:"ttl,omitempty"`
	}
	purgedBody struct {
		Epoch  string `json:"epoch"`
		Offset uint64 `json:"offset"`
	}
)

// answerBody is the body of a gRPC answer; nil for what is none.
func answerBody(response any) any {
	switch r := response.(type) {
	case *publishv1.PublishResponse:
		return publishedOf(r)
	case *publishv1.PublishBatchResponse:
		body := batchBody{Results: make([]resultBody, len(r.GetResults()))}
		for i, result := range r.GetResults() {
			body.Results[i] = resultOf(result)
		}
		return body
	case *publishv1.ListMessagesResponse:
		body := messagesBody{Epoch: r.GetEpoch(), Messages: make([]messageBody, len(r.GetMessages())), More: r.GetMore()}
		for i, m := range r.GetMessages() {
			body.Messages[i] = messageOf(m)
		}
		return body
	case *publishv1.PurgeChannelResponse:
		return purgedBody{r.GetEpoch(), r.GetOffset()}
	default:
		return nil
	}
}

func publishedOf(r *publishv1.PublishResponse) *publishedBody {
	return &publishedBody{r.GetEpoch(), r.GetOffset(), r.GetDuplicate()}
}

func resultOf(r *publishv1.PublishResult) resultBody {
	e := r.GetError()
	if e == nil {
		return resultBody{Published: publishedOf(r.GetPublished())}
	}
	reason := fault.Reason(strings.TrimPrefix(e.GetReason().String(), "ERROR_REASON_"))
	worded := twinError(&fault.Error{Reason: reason, Field: e.GetField(), Message: e.GetMessage()})
	return resultBody{Error: &twin.ErrorFields{
		Code: e.GetCode(), Reason: reason, Message: worded.Message, Field: worded.Field, RetryAfterMs: int64(e.GetRetryAfterMs()),
	}}
}

func messageOf(m *publishv1.StoredMessage) messageBody {
	body := messageBody{
		Offset: m.GetOffset(), Time: m.GetTime().AsTime().UnixMilli(), ContentType: m.GetContentType(),
		MessageID: m.GetMessageId(), Publisher: m.GetPublisher(), Headers: m.GetHeaders(), TTL: seconds(m.GetTtl()),
	}
	switch content := m.GetPayload().(type) {
	case *publishv1.StoredMessage_Json:
		body.Data = json.RawMessage(content.Json)
	case *publishv1.StoredMessage_Data:
		body.DataBase64 = &content.Data
	}
	return body
}

// seconds is protobuf's JSON mapping, as in a request; empty for none.
func seconds(d *durationpb.Duration) string {
	if d == nil {
		return ""
	}
	quoted, err := protojson.Marshal(d)
	if err != nil { // beyond what a duration can be, as no ttl is
		return ""
	}
	return strings.Trim(string(quoted), `"`)
}
