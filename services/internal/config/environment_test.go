package config_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/carillon-rt/carillon/services/internal/config"
)

func TestMisspeltVariables(t *testing.T) {
	t.Parallel()
	c := process{file: "auth: {issuers: [{name: a, for: callers, algorithms: [HS256], secret: {env: CARILLON_AUTH_SECRETS}}]}\nnats: {user: edge, password: {env: CARILLON_NATS_USERS}}\n", env: map[string]string{
		"CARILLON_AUTH_SECRETS": secret, "CARILLON_NATS_USERS": "password",
	}}.mustLoad(t)
	for variable, want := range map[string]string{
		"CARILLON_EDGE_LISTN=:1":                          "CARILLON_EDGE_LISTEN",
		"CARILLON_EDGE_LISTENER=:1":                       "CARILLON_EDGE_LISTEN",
		"CARILLON_EGDE_LISTEN=:1":                         "CARILLON_EDGE_LISTEN",
		"CARILLON_EDGE_MAX_CONECTIONS=1":                  "CARILLON_EDGE_MAX_CONNECTIONS",
		"CARILLON_EDGE_MAXNEWCONNECTIONSPERADDRESS=1":     "CARILLON_EDGE_MAX_NEW_CONNECTIONS_PER_ADDRESS",
		"CARILLON_CONFIGS=/etc/carillon.yaml":             "CARILLON_CONFIG",
		"CARILLON_TOKENS=x":                               "CARILLON_TOKEN",
		"CARILLON_LOG_LEVEL=debug":                        "",
		"CARILLON_TOKEN=x":                                "",
		"CARILLON_AUTH_SECRETS=x":                         "", // though near to none of the options
		"CARILLON_NATS_USERS=x":                           "", // and this to one
		"CARILLON_EDGE_LISTN=":                            "", // as one that is not set
		"EDGE_LISTN=:1":                                   "",
		"CARILLON_EDGE_SERVICE_HOST=10.0.0.1":             "",
		"CARILLON_EDGE_SERVICE_PORT=8080":                 "",
		"CARILLON_EDGE_SERVICE_PORT_METRICS=9464":         "",
		"CARILLON_EDGE_PORT=tcp://10.0.0.1:8080":          "",
		"CARILLON_PUBLISH_PORT_9090_TCP=tcp://10.0.0.1:9": "",
		"CARILLON_PUBLISH_PORT_9090_TCP_ADDR=10.0.0.1":    "",
		"CARILLON_PUBLISH_PORT_9090_TCP_PORT=9090":        "",
		"CARILLON_PUBLISH_PORT_9090_TCP_PROTO=tcp":        "",
	} {
		name, _, _ := strings.Cut(variable, "=")
		variables := config.Variables{All: []string{"PATH=/bin", variable}, Known: []string{"CARILLON_TOKEN"}}
		var lines []string
		if want != "" {
			lines = []string{"the environment variable " + name + " is no option; did you mean " + want + "?"}
		}
		if got := variables.Misspelt(c); !slices.Equal(got, lines) {
			t.Errorf("%s: %q, want %q", variable, got, lines)
		}
		if got := variables.Strange(c); len(got) > 0 {
			t.Errorf("%s: %q", variable, got)
		}
	}
}

// What is far from any option may be for somebody else, and is told of.
func TestStrangeVariables(t *testing.T) {
	t.Parallel()
	c := process{}.mustLoad(t)
	variables := config.Variables{All: []string{"CARILLON_NATS_PASSWORD=x", "CARILLON_LISTEN=:1", "CARILLON_REGION=", "CARILLON_OPS_LISTEN=:1", "CARILLON_LISTEN=:2"}}
	if got, want := variables.Strange(c), []string{"CARILLON_LISTEN", "CARILLON_NATS_PASSWORD"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if got := variables.Misspelt(c); len(got) > 0 {
		t.Errorf("%q", got)
	}
}

// Of each option a letter less is told of.
func TestEachOptionMisspelt(t *testing.T) {
	t.Parallel()
	for _, o := range config.Options() {
		if o.Env == "" {
			continue
		}
		got := config.Variables{All: []string{o.Env[:len(o.Env)-1] + "=x"}}.Misspelt(&config.Config{})
		if len(got) != 1 || !strings.HasSuffix(got[0], "did you mean "+o.Env+"?") {
			t.Errorf("%s: %q", o.Env, got)
		}
	}
}

// Whoever has the variables of deployments/ in a shell can start Carillon there.
func TestVariablesOfDeployments(t *testing.T) {
	t.Parallel()
	var all []string
	err := filepath.WalkDir("../../../deployments", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		for _, name := range regexp.MustCompile(`CARILLON_[A-Z0-9_]+`).FindAllString(string(text), -1) {
			all = append(all, name+"=x")
		}
		return err
	})
	if err != nil || len(all) < 20 {
		t.Fatalf("%v, %q", err, all)
	}
	if got := (config.Variables{All: all}).Misspelt(&config.Config{}); len(got) > 0 {
		t.Errorf("%s", strings.Join(got, "\n"))
	}
}
