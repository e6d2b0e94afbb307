// Command schemas writes the JSON Schemas that kubeconform checks manifests against, so
// that it needs no network: of Kubernetes' own kinds from the OpenAPI document in the
// module k8s.io/kubernetes, of others from the CustomResourceDefinitions in the modules of
// those who define them. An unknown field is refused wherever a type lists its fields.
//
//	schemas OUT OPENAPI.json CRD.yaml…
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"

	"sigs.k8s.io/yaml"
)

// schema is a JSON Schema, or a part of one, as it is decoded.
type schema = map[string]any

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "schemas:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) < 2 {
		return errors.New("usage: schemas OUT OPENAPI.json CRD.yaml…")
	}
	out := args[0]
	if err := os.MkdirAll(out, 0o750); err != nil {
		return err
	}
	if err := writeKinds(out, args[1]); err != nil {
		return err
	}
	for _, name := range args[2:] {
		if err := writeCustom(out, name); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// kind names a kind as kubeconform looks for it.
type kind struct{ Group, Version, Kind string }

func (k kind) file() string {
	group, _, _ := strings.Cut(k.Group, ".")
	parts := []string{k.Kind, group, k.Version}
	if group == "" {
		parts = []string{k.Kind, k.Version}
	}
	return strings.ToLower(strings.Join(parts, "-")) + ".json"
}

// writeKinds writes a file for each kind of an OpenAPI 2 document, with the definitions
// that it is made of.
func writeKinds(out, name string) error {
	text, err := os.ReadFile(name) //nolint:gosec // it is told what to read
	if err != nil {
		return err
	}
	var document struct {
		Definitions map[string]schema `json:"definitions"`
	}
	if err := json.Unmarshal(text, &document); err != nil {
		return err
	}
	for name, definition := range document.Definitions {
		document.Definitions[name] = strictType(definition)
	}
	written := 0
	for name, definition := range document.Definitions {
		var kinds []kind
		if err := convert(definition["x-kubernetes-group-version-kind"], &kinds); err != nil {
			return err
		}
		needed := map[string]any{}
		gather(document.Definitions, name, needed)
		for _, k := range kinds {
			if err := write(out, k, schema{"$ref": "#/definitions/" + name, "definitions": needed}); err != nil {
				return err
			}
			written++
		}
	}
	if written == 0 {
		return fmt.Errorf("%s has no kinds", name)
	}
	return nil
}

// gather adds a definition and what it refers to.
func gather(all map[string]schema, name string, to map[string]any) {
	if _, done := to[name]; done {
		return
	}
	to[name] = all[name]
	var walk func(any)
	walk = func(part any) {
		switch part := part.(type) {
		case schema:
			if ref, ok := part["$ref"].(string); ok {
				gather(all, strings.TrimPrefix(ref, "#/definitions/"), to)
			}
			for inner := range maps.Values(part) {
				walk(inner)
			}
		case []any:
			for _, inner := range part {
				walk(inner)
			}
		}
	}
	walk(all[name])
}

// writeCustom writes a file for each version of the CustomResourceDefinitions in a file.
func writeCustom(out, name string) error {
	text, err := os.ReadFile(name) //nolint:gosec // it is told what to read
	if err != nil {
		return err
	}
	for document := range bytes.SplitSeq(text, []byte("\n---")) {
		var crd struct {
			Kind string
			Spec struct {
				Group    string
				Names    struct{ Kind string }
				Versions []struct {
					Name   string
					Schema struct{ OpenAPIV3Schema schema }
				}
			}
		}
		if err := yaml.Unmarshal(document, &crd); err != nil {
			return err
		}
		if crd.Kind != "CustomResourceDefinition" {
			continue
		}
		for _, version := range crd.Spec.Versions {
			k := kind{crd.Spec.Group, version.Name, crd.Spec.Names.Kind}
			if err := write(out, k, strictType(version.Schema.OpenAPIV3Schema)); err != nil {
				return err
			}
		}
	}
	return nil
}

func write(out string, k kind, s schema) error {
	text, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(out, k.file()), text, 0o600)
}

// strict returns a part of a schema as JSON Schema says what Kubernetes means by it.
func strict(part any) any {
	switch part := part.(type) {
	case schema:
		return strictType(part)
	case []any:
		made := make([]any, len(part))
		for i, inner := range part {
			made[i] = strict(inner)
		}
		return made
	default:
		return part
	}
}

// strictType is strict for a type: one that lists its fields has no others, and what is a
// number or a text is either.
func strictType(part schema) schema {
	if isEither(part) {
		return schema{"type": []any{"string", "number"}}
	}
	made := schema{}
	for key, inner := range part {
		if fields, ok := inner.(schema); ok && key == "properties" {
			made[key] = strictEach(fields) // a field may be called as a keyword is
		} else {
			made[key] = strict(inner)
		}
	}
	_, lists := part["properties"].(schema)
	_, says := part["additionalProperties"]
	open, _ := part["x-kubernetes-preserve-unknown-fields"].(bool)
	if lists && !says && !open {
		made["additionalProperties"] = false
	}
	if nullable, _ := part["nullable"].(bool); nullable {
		made["type"] = []any{part["type"], "null"}
	}
	return made
}

func strictEach(fields schema) schema {
	made := schema{}
	for name, field := range fields {
		made[name] = strict(field)
	}
	return made
}

// isEither tells whether a schema is that of a port's name or number, or of a quantity.
func isEither(part schema) bool {
	either, _ := part["x-kubernetes-int-or-string"].(bool)
	description, _ := part["description"].(string)
	return either || part["format"] == "int-or-string" || part["type"] == "string" && strings.HasPrefix(description, "Quantity is a fixed-point")
}

// convert decodes what has been decoded into any; nil leaves to as it is.
func convert(from, to any) error {
	if from == nil {
		return nil
	}
	text, err := json.Marshal(from)
	if err != nil {
		return err
	}
	return json.Unmarshal(text, to)
}
