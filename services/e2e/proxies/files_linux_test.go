package proxies_test

import (
	"fmt"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	_ "github.com/carillon-rt/carillon/gen/carillon/authz/v1" // registers its service, as the others do
	_ "github.com/carillon-rt/carillon/gen/carillon/control/v1"
	_ "github.com/carillon-rt/carillon/gen/carillon/presence/v1"
	_ "github.com/carillon-rt/carillon/gen/carillon/publish/v1"
	"github.com/carillon-rt/carillon/services/internal/config"
)

// balancer is a load balancer with its file in deployments/.
type balancer struct {
	name, file string
	// place is the directory where it looks for its file.
	place      string
	check, run []string
	// reload is the signal that makes it read its file again.
	reload syscall.Signal
	// silence finds how long a WebSocket may be silent, in seconds.
	silence *regexp.Regexp
	// server finds the servers, with what it knows of their health.
	server *regexp.Regexp
	// misses are those whom somebody misses within a minute when their hosts are gone.
	misses []string
	// announced tests the variant with PROXY headers.
	announced func(t *testing.T, s *system, b balancer)
	// routes are where the requests to a port go.
	routes func(text, port string) []route
}

var balancers = []balancer{
	{
		name: "nginx", file: "nginx.conf", place: "/etc/nginx", check: []string{"nginx", "-t"}, run: []string{"nginx", "-g", "daemon off;"}, reload: syscall.SIGHUP,
		silence: regexp.MustCompile(`(?s)location = /v1/ws \{.*?proxy_read_timeout (\d+)s;`),
		server:  regexp.MustCompile(`\bserver ([a-z]+-\d):(\d+) max_fails=0;`),
		routes:  nginxRoutes, announced: spokenFor,
		misses: []string{"user"}, // of callers, how long TCP goes on trying is the system's to say
	},
	{
		name: "haproxy", file: "haproxy.cfg", place: "/etc/haproxy",
		check: []string{"haproxy", "-c", "-f", "/etc/haproxy/haproxy.cfg"}, run: []string{"haproxy", "-W", "-db", "-f", "/etc/haproxy/haproxy.cfg"}, reload: syscall.SIGUSR2,
		silence: regexp.MustCompile(`timeout tunnel (\d+)s`),
		server:  regexp.MustCompile(`(?m)^    server ([a-z]+-\d) [a-z]+-\d:(\d+)`),
		routes:  haproxyRoutes, announced: passedThrough,
		misses: []string{"user", "silent caller", "caller"},
	},
}

// uncomment takes the marks of a variant away, as the file says.
func uncomment(text, mark string) string {
	return regexp.MustCompile(`(?m)^( *)#`+mark+`\| ?`).ReplaceAllString(text, "$1")
}

// route takes requests to the servers of a name.
type route struct {
	path *regexp.Regexp
	to   string
}

// nginxRoutes reads the locations of the server that listens on a port.
func nginxRoutes(text, port string) (routes []route) {
	for _, server := range strings.Split(text, "\n    server {")[1:] {
		if !strings.Contains(server, "listen "+port) {
			continue
		}
		server, _, _ = strings.Cut(server, "\n    }")
		for _, found := range regexp.MustCompile(`location (= |~ )?(\S+) \{\s+(?:grpc|proxy)_pass \w+://(\w+);`).FindAllStringSubmatch(server, -1) {
			path := map[string]string{"= ": "^" + regexp.QuoteMeta(found[2]) + "$", "~ ": found[2], "": "^" + regexp.QuoteMeta(found[2])}[found[1]]
			routes = append(routes, route{regexp.MustCompile(path), found[3]})
		}
	}
	return routes
}

// haproxyRoutes reads the rules of the frontend that listens on a port, each of which has
// the name of where it leads to, if another has not.
func haproxyRoutes(text, port string) (routes []route) {
	for _, frontend := range strings.Split(text, "\nfrontend ")[1:] {
		if !strings.Contains(frontend, "bind :"+port) {
			continue
		}
		frontend, _, _ = strings.Cut(frontend, "\n\n")
		otherwise := regexp.MustCompile(`default_backend (\w+)`).FindStringSubmatch(frontend)[1]
		for _, found := range regexp.MustCompile(`acl (\w+) (path|path_beg) (.*)`).FindAllStringSubmatch(frontend, -1) {
			to := otherwise
			if strings.Contains(frontend, "use_backend "+found[1]) {
				to = found[1]
			}
			end := map[string]string{"path": "$", "path_beg": ""}[found[2]]
			for path := range strings.FieldsSeq(found[3]) {
				routes = append(routes, route{regexp.MustCompile("^" + regexp.QuoteMeta(path) + end), to})
			}
		}
	}
	return routes
}

func routed(routes []route, path string) (to string) {
	for _, r := range routes {
		if r.path.MatchString(path) {
			return r.to
		}
	}
	return ""
}

// checkFile holds what a file says of Carillon against what is so.
func (b balancer) checkFile(t *testing.T) {
	t.Helper()
	text := read(t, b.name, b.file)

	ping, pong := defaultOf(t, "PingInterval"), defaultOf(t, "PongTimeout")
	found := b.silence.FindStringSubmatch(text)
	if found == nil {
		t.Fatal("it does not say how long a WebSocket may be silent")
	}
	if silence, err := time.ParseDuration(found[1] + "s"); err != nil || silence < 2*ping+pong {
		t.Errorf("a WebSocket may be silent for %ss, and the edge pings after %v and waits for %v: %v", found[1], ping, pong, err)
	}

	var servers []string
	for _, server := range b.server.FindAllStringSubmatch(text, -1) {
		servers = append(servers, server[1]+":"+server[2])
	}
	slices.Sort(servers)
	want := []string{
		"edge-0:8080", "edge-1:8080", "presence-0:9091", "presence-1:9091",
		"publish-0:8081", "publish-0:9090", "publish-1:8081", "publish-1:9090",
	}
	if !slices.Equal(servers, want) {
		t.Errorf("servers %q, want %q", servers, want)
	}

	b.checkRoutes(t, text)
	if changed := uncomment(text, "tls"); len(b.routes(changed, "8443 ssl")) != 1 || len(b.routes(changed, "9443 ssl")) == 0 || len(b.routes(changed, "8444 ssl")) == 0 {
		t.Error("the variant with TLS does not listen on three ports")
	}
}

// checkRoutes wants every method for callers, and none for roles, to be reached.
func (b balancer) checkRoutes(t *testing.T, text string) {
	t.Helper()
	if to := routed(b.routes(text, "8080"), "/v1/ws"); to != "edges" {
		t.Errorf("/v1/ws goes to %q", to)
	}
	services := 0
	protoregistry.GlobalFiles.RangeFiles(func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			s := f.Services().Get(i)
			if !strings.HasPrefix(string(s.FullName()), "carillon.") {
				continue
			}
			services++
			want := "publish"
			switch s.Name() {
			case "PresenceService":
				want = "presence"
			case "PresenceReportService", "AuthorizationService": // what roles say to each other
				want = ""
			}
			if to := routed(b.routes(text, "9090"), fmt.Sprintf("/%s/%s", s.FullName(), s.Methods().Get(0).Name())); to != want {
				t.Errorf("%s goes to %q, want %q", s.FullName(), to, want)
			}
		}
		return true
	})
	if services < 6 {
		t.Errorf("only %d services", services)
	}
	rules, err := os.ReadFile("../../../proto/http.yaml")
	if err != nil {
		t.Fatal(err)
	}
	paths := regexp.MustCompile(`(?:get|post): (/\S+)`).FindAllStringSubmatch(string(rules), -1)
	if len(paths) < 10 {
		t.Errorf("only %d paths in proto/http.yaml", len(paths))
	}
	for _, path := range paths {
		if to := routed(b.routes(text, "8081"), path[1]); to != "publish_http" {
			t.Errorf("%s goes to %q", path[1], to)
		}
	}
}

// defaultOf is the default of an option of the edge.
func defaultOf(t *testing.T, field string) time.Duration {
	t.Helper()
	option, ok := reflect.TypeFor[config.Edge]().FieldByName(field)
	if !ok {
		t.Fatalf("there is no option %s", field)
	}
	value, err := time.ParseDuration(option.Tag.Get("default"))
	if err != nil {
		t.Fatal(err)
	}
	return value
}
