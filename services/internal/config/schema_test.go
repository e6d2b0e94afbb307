package config_test

import (
	"encoding/json"
	"flag"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/carillon-rt/carillon/services/internal/config"
)

// The schema knows every key that is printed and takes what is printed, and no other key.
func TestSchema(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	if err := config.Schema(&b); err != nil {
		t.Fatal(err)
	}
	var schema map[string]any
	if err := json.Unmarshal([]byte(b.String()), &schema); err != nil {
		t.Fatal(err)
	}
	for name, p := range map[string]process{"defaults": {}, "full": {file: full, env: fullEnv}} {
		var file any
		if err := yaml.Unmarshal([]byte(printed(t, p.mustLoad(t))), &file); err != nil {
			t.Fatal(err)
		}
		if problems := against(schema, file, name); len(problems) > 0 {
			t.Errorf("%s", strings.Join(problems, "\n"))
		}
	}
	for text, want := range map[string]string{
		"edge: {max_conections: 1}":                 "/edge/max_conections: unknown",
		"edge: {max_connections: many}":             "/edge/max_connections: many is no integer",
		"edge: {max_connections: 0}":                "/edge/max_connections: 0 is less than 1",
		"edge: {max_frame_bytes: 64kB}":             "/edge/max_frame_bytes: 64kB does not match",
		"edge: {ping_interval: 25}":                 "/edge/ping_interval: 25 is no string",
		"edge: {ping_interval: 25 s}":               "/edge/ping_interval: 25 s does not match",
		"edge: {rate_exceeded: ignore}":             "/edge/rate_exceeded: ignore is not one of",
		"telemetry: {sample_ratio: 2}":              "/telemetry/sample_ratio: 2 is more than 1",
		"namespaces: [{name: chat, presence: yep}]": "/namespaces/presence: yep is no boolean",
		"auth: {issuers: {name: web}}":              "/auth/issuers: is no array",
		"auth: {roles_secret: abc}":                 "/auth/roles_secret: is no object",
	} {
		var file any
		if err := yaml.Unmarshal([]byte(text), &file); err != nil {
			t.Fatal(err)
		}
		if problems := against(schema, file, ""); len(problems) != 1 || !strings.HasPrefix(problems[0], want) {
			t.Errorf("%s: %q, want %s", text, problems, want)
		}
	}
}

var update = flag.Bool("update", false, "write the schema into that of the Helm chart's values")

// The Helm chart's values hold a configuration, whose schema is the last of the definitions
// in theirs.
func TestSchemaOfTheChart(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	if err := config.Schema(&b); err != nil {
		t.Fatal(err)
	}
	const name, place = "../../../deployments/helm/carillon/values.schema.json", `    "carillon": `
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	before, _, found := strings.Cut(string(text), place)
	if !found {
		t.Fatalf("%s has no definition of carillon", name)
	}
	schema := regexp.MustCompile(`(?m)^  "\$schema": .*\n`).ReplaceAllString(b.String(), "") // theirs has its own
	want := before + place + strings.ReplaceAll(strings.TrimSpace(schema), "\n", "\n    ") + "\n  }\n}\n"
	if *update {
		err = os.WriteFile(name, []byte(want), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	if !*update && want != string(text) {
		t.Errorf("%s has other options: go test ./services/internal/config -run TestSchemaOfTheChart -update", name)
	}
}

// against checks a value against as much of JSON Schema as Schema uses.
func against(schema map[string]any, value any, path string) []string {
	switch value := value.(type) {
	case map[string]any:
		if schema["type"] != "object" {
			return []string{path + ": is no " + kindOf(schema)}
		}
		var problems []string
		properties, _ := schema["properties"].(map[string]any)
		for key, inner := range value {
			property, known := properties[key].(map[string]any)
			if !known {
				problems = append(problems, path+"/"+key+": unknown")
				continue
			}
			problems = append(problems, against(property, inner, path+"/"+key)...)
		}
		return problems
	case []any:
		if schema["type"] != "array" {
			return []string{path + ": is no " + kindOf(schema)}
		}
		var problems []string
		for _, inner := range value {
			items, _ := schema["items"].(map[string]any)
			problems = append(problems, against(items, inner, path)...)
		}
		return problems
	default:
		return againstLeaf(schema, value, path)
	}
}

func againstLeaf(schema map[string]any, value any, path string) []string {
	kinds := map[reflect.Kind][]string{
		reflect.String: {"string"}, reflect.Int: {"integer", "number"}, reflect.Float64: {"number"}, reflect.Bool: {"boolean"},
	}[reflect.ValueOf(value).Kind()]
	text, _ := yaml.Marshal(value)
	shown := path + ": " + strings.TrimSpace(strings.Trim(string(text), "\n"))
	allowed, several := schema["type"].([]any)
	if !several {
		allowed = []any{schema["type"]}
	}
	if !slices.ContainsFunc(allowed, func(kind any) bool { name, _ := kind.(string); return slices.Contains(kinds, name) }) {
		if kind := kindOf(schema); kind == "object" || kind == "array" {
			return []string{path + ": is no " + kind}
		}
		return []string{shown + " is no " + kindOf(schema)}
	}
	if s, ok := value.(string); ok {
		pattern, _ := schema["pattern"].(string)
		enum, listed := schema["enum"].([]any)
		switch {
		case !regexp.MustCompile(pattern).MatchString(s):
			return []string{shown + " does not match " + pattern}
		case listed && !slices.Contains(enum, any(s)):
			return []string{shown + " is not one of what is listed"}
		}
		return nil
	}
	number, _ := value.(float64)
	if n, ok := value.(int); ok {
		number = float64(n)
	}
	if least, ok := schema["minimum"].(float64); ok && number < least {
		return []string{shown + " is less than " + strings.TrimSpace(jsonOf(least))}
	}
	if most, ok := schema["maximum"].(float64); ok && number > most {
		return []string{shown + " is more than " + strings.TrimSpace(jsonOf(most))}
	}
	return nil
}

func kindOf(schema map[string]any) string {
	kind, _ := schema["type"].(string)
	return kind
}

func jsonOf(value any) string {
	text, _ := json.Marshal(value) // of a number
	return string(text)
}
