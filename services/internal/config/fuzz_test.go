package config_test

import (
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/carillon-rt/carillon/services/internal/config"
)

// FuzzLoad loads any file; what loads must print as something that loads alike, and
// what does not must say why in lines.
func FuzzLoad(f *testing.F) {
	f.Add([]byte(full), "x", uint8(0))
	f.Add([]byte("a: &a [*a]\nb: *a\n<<: {edge: 1}\n"), ":1,b:2", uint8(3))
	f.Add([]byte("edge: {rate: {per: 9223372036854775807ns}, max_frame_bytes: 9007199254740993GiB}"), "\xff", uint8(1))
	f.Add([]byte("? {a: b}\n: !!binary aGk=\n--- !!float 1\n..."), "nats://u:p@h", uint8(2))
	options := config.Options()
	f.Fuzz(func(t *testing.T, file []byte, text string, which uint8) {
		name := filepath.Join(t.TempDir(), "c.yaml")
		if err := os.WriteFile(name, file, 0o600); err != nil {
			t.Fatal(err)
		}
		env := map[string]string{options[int(which)%len(options)].Env: text}
		maps.Copy(env, fullEnv)
		getenv := func(key string) string { return env[key] }
		c, err := config.Load(&config.Flags{File: name}, config.NoRole, getenv)
		if err != nil {
			if problems, ok := err.(config.Problems); !ok || len(problems) == 0 || strings.Contains(strings.Join(problems, ""), "\n") {
				t.Fatalf("%q: %v", file, err)
			}
			return
		}
		if strings.Contains(c.NATS.URL, "@") {
			return // printed without the login
		}
		if err := os.WriteFile(name, []byte(printed(t, c)), 0o600); err != nil {
			t.Fatal(err)
		}
		again, err := config.Load(&config.Flags{File: name}, config.NoRole, process{env: fullEnv}.getenv)
		if err != nil {
			t.Fatalf("%q prints as\n%s\nwhich has the problems\n%v", file, printed(t, c), err)
		}
		if !reflect.DeepEqual(printed(t, again), printed(t, c)) {
			t.Fatalf("%q prints as\n%s\nand then as\n%s", file, printed(t, c), printed(t, again))
		}
	})
}
