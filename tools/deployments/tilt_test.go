package deployments_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.starlark.net/starlark"
	"go.starlark.net/starlarkstruct"
	"go.starlark.net/syntax"
	"go.yaml.in/yaml/v3"
)

// tilt stands in for Tilt: it has the functions of its documentation (docs.tilt.dev/api)
// that the Tiltfile may use, with their parameters, and notes the calls. What is not
// here, or a parameter that is not, ends the Tiltfile with an error.
type tilt struct {
	t     *testing.T
	dir   string // of the Tiltfile
	calls map[string][]call
}

// call is the arguments of one call, by name.
type call map[string]starlark.Value

// The parameters of what the Tiltfile may call, those that must be given first, then a
// bar, then the others. From Tilt 0.33's API reference and, for what is loaded, from the
// extensions' own READMEs.
var builtins = map[string]string{
	"version_settings":   "| check_updates constraint",
	"local":              "command | quiet command_bat echo_off env dir stdin",
	"local_resource":     "name | cmd deps trigger_mode resource_deps ignore auto_init serve_cmd cmd_bat serve_cmd_bat allow_parallel links tags env serve_env readiness_probe dir serve_dir labels",
	"docker_build":       "ref context | build_args dockerfile dockerfile_contents live_update match_in_env_vars ignore only entrypoint target ssh network secret extra_tag container_args cache_from pull platform extra_hosts",
	"sync":               "local_path remote_path |",
	"run":                "cmd | trigger echo_off",
	"helm":               "pathToChartDir | name namespace values set kube_version skip_crds",
	"k8s_yaml":           "yaml | allow_duplicates",
	"k8s_resource":       "| workload new_name port_forwards extra_pod_selectors trigger_mode resource_deps objects auto_init pod_readiness links labels discovery_strategy",
	"port_forward":       "local_port | container_port name link_path host",
	"link":               "url | name",
	"decode_yaml_stream": "yaml |",
	"encode_yaml_stream": "objs |",
	"blob":               "contents |",
}

var extensions = map[string]map[string]string{
	"ext://restart_process": {
		"docker_build_with_restart": "ref context entrypoint live_update | base_suffix restart_file build_args dockerfile dockerfile_contents match_in_env_vars ignore only target ssh network secret extra_tag container_args cache_from pull platform",
	},
	"ext://uibutton": {
		"cmd_button":   "name | resource argv text location icon_name icon_svg inputs env dir requires_confirmation disabled",
		"text_input":   "name | label default placeholder",
		"bool_input":   "name | label default true_string false_string",
		"choice_input": "name | label choices",
	},
}

// stub is a function with those parameters.
func (s *tilt) stub(name, parameters string) *starlark.Builtin {
	required, optional, _ := strings.Cut(parameters, "|")
	names := slices.Concat(strings.Fields(required), strings.Fields(optional))
	needed := len(strings.Fields(required))
	return starlark.NewBuiltin(name, func(_ *starlark.Thread, _ *starlark.Builtin, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error) {
		values := make([]starlark.Value, len(names))
		pairs := make([]any, 0, 2*len(names))
		for i, parameter := range names {
			if i >= needed {
				parameter += "?"
			}
			pairs = append(pairs, parameter, &values[i])
		}
		if err := starlark.UnpackArgs(name, args, kwargs, pairs...); err != nil {
			return nil, err
		}
		given := call{}
		for i, value := range values {
			if value != nil {
				given[names[i]] = value
			}
		}
		s.calls[name] = append(s.calls[name], given)
		return s.answer(name, given)
	})
}

// answer does what of a function the rest of the Tiltfile needs.
func (s *tilt) answer(name string, given call) (starlark.Value, error) {
	text := func(parameter string) string {
		value, _ := starlark.AsString(given[parameter])
		return value
	}
	switch name {
	case "local": // what it says is what the test's machine says; what it does is not done here
		if _, does := given["command"].(*starlark.List); does {
			return starlark.String(""), nil
		}
		output, err := exec.CommandContext(s.t.Context(), "sh", "-c", text("command")).Output()
		return starlark.String(output), err
	case "helm":
		return s.render(text("pathToChartDir"), text("name"), given["values"])
	case "decode_yaml_stream":
		return decodeYAML(text("yaml"))
	case "encode_yaml_stream":
		return encodeYAML(given["objs"])
	case "sync", "run", "port_forward", "link", "text_input", "bool_input", "choice_input":
		members := starlark.StringDict{"kind": starlark.String(name)}
		for parameter, value := range given {
			members[parameter] = value
		}
		return starlarkstruct.FromStringDict(starlarkstruct.Default, members), nil
	default:
		return starlark.None, nil
	}
}

// render is `helm template`, by the helm that make bin/helm builds, or the one in PATH.
func (s *tilt) render(chart, name string, values starlark.Value) (starlark.Value, error) {
	helm := filepath.Join(repository, "bin/helm")
	if _, err := os.Stat(helm); err != nil {
		helm = "helm"
	}
	copied, err := s.whole(filepath.Join(s.dir, chart))
	if err != nil {
		return nil, err
	}
	arguments := []string{"template", name, copied}
	for _, file := range texts(values) {
		arguments = append(arguments, "--values", filepath.Join(s.dir, file))
	}
	render := exec.CommandContext(s.t.Context(), helm, arguments...)
	var stderr bytes.Buffer
	render.Stderr = &stderr
	output, err := render.Output()
	if err != nil {
		return nil, fmt.Errorf("helm %q: %w: %s", arguments, err, stderr.String())
	}
	return starlark.String(output), nil
}

// whole is a copy of a chart with empty ones in the place of those that it depends on,
// which are fetched from a network, and which nothing here uses.
func (s *tilt) whole(chart string) (string, error) {
	var described struct {
		Dependencies []struct{ Name, Version string }
	}
	text, err := os.ReadFile(filepath.Join(chart, "Chart.yaml"))
	if err != nil {
		return "", err
	}
	if err := yaml.Unmarshal(text, &described); err != nil {
		return "", err
	}
	copied := s.t.TempDir()
	if err := os.CopyFS(copied, os.DirFS(chart)); err != nil {
		return "", err
	}
	for _, dependency := range described.Dependencies {
		dir := filepath.Join(copied, "charts", dependency.Name)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return "", err
		}
		empty := fmt.Sprintf("apiVersion: v2\nname: %s\nversion: %s\n", dependency.Name, strings.ReplaceAll(dependency.Version, "x", "0"))
		if err := os.WriteFile(filepath.Join(dir, "Chart.yaml"), []byte(empty), 0o600); err != nil {
			return "", err
		}
	}
	return copied, nil
}

// texts are the elements of a list of strings.
func texts(list starlark.Value) (all []string) {
	if sequence, ok := list.(starlark.Iterable); ok {
		for value := range starlark.Elements(sequence) {
			text, _ := starlark.AsString(value)
			all = append(all, text)
		}
	}
	return all
}

func decodeYAML(text string) (starlark.Value, error) {
	var all []starlark.Value
	for decoder := yaml.NewDecoder(strings.NewReader(text)); ; {
		var document any
		if err := decoder.Decode(&document); err != nil {
			if len(all) == 0 {
				return nil, fmt.Errorf("no YAML: %w", err)
			}
			return starlark.NewList(all), nil
		}
		if document != nil {
			all = append(all, toStarlark(document))
		}
	}
}

func encodeYAML(objects starlark.Value) (starlark.Value, error) {
	var text bytes.Buffer
	encoder := yaml.NewEncoder(&text)
	for object := range starlark.Elements(objects.(starlark.Iterable)) {
		if err := encoder.Encode(fromStarlark(object)); err != nil {
			return nil, err
		}
	}
	return starlark.String(text.String()), encoder.Close()
}

func toStarlark(value any) starlark.Value {
	switch value := value.(type) {
	case map[string]any:
		dict := starlark.NewDict(len(value))
		for key, element := range value {
			_ = dict.SetKey(starlark.String(key), toStarlark(element)) // a string can be a key
		}
		return dict
	case []any:
		var all []starlark.Value
		for _, element := range value {
			all = append(all, toStarlark(element))
		}
		return starlark.NewList(all)
	case string:
		return starlark.String(value)
	case bool:
		return starlark.Bool(value)
	case int:
		return starlark.MakeInt(value)
	case float64:
		return starlark.Float(value)
	default:
		return starlark.None
	}
}

func fromStarlark(value starlark.Value) any {
	switch value := value.(type) {
	case *starlark.Dict:
		all := map[string]any{}
		for key, element := range starlark.Entries(value) {
			text, _ := starlark.AsString(key)
			all[text] = fromStarlark(element)
		}
		return all
	case *starlark.List:
		all := []any{}
		for element := range starlark.Elements(value) {
			all = append(all, fromStarlark(element))
		}
		return all
	case starlark.String:
		return string(value)
	case starlark.Bool:
		return bool(value)
	case starlark.Int:
		number, _ := value.Int64()
		return number
	case starlark.Float:
		return float64(value)
	default:
		return nil
	}
}

// execute runs a Tiltfile as Tilt does: at the top level with if and for, and a function
// may be defined twice.
func execute(t *testing.T, name string, text []byte) (*tilt, error) {
	t.Helper()
	s := &tilt{t: t, dir: filepath.Join(repository, "tilt"), calls: map[string][]call{}}
	ofPath := func(name string, answer func(path string) starlark.Value) *starlark.Builtin {
		return starlark.NewBuiltin(name, func(_ *starlark.Thread, b *starlark.Builtin, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error) {
			var path string
			if err := starlark.UnpackPositionalArgs(b.Name(), args, kwargs, 1, &path); err != nil {
				return nil, err
			}
			return answer(path), nil
		})
	}
	members := func(of starlark.StringDict) starlark.Value {
		return starlarkstruct.FromStringDict(starlarkstruct.Default, of)
	}
	predeclared := starlark.StringDict{"os": members(starlark.StringDict{"path": members(starlark.StringDict{
		"abspath": ofPath("abspath", func(path string) starlark.Value { return starlark.String(filepath.Join(s.dir, path)) }),
		"exists": ofPath("exists", func(path string) starlark.Value {
			_, err := os.Stat(path)
			return starlark.Bool(err == nil)
		}),
	})})}
	for builtin, parameters := range builtins {
		predeclared[builtin] = s.stub(builtin, parameters)
	}
	thread := &starlark.Thread{Name: "Tiltfile", Load: func(_ *starlark.Thread, module string) (starlark.StringDict, error) {
		functions, known := extensions[module]
		if !known {
			return nil, fmt.Errorf("no such extension: %s", module)
		}
		members := starlark.StringDict{}
		for function, parameters := range functions {
			members[function] = s.stub(function, parameters)
		}
		if module == "ext://uibutton" {
			members["location"] = starlarkstruct.FromStringDict(starlarkstruct.Default, starlark.StringDict{
				"RESOURCE": starlark.String("resource"), "NAV": starlark.String("nav"),
			})
		}
		return members, nil
	}}
	_, err := starlark.ExecFileOptions(&syntax.FileOptions{Set: true, TopLevelControl: true, GlobalReassign: true, Recursion: true}, thread, name, text, predeclared)
	return s, err
}

// The Tiltfile runs, and what it names is there.
func TestTiltfile(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(repository, "tilt/Tiltfile"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := execute(t, "Tiltfile", text)
	if err != nil {
		t.Fatal(err)
	}
	workloads, images := deployed(t, s)
	resources := []string{"compile"}
	for _, resource := range s.calls["k8s_resource"] {
		name, _ := starlark.AsString(resource["workload"])
		if !slices.Contains(workloads, name) {
			t.Errorf("k8s_resource(%q): the cluster gets %v", name, workloads)
		}
		resources = append(resources, name)
	}
	slices.Sort(workloads)
	if named := slices.Sorted(slices.Values(resources[1:])); !slices.Equal(named, workloads) {
		t.Errorf("resources %v, workloads %v", named, workloads)
	}
	for _, resource := range s.calls["k8s_resource"] {
		for _, dependency := range texts(resource["resource_deps"]) {
			if !slices.Contains(resources, dependency) {
				t.Errorf("%v depends on %q", resource["workload"], dependency)
			}
		}
	}
	build := s.calls["docker_build_with_restart"][0]
	image, _ := starlark.AsString(build["ref"])
	if !slices.Contains(images, image) {
		t.Errorf("%s is built, and the cluster runs %v", image, images)
	}
	dockerfile, _ := starlark.AsString(build["dockerfile"])
	if _, err := os.Stat(filepath.Join(s.dir, dockerfile)); err != nil {
		t.Error(err)
	}
	command := texts(s.calls["local_resource"][0]["cmd"])
	context, _ := starlark.AsString(build["context"])
	if command[1] != filepath.Join(s.dir, context) {
		t.Errorf("%q is compiled into, and the image is made of %q", command[1], context)
	}
	for _, path := range append(texts(s.calls["local_resource"][0]["deps"]), command[0]) {
		if _, err := os.Stat(path); err != nil {
			t.Error(err)
		}
	}
	buttons := map[string]bool{}
	for _, button := range s.calls["cmd_button"] {
		name, _ := starlark.AsString(button["name"])
		buttons[name] = true
		if resource, given := starlark.AsString(button["resource"]); given && !slices.Contains(resources, resource) {
			t.Errorf("the button %s is on %q", name, resource)
		}
		shell := exec.CommandContext(t.Context(), "sh", "-n", "-c", texts(button["argv"])[2])
		if output, err := shell.CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", name, err, output)
		}
	}
	for _, name := range []string{"token", "publish", "chaos"} {
		if !buttons[name] {
			t.Errorf("no button %s", name)
		}
	}
}

// deployed are the names and images of what the Tiltfile deploys.
func deployed(t *testing.T, s *tilt) (workloads, images []string) {
	t.Helper()
	var streams []string
	for _, given := range s.calls["k8s_yaml"] {
		if text, whole := starlark.AsString(given["yaml"]); whole {
			streams = append(streams, text)
			continue
		}
		for _, file := range texts(given["yaml"]) {
			text, err := os.ReadFile(filepath.Join(s.dir, file))
			if err != nil {
				t.Fatal(err)
			}
			streams = append(streams, string(text))
		}
	}
	type object struct {
		Kind     string
		Metadata struct {
			Name        string
			Annotations map[string]string
		}
		Spec struct {
			Template struct {
				Spec struct {
					Containers []struct {
						Image           string
						SecurityContext struct{ ReadOnlyRootFilesystem bool } `yaml:"securityContext"`
					}
				}
			}
		}
	}
	for decoder := yaml.NewDecoder(strings.NewReader(strings.Join(streams, "\n---\n"))); ; {
		var o object
		if err := decoder.Decode(&o); err != nil {
			return workloads, images
		}
		if o.Metadata.Annotations["helm.sh/hook"] != "" {
			t.Errorf("%s %s is a hook of Helm's, which Tilt would deploy", o.Kind, o.Metadata.Name)
		}
		if o.Kind == "Deployment" || o.Kind == "StatefulSet" {
			workloads = append(workloads, o.Metadata.Name)
		}
		for _, container := range o.Spec.Template.Spec.Containers {
			name, _, _ := strings.Cut(container.Image, ":")
			images = append(images, name)
			if container.SecurityContext.ReadOnlyRootFilesystem {
				t.Errorf("%s: a live update could not write there", o.Metadata.Name)
			}
		}
	}
}

// A name or parameter that Tilt does not have is found.
func TestTiltfileThatIsWrong(t *testing.T) {
	for text, want := range map[string]string{
		"k8s_yml('a.yaml')":                         "undefined: k8s_yml",
		"k8s_resource('nats', port_forward=1)":      `unexpected keyword argument "port_forward"`,
		"docker_build('image')":                     "missing argument for context",
		"load('ext://restart', 'x')":                "no such extension",
		"load('ext://uibutton', 'cmd_knob')":        "cmd_knob not found",
		"local_resource()":                          "missing argument for name",
		"helm('../deployments/helm/nothing-there')": "nothing-there",
	} {
		if _, err := execute(t, "Tiltfile", []byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; want %q", text, err, want)
		}
	}
}
