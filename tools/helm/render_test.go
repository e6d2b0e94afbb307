package helm_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"sigs.k8s.io/yaml"
)

// Where things are, seen from this directory.
const (
	root       = "../.."
	chartDir   = root + "/deployments/helm/carillon"
	helmBin    = root + "/bin/helm"
	conformBin = root + "/bin/kubeconform"
	carillon   = root + "/bin/carillon"
	schemaDir  = root + "/bin/schemas"
	natsServer = root + "/bin/nats-server"
)

const (
	release   = "ding"
	namespace = "belfry"
)

// variants are the values that the chart is tried with, by name.
var variants = map[string][]string{
	"default":    nil,
	"minimal":    {"-f", root + "/deployments/helm/minimal.yaml"},
	"production": {"-f", root + "/deployments/helm/production.yaml"},
	"everything": {"-f", "testdata/everything.yaml"},
	"nothing": {
		"--set", "networkPolicy.enabled=false,serviceAccount.create=false,configCheck.enabled=false,test.enabled=false,topologyKeys=null,secrets.keys=other",
	},
}

func TestMain(m *testing.M) {
	status := m.Run()
	if dir, err := chart(); err == nil {
		_ = os.RemoveAll(filepath.Dir(dir)) // what is left there harms nobody
	}
	os.Exit(status)
}

// chart is a copy of the chart with a small one in the place of the NATS chart, which
// cannot be fetched without a network.
var chart = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "carillon-chart-")
	if err != nil {
		return "", err
	}
	dir = filepath.Join(dir, "carillon")
	return dir, errors.Join(os.CopyFS(dir, os.DirFS(chartDir)), os.CopyFS(filepath.Join(dir, "charts", "nats"), os.DirFS("testdata/nats")))
})

// object is a manifest.
type object map[string]any

// at is what stands at a path of keys and, in lists, numbers; nil if nothing does.
func (o object) at(path ...any) any {
	var value any = map[string]any(o)
	for _, step := range path {
		switch step := step.(type) {
		case string:
			fields, _ := value.(map[string]any)
			value = fields[step]
		case int:
			list, _ := value.([]any)
			if step >= len(list) {
				return nil
			}
			value = list[step]
		}
	}
	return value
}

func (o object) text(path ...any) string {
	if value := o.at(path...); value != nil {
		return fmt.Sprint(value)
	}
	return ""
}

func (o object) list(path ...any) []object {
	entries, _ := o.at(path...).([]any)
	objects := make([]object, 0, len(entries))
	for _, entry := range entries {
		fields, _ := entry.(map[string]any)
		objects = append(objects, fields)
	}
	return objects
}

func (o object) strings(path ...any) map[string]string {
	fields, _ := o.at(path...).(map[string]any)
	texts := map[string]string{}
	for key, value := range fields {
		texts[key] = fmt.Sprint(value)
	}
	return texts
}

func (o object) name() string { return o.text("kind") + "/" + o.text("metadata", "name") }

// helm runs helm, which must find nothing of whoever runs the tests.
func helm(t testing.TB, arguments ...string) (stdout, stderr string, err error) {
	t.Helper()
	program, err := filepath.Abs(helmBin)
	if err != nil {
		t.Fatal(err)
	}
	home := t.TempDir()
	run := exec.CommandContext(t.Context(), program, arguments...)
	run.Env = []string{"HOME=" + home, "HELM_CACHE_HOME=" + home, "HELM_CONFIG_HOME=" + home, "HELM_DATA_HOME=" + home}
	var out, errs bytes.Buffer
	run.Stdout, run.Stderr = &out, &errs
	err = run.Run()
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
		t.Fatalf("%v (make helm builds it)", err)
	}
	return out.String(), errs.String(), err
}

// template renders the chart, with what only a cluster would tell as the newest has it.
func template(t testing.TB, values ...string) (stdout, stderr string, err error) {
	t.Helper()
	dir, err := chart()
	if err != nil {
		t.Fatal(err)
	}
	return helm(t, append([]string{"template", release, dir, "--namespace", namespace, "--kube-version", "1.36.0"}, values...)...)
}

// render is template without failure, decoded.
func render(t testing.TB, values ...string) []object {
	t.Helper()
	stdout, stderr, err := template(t, values...)
	if err != nil {
		t.Fatalf("helm template: %s", stderr)
	}
	return decode(t, stdout)
}

func decode(t testing.TB, manifests string) []object {
	t.Helper()
	var objects []object
	for document := range strings.SplitSeq("\n"+manifests, "\n---") {
		var o object
		if err := yaml.UnmarshalStrict([]byte(document), &o); err != nil {
			t.Fatalf("%v in\n%s", err, document)
		}
		if len(o) > 0 {
			objects = append(objects, o)
		}
	}
	return objects
}

// find returns the one object of this kind and name.
func find(t testing.TB, objects []object, name string) object {
	t.Helper()
	for _, o := range objects {
		if o.name() == name {
			return o
		}
	}
	t.Fatalf("there is no %s", name)
	return nil
}

// pods are the templates of all pods, by the name of what has them.
func pods(objects []object) map[string]object {
	all := map[string]object{}
	for _, o := range objects {
		switch o.text("kind") {
		case "Pod":
			all[o.name()] = o
		case "Deployment", "StatefulSet", "Job":
			template, _ := o.at("spec", "template").(map[string]any)
			all[o.name()] = template
		}
	}
	return all
}

// run runs a program with nothing but this environment and returns all that it says.
func run(t testing.TB, input io.Reader, environ []string, program string, arguments ...string) (string, error) {
	t.Helper()
	program, err := filepath.Abs(program)
	if err != nil {
		t.Fatal(err)
	}
	command := exec.CommandContext(t.Context(), program, arguments...)
	command.Env, command.Stdin = append([]string{}, environ...), input
	output, err := command.CombinedOutput()
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
		t.Fatal(err)
	}
	return string(output), err
}
