package authorization

import (
	"math"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
)

// Claims are kept as the wire form of a google.protobuf.Struct, which is what a request
// holds, with the keys of each object in order: equal claims are equal bytes. Our own code
// writes it, since every new connection's is written: by way of encoding/json, or of
// structpb's own types, it takes ten times as many allocations.

// The fields of google.protobuf.Struct, of an entry of its map, of Value and of ListValue
// (google/protobuf/struct.proto).
const (
	structFields protowire.Number = 1

	entryKey   protowire.Number = 1
	entryValue protowire.Number = 2

	valueNull   protowire.Number = 1
	valueNumber protowire.Number = 2
	valueString protowire.Number = 3
	valueBool   protowire.Number = 4
	valueStruct protowire.Number = 5
	valueList   protowire.Number = 6

	listValues protowire.Number = 1
)

// appendStruct writes an object of JSON values as encoding/json decodes them; it tells
// whether there is no other value in it.
func appendStruct(dst []byte, object map[string]any) (_ []byte, ok bool) {
	keys := make([]string, 0, 16)
	for key := range object {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	for _, key := range keys {
		var entry, value int
		dst, entry = begin(dst, structFields)
		dst = protowire.AppendTag(dst, entryKey, protowire.BytesType)
		dst = protowire.AppendString(dst, key)
		dst, value = begin(dst, entryValue)
		if dst, ok = appendValue(dst, object[key]); !ok {
			return nil, false
		}
		dst = end(end(dst, value), entry)
	}
	return dst, true
}

func appendValue(dst []byte, value any) (_ []byte, ok bool) {
	switch v := value.(type) {
	case nil:
		return protowire.AppendVarint(protowire.AppendTag(dst, valueNull, protowire.VarintType), 0), true
	case float64:
		return protowire.AppendFixed64(protowire.AppendTag(dst, valueNumber, protowire.Fixed64Type), math.Float64bits(v)), true
	case string:
		return protowire.AppendString(protowire.AppendTag(dst, valueString, protowire.BytesType), v), true
	case bool:
		return protowire.AppendVarint(protowire.AppendTag(dst, valueBool, protowire.VarintType), protowire.EncodeBool(v)), true
	case map[string]any:
		dst, at := begin(dst, valueStruct)
		dst, ok = appendStruct(dst, v)
		return end(dst, at), ok
	case []any:
		dst, at := begin(dst, valueList)
		dst, ok = appendList(dst, v)
		return end(dst, at), ok
	default:
		return nil, false
	}
}

func appendList(dst []byte, list []any) (_ []byte, ok bool) {
	for _, value := range list {
		var at int
		dst, at = begin(dst, listValues)
		if dst, ok = appendValue(dst, value); !ok {
			return nil, false
		}
		dst = end(dst, at)
	}
	return dst, true
}

// begin begins a field that holds a message, with room for a length below 128, and tells
// where that is.
func begin(dst []byte, field protowire.Number) (_ []byte, at int) {
	dst = protowire.AppendTag(dst, field, protowire.BytesType)
	return append(dst, 0), len(dst)
}

// end ends it; nil, what could not be written, stays nil.
func end(dst []byte, at int) []byte {
	if dst == nil {
		return nil
	}
	length := len(dst) - at - 1
	if more := protowire.SizeVarint(uint64(length)) - 1; more > 0 {
		dst = append(dst, make([]byte, more)...)
		copy(dst[at+1+more:], dst[at+1:at+1+length])
	}
	protowire.AppendVarint(dst[:at], uint64(length))
	return dst
}
