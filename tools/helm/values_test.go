package helm_test

import (
	"encoding/json"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// What is wrong is refused before anything is installed, with the place and what would be
// right.
func TestWrongValues(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]string{
		// By the schema.
		"edge.replica=3":                              "at '/edge': additional properties 'replica' not allowed",
		"edge.replicas=0":                             "at '/edge/replicas': minimum: got 0, want 1",
		"edge.replicas=two":                           "at '/edge/replicas': got string, want integer",
		"edge.service.type=ExternalName":              "at '/edge/service/type': value must be one of 'ClusterIP', 'LoadBalancer', 'NodePort'",
		"edge.service.port=70000":                     "at '/edge/service/port': maximum: got 70,000, want 65,535",
		"edge.resources.limits.memory=lots":           "at '/edge/resources/limits/memory': 'lots' does not match pattern",
		"edge.resources.limit.memory=1Gi":             "at '/edge/resources': additional properties 'limit' not allowed",
		"edge.autoscaling.cpuPercent=200":             "at '/edge/autoscaling/cpuPercent': maximum",
		"edge.podDisruptionBudget.maxUnavailable=0":   "at '/edge/podDisruptionBudget/maxUnavailable': minimum: got 0, want 1",
		"edge.podDisruptionBudget.maxUnavailable=all": "at '/edge/podDisruptionBudget/maxUnavailable': 'all' does not match pattern",
		"publish.tls.clientCertificates=maybe":        "at '/publish/tls/clientCertificates': got string, want boolean",
		"presence.replicas=0":                         "at '/presence/replicas': minimum: got 0, want 1",
		"presence.replicas=100":                       "at '/presence/replicas': maximum",
		"presence.autoscaling.enabled=true":           "at '/presence': additional properties 'autoscaling' not allowed",
		"image.pullPolicy=Sometimes":                  "at '/image/pullPolicy': value must be one of",
		"image.digest=sha256:abc":                     "at '/image/digest': 'sha256:abc' does not match pattern",
		"image.repository=carillon:v1":                "at '/image/repository': 'carillon:v1' does not match pattern",
		"nats.url=localhost":                          "at '/nats/url': 'localhost' does not match pattern",
		"nats.url=nats://user:word@nats:4222":         "at '/nats/url'",
		"nats.passwordSecret=My_Secret":               "at '/nats/passwordSecret': 'My_Secret' does not match pattern",
		"secrets.Keys=carillon-keys":                  "at '/secrets': additional properties 'Keys' not allowed",
		"shutdown.preStopSeconds=0":                   "at '/shutdown/preStopSeconds': minimum: got 0, want 1",
		"config.edge.max_conections=1":                "at '/config/edge': additional properties 'max_conections' not allowed",
		"config.edge.max_connections=0":               "at '/config/edge/max_connections': minimum: got 0, want 1",
		"config.edge.ping_interval=25":                "at '/config/edge/ping_interval': got number, want string",
		"config.console.enabled=on":                   "at '/config/console/enabled': got string, want boolean",
		"config.log.level=loud":                       "at '/config/log/level': value must be one of 'debug', 'info', 'warn', 'error'",
		"config.auth.roles_secret.fil=/x":             "at '/config/auth/roles_secret': additional properties 'fil' not allowed",
		"config.namespace=chat":                       "at '/config': additional properties 'namespace' not allowed",
		"config.namespaces=null":                      "at '/config': missing property 'namespaces'",
		"ingress.hosts={rt_example}":                  "at '/ingress/hosts/0': 'rt_example' does not match pattern",
		"gateway.parentRefs[0].namespace=gateways":    "at '/gateway/parentRefs/0': missing property 'name'",
		"networkPolicy.edge.from[0].pods=all":         "at '/networkPolicy/edge/from/0': additional properties 'pods' not allowed",
		"serviceMonitor.interval=15":                  "at '/serviceMonitor/interval'",
		"test.channel=chat":                           "at '/test/channel': 'chat' does not match pattern",
		"fullnameOverride=Bells":                      "at '/fullnameOverride': 'Bells' does not match pattern",
		"prometheus=true":                             "at '': additional properties 'prometheus' not allowed",
		// By the templates.
		"config.nats.url=nats://nats:4222":               "config.nats.url is set by the chart: give nats.url",
		"config.nats.tls.ca_file=x":                      "config.nats.tls is set by the chart: give nats.caSecret",
		"config.edge.listen=:80":                         "config.edge.listen is set by the chart: it is :8080",
		"config.edge.drain_window=1m":                    "config.edge.drain_window is set by the chart: give shutdown.drainWindowSeconds",
		"config.shutdown_timeout=1m":                     "config.shutdown_timeout is set by the chart: give shutdown.timeoutSeconds",
		"config.presence.addresses={a:1}":                "config.presence.addresses is set by the chart: give presence.replicas",
		"config.publish.tls.cert_file=x":                 "config.publish.tls is set by the chart: give publish.tls.secretName",
		"config.ops.tls.cert_file=x":                     "config.ops.tls is set by the chart: give ops.tls.secretName",
		"config.ops.pprof=true":                          "config.ops.pprof is set by the chart: it needs a loopback address",
		"config.data_dir=/data":                          "config.data_dir is set by the chart: the roles keep nothing on a disk",
		"shutdown.drainWindowSeconds=60":                 "shutdown.drainWindowSeconds, 60, is not less than shutdown.timeoutSeconds, 45",
		"nats.passwordSecret=a,nats.credentialsSecret=b": "nats.passwordSecret and nats.credentialsSecret are given; NATS takes one",
		"publish.tls.clientCertificates=true":            "publish.tls.clientCertificates needs publish.tls.secretName",
		"ops.tls.clientCertificates=true":                "ops.tls.clientCertificates needs ops.tls.secretName",
		"edge.autoscaling.enabled=true,edge.autoscaling.connections=0,edge.autoscaling.cpuPercent=0": "edge.autoscaling looks at nothing: give connections, cpuPercent or both",
		"publish.autoscaling.enabled=true,publish.autoscaling.minReplicas=11":                        "publish.autoscaling.minReplicas, 11, is more than maxReplicas, 10",
		"gateway.enabled=true": "gateway.enabled needs gateway.parentRefs",
	} {
		t.Run(value, func(t *testing.T) {
			t.Parallel()
			stdout, stderr, err := template(t, "--set", value)
			if err == nil || !strings.Contains(stderr, want) {
				t.Errorf("%s: %v\n%s%.300s\nwant %s", value, err, stderr, stdout, want)
			}
		})
	}
}

// Every value has a place in the schema, and what the schema knows is a value, so that
// values.yaml has them all.
func TestSchemaAndValues(t *testing.T) {
	t.Parallel()
	var schema, values map[string]any
	read(t, chartDir+"/values.schema.json", func(text []byte) error { return json.Unmarshal(text, &schema) })
	read(t, chartDir+"/values.yaml", func(text []byte) error { return yaml.UnmarshalStrict(text, &values) })
	definitions, _ := schema["definitions"].(map[string]any)
	compare(t, "", schema, values, definitions)
}

func read(t *testing.T, name string, parse func([]byte) error) {
	t.Helper()
	text, err := os.ReadFile(name)
	if err == nil {
		err = parse(text)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// foreign are values whose fields are listed elsewhere: by Helm, by the NATS chart, and
// by carillon config print.
var foreign = []string{"/global", "/broker", "/config", "/secrets"}

func compare(t *testing.T, path string, schema, values, definitions map[string]any) {
	t.Helper()
	if ref, ok := schema["$ref"].(string); ok {
		schema, _ = definitions[strings.TrimPrefix(ref, "#/definitions/")].(map[string]any)
	}
	fields, _ := schema["properties"].(map[string]any)
	if fields == nil {
		return
	}
	if path == "" || !slices.Contains(foreign, path) {
		for name := range fields {
			if _, has := values[name]; !has && !slices.Contains(foreign, path+"/"+name) && !strings.HasSuffix(path, "/resources") {
				t.Errorf("values.yaml has no %s/%s", path, name)
			}
		}
		if schema["additionalProperties"] != false {
			t.Errorf("the schema takes what it does not know of %s", path)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		field, known := fields[name].(map[string]any)
		if !known && !slices.Contains(foreign, path) {
			t.Errorf("the schema has no %s/%s", path, name)
			continue
		}
		if inner, ok := values[name].(map[string]any); ok {
			compare(t, path+"/"+name, field, inner, definitions)
		}
	}
}
