package frame

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"unicode/utf8"

	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/message"
)

// JSON is the codec carillon.v1.json: a text message is one JSON object.
type JSON struct{}

// Subprotocol is carillon.v1.json.
func (JSON) Subprotocol() string { return "carillon.v1.json" }

// Text is true.
func (JSON) Text() bool { return true }

type subscribeJSON struct {
	Channel  string        `json:"channel"`
	Since    *positionJSON `json:"since"`
	Rewind   *rewindJSON   `json:"rewind"`
	Presence bool          `json:"presence"`
}

type rewindJSON struct {
	Count int64 `json:"count"`
}

type historyJSON struct {
	Channel     string        `json:"channel"`
	After       *positionJSON `json:"after"`
	Before      *positionJSON `json:"before"`
	Limit       int64         `json:"limit"`
	NewestFirst bool          `json:"newestFirst"`
}

type positionJSON struct {
	Epoch  string `json:"epoch"`
	Offset uint64 `json:"offset"`
}

type connectJSON struct {
	Token  string `json:"token"`
	Client struct {
		Name    string `json:"name"`
		Version string `json:"version"`
	} `json:"client"`
	Subscriptions []subscribeJSON `json:"subscriptions"`
	Info          json.RawMessage `json:"info"`
}

type publishJSON struct {
	Channel     string          `json:"channel"`
	Data        json.RawMessage `json:"data"`
	DataBase64  *string         `json:"dataBase64"`
	ContentType string          `json:"contentType"`
	MessageID   string          `json:"messageId"`
}

type refreshJSON struct {
	Token string `json:"token"`
}

type expiryJSON struct {
	ExpiresAt int64 `json:"expiresAt"`
}

type channelJSON struct {
	Channel string `json:"channel"`
}

// Decode reads a command. Fields that it does not know inside a command are
// ignored, as they are in protobuf.
func (JSON) Decode(data []byte) (Command, error) {
	if command, ok := decodeInOnePass(data); ok {
		return command, nil
	}
	return decode(data)
}

func decode(data []byte) (Command, error) {
	if !utf8.Valid(data) {
		return Command{}, malformed("the frame is not valid UTF-8")
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(data, &fields); err != nil {
		return Command{}, malformed("the frame is not a JSON object: %s", describe(err))
	}
	id, err := strconv.ParseUint(string(fields["id"]), 10, 64)
	if err != nil || id == 0 || id > MaxID {
		return Command{}, malformed("the frame has no usable id: a positive integer of at most %d", uint64(MaxID))
	}
	delete(fields, "id")
	command := Command{ID: id}
	if raw, ok := fields["traceparent"]; ok {
		delete(fields, "traceparent")
		if json.Unmarshal(raw, &command.Traceparent) != nil || len(command.Traceparent) > MaxTraceparentBytes {
			command.Traceparent, command.Body = "", wrongTraceparent()
			return command, nil //nolint:nilerr // it is an answer to the command
		}
	}
	command.Body = decodeBody(fields)
	return command, nil
}

func wrongTraceparent() *fault.Error {
	return fault.New(fault.FieldInvalid, "traceparent", "traceparent is not a text of at most %d bytes", MaxTraceparentBytes)
}

func decodeBody(fields map[string]json.RawMessage) any {
	if len(fields) > 1 {
		names := make([]string, 0, len(fields))
		for name := range fields {
			names = append(names, name)
		}
		slices.Sort(names)
		return malformed("the frame has %d fields beside id, such as %.64q and %.64q; it needs exactly one, the command", len(names), names[0], names[1])
	}
	for name, raw := range fields {
		return decodeCommand(name, raw)
	}
	return unknownCommand("")
}

func decodeCommand(name string, raw json.RawMessage) any {
	switch name {
	case "connect":
		return decodeAs(name, raw, func(c connectJSON) any {
			body := Connect{Token: c.Token, ClientName: c.Client.Name, ClientVersion: c.Client.Version, Info: c.Info}
			for _, s := range c.Subscriptions {
				body.Subscriptions = append(body.Subscriptions, s.subscribe())
			}
			return body
		})
	case "subscribe":
		return decodeAs(name, raw, func(s subscribeJSON) any { return s.subscribe() })
	case "unsubscribe":
		return decodeAs(name, raw, func(c channelJSON) any { return Unsubscribe(c) })
	case "publish":
		return decodeAs(name, raw, publishJSON.body)
	case "presence":
		return decodeAs(name, raw, func(c channelJSON) any { return Presence(c) })
	case "history":
		return decodeAs(name, raw, func(h historyJSON) any {
			return History{Channel: h.Channel, After: h.After.position(), Before: h.Before.position(), Limit: h.Limit, NewestFirst: h.NewestFirst}
		})
	case "refresh":
		return decodeAs(name, raw, func(r refreshJSON) any { return Refresh(r) })
	case "ping":
		return decodeAs(name, raw, func(struct{}) any { return Ping{} })
	default:
		return unknownCommand(name)
	}
}

// decodeAs reads the object of a command into T and makes the body of it.
func decodeAs[T any](name string, raw json.RawMessage, body func(T) any) any {
	var t T
	if len(raw) == 0 || raw[0] != '{' {
		return fault.New(fault.FieldInvalid, name, "%s must be an object", name)
	}
	err := json.Unmarshal(raw, &t)
	if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return fault.New(fault.FieldInvalid, wrong.Field, "%s cannot be a JSON %s", wrong.Field, wrong.Value)
	}
	if err != nil {
		return fault.New(fault.FieldInvalid, name, "%s cannot be read", name)
	}
	return body(t)
}

func (s subscribeJSON) subscribe() Subscribe {
	subscribe := Subscribe{Channel: s.Channel, Since: s.Since.position(), Presence: s.Presence}
	if s.Rewind != nil {
		subscribe.Rewind = &s.Rewind.Count
	}
	return subscribe
}

func (p *positionJSON) position() *message.Position {
	if p == nil {
		return nil
	}
	return &message.Position{Epoch: message.Epoch(p.Epoch), Offset: message.Offset(p.Offset)}
}

func (p publishJSON) body() any {
	body := Publish{Channel: p.Channel, JSON: p.Data, ContentType: p.ContentType, MessageID: p.MessageID}
	if p.DataBase64 == nil {
		return body
	}
	if p.Data != nil {
		return fault.New(fault.FieldInvalid, "dataBase64", "data and dataBase64 exclude each other")
	}
	data, err := base64.StdEncoding.DecodeString(*p.DataBase64)
	if err != nil {
		return fault.New(fault.PayloadInvalid, "dataBase64", "dataBase64 is not standard base64 with padding (RFC 4648, 4)")
	}
	body.Data = data
	return body
}

// describe words an error of encoding/json without the Go types that it names.
func describe(err error) string {
	if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return "it is a JSON " + wrong.Value
	}
	return err.Error()
}

// The shapes of events. Absent means default, so everything is omitted when zero
// but what says something also then.

type subscribedJSON struct {
	Channel   string         `json:"channel"`
	Epoch     message.Epoch  `json:"epoch,omitempty"`
	Offset    message.Offset `json:"offset"`
	Recovered bool           `json:"recovered"`
}

type ephemeralSubscribedJSON struct {
	Channel string `json:"channel"`
}

type unsubscribedJSON struct {
	Channel     string       `json:"channel"`
	Code        string       `json:"code,omitempty"`
	Reason      fault.Reason `json:"reason,omitempty"`
	Resubscribe bool         `json:"resubscribe,omitempty"`
}

type publishedJSON struct {
	Epoch     message.Epoch  `json:"epoch,omitempty"`
	Offset    message.Offset `json:"offset,omitempty"`
	Duplicate bool           `json:"duplicate"`
}

type memberJSON struct {
	UserID      string          `json:"userId"`
	Connections int             `json:"connections"`
	Since       int64           `json:"since"`
	Info        json.RawMessage `json:"info,omitempty"`
}

type leaverJSON struct {
	UserID string `json:"userId"`
}

type presenceChangedJSON struct {
	Channel   string       `json:"channel"`
	Joined    []memberJSON `json:"joined"`
	Left      []leaverJSON `json:"left"`
	Total     int          `json:"total"`
	Truncated bool         `json:"truncated"`
}

type membersJSON struct {
	Channel   string       `json:"channel"`
	Members   []memberJSON `json:"members"`
	Total     int          `json:"total"`
	Truncated bool         `json:"truncated"`
}

type pastJSON struct {
	Channel  string            `json:"channel"`
	Epoch    message.Epoch     `json:"epoch"`
	Messages []json.RawMessage `json:"messages"`
	More     bool              `json:"more"`
}

type errorJSON struct {
	Code         string       `json:"code"`
	Reason       fault.Reason `json:"reason"`
	Message      string       `json:"message"`
	Field        string       `json:"field,omitempty"`
	RetryAfterMs int64        `json:"retryAfterMs,omitempty"`
}

type gapJSON struct {
	Channel string         `json:"channel"`
	Epoch   message.Epoch  `json:"epoch,omitempty"`
	From    message.Offset `json:"from,omitempty"`
	To      message.Offset `json:"to,omitempty"`
	Reason  fault.Reason   `json:"reason"`
}

type reachedJSON struct {
	Epoch    message.Epoch  `json:"epoch"`
	Offset   message.Offset `json:"offset"`
	Channels []string       `json:"channels"`
}

type disconnectJSON struct {
	Code             string       `json:"code"`
	Reason           fault.Reason `json:"reason"`
	Message          string       `json:"message"`
	ReconnectAfterMs int64        `json:"reconnectAfterMs"`
}

// Append writes an event as one JSON object.
func (JSON) Append(dst []byte, id uint64, event Event) []byte {
	dst = append(dst, '{')
	if id != 0 {
		dst = append(dst, `"id":`...)
		dst = strconv.AppendUint(dst, id, 10)
		dst = append(dst, ',')
	}
	switch e := event.(type) {
	case Message: // the hot path: once a message and codec
		dst = append(dst, `"message":`...)
		dst = appendMessage(dst, e.Message, e.Traceparent)
	case Connected: // many at once, when an edge has gone
		dst = append(dst, `"connected":`...)
		dst = e.append(dst)
	default:
		name, shape := eventShape(event)
		dst = appendString(dst, name)
		dst = append(dst, ':')
		dst = append(dst, marshal(shape)...)
	}
	return append(dst, '}')
}

func eventShape(event Event) (string, any) {
	switch e := event.(type) {
	case Subscribed:
		return "subscribed", e.shape()
	case Unsubscribed:
		shape := unsubscribedJSON{Channel: e.Channel, Resubscribe: e.Resubscribe}
		if e.Cause != nil {
			shape.Code, shape.Reason = e.Cause.CodeName(), e.Cause.Reason
		}
		return "unsubscribed", shape
	case Published:
		return "published", publishedJSON{Epoch: e.Receipt.Epoch, Offset: e.Receipt.Offset, Duplicate: e.Receipt.Duplicate}
	case Members:
		return "presence", e.shape()
	case Past:
		return "history", e.shape()
	case Refreshed:
		return "refreshed", expiryJSON{e.ExpiresAt.UnixMilli()}
	case Pong:
		return "pong", struct{}{}
	case Refused:
		return "error", errorShape(e.Error)
	case Gap:
		return "gap", gapJSON(e)
	case Position:
		return "position", reachedJSON{Epoch: e.Epoch, Offset: e.Offset, Channels: e.Channels}
	case PresenceChanged:
		return "presenceChanged", e.shape()
	case TokenExpiring:
		return "tokenExpiring", expiryJSON{e.ExpiresAt.UnixMilli()}
	case Disconnect:
		return "disconnect", disconnectJSON{
			Code: e.Cause.CodeName(), Reason: e.Cause.Reason, Message: e.Cause.Message,
			ReconnectAfterMs: milliseconds(e.ReconnectAfter),
		}
	default:
		panic(fmt.Sprintf("frame: no JSON shape of %T", event)) // a test covers every Event
	}
}

func (e Subscribed) shape() any {
	if e.Position.Epoch == "" {
		return ephemeralSubscribedJSON{e.Channel}
	}
	return subscribedJSON{Channel: e.Channel, Epoch: e.Position.Epoch, Offset: e.Position.Offset, Recovered: e.Recovered}
}

func (e Members) shape() any {
	return membersJSON{Channel: e.Channel, Members: memberShapes(e.Members), Total: e.Total, Truncated: len(e.Members) < e.Total}
}

func memberShapes(members []Member) []memberJSON {
	shapes := make([]memberJSON, 0, len(members))
	for _, m := range members {
		shapes = append(shapes, memberJSON{m.UserID, m.Connections, m.Since.UnixMilli(), json.RawMessage(m.Info)})
	}
	return shapes
}

func (e PresenceChanged) shape() any {
	shape := presenceChangedJSON{
		Channel: e.Channel, Joined: memberShapes(e.Joined), Left: make([]leaverJSON, 0, len(e.Left)),
		Total: e.Total, Truncated: e.Truncated,
	}
	for _, m := range e.Left {
		shape.Left = append(shape.Left, leaverJSON{m.UserID})
	}
	return shape
}

func (e Past) shape() any {
	shape := pastJSON{Channel: e.Channel, Epoch: e.Epoch, Messages: make([]json.RawMessage, 0, len(e.Messages)), More: e.More}
	for _, m := range e.Messages {
		shape.Messages = append(shape.Messages, appendMessage(nil, m, m.Traceparent))
	}
	return shape
}

func errorShape(e *fault.Error) errorJSON {
	return errorJSON{Code: e.CodeName(), Reason: e.Reason, Message: e.Message, Field: e.Field, RetryAfterMs: milliseconds(e.RetryAfter)}
}

// appendMessage writes a message, splicing its payload, which was checked and
// compacted when it was published.
func appendMessage(dst []byte, m *message.Message, traceparent string) []byte {
	dst = append(dst, `{"channel":`...)
	dst = appendString(dst, string(m.Channel))
	if m.Offset != 0 {
		dst = append(dst, `,"offset":`...)
		dst = strconv.AppendUint(dst, uint64(m.Offset), 10)
	}
	dst = append(dst, `,"time":`...)
	dst = strconv.AppendInt(dst, m.Time.UnixMilli(), 10)
	if m.Payload.IsJSON() {
		dst = append(dst, `,"data":`...)
		dst = append(dst, m.Payload.Data...)
	} else {
		dst = append(dst, `,"dataBase64":"`...)
		dst = base64.StdEncoding.AppendEncode(dst, m.Payload.Data)
		dst = append(dst, `","contentType":`...)
		dst = appendString(dst, m.Payload.ContentType)
	}
	if m.ID != "" {
		dst = append(dst, `,"messageId":`...)
		dst = appendString(dst, m.ID)
	}
	if m.Publisher != "" {
		dst = append(dst, `,"publisher":`...)
		dst = appendString(dst, m.Publisher)
	}
	if len(m.Headers) > 0 {
		dst = append(dst, `,"headers":`...)
		dst = append(dst, marshal(m.Headers)...)
	}
	if traceparent != "" {
		dst = append(dst, `,"traceparent":`...)
		dst = appendString(dst, traceparent)
	}
	return append(dst, '}')
}

// marshal writes a shape without escaping <, > and &: frames are not put into HTML.
func marshal(shape any) []byte {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(shape); err != nil {
		panic("frame: a shape that cannot be encoded: " + err.Error())
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

// appendString writes a JSON string; plain ASCII, the common case, without a detour.
func appendString(dst []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c >= 0x7f || c == '"' || c == '\\' {
			return append(dst, marshal(s)...)
		}
	}
	dst = append(dst, '"')
	dst = append(dst, s...)
	return append(dst, '"')
}
