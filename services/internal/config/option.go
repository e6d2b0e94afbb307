package config

import (
	"reflect"
	"slices"
	"strings"
)

// Option is one leaf of the tree.
type Option struct {
	Path string // "edge.max_frame_bytes"
	// Env and Flag are empty for a list of structs, which only a file can set.
	Env  string // "CARILLON_EDGE_MAX_FRAME_BYTES"
	Flag string // "edge.max-frame-bytes"
	Help string
	// Default is the text of the default, as a flag would give it.
	Default string

	field reflect.StructField
	index []int // of the field in Config
}

// Options lists the leaves of the tree in order.
func Options() []Option {
	var options []Option
	collect(reflect.TypeFor[Config](), "", nil, &options)
	return options
}

func collect(t reflect.Type, prefix string, index []int, options *[]Option) {
	for field := range t.Fields() {
		path := prefix + keyOf(field)
		at := slices.Concat(index, field.Index)
		if isStruct(field.Type) {
			collect(field.Type, path+".", at, options)
			continue
		}
		o := Option{Path: path, Help: field.Tag.Get("help"), Default: field.Tag.Get("default"), field: field, index: at}
		if !isList(field.Type) {
			o.Env = "CARILLON_" + strings.ToUpper(strings.ReplaceAll(path, ".", "_"))
			o.Flag = strings.ReplaceAll(path, "_", "-")
		}
		*options = append(*options, o)
	}
}

// value is the option's leaf in a configuration.
func (o Option) value(c *Config) reflect.Value {
	return reflect.ValueOf(c).Elem().FieldByIndex(o.index)
}

func keyOf(field reflect.StructField) string { return field.Tag.Get("yaml") }

// isStruct tells whether a type holds options of its own.
func isStruct(t reflect.Type) bool { return t.Kind() == reflect.Struct }

// isOptional tells whether a type is a pointer to such a struct.
func isOptional(t reflect.Type) bool { return t.Kind() == reflect.Pointer }

// isList tells whether a type is a list of such structs.
func isList(t reflect.Type) bool { return t.Kind() == reflect.Slice && isStruct(t.Elem()) }

// applyDefaults sets the leaves of a struct that are zero and have a default, those of
// structs within it too. An optional struct that is absent stays so. A default that its
// own option refuses is a mistake in this program, so it panics.
func applyDefaults(v reflect.Value) {
	for field, value := range v.Fields() {
		switch text, ok := field.Tag.Lookup("default"); {
		case isStruct(field.Type):
			applyDefaults(value)
		case isOptional(field.Type) && !value.IsNil():
			applyDefaults(value.Elem())
		case ok && value.IsZero():
			if err := set(value, field, text); err != nil {
				panic("config: the default of " + field.Name + ": " + err.Error())
			}
		}
	}
}
