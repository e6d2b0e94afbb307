package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

// decoder puts a YAML file into a configuration. It goes on after a problem, so that
// all are found. Aliases are followed; that ends since no struct of the tree holds
// itself.
type decoder struct {
	report *report
	file   string // as in problems
}

// decode reads the file's text into c.
func (d *decoder) decode(text []byte, c *Config) {
	documents := yaml.NewDecoder(bytes.NewReader(text))
	var document, more yaml.Node
	switch err := documents.Decode(&document); {
	case errors.Is(err, io.EOF): // nothing but comments
		return
	case err != nil:
		d.report.refuse("", d.file, "is not YAML: %s", strings.TrimPrefix(err.Error(), "yaml: "))
		return
	}
	if err := documents.Decode(&more); !errors.Is(err, io.EOF) {
		d.report.add("", "%s holds more than one document", d.at(&more))
	}
	d.structure(document.Content[0], reflect.ValueOf(c).Elem(), "")
}

func (d *decoder) at(node *yaml.Node) string {
	if node.Line == 0 {
		return d.file
	}
	return fmt.Sprintf("%s:%d", d.file, node.Line)
}

// value puts a node into a field of any type.
func (d *decoder) value(node *yaml.Node, v reflect.Value, field reflect.StructField, path string) {
	d.report.places[path] = d.at(node)
	node = resolve(node)
	switch {
	case isStruct(v.Type()):
		d.structure(node, v, path)
	case isOptional(v.Type()):
		if isNull(node) {
			d.report.refuse(path, d.at(node), "has no value; write {} for the defaults")
			return
		}
		v.Set(fresh(v.Type().Elem()).Addr())
		d.structure(node, v.Elem(), path)
	case isList(v.Type()):
		d.list(node, v, path)
	case v.Kind() == reflect.Slice:
		d.texts(node, v, field, path)
	default:
		d.leaf(node, v, field, path)
	}
}

// structure puts a mapping into a struct.
func (d *decoder) structure(node *yaml.Node, v reflect.Value, path string) {
	node = resolve(node)
	if isNull(node) {
		return
	}
	known := make([]string, 0, v.NumField())
	for field := range v.Type().Fields() {
		known = append(known, keyOf(field))
	}
	if node.Kind != yaml.MappingNode {
		d.report.refuse(path, d.at(node), "must be a mapping, of %s", strings.Join(known, ", "))
		return
	}
	seen := map[string]int{}
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, inner := node.Content[i], node.Content[i+1]
		name := key.Value
		if line, twice := seen[name]; twice {
			d.report.refuse(join(path, keyText(key)), d.at(key), "stands twice, first in line %d", line)
			continue
		}
		seen[name] = key.Line
		if !d.field(key, inner, v, path) {
			d.unknown(key, known, path)
		}
	}
}

// field puts a node into the field of a struct that has the key, if there is one.
func (d *decoder) field(key, node *yaml.Node, v reflect.Value, path string) bool {
	if key.Kind != yaml.ScalarNode {
		return false
	}
	for field, value := range v.Fields() {
		if keyOf(field) == key.Value {
			d.value(node, value, field, join(path, key.Value))
			return true
		}
	}
	return false
}

func (d *decoder) unknown(key *yaml.Node, known []string, path string) {
	hint := "the keys here are " + strings.Join(known, ", ")
	if meant := didYouMean(key.Value, known); meant != "" {
		hint = "did you mean " + meant + "?"
	}
	d.report.refuse(join(path, keyText(key)), d.at(key), "unknown key; %s", hint)
}

// list puts a sequence into a list of structs, each with its defaults.
func (d *decoder) list(node *yaml.Node, v reflect.Value, path string) {
	if isNull(node) {
		return
	}
	if node.Kind != yaml.SequenceNode {
		d.report.refuse(path, d.at(node), "must be a list")
		return
	}
	items := reflect.MakeSlice(v.Type(), len(node.Content), len(node.Content))
	for i, item := range node.Content {
		at := fmt.Sprintf("%s[%d]", path, i)
		d.report.places[at] = d.at(item)
		items.Index(i).Set(fresh(v.Type().Elem()))
		d.structure(item, items.Index(i), at)
	}
	v.Set(items)
	if len(node.Content) == 0 {
		v.SetZero() // as if there were no list, so that configurations compare
	}
}

// texts puts a sequence into a list of texts.
func (d *decoder) texts(node *yaml.Node, v reflect.Value, field reflect.StructField, path string) {
	if isNull(node) {
		return
	}
	if node.Kind != yaml.SequenceNode {
		d.report.refuse(path, d.at(node), "must be a list")
		return
	}
	var texts []string
	for i, item := range node.Content {
		at := fmt.Sprintf("%s[%d]", path, i)
		d.report.places[at] = d.at(item)
		if item = resolve(item); item.Kind != yaml.ScalarNode || isNull(item) {
			d.report.refuse(at, d.at(item), "must be a text")
			continue
		}
		texts = append(texts, item.Value)
	}
	if err := setList(v, field, texts); err != nil {
		d.report.refuse(path, d.at(node), "%v", err)
	}
}

// leaf puts a scalar into a leaf.
func (d *decoder) leaf(node *yaml.Node, v reflect.Value, field reflect.StructField, path string) {
	switch {
	case isNull(node):
		d.report.refuse(path, d.at(node), "has no value")
	case node.Kind != yaml.ScalarNode: // not shown: it may be a misplaced secret
		d.report.refuse(path, d.at(node), "must be a single value")
	default:
		if err := set(v, field, node.Value); err != nil {
			d.report.refuse(path, d.at(node), "%v", err)
		}
	}
}

// fresh returns a struct with its defaults.
func fresh(t reflect.Type) reflect.Value {
	v := reflect.New(t).Elem()
	applyDefaults(v)
	return v
}

// resolve follows an alias. An alias never names another.
func resolve(node *yaml.Node) *yaml.Node {
	if node.Kind == yaml.AliasNode {
		return node.Alias
	}
	return node
}

func isNull(node *yaml.Node) bool {
	return node.Kind == yaml.ScalarNode && node.Tag == "!!null"
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

var plainKey = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,64}$`)

// keyText is a key as a path shows it.
func keyText(key *yaml.Node) string {
	if key.Kind != yaml.ScalarNode {
		return "?"
	}
	if plainKey.MatchString(key.Value) {
		return key.Value
	}
	return fmt.Sprintf("%.64q", key.Value)
}
