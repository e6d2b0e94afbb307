package kubernetes_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

const (
	root      = "../.."
	release   = "ding"
	namespace = "belfry"
)

// A real API server takes every manifest of the chart, and keeps it as it is: checked as
// strictly as it can, in a namespace that lets only restricted pods in, hooks and tests too,
// and each pod as a controller would make it.
func TestChart(t *testing.T) {
	s := startServer(t)
	chart := copyChart(t)
	installDefinitions(t, s)
	for name, values := range map[string][]string{
		"default":    nil,
		"minimal":    {"-f", root + "/deployments/helm/minimal.yaml"},
		"production": {"-f", root + "/deployments/helm/production.yaml"},
		"everything": {"-f", root + "/tools/helm/testdata/everything.yaml"},
	} {
		t.Run(name, func(t *testing.T) {
			namespace := name
			makeNamespace(t, s, namespace)
			manifests := helm(t, s, append([]string{"template", release, chart, "-n", namespace, "--validate"}, values...)...)
			for _, o := range decode(t, manifests) {
				first := s.apply(t, o, namespace)
				if again := s.apply(t, o, namespace); again != first {
					t.Errorf("%s: applying it again changes it", o.name())
				}
				tryPod(t, s, o, namespace)
			}
		})
	}
	t.Run("life", func(t *testing.T) { live(t, s, chart) })
}

// live installs a release, upgrades it to the most different values, goes back and removes
// it: nothing that cannot be changed is changed, and nothing is left behind.
func live(t *testing.T, s *server, chart string) {
	makeNamespace(t, s, namespace)
	// Hooks would wait for pods, which nobody runs here.
	at := []string{"-n", namespace, "--no-hooks"}
	helm(t, s, append([]string{"install", release, chart}, at...)...)
	helm(t, s, append([]string{"upgrade", release, chart, "-f", root + "/deployments/helm/production.yaml"}, at...)...)
	helm(t, s, append([]string{"upgrade", release, chart, "-f", root + "/deployments/helm/minimal.yaml"}, at...)...)
	helm(t, s, append([]string{"rollback", release, "1"}, at...)...)
	kinds := []string{
		"v1/ConfigMap", "v1/Service", "v1/ServiceAccount", "apps/v1/Deployment", "apps/v1/StatefulSet", "policy/v1/PodDisruptionBudget",
		"autoscaling/v2/HorizontalPodAutoscaler", "networking.k8s.io/v1/NetworkPolicy", "gateway.networking.k8s.io/v1/HTTPRoute",
		"monitoring.coreos.com/v1/ServiceMonitor", "monitoring.coreos.com/v1/PrometheusRule",
	}
	if n := count(t, s, kinds); n < 15 {
		t.Errorf("%d objects are there", n)
	}
	helm(t, s, append([]string{"uninstall", release}, at...)...)
	await(t, "nothing is left", func() error {
		if n := count(t, s, kinds); n > 0 {
			return errors.New("objects are left")
		}
		return nil
	})
}

// count is the number of objects of the release.
func count(t *testing.T, s *server, kinds []string) int {
	t.Helper()
	n := 0
	for _, kind := range kinds {
		at := strings.LastIndex(kind, "/")
		path := s.collection(t, kind[:at], kind[at+1:], namespace) + "?labelSelector=app.kubernetes.io/instance%3D" + release
		_, _, answer, err := s.do(t.Context(), http.MethodGet, path, "", nil)
		var list struct{ Items []any }
		if err == nil {
			err = json.Unmarshal(answer, &list)
		}
		if err != nil {
			t.Fatal(err)
		}
		n += len(list.Items)
	}
	return n
}

// tryPod has the server look at the pod that a controller would make of an object.
func tryPod(t *testing.T, s *server, o object, namespace string) {
	t.Helper()
	var controller struct {
		Spec struct{ Template map[string]any }
	}
	if err := json.Unmarshal(o.text, &controller); err != nil {
		t.Fatal(err)
	}
	pod := controller.Spec.Template
	if pod == nil || !slices.Contains([]string{"Deployment", "StatefulSet", "Job"}, o.Kind) {
		return
	}
	pod["apiVersion"], pod["kind"] = "v1", "Pod"
	pod["metadata"].(map[string]any)["generateName"] = "tried-"
	if class := pod["spec"].(map[string]any)["priorityClassName"]; class != nil {
		delete(pod["spec"].(map[string]any), "priorityClassName") // the cluster's own affair
	}
	text, err := json.Marshal(pod)
	if err != nil {
		t.Fatal(err)
	}
	status, warnings, answer, err := s.do(t.Context(), http.MethodPost, s.collection(t, "v1", "Pod", namespace)+"?dryRun=All&fieldValidation=Strict", "application/json", text)
	if err != nil || status != http.StatusCreated || len(warnings) > 0 {
		t.Errorf("the pod of %s: %d %q %v\n%s", o.name(), status, warnings, err, answer)
	}
}

// makeNamespace makes one that lets in what Kubernetes calls restricted, with the service
// accounts that a controller would make and a chart's user may name.
func makeNamespace(t *testing.T, s *server, name string) {
	t.Helper()
	for _, manifest := range []string{
		`{apiVersion: v1, kind: Namespace, metadata: {name: ` + name + `, labels: {pod-security.kubernetes.io/enforce: restricted, pod-security.kubernetes.io/warn: restricted}}}`,
		`{apiVersion: v1, kind: ServiceAccount, metadata: {name: default}}`,
	} {
		for _, o := range decode(t, manifest) {
			s.apply(t, o, name)
		}
	}
}

// installDefinitions makes the server know the kinds of the Prometheus operator and of the
// Gateway API, from the modules that tools/helm pins.
func installDefinitions(t *testing.T, s *server) {
	t.Helper()
	for module, files := range map[string][]string{
		"github.com/prometheus-operator/prometheus-operator": {
			"example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml",
			"example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml",
		},
		"sigs.k8s.io/gateway-api": {
			"config/crd/standard/gateway.networking.k8s.io_httproutes.yaml",
			"config/crd/standard/gateway.networking.k8s.io_grpcroutes.yaml",
		},
	} {
		list := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", module)
		list.Dir = root + "/tools/helm"
		dir, err := list.Output()
		if err != nil || len(dir) < 2 {
			t.Fatalf("%s: %q %v", module, dir, err)
		}
		for _, file := range files {
			text, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), file))
			if err != nil {
				t.Fatal(err)
			}
			for _, o := range decode(t, string(text)) {
				s.apply(t, o, "")
				establish(t, s, o)
			}
		}
	}
}

// establish waits until a definition counts.
func establish(t *testing.T, s *server, o object) {
	t.Helper()
	var definition struct {
		Spec struct {
			Group    string
			Names    struct{ Plural string }
			Versions []struct{ Name string }
		}
	}
	if err := json.Unmarshal(o.text, &definition); err != nil {
		t.Fatal(err)
	}
	await(t, o.name(), func() error {
		status, _, answer, err := s.do(t.Context(), http.MethodGet, "/apis/"+definition.Spec.Group+"/"+definition.Spec.Versions[0].Name+"/"+definition.Spec.Names.Plural, "", nil)
		if err == nil && status != http.StatusOK {
			err = errors.New(string(answer))
		}
		return err
	})
}

// copyChart puts a small chart in the place of the NATS chart, which is not fetched.
func copyChart(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "carillon")
	if err := errors.Join(
		os.CopyFS(dir, os.DirFS(root+"/deployments/helm/carillon")),
		os.CopyFS(filepath.Join(dir, "charts", "nats"), os.DirFS(root+"/tools/helm/testdata/nats")),
	); err != nil {
		t.Fatal(err)
	}
	return dir
}

func helm(t *testing.T, s *server, arguments ...string) string {
	t.Helper()
	home := t.TempDir()
	command := exec.CommandContext(t.Context(), bin+"helm", arguments...)
	command.Env = []string{"HOME=" + home, "HELM_CACHE_HOME=" + home, "HELM_CONFIG_HOME=" + home, "HELM_DATA_HOME=" + home, "KUBECONFIG=" + s.kubeconfig}
	output, err := command.Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		t.Fatalf("helm %v:\n%s", arguments, exit.Stderr)
	}
	if err != nil {
		t.Fatal(err)
	}
	return string(output)
}

func decode(t *testing.T, manifests string) []object {
	t.Helper()
	var objects []object
	for document := range strings.SplitSeq("\n"+manifests, "\n---") {
		text, err := yaml.YAMLToJSONStrict([]byte(document))
		if err != nil {
			t.Fatalf("%v in\n%s", err, document)
		}
		o := object{text: text}
		if err := json.Unmarshal(text, &o); err != nil {
			t.Fatal(err)
		}
		if o.Kind != "" {
			objects = append(objects, o)
		}
	}
	return objects
}
