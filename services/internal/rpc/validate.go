package rpc

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate"
	"buf.build/go/protovalidate"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/carillon-rt/carillon/services/internal/fault"
)

// maxViolations bounds an error's details, which travel as metadata.
const maxViolations = 16

// violations are the rules of the contract that a message breaks, at least one.
type violations struct{ list []*fault.Error }

func (v *violations) first() *fault.Error { return v.list[0] }

// Unwrap makes the first of them what fault.From finds.
func (v *violations) Unwrap() error { return v.first() }

// Error is for logs.
func (v *violations) Error() string { return v.first().Error() }

// GRPCStatus is the status of the first violation, with all of them in BadRequest.
func (v *violations) GRPCStatus() *status.Status {
	bad := &errdetails.BadRequest{}
	for _, e := range v.list {
		bad.FieldViolations = append(bad.FieldViolations, &errdetails.BadRequest_FieldViolation{
			Field: e.Field, Description: e.Message, Reason: string(e.Reason),
		})
	}
	first := v.first()
	plain := status.New(first.Code(), first.Message)
	rich, err := plain.WithDetails(
		protoadapt.MessageV1Of(&errdetails.ErrorInfo{Reason: string(first.Reason), Domain: fault.Domain}),
		protoadapt.MessageV1Of(bad))
	if err != nil { // only for codes.OK, which no reason has
		return plain
	}
	return rich
}

// Validator checks messages against the rules in their contracts. It is safe for
// concurrent use.
type Validator struct {
	rules protovalidate.Validator
	// sound, if not nil, tells of a message that it certainly follows the rules; of others
	// they tell, by reflection.
	sound func(proto.Message) bool
}

// NewValidator returns a validator. It panics only if the validation library is broken.
func NewValidator() *Validator {
	rules, err := protovalidate.New()
	if err != nil { // no option is given that could be at fault
		panic(fmt.Sprintf("rpc: protovalidate: %v", err))
	}
	return &Validator{rules: rules}
}

// Validate checks a message, as a server does with each that it receives. A message that
// breaks rules is refused with an error that holds a *fault.Error about the first of
// them, and is a status about all.
func (v *Validator) Validate(message proto.Message) error {
	if v.sound != nil && v.sound(message) {
		return nil
	}
	err := v.rules.Validate(message)
	if err == nil {
		return nil
	}
	invalid, ok := errors.AsType[*protovalidate.ValidationError](err)
	if !ok {
		return fmt.Errorf("validating %s: %w", message.ProtoReflect().Descriptor().FullName(), err)
	}
	broken := &violations{}
	for _, violation := range invalid.Violations[:min(len(invalid.Violations), maxViolations)] {
		broken.list = append(broken.list, violated(message.ProtoReflect().Descriptor(), violation))
	}
	return broken
}

// validate checks what was received.
func (s *Server) validate(m any) error {
	message, ok := m.(proto.Message)
	if !ok {
		return nil
	}
	return s.validator.Validate(message)
}

// violated words one violation in our terms.
func violated(message protoreflect.MessageDescriptor, v *protovalidate.Violation) *fault.Error {
	path := v.Proto.GetField().GetElements()
	field := fieldPath(path)
	if v.FieldDescriptor == nil {
		if members := membersOf(message, path); members != "" {
			return fault.New(fault.FieldRequired, field, "%s is required", members)
		}
	}
	if v.Proto.GetRuleId() == "required" || isEmpty(v) {
		return fault.New(fault.FieldRequired, field, "%s is required", field)
	}
	return fault.New(reasonFor(path), field, "%s %s", field, v.Proto.GetMessage())
}

// isEmpty tells whether a rule is broken because there is nothing where something
// must be.
func isEmpty(v *protovalidate.Violation) bool {
	rule := v.Proto.GetRuleId()
	if !v.FieldValue.IsValid() || !strings.Contains(rule, ".min_") && rule != "enum.not_in" {
		return false
	}
	switch value := v.FieldValue.Interface().(type) {
	case string:
		return value == ""
	case []byte:
		return len(value) == 0
	case protoreflect.List:
		return value.Len() == 0
	case protoreflect.Map:
		return value.Len() == 0
	case protoreflect.EnumNumber:
		return value == 0
	}
	return false
}

// reasonFor gives the fields that every contract has the reason that they have
// elsewhere too.
func reasonFor(path []*validate.FieldPathElement) fault.Reason {
	if len(path) > 0 {
		switch path[len(path)-1].GetFieldName() {
		case "channel":
			return fault.ChannelInvalid
		case "headers":
			return fault.HeaderInvalid
		}
	}
	return fault.FieldInvalid
}

// fieldPath writes a path in lowerCamelCase, "checks[2].channel". Keys of maps,
// which are the client's text, are left out.
func fieldPath(path []*validate.FieldPathElement) string {
	var b strings.Builder
	for i, element := range path {
		if i > 0 {
			b.WriteByte('.')
		}
		b.WriteString(lowerCamel(element.GetFieldName()))
		if element.HasIndex() {
			b.WriteString("[" + strconv.FormatUint(element.GetIndex(), 10) + "]")
		}
	}
	return b.String()
}

// membersOf lists the fields of the oneof that a path ends in, as "json or data";
// empty if it ends in none.
func membersOf(message protoreflect.MessageDescriptor, path []*validate.FieldPathElement) string {
	for i, element := range path {
		name := protoreflect.Name(element.GetFieldName())
		if i < len(path)-1 {
			field := message.Fields().ByName(name)
			if field == nil || field.Message() == nil {
				return ""
			}
			message = field.Message()
			continue
		}
		oneof := message.Oneofs().ByName(name)
		if oneof == nil {
			return ""
		}
		var names []string
		for f := range oneof.Fields().Len() {
			names = append(names, lowerCamel(string(oneof.Fields().Get(f).Name())))
		}
		return strings.Join(names, " or ")
	}
	return ""
}

// lowerCamel turns user_id into userId (protobuf's JSON mapping).
func lowerCamel(name string) string {
	var b strings.Builder
	for i, word := range strings.Split(name, "_") {
		if i > 0 && word != "" {
			word = strings.ToUpper(word[:1]) + word[1:]
		}
		b.WriteString(word)
	}
	return b.String()
}
