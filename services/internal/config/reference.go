package config

import (
	"fmt"
	"io"
	"reflect"
	"strings"
	"time"

	"github.com/carillon-rt/carillon/services/internal/namespace"
)

// Reference writes the documentation of every option as Markdown: a heading for each
// section of the file with a table of its options, and one for each list of structs with
// a table of the fields of an entry.
func Reference(w io.Writer) error {
	var b strings.Builder
	options := Options()
	b.WriteString("## general\n" + tableOf(options, func(o Option) bool { return !strings.Contains(o.Path, ".") }))
	for section := range reflect.TypeFor[Config]().Fields() {
		name := keyOf(section)
		switch {
		case isList(section.Type):
			fmt.Fprintf(&b, "\n## %s\n\n%s\n", name, section.Tag.Get("help"))
		case isStruct(section.Type):
			fmt.Fprintf(&b, "\n## %s\n\n%s\n%s", name, section.Tag.Get("help"), tableOf(options, func(o Option) bool {
				return strings.HasPrefix(o.Path, name+".")
			}))
		}
		for _, o := range options {
			if top, _, inside := strings.Cut(o.Path, "."); o.Flag != "" || top != name {
				continue
			} else if inside {
				fmt.Fprintf(&b, "\n### %s\n\n%s\n", o.Path, o.Help)
			}
			fmt.Fprintf(&b, "\nA list, only in the file; read by %s.\n\n| of each | values | default | taken | |\n|---|---|---|---|---|\n%s", o.readers(), entryRows(o, o.field.Type.Elem(), ""))
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// tableOf is a table of the options that are asked for and no list of structs, with an
// empty line before it.
func tableOf(options []Option, of func(Option) bool) string {
	var rows strings.Builder
	parent := ""
	for _, o := range options {
		if o.Flag != "" && of(o) {
			if path, help := o.parent(); path != parent && strings.Contains(path, ".") {
				fmt.Fprintf(&rows, "| **`%s`** | | | | | %s |\n", path, cell(help))
				parent = path
			}
			fmt.Fprintf(&rows, "| `%s`<br>`%s`<br>`--%s` | %s | %s | %s | %s | %s |\n", o.Path, o.Env, o.Flag,
				valuesOf(o.field), code(o.Default), o.readers(), taken(o.Path), cell(o.Help))
		}
	}
	return "\n| option, environment, flag | values | default | read by | taken | |\n|---|---|---|---|---|---|\n" + rows.String()
}

// parent is the section of the file that an option is in, and what that is for.
func (o Option) parent() (path, help string) {
	if len(o.index) == 1 {
		return "", ""
	}
	return o.Path[:strings.LastIndexByte(o.Path, '.')], reflect.TypeFor[Config]().FieldByIndex(o.index[:len(o.index)-1]).Tag.Get("help")
}

// entryRows are the rows of the fields of a list's structs, those of structs in them too.
func entryRows(o Option, t reflect.Type, prefix string) string {
	var rows strings.Builder
	for field := range t.Fields() {
		path := prefix + keyOf(field)
		inner := field.Type
		if isOptional(inner) || isList(inner) {
			inner = inner.Elem()
		}
		live := taken(o.Path)
		if o.Path == "namespaces" {
			top, _, _ := strings.Cut(path, "[]")
			live = taken("namespaces[]." + top)
		}
		values := "section"
		switch {
		case isList(field.Type):
			values = "list of sections"
		case !isStruct(inner):
			values = valuesOf(field)
		}
		fmt.Fprintf(&rows, "| `%s` | %s | %s | %s | %s |\n", path, values, code(field.Tag.Get("default")), live, cell(field.Tag.Get("help")))
		if !isStruct(inner) {
			continue
		}
		below := path + "."
		if isList(field.Type) {
			below = path + "[]."
		}
		rows.WriteString(entryRows(o, inner, below))
	}
	return rows.String()
}

// valuesOf says what a field takes.
func valuesOf(field reflect.StructField) string {
	if enum, ok := field.Tag.Lookup("enum"); ok {
		return "`" + strings.ReplaceAll(enum, ",", "`, `") + "`"
	}
	text := nameOf(field.Type)
	if syntax, ok := map[string]string{
		"listen": "`host:port`, `:port`", "address": "`host:port`", "https": "URL", "otlp": "URL", "trace": "URL with `{trace}`",
		"nats": "URLs", "origin": "origin", "cidr": "address or network",
	}[field.Tag.Get("check")]; ok {
		text = syntax
		if field.Type.Kind() == reflect.Slice {
			text = "list of " + syntax
		}
	}
	if least, ok := field.Tag.Lookup("min"); ok {
		text += ", " + least + " to " + field.Tag.Get("max")
	}
	return text
}

// nameOf names the type of a value.
func nameOf(t reflect.Type) string {
	switch t {
	case reflect.TypeFor[time.Duration]():
		return "duration"
	case reflect.TypeFor[namespace.Bytes]():
		return "size"
	case reflect.TypeFor[Ratio]():
		return "number"
	}
	switch t.Kind() {
	case reflect.Bool:
		return "`true`, `false`"
	case reflect.Int:
		return "integer"
	case reflect.Slice:
		return "list of texts"
	default:
		return "text"
	}
}

// readers says which roles an option makes a difference to: the commands dev and serve
// have all of them, and alone what an embedded server is told.
func (o Option) readers() string {
	if o.Flag == "" && o.Path != "auth.issuers" {
		return "all" // edges show the callers and the rules, which others enforce
	}
	roles := []string{}
	for _, role := range []Command{EdgeRole, PresenceRole, PublishRole} {
		if role.uses(o.Path) || o.Path == "auth.issuers" {
			roles = append(roles, string(role))
		}
	}
	switch len(roles) {
	case 0:
		return "serve, dev"
	case 3:
		return "all"
	}
	return strings.Join(roles, ", ")
}

// taken says when a change of an option holds.
func taken(path string) string {
	if len(NeedRestart(Serve, []string{path})) == 0 {
		return "at once"
	}
	return "at start"
}

func code(text string) string {
	if text == "" {
		return ""
	}
	return "`" + text + "`"
}

// cell is a text that may stand in a table.
func cell(text string) string {
	return strings.NewReplacer("|", `\|`, "<", "&lt;", "\n", " ").Replace(text)
}
