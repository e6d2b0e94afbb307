package config

import (
	"bytes"
	"fmt"
	"io"
	"net/url"
	"reflect"
	"strings"

	"go.yaml.in/yaml/v3"
)

const printHeader = `Carillon's configuration: every option with the value that holds.
A flag wins over the environment, that over the file (--config), that over the default.`

// Print writes a configuration as YAML that loads again, with each option's
// documentation, default, environment variable and flag as comments. Secrets are
// named, never shown; who logs in by nats.url is blotted out.
func Print(w io.Writer, c *Config) error {
	document, err := describe(reflect.ValueOf(c).Elem(), "")
	if err != nil {
		return err
	}
	var b bytes.Buffer
	encoder := yaml.NewEncoder(&b)
	encoder.SetIndent(2)
	if err := encoder.Encode(document); err != nil {
		return fmt.Errorf("printing the configuration: %w", err)
	}
	_, err = io.WriteString(w, comment(printHeader)+"\n"+spaced(b.String()))
	return err
}

// describe makes a mapping of a struct of the tree, with comments.
func describe(v reflect.Value, prefix string) (*yaml.Node, error) {
	mapping := &yaml.Node{Kind: yaml.MappingNode}
	options := map[string]Option{}
	for _, o := range Options() {
		options[o.Path] = o
	}
	for field, value := range v.Fields() {
		path := join(prefix, keyOf(field))
		key := &yaml.Node{Kind: yaml.ScalarNode, Value: keyOf(field)}
		var inner *yaml.Node
		var err error
		if isStruct(field.Type) {
			key.HeadComment = comment(field.Tag.Get("help"))
			inner, err = describe(value, path)
		} else {
			key.HeadComment = comment(options[path].describe())
			inner, err = plain(value, path)
		}
		if err != nil {
			return nil, err
		}
		mapping.Content = append(mapping.Content, key, inner)
	}
	return mapping, nil
}

// describe is the documentation of an option.
func (o Option) describe() string {
	if o.Flag == "" {
		return o.Help + "\nOnly in the file. Of each:\n" + describeFields(o.field.Type.Elem(), "  ")
	}
	value := o.Default
	switch {
	case o.field.Type.Kind() == reflect.Slice:
		value = "none"
	case value == "":
		value = "empty"
	}
	return o.Help + o.bounds() + "\nDefault " + value + "; $" + o.Env + "; --" + o.Flag
}

// bounds is a sentence about the values that the option takes, if there are bounds.
func (o Option) bounds() string {
	if enum, ok := o.field.Tag.Lookup("enum"); ok {
		return " One of " + strings.ReplaceAll(enum, ",", ", ") + "."
	}
	if least, ok := o.field.Tag.Lookup("min"); ok {
		return " From " + least + " to " + o.field.Tag.Get("max") + "."
	}
	return ""
}

// describeFields is the documentation of the fields of a list's structs.
func describeFields(t reflect.Type, indent string) string {
	var lines []string
	for field := range t.Fields() {
		text := indent + keyOf(field) + ": " + field.Tag.Get("help")
		if value, ok := field.Tag.Lookup("default"); ok {
			text += " Default " + value + "."
		}
		lines = append(lines, text)
		inner := field.Type
		if isOptional(inner) || isList(inner) {
			inner = inner.Elem()
		}
		if isStruct(inner) {
			lines = append(lines, describeFields(inner, indent+"  "))
		}
	}
	return strings.Join(lines, "\n")
}

// plain makes a node of a value, without comments; an entry of a list leaves out what
// is absent.
func plain(v reflect.Value, path string) (*yaml.Node, error) {
	switch {
	case isOptional(v.Type()):
		return plain(v.Elem(), path)
	case isStruct(v.Type()):
		mapping := &yaml.Node{Kind: yaml.MappingNode}
		for field, value := range v.Fields() {
			if _, ok := field.Tag.Lookup("default"); value.IsZero() && !ok {
				continue
			}
			inner, err := plain(value, join(path, keyOf(field)))
			if err != nil {
				return nil, err
			}
			mapping.Content = append(mapping.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: keyOf(field)}, inner)
		}
		return mapping, nil
	case v.Kind() == reflect.Slice:
		sequence := &yaml.Node{Kind: yaml.SequenceNode}
		if !isList(v.Type()) || v.Len() == 0 {
			sequence.Style = yaml.FlowStyle
		}
		for i := range v.Len() {
			inner, err := plain(v.Index(i), path)
			if err != nil {
				return nil, err
			}
			sequence.Content = append(sequence.Content, inner)
		}
		return sequence, nil
	default:
		return scalar(v, path)
	}
}

func scalar(v reflect.Value, path string) (*yaml.Node, error) {
	if v.Kind() == reflect.Int || v.Kind() == reflect.Bool {
		return &yaml.Node{Kind: yaml.ScalarNode, Value: format(v)}, nil
	}
	text := format(v)
	if path == "nats.url" {
		text = redact(text)
	}
	node := &yaml.Node{}
	node.SetString(text)
	if strings.ContainsAny(text, "\r\n") { // a block would begin comments of its own
		node.Style = yaml.DoubleQuotedStyle
	}
	return node, nil
}

// redact blots out who logs in by the addresses of NATS servers.
func redact(servers string) string {
	var redacted []string
	for _, server := range splitList(servers) {
		full := server
		if !strings.Contains(server, "://") {
			full = "nats://" + server
		}
		if u, err := url.Parse(full); err == nil && u.User != nil {
			u.User = url.User("xxxxx") // a user without a password is a NATS token
			server = u.String()
		}
		redacted = append(redacted, server)
	}
	return strings.Join(redacted, ",")
}

func comment(text string) string {
	if text == "" {
		return ""
	}
	return "# " + strings.ReplaceAll(text, "\n", "\n# ")
}

// spaced puts an empty line before each comment but the first of a section.
func spaced(text string) string {
	var b strings.Builder
	previous := ""
	for line := range strings.Lines(text) {
		if isComment(line) && !isComment(previous) && !strings.HasSuffix(previous, ":\n") {
			b.WriteByte('\n')
		}
		b.WriteString(line)
		previous = line
	}
	return b.String()
}

func isComment(line string) bool { return strings.HasPrefix(strings.TrimSpace(line), "#") }
