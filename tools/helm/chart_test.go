package helm_test

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/yaml"
)

func TestLint(t *testing.T) {
	t.Parallel()
	dir, err := chart()
	if err != nil {
		t.Fatal(err)
	}
	for name, values := range variants {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			stdout, stderr, err := helm(t, append([]string{"lint", "--strict", dir}, values...)...)
			if err != nil || strings.Contains(stdout, "[WARNING]") {
				t.Errorf("%v\n%s%s", err, stdout, stderr)
			}
		})
	}
}

// Every manifest is what Kubernetes and those who define further kinds say it is.
func TestManifests(t *testing.T) {
	t.Parallel()
	for name, values := range variants {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			stdout, stderr, err := template(t, values...)
			if err != nil {
				t.Fatal(stderr)
			}
			got, err := run(t, strings.NewReader(stdout), nil, conformBin, "-strict", "-summary", "-schema-location", schemaDir+"/{{.ResourceKind}}{{.KindSuffix}}.json")
			if err != nil || !strings.Contains(got, "Invalid: 0, Errors: 0, Skipped: 0") {
				t.Errorf("%v\n%s", err, got)
			}
		})
	}
}

// What the checks above let through, they check.
func TestManifestsAreChecked(t *testing.T) {
	t.Parallel()
	stdout, _, err := template(t, variants["everything"]...)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ from, to string }{
		{"maxUnavailable: 0", "maxUnavailabel: 0"},
		{"targetPort: http", "targetPort: true"},
		{"pathType: Exact", "pathType: 3"},
		{"timeouts: {request: 0s}", "timeouts: {requests: 0s}"},
		{"interval: 30s", "interval: often"},
		{"averageUtilization: 70", "averageUtilization: much"},
	} {
		broken := strings.Replace(stdout, c.from, c.to, 1)
		if broken == stdout {
			t.Errorf("%q is not in the manifests", c.from)
			continue
		}
		got, err := run(t, strings.NewReader(broken), nil, conformBin, "-strict", "-schema-location", schemaDir+"/{{.ResourceKind}}{{.KindSuffix}}.json")
		if err == nil {
			t.Errorf("%q is taken\n%s", c.to, got)
		}
	}
}

// The real binary takes the configuration for each role, with the files and the environment
// that its pod has; so does the Job before an upgrade, and the probe that helm test runs.
func TestConfiguration(t *testing.T) {
	t.Parallel()
	for name, values := range variants {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			objects := render(t, values...)
			for owner, pod := range pods(objects) {
				for _, container := range pod.list("spec", "containers") {
					args, _ := container.at("args").([]any)
					if len(args) == 1 {
						args = []any{"config", "check", "--for", args[0]}
					}
					if args[0] == "probe" {
						args = []any{"token", "--service", "backend"} // what it does before it needs a server
					}
					if got, err := newSandbox(t, objects, pod, container).run(t, args); err != nil || args[0] == "config" && !strings.HasPrefix(got, "OK\n") {
						t.Errorf("%s, %s: %v: %v\n%s", owner, container.text("name"), args, err, got)
					}
				}
			}
		})
	}
}

// A wrong configuration is what the Job before an upgrade is there for.
func TestTheJobRefuses(t *testing.T) {
	t.Parallel()
	objects := render(t, "--set-json", `config.namespaces=[{"name":"chat","ephemeral":true,"rules":[{"channel":"chat.{room}","subscribe":"room = 1"}]}]`)
	job := pods(objects)["Job/ding-carillon-config-check"]
	for i, role := range []string{"edge", "publish", "presence"} {
		container := job.list("spec", "containers")[i]
		args, _ := container.at("args").([]any)
		got, err := newSandbox(t, objects, job, container).run(t, args)
		if err == nil || container.text("name") != role || !strings.Contains(got, "namespaces[0].rules[0].subscribe") {
			t.Errorf("%s: %v\n%s", container.text("name"), err, got)
		}
	}
}

// What one manifest says of another is true.
func TestReferences(t *testing.T) {
	t.Parallel()
	for name, values := range variants {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			objects := render(t, values...)
			found := pods(objects)
			for _, o := range objects {
				checkSelectors(t, o, found)
				checkBackends(t, o, objects)
			}
			for owner, pod := range found {
				checkPod(t, owner, pod)
			}
			checkNames(t, objects)
		})
	}
}

// selected are the names of what has pods with these labels.
func selected(found map[string]object, labels map[string]string) []string {
	var owners []string
	for owner, pod := range found {
		has := pod.strings("metadata", "labels")
		if !slices.ContainsFunc(slices.Collect(maps.Keys(labels)), func(key string) bool { return has[key] != labels[key] }) {
			owners = append(owners, owner)
		}
	}
	slices.Sort(owners)
	return owners
}

// checkSelectors holds a selector to choose just the pods that it is there for.
func checkSelectors(t *testing.T, o object, found map[string]object) {
	t.Helper()
	role := o.strings("metadata", "labels")["app.kubernetes.io/component"]
	var labels map[string]string
	switch o.text("kind") {
	case "Deployment", "StatefulSet", "PodDisruptionBudget":
		labels = o.strings("spec", "selector", "matchLabels")
	case "NetworkPolicy":
		labels = o.strings("spec", "podSelector", "matchLabels")
	case "Service":
		labels = o.strings("spec", "selector")
	default:
		return
	}
	want := map[string]int{"edge": 1, "publish": 1, "presence": 1, "ops": 3}[role]
	if want == 0 { // of the NATS chart's pods, which stand-ins do not have
		return
	}
	owners := selected(found, labels)
	if len(owners) != want || want == 1 && !strings.HasSuffix(owners[0], "-"+role) {
		t.Errorf("%s selects %v", o.name(), owners)
	}
	if o.text("kind") != "Service" {
		return
	}
	for _, port := range o.list("spec", "ports") {
		for _, owner := range owners {
			containers := found[owner].list("spec", "containers")
			if !slices.ContainsFunc(containers[0].list("ports"), func(p object) bool { return p.text("name") == port.text("targetPort") }) {
				t.Errorf("%s: %s has no port %s", o.name(), owner, port.text("targetPort"))
			}
		}
	}
}

// checkBackends holds routes to Services and their ports, scalers to what they scale, and
// monitors to the Service that they look at.
func checkBackends(t *testing.T, o object, objects []object) {
	t.Helper()
	service := func(name, port string) {
		t.Helper()
		ports := find(t, objects, "Service/"+name).list("spec", "ports")
		if !slices.ContainsFunc(ports, func(p object) bool { return p.text("port") == port || p.text("name") == port }) {
			t.Errorf("%s: the Service %s has no port %s", o.name(), name, port)
		}
	}
	switch o.text("kind") {
	case "Ingress":
		for _, rule := range o.list("spec", "rules") {
			backend := object{"b": rule.at("http", "paths", 0, "backend", "service")}
			service(backend.text("b", "name"), backend.text("b", "port", "number"))
		}
	case "HTTPRoute", "GRPCRoute":
		backend := object{"b": o.at("spec", "rules", 0, "backendRefs", 0)}
		service(backend.text("b", "name"), backend.text("b", "port"))
	case "HorizontalPodAutoscaler":
		scaled := find(t, objects, o.text("spec", "scaleTargetRef", "kind")+"/"+o.text("spec", "scaleTargetRef", "name"))
		if scaled.at("spec", "replicas") != nil {
			t.Errorf("%s sets the replicas that %s does", scaled.name(), o.name())
		}
	case "StatefulSet":
		headless := find(t, objects, "Service/"+o.text("spec", "serviceName"))
		if headless.text("spec", "clusterIP") != "None" || headless.at("spec", "publishNotReadyAddresses") != true {
			t.Errorf("%s does not name each pod from the start", headless.name())
		}
	case "ServiceMonitor":
		labels := o.strings("spec", "selector", "matchLabels")
		matches := slices.DeleteFunc(slices.Clone(objects), func(s object) bool {
			has := s.strings("metadata", "labels")
			return s.text("kind") != "Service" || slices.ContainsFunc(slices.Collect(maps.Keys(labels)), func(key string) bool { return has[key] != labels[key] })
		})
		if len(matches) != 1 {
			t.Errorf("%s looks at %d Services", o.name(), len(matches))
			return
		}
		service(matches[0].text("metadata", "name"), o.text("spec", "endpoints", 0, "port"))
	}
}

// checkPod holds a pod to what every pod of the chart is: locked up, bounded, and given
// enough time to stop.
func checkPod(t *testing.T, owner string, pod object) {
	t.Helper()
	for _, want := range []struct {
		path []any
		is   string
	}{
		{[]any{"spec", "automountServiceAccountToken"}, "false"},
		{[]any{"spec", "enableServiceLinks"}, "false"},
		{[]any{"spec", "securityContext", "runAsNonRoot"}, "true"},
		{[]any{"spec", "securityContext", "runAsUser"}, "65532"},
		{[]any{"spec", "securityContext", "seccompProfile", "type"}, "RuntimeDefault"},
		{[]any{"spec", "containers", 0, "securityContext", "allowPrivilegeEscalation"}, "false"},
		{[]any{"spec", "containers", 0, "securityContext", "readOnlyRootFilesystem"}, "true"},
		{[]any{"spec", "containers", 0, "securityContext", "capabilities", "drop"}, "[ALL]"},
	} {
		if got := pod.text(want.path...); got != want.is {
			t.Errorf("%s: %v is %q, want %s", owner, want.path, got, want.is)
		}
	}
	if labels := pod.strings("metadata", "labels"); labels["helm.sh/chart"] != "" && pod.text("spec", "restartPolicy") == "" {
		t.Errorf("%s is rolled when the chart's version changes", owner)
	}
	for _, container := range pod.list("spec", "containers") {
		if container.text("resources", "limits", "memory") == "" || container.text("resources", "requests", "cpu") == "" {
			t.Errorf("%s: %s is not bounded", owner, container.text("name"))
		}
		for _, m := range container.list("volumeMounts") {
			if m.at("readOnly") != true || m.at("subPath") != nil {
				t.Errorf("%s: %v can be written to, or does not follow what it is of", owner, m)
			}
		}
	}
}

// checkNames holds names to be short enough, also of the pods that are made of them.
func checkNames(t *testing.T, objects []object) {
	t.Helper()
	for _, o := range objects {
		if name := o.text("metadata", "name"); len(name) > 63 || o.text("kind") == "StatefulSet" && len(name) > 52 {
			t.Errorf("%s is too long", o.name())
		}
	}
}

func TestLongNames(t *testing.T) {
	t.Parallel()
	objects := render(t, "--set", "nameOverride="+strings.Repeat("n", 40))
	checkNames(t, objects)
	for _, o := range objects {
		for key, value := range o.strings("metadata", "labels") {
			if len(value) > 63 {
				t.Errorf("%s: %s=%s is too long", o.name(), key, value)
			}
		}
	}
}

// A stop has the time that the configuration gives it, after the load balancers have heard.
func TestStopping(t *testing.T) {
	t.Parallel()
	for name, values := range variants {
		objects := render(t, values...)
		for owner, pod := range pods(objects) {
			container := object{"c": pod.at("spec", "containers", 0)}
			if container.at("c", "lifecycle") == nil {
				continue
			}
			config := configuration(t, objects)
			timeout, err := time.ParseDuration(config.text("shutdown_timeout"))
			window, err2 := time.ParseDuration(config.text("edge", "drain_window"))
			before := seconds(t, container.text("c", "lifecycle", "preStop", "sleep", "seconds"))
			granted := seconds(t, pod.text("spec", "terminationGracePeriodSeconds"))
			if err != nil || err2 != nil || before <= 0 || window >= timeout || granted <= before+timeout {
				t.Errorf("%s, %s: %v of grace for %v, then %v with a window of %v (%v, %v)", name, owner, granted, before, timeout, window, err, err2)
			}
		}
	}
}

// An edge drains when those whom the last one sent away have come to rest.
func TestEdgesDrainOneByOne(t *testing.T) {
	t.Parallel()
	for name, values := range variants {
		objects := render(t, values...)
		window, err := time.ParseDuration(configuration(t, objects).text("edge", "drain_window"))
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range objects {
			if o.text("kind") != "Deployment" || o.strings("metadata", "labels")["app.kubernetes.io/component"] != "edge" {
				continue
			}
			rest := seconds(t, o.text("spec", "minReadySeconds"))
			before := seconds(t, o.text("spec", "template", "spec", "terminationGracePeriodSeconds"))
			if rest <= window || rest >= before || seconds(t, o.text("spec", "progressDeadlineSeconds")) <= rest {
				t.Errorf("%s: the next edge drains after %v, with a window of %v", name, rest, window)
			}
		}
	}
}

// Go is told of the memory that the container may have.
func TestMemoryLimit(t *testing.T) {
	t.Parallel()
	for limit, want := range map[string]string{"1Gi": "870MiB", "1.5Gi": "1305MiB", "300Mi": "255MiB", "1G": "", "null": ""} {
		pod := pods(render(t, "--set", "edge.resources.limits.memory="+limit))["Deployment/ding-carillon-edge"]
		if got := environment(pod, "GOMEMLIMIT"); strings.Join(got, " ") != want {
			t.Errorf("of %s: %q, want %q", limit, got, want)
		}
	}
	pod := pods(render(t, "--set", "extraEnv[0].name=GOMEMLIMIT,extraEnv[0].value=1GiB"))["Deployment/ding-carillon-edge"]
	if got := environment(pod, "GOMEMLIMIT"); !slices.Equal(got, []string{"1GiB"}) {
		t.Errorf("with extraEnv: %q", got)
	}
}

// environment are the values of a variable of a pod's first container.
func environment(pod object, name string) (values []string) {
	for _, variable := range pod.list("spec", "containers")[0].list("env") {
		if variable.text("name") == name {
			values = append(values, variable.text("value"))
		}
	}
	return values
}

// Prometheus asks as the pods answer: over TLS, by a name that their certificate can have.
func TestScraping(t *testing.T) {
	t.Parallel()
	endpoint := func(values ...string) object {
		objects := render(t, append([]string{"--set", "serviceMonitor.enabled=true"}, values...)...)
		return find(t, objects, "ServiceMonitor/ding-carillon").list("spec", "endpoints")[0]
	}
	if plain := endpoint(); plain.at("scheme") != nil || plain.at("tlsConfig") != nil {
		t.Errorf("without TLS: %v", plain)
	}
	encrypted := endpoint("--set", "ops.tls.secretName=carillon-ops-tls")
	if encrypted.text("scheme") != "https" || encrypted.text("tlsConfig", "ca", "secret", "name") != "carillon-ops-tls" ||
		encrypted.text("tlsConfig", "serverName") != "ding-carillon-ops."+namespace+".svc" {
		t.Errorf("with TLS: %v", encrypted)
	}
	own := endpoint("--set", "ops.tls.secretName=carillon-ops-tls,serviceMonitor.tlsConfig.serverName=ops.example")
	if own.text("tlsConfig", "serverName") != "ops.example" || own.at("tlsConfig", "ca") != nil {
		t.Errorf("with a tlsConfig: %v", own)
	}
}

func seconds(t *testing.T, text string) time.Duration {
	t.Helper()
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return time.Duration(n) * time.Second
}

// configuration is carillon.yaml.
func configuration(t testing.TB, objects []object) object {
	t.Helper()
	for _, o := range objects {
		if text := o.text("data", "carillon.yaml"); text != "" {
			var config object
			if err := yaml.UnmarshalStrict([]byte(text), &config); err != nil {
				t.Fatal(err)
			}
			return config
		}
	}
	t.Fatal("there is no carillon.yaml")
	return nil
}

// Pods are rolled by what they take only when they start, and by nothing else.
func TestRolling(t *testing.T) {
	t.Parallel()
	checksum := func(values ...string) string {
		return pods(render(t, values...))["Deployment/ding-carillon-edge"].strings("metadata", "annotations")["checksum/config"]
	}
	before := checksum()
	for change, rolls := range map[string]bool{
		"config.log.level=debug":                       false,
		"config.callers.0.name=other":                  false,
		"config.namespaces.0.rules.0.subscribe=\"id\"": false,
		"config.auth.issuers.0.skew=10s":               false,
		"config.auth.roles_secret={file: /other}":      false,
		"config.log.format=text":                       true,
		"config.namespaces.0.name=talk":                true,
		"config.namespaces.1.history.max_age=1h":       true,
		"config.auth.anonymous={enabled: true}":        true,
		"config.edge={max_connections: 1}":             true,
		"presence.replicas=3":                          true,
		"nats.url=nats://elsewhere:4222":               true,
		"shutdown.drainWindowSeconds=1":                true,
		"edge.replicas=5":                              false,
		"networkPolicy.enabled=false":                  false,
	} {
		if after := checksum("-f", changed(t, change)); (after != before) != rolls {
			t.Errorf("%s: rolls the pods: %v", change, !rolls)
		}
	}
}

// changed writes values.yaml with one value changed, as path=YAML, and returns its name:
// --set would take the place of a whole list.
func changed(t *testing.T, change string) string {
	t.Helper()
	var values any
	read(t, chartDir+"/values.yaml", func(text []byte) error { return yaml.Unmarshal(text, &values) })
	path, text, _ := strings.Cut(change, "=")
	steps := strings.Split(path, ".")
	inner := values
	for _, step := range steps[:len(steps)-1] {
		if list, ok := inner.([]any); ok {
			n, err := strconv.Atoi(step)
			if err != nil {
				t.Fatal(err)
			}
			inner = list[n]
			continue
		}
		inner = inner.(map[string]any)[step]
	}
	var value any
	if err := yaml.Unmarshal([]byte(text), &value); err != nil {
		t.Fatal(err)
	}
	inner.(map[string]any)[steps[len(steps)-1]] = value
	name := filepath.Join(t.TempDir(), "values.yaml")
	made, err := yaml.Marshal(values)
	if err == nil {
		err = os.WriteFile(name, made, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return name
}

// The alerts are those of deployments/observability: Helm reads no file outside the chart.
func TestAlerts(t *testing.T) {
	t.Parallel()
	var of [2][]byte
	for i, name := range []string{chartDir + "/files/alerts.yaml", root + "/deployments/observability/alerts.yaml"} {
		read(t, name, func(text []byte) error { of[i] = text; return nil })
	}
	if !slices.Equal(of[0], of[1]) {
		t.Error("cp deployments/observability/alerts.yaml deployments/helm/carillon/files/")
	}
}

// Numbers stay whole, however large.
func TestLargeNumbers(t *testing.T) {
	t.Parallel()
	text := find(t, render(t, variants["everything"]...), "ConfigMap/bells").text("data", "carillon.yaml")
	if !strings.Contains(text, "max_connections: 10000000\n") {
		t.Errorf("max_connections is not 10000000 in\n%s", text)
	}
}

// Edges dial each replica of presence by the name that its Service gives it.
func TestPresenceAddresses(t *testing.T) {
	t.Parallel()
	objects := render(t, "--set", "presence.replicas=3")
	set := find(t, objects, "StatefulSet/ding-carillon-presence")
	var want []any
	for i := range 3 {
		want = append(want, fmt.Sprintf("%s-%d.%s.%s.svc:9091", set.text("metadata", "name"), i, set.text("spec", "serviceName"), namespace))
	}
	if got := configuration(t, objects).at("presence", "addresses"); fmt.Sprint(got) != fmt.Sprint(want) || set.text("spec", "replicas") != "3" {
		t.Errorf("%v, want %v", got, want)
	}
}

// With the NATS chart, Carillon finds the Service that it makes.
func TestBroker(t *testing.T) {
	t.Parallel()
	for _, values := range [][]string{{}, {"--set", "broker.nameOverride=ding"}, {"--set", "broker.fullnameOverride=mail"}} {
		objects := render(t, append([]string{"--set", "broker.enabled=true"}, values...)...)
		url := configuration(t, objects).text("nats", "url")
		host := strings.TrimSuffix(strings.TrimPrefix(url, "nats://"), ":4222")
		if service := find(t, objects, "Service/"+host); service.at("metadata", "labels") != nil {
			t.Errorf("%v: %s is %s, which is not the NATS chart's", values, url, service.name())
		}
	}
	opened := map[string]any{}
	for _, rule := range find(t, render(t, "--set", "broker.enabled=true"), "NetworkPolicy/ding-carillon-broker").at("spec", "ingress").([]any) {
		opened[fmt.Sprint(rule.(map[string]any)["ports"])] = rule.(map[string]any)["from"]
	}
	everybody := fmt.Sprint([]any{map[string]any{"namespaceSelector": map[string]any{}}})
	if metrics := fmt.Sprint(opened["[map[port:7777]]"]); len(opened) != 3 || metrics != everybody {
		t.Errorf("the policy of NATS opens %v; its metrics to %s, want to %s, as those of the roles", opened, metrics, everybody)
	}
	for _, o := range render(t) {
		if strings.Contains(o.name(), "broker") {
			t.Errorf("%s without broker.enabled", o.name())
		}
	}
}

// A release has the chart as one file, which installs the image of that release; made twice
// it is the same.
func TestPackage(t *testing.T) {
	t.Parallel()
	var packages [2][]byte
	dir := t.TempDir()
	for i := range packages {
		environ := []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "NATS_CHART=testdata/nats"}
		if output, err := run(t, nil, environ, "package", "v1.2.3-rc.4", dir); err != nil {
			t.Fatal(output)
		}
		var err error
		if packages[i], err = os.ReadFile(filepath.Join(dir, "carillon-1.2.3-rc.4.tgz")); err != nil {
			t.Fatal(err)
		}
	}
	if !slices.Equal(packages[0], packages[1]) {
		t.Error("made twice it is not the same")
	}
	stdout, stderr, err := helm(t, "template", release, filepath.Join(dir, "carillon-1.2.3-rc.4.tgz"), "--kube-version", "1.36.0", "--set", "broker.enabled=true")
	if err != nil {
		t.Fatal(stderr)
	}
	objects := decode(t, stdout)
	find(t, objects, "Service/ding-broker")
	for owner, pod := range pods(objects) {
		if image := pod.text("spec", "containers", 0, "image"); image != "carillon-rt/carillon:v1.2.3-rc.4" {
			t.Errorf("%s has the image %s", owner, image)
		}
	}
}

// A chart that was packaged where NATS's cannot be had does without it, and says so to who
// wants it.
func TestPackageWithoutNATS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	environ := []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "NATS_CHART=none"}
	if output, err := run(t, nil, environ, "package", "v1.2.3", dir); err != nil {
		t.Fatal(output)
	}
	template := []string{"template", release, filepath.Join(dir, "carillon-1.2.3.tgz"), "--kube-version", "1.36.0"}
	stdout, stderr, err := helm(t, template...)
	if err != nil {
		t.Fatal(stderr)
	}
	find(t, decode(t, stdout), "Deployment/ding-carillon-edge")
	if _, stderr, err := helm(t, append(template, "--set", "broker.enabled=true")...); err == nil || !strings.Contains(stderr, "broker.enabled wants the NATS chart") {
		t.Errorf("with broker.enabled: %v %s", err, stderr)
	}
}
