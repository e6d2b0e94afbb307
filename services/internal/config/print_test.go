package config_test

import (
	"reflect"
	"strings"
	"testing"

	"github.com/carillon-rt/carillon/services/internal/config"
)

func printed(t testing.TB, c *config.Config) string {
	t.Helper()
	var b strings.Builder
	if err := config.Print(&b, c); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestPrint(t *testing.T) {
	t.Parallel()
	for name, p := range map[string]process{
		"defaults": {},
		"full": {file: full, env: fullEnv, args: []string{
			"--edge.listen=[::1]:1", "--presence.addresses=a:1,b:2", "--nats.url=nats://a:1,tls://b:2", "--data-dir=a # b: \"c\"\n\\d", "--edge.max-frame-bytes=1025",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			want := p.mustLoad(t)
			text := printed(t, want)
			got := process{file: text, env: fullEnv}.mustLoad(t)
			if !reflect.DeepEqual(got, want) {
				t.Errorf("printed\n%s\nloads\n%+v\nwant\n%+v", text, got, want)
			}
			if again := printed(t, got); again != text {
				t.Errorf("printed again\n%s\nwant\n%s", again, text)
			}
			for _, o := range config.Options() {
				if !strings.Contains(text, "# "+o.Help) || (o.Flag != "" && !strings.Contains(text, "; $"+o.Env+"; --"+o.Flag+"\n")) {
					t.Errorf("printed lacks help, environment variable or flag of %s", o.Path)
				}
				if o.Default != "" && !strings.Contains(text, "# Default "+o.Default+"; $"+o.Env) {
					t.Errorf("printed lacks the default of %s", o.Path)
				}
				key := o.Path[strings.LastIndex(o.Path, ".")+1:]
				if !strings.Contains(text, strings.Repeat("  ", strings.Count(o.Path, "."))+key+":") {
					t.Errorf("printed lacks %s", o.Path)
				}
			}
		})
	}
}

// The fields of lists are options too, and documented.
func TestPrintDocumentsLists(t *testing.T) {
	t.Parallel()
	text := printed(t, process{}.mustLoad(t))
	var documented func(t2 reflect.Type)
	documented = func(t2 reflect.Type) {
		for t2.Kind() == reflect.Slice || t2.Kind() == reflect.Pointer {
			t2 = t2.Elem()
		}
		if t2.Kind() != reflect.Struct {
			return
		}
		for field := range t2.Fields() {
			if help := field.Tag.Get("help"); help == "" || !strings.Contains(text, help) {
				t.Errorf("printed lacks the help of %v.%s", t2, field.Name)
			}
			documented(field.Type)
		}
	}
	documented(reflect.TypeFor[config.Config]())
}

func TestPrintShowsNoLogin(t *testing.T) {
	t.Parallel()
	for _, url := range []string{"nats://user:topsecret@a:1", "topsecret@a:1", "nats://a:1,tls://topsecret@b:2"} {
		text := printed(t, process{args: []string{"--nats.url=" + url}}.mustLoad(t))
		if strings.Contains(text, "topsecret") || !strings.Contains(text, "xxxxx@") {
			t.Errorf("%s is printed as\n%s", url, text)
		}
	}
}
