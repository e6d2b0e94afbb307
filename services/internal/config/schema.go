package config

import (
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/carillon-rt/carillon/services/internal/namespace"
)

// Schema writes a JSON Schema (draft 7) of the file: its keys, with their types, bounds and
// documentation, for editors and for whoever makes a file from something else. What it
// takes may still be refused by Load, which knows what no single option shows.
func Schema(w io.Writer) error {
	schema := schemaOf(reflect.TypeFor[Config]())
	schema["$schema"] = "http://json-schema.org/draft-07/schema#"
	schema["title"] = "Carillon's configuration"
	text, err := json.MarshalIndent(schema, "", "  ")
	if err != nil {
		return fmt.Errorf("schema: %w", err)
	}
	_, err = fmt.Fprintf(w, "%s\n", text)
	return err
}

// schemaOf is the schema of a struct of the tree.
func schemaOf(t reflect.Type) map[string]any {
	properties := map[string]any{}
	for field := range t.Fields() {
		property := schemaOfField(field)
		property["description"] = field.Tag.Get("help")
		properties[keyOf(field)] = property
	}
	return map[string]any{"type": "object", "additionalProperties": false, "properties": properties}
}

func schemaOfField(field reflect.StructField) map[string]any {
	switch t := field.Type; {
	case isStruct(t):
		return schemaOf(t)
	case isOptional(t):
		return schemaOf(t.Elem())
	case isList(t):
		return map[string]any{"type": "array", "items": schemaOf(t.Elem())}
	case t.Kind() == reflect.Slice:
		return map[string]any{"type": "array", "items": map[string]any{"type": "string"}}
	}
	leaf := schemaOfLeaf(field.Type)
	if text, ok := field.Tag.Lookup("default"); ok {
		leaf["default"] = typed(field.Type, text)
	}
	if enum, ok := field.Tag.Lookup("enum"); ok {
		leaf["enum"] = strings.Split(enum, ",")
	}
	if leaf["type"] == "integer" { // those of texts Load knows
		for tag, keyword := range map[string]string{"min": "minimum", "max": "maximum"} {
			if text, ok := field.Tag.Lookup(tag); ok {
				leaf[keyword] = typed(field.Type, text)
			}
		}
	}
	return leaf
}

// schemaOfLeaf says how a value is written, which is what Load takes within its bounds, but
// for a zero with a minus.
func schemaOfLeaf(t reflect.Type) map[string]any {
	switch t {
	case reflect.TypeFor[time.Duration]():
		const pattern = `^\+?(0|(([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h))+)$`
		text, zero := map[string]any{"type": "string", "pattern": pattern}, map[string]any{"const": 0} // which needs no unit
		return map[string]any{"anyOf": []any{text, zero}}
	case reflect.TypeFor[namespace.Bytes]():
		return map[string]any{"type": []string{"string", "integer"}, "pattern": `^\s*\+?[0-9]+\s*(B|KiB|MiB|GiB)?$`, "minimum": 0}
	case reflect.TypeFor[Ratio]():
		return map[string]any{"type": []string{"number", "string"}, "minimum": 0, "maximum": 1}
	}
	switch t.Kind() {
	case reflect.Bool:
		return map[string]any{"type": "boolean"}
	case reflect.Int:
		return map[string]any{"type": "integer"}
	default:
		return map[string]any{"type": "string"}
	}
}

// typed is a text of a tag as its type is written in JSON.
func typed(t reflect.Type, text string) any {
	if t.Kind() == reflect.Bool {
		return text == "true"
	}
	number := t.Kind() == reflect.Int || t == reflect.TypeFor[Ratio]()
	if _, err := strconv.ParseFloat(text, 64); number && err == nil {
		return json.Number(text)
	}
	return text
}
