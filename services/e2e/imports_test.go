package e2e_test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/carillon-rt/carillon"

// generated is everything that may name the types of gen/: the handlers and clients
// of an API. Cores have their own small types.
var generated = []string{
	"clients/",
	"gen/",
	"services/bench/peer/",
	"services/bench/system/",
	"services/carillon/",
	"services/chaos/crowd/",
	"services/chaos/load/",
	"services/control/",
	"services/edge/authorization/",
	"services/edge/frame/",
	"services/edge/roster/",
	"services/e2e/",
	"services/presence/",
	"services/publish/",
}

// notGenerated lies below a path of generated and is a core all the same.
var notGenerated = []string{
	"services/presence/policy/",
	"services/presence/view/",
}

// forbidden says which rule an import breaks, "" for none. Both are import paths;
// inTest is true for an import of a test file only. Since every package is asked
// about its direct imports, what it reaches through others obeys too.
func forbidden(importer, imported string, inTest bool) string {
	from, ok := within(importer)
	if !ok {
		return ""
	}
	if strings.HasPrefix(imported, "github.com/nats-io/") &&
		!under(from, "services/internal/stream/", "services/bench/system/", "services/carillon/", "services/e2e/") {
		return "NATS types stay in services/internal/stream and the wiring"
	}
	to, ok := within(imported)
	if !ok {
		return ""
	}
	source, target := service(from), service(to)
	switch {
	case under(from, "gen/") && !under(to, "gen/"):
		return "gen imports no code of ours"
	case under(from, "clients/") && !under(to, "gen/", "clients/"):
		return "clients import only gen and libraries"
	case under(from, "services/e2e/"):
		return ""
	case under(to, "services/carillon/") && source != "carillon":
		return "nothing imports the wiring"
	case under(to, "services/e2e/"):
		return "nothing imports the whole-system tests"
	case under(from, "services/internal/") && target != "":
		return "services/internal never imports a service"
	case source != "" && source != "carillon" && target != "" && target != source:
		return "a service never imports another service"
	case under(to, "gen/") && !inTest && (!under(from, generated...) || under(from, notGenerated...)):
		return "the types of gen stop at the handlers and clients of an API"
	}
	return ""
}

// within returns a path inside this module, ending in "/".
func within(path string) (string, bool) {
	rest, ok := strings.CutPrefix(path+"/", module+"/")
	return rest, ok
}

func under(path string, trees ...string) bool {
	return slices.ContainsFunc(trees, func(tree string) bool { return strings.HasPrefix(path, tree) })
}

// service is the name of the service that a path belongs to, "" for none.
func service(path string) string {
	rest, ok := strings.CutPrefix(path, "services/")
	if !ok || under(rest, "internal/", "e2e/") {
		return ""
	}
	name, _, _ := strings.Cut(rest, "/")
	return name
}

// TestImports holds the house rules of docs and CONTRIBUTING against every package.
// The lint configuration says the same to editors.
func TestImports(t *testing.T) {
	t.Parallel()
	type listed struct {
		ImportPath                         string
		Imports, TestImports, XTestImports []string
	}
	list := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Imports,TestImports,XTestImports", module+"/...")
	out, err := list.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	packages := 0
	for decoder := json.NewDecoder(strings.NewReader(string(out))); ; packages++ {
		var p listed
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		check := func(imports []string, inTest bool) {
			for _, imported := range imports {
				if rule := forbidden(p.ImportPath, imported, inTest); rule != "" {
					t.Errorf("%s imports %s: %s", p.ImportPath, imported, rule)
				}
			}
		}
		check(p.Imports, false)
		check(slices.Concat(p.TestImports, p.XTestImports), true)
	}
	if packages < 10 {
		t.Errorf("only %d packages were looked at", packages)
	}
}

// TestImportRules shows that each rule can fail.
func TestImportRules(t *testing.T) {
	t.Parallel()
	tests := []struct {
		from, to string
		inTest   bool
		allowed  bool
	}{
		{"gen/carillon/client/v1", "services/internal/fault", false, false},
		{"gen/carillon/client/v1", "gen/carillon/publish/v1", false, true},
		{"clients/go", "services/internal/fault", false, false},
		{"clients/go", "gen/carillon/client/v1", false, true},
		{"services/edge", "services/presence", false, false},
		{"services/edge/roster", "services/presence/view", true, false},
		{"services/edge", "services/edge/roster", false, true},
		{"services/edge", "services/internal/stream", false, true},
		{"services/edge", "gen/carillon/client/v1", false, false},
		{"services/edge", "gen/carillon/client/v1", true, true},
		{"services/edge/frame", "gen/carillon/client/v1", false, true},
		{"services/presence", "gen/carillon/presence/v1", false, true},
		{"services/presence/view", "gen/carillon/presence/v1", false, false},
		{"services/internal/message", "gen/carillon/client/v1", false, false},
		{"services/internal/rpc", "services/publish", false, false},
		{"services/internal/rpc", "services/publish", true, false},
		{"services/carillon", "services/publish", false, true},
		{"services/publish", "services/carillon", false, false},
		{"services/publish", "services/e2e", true, false},
		{"services/e2e", "services/edge", true, true},
		{"services/control", "gen/carillon/control/v1", false, true},
		{"services/internal/control", "gen/carillon/control/v1", false, false},
		{"services/internal/control", "services/control", true, false},
	}
	for _, test := range tests {
		rule := forbidden(module+"/"+test.from, module+"/"+test.to, test.inTest)
		if (rule == "") != test.allowed {
			t.Errorf("%s imports %s (in a test: %t): %q", test.from, test.to, test.inTest, rule)
		}
	}
	for from, allowed := range map[string]bool{
		"services/internal/stream": true, "services/carillon": true, "services/e2e": true,
		"services/edge": false, "services/presence": false, "services/publish": false, "clients/go": false,
	} {
		for _, inTest := range []bool{false, true} {
			rule := forbidden(module+"/"+from, "github.com/nats-io/nats.go", inTest)
			if (rule == "") != allowed {
				t.Errorf("%s imports NATS: %q", from, rule)
			}
		}
	}
	if rule := forbidden("example.com/other", module+"/services/edge", false); rule != "" {
		t.Errorf("a stranger is none of our business: %q", rule)
	}
}
