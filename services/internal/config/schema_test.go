package config_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/carillon-rt/carillon/services/internal/config"
)

// The schema knows every key that is printed and takes what is printed, and no other key.
func TestSchema(t *testing.T) {
	t.Parallel()
	schema := readSchema(t)
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

// Of a duration and of a size the schema takes what Load takes, and nothing else.
func TestSchemaAgreesWithLoad(t *testing.T) {
	t.Parallel()
	schema, name := readSchema(t), filepath.Join(t.TempDir(), "carillon.yaml")
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	for option, form := range map[string]struct{ units, alphabet, plain []string }{
		"presence: {grace: %s}": {
			units:    []string{"ns", "us", "µs", "μs", "ms", "s"},
			alphabet: strings.Split("0,1,5,.,+,-, ,n,u,µ,m,s,h,H,_,e", ","),
			plain:    []string{"0", "1", "60", "0s", "500µs", "500μs", "1m30s", "10m", "0h", ".5s", "5.s", "+5s", "1_0s", "1e1s", "1d", "s", ".s"},
		},
		"edge: {ping_rate: {bytes: %s}}": {
			units:    []string{"B", "KiB", "MiB", "GiB", "", " KiB"},
			alphabet: strings.Split("0,1,5,.,+,-, ,B,K,k,M,i,G,_,e", ","),
			plain:    []string{"0", "1", "1048576", "1KiB", "1 KiB", "1kiB", "1KB", "1.5MiB", "+5", "0GiB", "KiB"},
		},
	} {
		texts := form.plain
		for range 500 {
			texts = append(texts, strconv.Quote(randomly(random, form.units, form.alphabet)))
		}
		accepted := 0
		for _, text := range texts {
			file := fmt.Sprintf(option, text)
			var value any
			if err := yaml.Unmarshal([]byte(file), &value); err != nil {
				t.Fatal(err)
			}
			refused := against(schema, value, "")
			if err := os.WriteFile(name, []byte(file), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := config.Load(&config.Flags{File: name}, config.NoRole, process{}.getenv)
			switch {
			case err == nil && strings.Contains(text, "-"): // less than nothing by nothing
			case err != nil && strings.Contains(err.Error(), " is more than "): // which the schema does not know
			case (err == nil) != (len(refused) == 0):
				t.Errorf("%s: Load says %v, the schema %q (seed %d)", file, err, refused, seed)
			case err == nil:
				accepted++
			}
		}
		if accepted < len(texts)/10 || accepted > len(texts)*9/10 {
			t.Errorf("%s: %d of %d texts are taken, which is no trial", option, accepted, len(texts))
		}
	}
}

// randomly is a number with a unit or several, and as often as not something is amiss.
func randomly(random *rand.Rand, units, alphabet []string) string {
	pick := func(of []string) string { return of[random.IntN(len(of))] }
	var text []string
	for range 1 + random.IntN(2)*random.IntN(3) {
		text = append(text, strconv.Itoa(random.IntN(100)), pick([]string{"", "", "", ".5", "."}), pick(units))
	}
	whole := []rune(strings.Join(text, ""))
	for range random.IntN(3) {
		at := random.IntN(len(whole) + 1)
		whole = slices.Concat(whole[:at], []rune(pick(alphabet)), whole[min(len(whole), at+random.IntN(2)):])
	}
	return string(whole)
}

func readSchema(t *testing.T) map[string]any {
	t.Helper()
	var b strings.Builder
	if err := config.Schema(&b); err != nil {
		t.Fatal(err)
	}
	var schema map[string]any
	if err := json.Unmarshal([]byte(b.String()), &schema); err != nil {
		t.Fatal(err)
	}
	return schema
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
	if either, ok := schema["anyOf"].([]any); ok {
		text, _ := either[0].(map[string]any)
		other, _ := either[1].(map[string]any)
		if number, ok := value.(int); ok && float64(number) == other["const"] {
			return nil
		}
		return againstLeaf(text, value, path)
	}
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
