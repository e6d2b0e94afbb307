package tracing

import (
	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"github.com/carillon-rt/carillon/services/internal/channel"
)

// Attributes of Carillon's own, where the semantic conventions have none.
const (
	// RuleKey is the rule that decided, as "chat[0].publish".
	RuleKey = attribute.Key("carillon.rule")
	// OffsetKey and EpochKey are a position in a channel.
	OffsetKey = attribute.Key("carillon.offset")
	EpochKey  = attribute.Key("carillon.epoch")
	// DuplicateKey is true of a publish whose message had been stored before.
	DuplicateKey = attribute.Key("carillon.duplicate")
	// RecipientsKey is to how many connections of an edge a message went.
	RecipientsKey = attribute.Key("carillon.recipients")
	// SlowKey is to how many it did not go then, since their clients read too slowly.
	SlowKey = attribute.Key("carillon.slow_consumers")
	// ConnectionKey is a connection's id; an edge's is service.instance.id.
	ConnectionKey = attribute.Key("carillon.connection.id")
	// SourceKey is where missed messages were recovered from: ring, store, or latest,
	// the message that was kept for a client that read too slowly.
	SourceKey = attribute.Key("carillon.recovery.source")
)

// User says whose operation it is.
func User(id string) attribute.KeyValue { return semconv.UserID(id) }

// Operation describes an operation on a channel after the conventions of messaging: what
// is done, and of which of their types it is: "send", "receive" or "process".
func Operation(name, kind string, of channel.Name) []attribute.KeyValue {
	return []attribute.KeyValue{
		semconv.MessagingSystemKey.String("carillon"),
		semconv.MessagingOperationName(name),
		semconv.MessagingOperationTypeKey.String(kind),
		semconv.MessagingDestinationName(string(of)),
		semconv.MessagingDestinationTemplate(of.Namespace()),
	}
}
