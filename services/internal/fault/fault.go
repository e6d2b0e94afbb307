// Package fault owns the vocabulary of refusal: one error type with a reason that
// programs can act on, the gRPC status code of each reason, and the mapping to and
// from gRPC. How a refusal looks in a WebSocket frame belongs to the edge.
package fault

import (
	"errors"
	"fmt"
	"time"

	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/grpc/codes"
)

// Reason is a value of carillon.client.v1.ErrorReason without its prefix.
type Reason string

// The reasons. The proto enum documents each; a test keeps the two alike.
const (
	TokenMissing             Reason = "TOKEN_MISSING"
	TokenMalformed           Reason = "TOKEN_MALFORMED"
	TokenExpired             Reason = "TOKEN_EXPIRED"
	TokenNotYetValid         Reason = "TOKEN_NOT_YET_VALID"
	TokenSignatureInvalid    Reason = "TOKEN_SIGNATURE_INVALID"
	TokenAlgorithmNotAllowed Reason = "TOKEN_ALGORITHM_NOT_ALLOWED"
	TokenIssuerUnknown       Reason = "TOKEN_ISSUER_UNKNOWN"
	TokenAudienceInvalid     Reason = "TOKEN_AUDIENCE_INVALID"
	TokenClaimInvalid        Reason = "TOKEN_CLAIM_INVALID"
	TokensDisagree           Reason = "TOKENS_DISAGREE"
	TokenRevoked             Reason = "TOKEN_REVOKED"
	TokenSubjectChanged      Reason = "TOKEN_SUBJECT_CHANGED"

	PolicyDenied    Reason = "POLICY_DENIED"
	CallerUnknown   Reason = "CALLER_UNKNOWN"
	CallerDenied    Reason = "CALLER_DENIED"
	OriginForbidden Reason = "ORIGIN_FORBIDDEN"
	EndedByService  Reason = "ENDED_BY_SERVICE"

	FrameMalformed  Reason = "FRAME_MALFORMED"
	FrameTooLarge   Reason = "FRAME_TOO_LARGE"
	FieldRequired   Reason = "FIELD_REQUIRED"
	FieldInvalid    Reason = "FIELD_INVALID"
	ChannelInvalid  Reason = "CHANNEL_INVALID"
	PayloadInvalid  Reason = "PAYLOAD_INVALID"
	PayloadTooDeep  Reason = "PAYLOAD_TOO_DEEP"
	PayloadTooLarge Reason = "PAYLOAD_TOO_LARGE"
	HeaderInvalid   Reason = "HEADER_INVALID"

	NamespaceUnknown Reason = "NAMESPACE_UNKNOWN"
	NotSubscribed    Reason = "NOT_SUBSCRIBED"
	PathUnknown      Reason = "PATH_UNKNOWN"

	AlreadySubscribed Reason = "ALREADY_SUBSCRIBED"
	MessageIDReused   Reason = "MESSAGE_ID_REUSED"

	ConnectRequired  Reason = "CONNECT_REQUIRED"
	AlreadyConnected Reason = "ALREADY_CONNECTED"
	PresenceDisabled Reason = "PRESENCE_DISABLED"
	ChannelMoved     Reason = "CHANNEL_MOVED"

	RateLimited       Reason = "RATE_LIMITED"
	SubscriptionLimit Reason = "SUBSCRIPTION_LIMIT"
	SlowConsumer      Reason = "SLOW_CONSUMER"
	ConnectionLimit   Reason = "CONNECTION_LIMIT"
	WatchLimit        Reason = "WATCH_LIMIT"

	CommandUnknown Reason = "COMMAND_UNKNOWN"
	NotSupported   Reason = "NOT_SUPPORTED"

	StoreUnavailable         Reason = "STORE_UNAVAILABLE"
	AuthorizationUnavailable Reason = "AUTHORIZATION_UNAVAILABLE"
	PresenceUnavailable      Reason = "PRESENCE_UNAVAILABLE"
	Draining                 Reason = "DRAINING"
	EarlierPublishUnknown    Reason = "EARLIER_PUBLISH_UNKNOWN"
	IssuerKeysUnavailable    Reason = "ISSUER_KEYS_UNAVAILABLE"
	ControlUnavailable       Reason = "CONTROL_UNAVAILABLE"

	Timeout  Reason = "TIMEOUT"
	Internal Reason = "INTERNAL"

	MessagesMissed Reason = "MESSAGES_MISSED"
	ChannelPurged  Reason = "CHANNEL_PURGED"

	PublishRace      Reason = "PUBLISH_RACE"
	PublishOvertaken Reason = "PUBLISH_OVERTAKEN"
)

// Code returns the one status code that the reason belongs to; codes.Unknown for
// a string that is no reason.
func (r Reason) Code() codes.Code {
	switch r {
	case TokenMissing, TokenMalformed, TokenExpired, TokenNotYetValid, TokenSignatureInvalid,
		TokenAlgorithmNotAllowed, TokenIssuerUnknown, TokenAudienceInvalid, TokenClaimInvalid, TokensDisagree,
		TokenRevoked, TokenSubjectChanged:
		return codes.Unauthenticated
	case PolicyDenied, CallerUnknown, CallerDenied, OriginForbidden, EndedByService:
		return codes.PermissionDenied
	case FrameMalformed, FrameTooLarge, FieldRequired, FieldInvalid, ChannelInvalid,
		PayloadInvalid, PayloadTooDeep, PayloadTooLarge, HeaderInvalid:
		return codes.InvalidArgument
	case NamespaceUnknown, NotSubscribed, PathUnknown:
		return codes.NotFound
	case AlreadySubscribed, MessageIDReused:
		return codes.AlreadyExists
	case ConnectRequired, AlreadyConnected, PresenceDisabled, ChannelMoved:
		return codes.FailedPrecondition
	case RateLimited, SubscriptionLimit, SlowConsumer, ConnectionLimit, WatchLimit:
		return codes.ResourceExhausted
	case CommandUnknown, NotSupported:
		return codes.Unimplemented
	case StoreUnavailable, AuthorizationUnavailable, PresenceUnavailable, Draining, EarlierPublishUnknown,
		IssuerKeysUnavailable, ControlUnavailable:
		return codes.Unavailable
	case Timeout:
		return codes.DeadlineExceeded
	case Internal:
		return codes.Internal
	case MessagesMissed, ChannelPurged:
		return codes.DataLoss
	case PublishRace, PublishOvertaken:
		return codes.Aborted
	default:
		return codes.Unknown
	}
}

// Error is a refusal that may be shown to whoever asked: Message holds no driver
// text, token or payload. It is immutable once returned.
type Error struct {
	Reason Reason
	// Field is the offending field as a path from the request, for example
	// "headers"; empty where no single field is at fault.
	Field string
	// Message is for a person: what is wrong and, for a bound, which.
	Message string
	// RetryAfter is how long to wait before trying again; 0 where waiting does not help.
	RetryAfter time.Duration
	// Rule is the rule that decided, as "chat[0].publish", for logs and traces only; empty
	// where no rule did.
	Rule string
	// Cause is for the log only.
	Cause error
}

// New returns an error about a field ("" for none).
func New(reason Reason, field, format string, args ...any) *Error {
	return &Error{Reason: reason, Field: field, Message: fmt.Sprintf(format, args...)}
}

// Unavailable returns an error of an UNAVAILABLE reason with a hint of one second
// and the cause for the log.
func Unavailable(reason Reason, cause error, format string, args ...any) *Error {
	return &Error{Reason: reason, Message: fmt.Sprintf(format, args...), RetryAfter: time.Second, Cause: cause}
}

// From returns the *Error in err's chain, or wraps err as INTERNAL with a text
// that tells nothing; nil for nil.
func From(err error) *Error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	return &Error{Reason: Internal, Message: "internal error", Cause: err}
}

// Code is the status code of the reason.
func (e *Error) Code() codes.Code { return e.Reason.Code() }

// CodeName is the canonical name of the status code, for example INVALID_ARGUMENT.
func (e *Error) CodeName() string { return code.Code(e.Code()).String() }

// Error is for logs: reason, field and message, then the cause.
func (e *Error) Error() string {
	s := string(e.Reason)
	if e.Field != "" {
		s += " (" + e.Field + ")"
	}
	s += ": " + e.Message
	if e.Cause != nil {
		s += ": " + e.Cause.Error()
	}
	return s
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Cause }

// At returns a copy that blames another field.
func (e *Error) At(field string) *Error {
	moved := *e
	moved.Field = field
	return &moved
}
