package e2e_test

import (
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
)

// watchedNATS is a cluster of three NATS servers over TLS, with what tells Prometheus of
// each.
type watchedNATS struct {
	url, ca   string
	servers   []*process
	exporters []string // addresses
}

const watchedServers = 3

func startWatchedNATS(b *testing.B) *watchedNATS {
	b.Helper()
	certificates := b.TempDir()
	if _, stderr, status := execute(b, nil, root+"/deployments/nats/certificates", certificates, "localhost"); status != 0 {
		b.Fatal(stderr)
	}
	w := &watchedNATS{ca: filepath.Join(certificates, "ca.pem")}
	var urls, routes []string
	for range watchedServers {
		urls = append(urls, strings.Replace(reserve(b), "127.0.0.1", "localhost", 1)) // which has a certificate
		routes = append(routes, "nats://"+reserve(b))
	}
	w.url = "tls://" + strings.Join(urls, ",tls://")
	for i := range watchedServers {
		_, port, err := net.SplitHostPort(urls[i])
		if err != nil {
			b.Fatal(err)
		}
		_, monitor, err := net.SplitHostPort(reserve(b))
		if err != nil {
			b.Fatal(err)
		}
		server := start(b, command{
			name: "nats-server", program: program(b, natsServerProgram),
			arguments: []string{
				"-n", fmt.Sprint("nats-", i), "-a", "127.0.0.1", "-p", port, "-m", monitor, "-js", "-sd", b.TempDir(),
				"--tls", "--tlscert", filepath.Join(certificates, "localhost.pem"), "--tlskey", filepath.Join(certificates, "localhost.key"),
				"--cluster_name", "carillon", "--cluster", routes[i], "--routes", strings.Join(routes, ","),
			},
		})
		server.line(b, &server.stderr, "Server is ready")
		w.servers = append(w.servers, server)
		w.exporters = append(w.exporters, startExporter(b, "http://127.0.0.1:"+monitor))
	}
	return w
}

// startExporter starts what asks a server and tells Prometheus, as compose.yaml does.
func startExporter(b *testing.B, server string) (address string) {
	b.Helper()
	address = reserve(b)
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		b.Fatal(err)
	}
	var file struct {
		Services map[string]struct{ Command any }
	}
	readYAML(b, root+"/deployments/compose/compose.yaml", &file)
	var arguments []string
	for _, argument := range file.Services["nats-exporter-0"].Command.([]any) {
		if flag := argument.(string); strings.HasPrefix(flag, "-") {
			arguments = append(arguments, flag)
		}
	}
	p := start(b, command{
		name: "prometheus-nats-exporter", program: installed(b, root+"/bin/prometheus-nats-exporter", "make observability"),
		arguments: append(arguments, "-addr", host, "-port", port, server),
	})
	p.line(b, &p.stderr, "exporter listening at")
	return address
}
