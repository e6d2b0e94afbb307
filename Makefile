# Carillon: `make help` is the index.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL: # the steps of a check are timed one by one; go uses every core anyway

GO ?= go
BUF := tools/node_modules/.bin/buf
STEP := tools/step
STAMP := $(shell git rev-parse --quiet --verify HEAD >/dev/null 2>&1 && echo true || echo false)
FUZZTIME ?= 30s
BENCH ?= .
PACKAGES ?= ./...
PREVIOUS ?= HEAD~
PARALLEL ?= 5 # tests of a package at once: most wait for something, and leave the processors alone
TRIMMED := $(strip $(filter-out -trimpath,$(shell $(GO) env GOFLAGS)) -trimpath)

# What is compiled for these serves every clone and worktree, since its directory is in no
# build; that of modules is the same anyhow. What tests build themselves takes it from here.
check unit tools bench-test benchmarks fuzz truth: export GOFLAGS := $(TRIMMED)

# A program with the race detector waits for a second when it ends, for races of goroutines
# that still run; those of a test have ended, or goleak tells.
unit bench-test truth: export GORACE := $(strip atexit_sleep_ms=0 $(GORACE))

##@ Every day

.PHONY: help
help: ## This index
	@awk 'BEGIN {FS = ":.*## "} \
		/^##@ / {printf "\n%s\n", substr($$0, 5)} \
		/^[a-z0-9-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: dev
dev: ## Run every role on this machine, with a console page (ARGS="…" for flags)
	$(GO) run ./services/carillon dev $(ARGS)

.PHONY: build
build: bin/carillon ## Build bin/carillon

.PHONY: test
test: ## Install what is needed, then run every check and every test
	@start=$$SECONDS; \
	$(MAKE) --no-print-directory check unit; \
	printf '==> all of make test: %d s\n' $$((SECONDS - start))

.PHONY: unit
unit: node_modules bin/carillon bin/nats-server bin/grpcurl ## Run the tests only, end to end included (PACKAGES=./services/edge/...)
	@$(STEP) 'go test -race' $(GO) test -race -shuffle=on -parallel $(PARALLEL) -timeout 15m $(PACKAGES)

.PHONY: check
check: deps node_modules bin/gofumpt bin/staticcheck ## Run the checks only: contract, format, vet, modules
	@$(STEP) 'generated code' tools/generated
	@$(STEP) 'buf lint' $(BUF) lint
	@$(STEP) 'buf breaking' $(BUF) breaking proto --against proto/contract.binpb
	@$(STEP) 'gofumpt' $(MAKE) --no-print-directory format
	@$(STEP) 'go vet' $(GO) vet ./...
	@$(STEP) 'staticcheck' bin/staticcheck ./...
	@$(STEP) 'go mod tidy' $(GO) mod tidy -diff
	@$(STEP) 'go mod tidy (tools)' $(GO) -C tools mod tidy -diff

.PHONY: fmt
fmt: bin/gofumpt ## Format the Go code
	bin/gofumpt -w .

.PHONY: generate
generate: tools/node_modules/.package-lock.json ## Make gen/ from proto/
	$(BUF) generate

.PHONY: reference
reference: ## Write the tables of docs/configuration.md from the options
	$(GO) test -count=1 -run '^TestThePageHasEveryOption$$' ./services/carillon -update

.PHONY: contract
contract: tools/node_modules/.package-lock.json ## Take proto/ as the new contract; refuses a breaking change unless BREAKING=yes
	@if [ -e proto/contract.binpb ] && ! $(BUF) breaking proto --against proto/contract.binpb; then \
		[ '$(BREAKING)' = yes ] || { echo 'This breaks clients. If that is meant: make contract BREAKING=yes' >&2; exit 1; }; \
	fi
	$(BUF) build proto --exclude-source-info -o proto/contract.binpb

##@ Now and then

.PHONY: lint
lint: bin/golangci-lint ## Run golangci-lint (its first build takes minutes)
	bin/golangci-lint run ./...

.PHONY: fuzz
fuzz: ## Run every fuzz target for FUZZTIME (30s)
	@for package in $$($(GO) list $(PACKAGES)); do \
		for target in $$($(GO) test -list '^Fuzz' "$$package" | grep '^Fuzz' || true); do \
			$(STEP) "$$target ($${package#*/carillon/})" \
				$(GO) test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) "$$package"; \
		done; \
	done

.PHONY: bench
bench: bench-deps bin/carillon bin/nats-server ## Measure what Carillon costs, and other systems beside it (ARGS="--phases idle --scale 0.1 …"); wants two idle cores
	bin/carillon bench $(ARGS)

.PHONY: bench-deps
bench-deps: services/bench/system/js/node_modules/.package-lock.json ## Install what make bench runs beside Carillon

.PHONY: bench-test
bench-test: bench-deps bin/carillon bin/nats-server ## Test the drivers of make bench, those that want what it installs too
	$(GO) test -race -count=1 -timeout 5m ./services/bench/system -socketio

.PHONY: benchmarks
benchmarks: ## Run the Go benchmarks (BENCH=regexp, PACKAGES=…)
	$(GO) test -run '^$$' -bench '$(BENCH)' -benchmem $(PACKAGES)

.PHONY: abuse
abuse: ## Measure what honest people meet beside each kind of abuse; wants two idle cores
	$(GO) test -run '^$$' -bench '^BenchmarkAbuse$$' -benchtime 1x -timeout 15m ./services/e2e

.PHONY: presence
presence: bin/nats-server ## Measure what 10,000 users cost who join, see each other, and leave; wants two idle cores
	$(GO) test -run '^$$' -bench '^BenchmarkPresence$$' -benchtime 1x -timeout 30m ./services/e2e

.PHONY: capacity
capacity: ## Hold the arithmetic of docs/capacity.md to what is measured: a million members, 100,000 channels; wants 2 GiB
	$(GO) test -run '^$$' -bench '^BenchmarkCapacity$$' -benchtime 1x -timeout 15m ./services/e2e/capacity

.PHONY: truth
truth: bin/nats-server bin/grpcurl ## Hold presence to the truth for some minutes: a hundred random worlds, and an edge that is stopped for 30 s
	$(GO) test -race -count=1 -timeout 10m ./services/e2e/presence -worlds 100
	$(GO) test -race -count=1 -timeout 10m -v -run '^TestPresenceTells' ./services/e2e -presence.stopped 30s

.PHONY: e2e-jaeger
e2e-jaeger: bin/jaeger bin/nats-server ## Follow messages through a real Jaeger 2 (its first build takes minutes)
	$(GO) test -race -count=1 -timeout 10m -v -run '^TestTraces$$' ./services/e2e -jaeger '$(CURDIR)/bin/jaeger'

.PHONY: screenshots
screenshots: node_modules bin/carillon ## Take the pictures of the console that stand in docs/; wants five minutes
	$(GO) test -run '^$$' -bench '^BenchmarkScreenshots$$' -benchtime 1x -timeout 15m ./services/e2e

.PHONY: observability
observability: bin/nats-server bin/grpcurl bin/prometheus bin/promtool bin/otelcol bin/prometheus-nats-exporter ## Check and test alerts, dashboards and collector, then watch a running system with them (first build: ten minutes)
	@$(STEP) 'dashboards' $(GO) -C tools/observability run ./dashboards -check $(CURDIR)/$(DASHBOARDS)
	@$(STEP) 'promtool check config' bin/promtool check config --lint=all deployments/observability/prometheus.yaml
	@$(STEP) 'promtool test rules' bin/promtool test rules deployments/observability/alerts_test.yaml
	@$(STEP) 'otelcol validate' bin/otelcol validate --config deployments/observability/collector.yaml
	$(GO) test -run '^$$' -bench '^BenchmarkObservability$$' -benchtime 1x -timeout 15m ./services/e2e

DASHBOARDS := deployments/observability/grafana/dashboards

.PHONY: dashboards
dashboards: ## Make the Grafana dashboards from tools/observability/dashboards
	$(GO) -C tools/observability run ./dashboards $(CURDIR)/$(DASHBOARDS)

.PHONY: chaos
chaos: bin/carillon bin/nats-server ## Put a whole system through faults for a quarter of an hour (ARGS="--seed 1 --duration 5m …")
	bin/carillon chaos --duration 16m --report bin/chaos.json $(ARGS)

.PHONY: proxies
proxies: bin/carillon bin/nats bin/nats-server ## Put nginx and HAProxy before a whole Carillon, and the NATS cluster of deployments/ behind it; wants root
	@$(STEP) 'programs' tools/deps haproxy iproute2 nginx
	@$(GO) test -c -o bin/proxies.test ./services/e2e/proxies
	cd services/e2e/proxies && ../../../tools/network hosts ../../../bin/proxies.test -test.v -test.timeout 15m -network

.PHONY: deployments
deployments: bin/nats-server bin/helm ## Hold deployments/ and tilt/ to the programs that take them, and run the files of the image (as root)
	@$(STEP) 'deployments' $(GO) -C tools/deployments test -count=1 -timeout 15m ./...
	@$(STEP) 'go mod tidy (deployments)' $(GO) -C tools/deployments mod tidy -diff

.PHONY: image
image: bin/buildctl bin/buildkitd ## Build the image from its Dockerfile by BuildKit, without Docker, and hold it to the release's; root
	@$(STEP) 'programs' tools/deps debootstrap runc
	@$(STEP) 'image' $(GO) -C tools/deployments test -run '^$$' -bench '^BenchmarkImage$$' -benchtime 1x -timeout 30m .

.PHONY: compose
compose: bin/carillon bin/nats-server bin/prometheus-nats-exporter bin/jaeger bin/otelcol bin/prometheus bin/docker/dockerd ## Run deployments/compose in a real Docker engine, made here of its modules; root (its first build takes minutes)
	@$(STEP) 'programs' tools/deps debootstrap iptables nftables
	@$(STEP) 'compose' $(GO) -C tools/docker test -count=1 -timeout 20m ./...
	@$(STEP) 'go mod tidy (docker)' $(GO) -C tools/docker mod tidy -diff

.PHONY: image-tree
image-tree: ## Make the files of the image in bin/image, as its Dockerfile does (GOOS=linux GOARCH=arm64)
	@rm -rf bin/image
	@$(STEP) bin/image deployments/docker/tree bin/image v0.0.0-dev "$$(git rev-parse HEAD)"

.PHONY: release
release: NATS_CHART := $(or $(NATS_CHART),$(if $(filter yes,$(DRY)),none))
release: chart ## Make a release in dist/: binaries, image, chart, SBOM, checksums (VERSION=v0.1.0, and DRY=yes without its tag or any network)
	@rm -rf dist
	@$(STEP) 'release $(VERSION)' $(GO) -C tools/deployments run ./release -root $(CURDIR) -out $(CURDIR)/dist -version '$(VERSION)' $(if $(filter yes,$(DRY)),-dry) $(CURDIR)/bin/chart/carillon-$(VERSION:v%=%).tgz

.PHONY: helm
helm: bin/carillon bin/nats-server bin/helm bin/kubeconform bin/schemas ## Check the Helm chart; the first time builds helm, which takes minutes
	$(GO) -C tools/helm vet ./...
	$(GO) -C tools/helm test -count=1 -timeout 10m ./...

.PHONY: chart
chart: bin/helm ## Package the Helm chart in bin/chart, with the NATS chart, which is fetched (VERSION=v0.1.0; NATS_CHART=FILE or none needs no network)
	@[ -n '$(VERSION)' ] || { echo 'Which one? VERSION=v0.1.0' >&2; exit 1; }
	NATS_CHART='$(NATS_CHART)' tools/helm/package '$(VERSION)' bin/chart

.PHONY: kubernetes
kubernetes: bin/carillon bin/helm bin/etcd bin/kube-apiserver ## Apply the Helm chart to a real kube-apiserver, whose first build takes a quarter of an hour
	$(GO) -C tools/kubernetes test -count=1 -timeout 10m ./...

CLUSTER := etcd kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy kubectl containerd containerd-shim-runc-v2 ctr helm

.PHONY: cluster
cluster: bin/static/nats-server bin/coredns bin/pause $(CLUSTER:%=bin/%) ## Run the Helm chart on a real Kubernetes node, and upgrade it under load; wants root (first build: half an hour)
	@$(STEP) 'programs' tools/deps containernetworking-plugins iproute2 nftables runc
	@rm -rf bin/images
	@$(STEP) 'images' $(GO) -C tools/deployments run ./images -root $(CURDIR) -out $(CURDIR)/bin/images -versions v0.1.0,v0.2.0 \
		nats=$(CURDIR)/bin/static/nats-server coredns=$(CURDIR)/bin/coredns pause:1=$(CURDIR)/bin/pause
	@$(GO) test -c -o bin/cluster.test ./services/e2e/cluster
	cd services/e2e/cluster && ../../../tools/node ../../../bin/cluster.test -test.v -test.run '^$$' -test.bench '^BenchmarkCluster$$' -test.benchtime 1x -test.timeout 30m $(ARGS)

.PHONY: hosts
hosts: bin/carillon bin/previous/carillon bin/nats-server ## Upgrade ten hosts under load, cut them off, have them die, for a quarter of an hour; root (PREVIOUS=HEAD~, ARGS="-steps regexp")
	@$(STEP) 'programs' tools/deps iproute2 nginx
	$(GO) test -run '^$$' -bench '^BenchmarkHosts$$' -benchtime 1x -timeout 45m ./services/e2e/hosts -report $(CURDIR)/bin/hosts.json $(ARGS)

.PHONY: nats-server
nats-server: bin/nats-server ## Build bin/nats-server, of the version that is embedded

.PHONY: tools
tools: node_modules bin/gofumpt bin/staticcheck bin/grpcurl ## Install the tools that the checks run

.PHONY: deps
deps: ## Check the programs that the tests need; as root, install them
	@$(STEP) 'programs' tools/deps

.PHONY: clean
clean: ## Remove what was built and installed here
	rm -rf bin dist tilt/build tools/node_modules services/e2e/js/node_modules services/bench/system/js/node_modules

# What the targets above are made of.

.PHONY: format
format: bin/gofumpt
	@unformatted=$$(bin/gofumpt -l .); \
	[ -z "$$unformatted" ] || { echo "Not formatted (make fmt):"; echo "$$unformatted"; exit 1; } >&2

.PHONY: FORCE
bin/carillon: FORCE # go build knows best what has changed
	@$(STEP) 'go build' $(GO) build -trimpath -buildvcs=$(STAMP) -o $@ ./services/carillon

bin/previous/carillon: FORCE
	@$(STEP) 'carillon as of $(PREVIOUS)' tools/previous '$(PREVIOUS)' $@

bin/nats-server: go.mod
	@$(STEP) $@ $(GO) build -trimpath -o $@ github.com/nats-io/nats-server/v2

bin/static/nats-server: go.mod # for an image that holds nothing else
	@$(STEP) $@ env CGO_ENABLED=0 $(GO) build -trimpath -o $@ github.com/nats-io/nats-server/v2

bin/gofumpt: tool = mvdan.cc/gofumpt
bin/staticcheck: tool = honnef.co/go/tools/cmd/staticcheck
bin/grpcurl: tool = github.com/fullstorydev/grpcurl/cmd/grpcurl
bin/gofumpt bin/staticcheck bin/grpcurl: tools/go.mod tools/go.sum
	@$(STEP) $@ $(GO) build -modfile=tools/go.mod -o $@ $(tool)

bin/golangci-lint: tools/lint/go.mod tools/lint/go.sum
	@$(STEP) $@ $(GO) -C tools/lint build -trimpath -o ../../$@ github.com/golangci/golangci-lint/v2/cmd/golangci-lint

# Without the ways of finding targets that clouds have: they are most of what it is made of.
bin/prometheus bin/promtool: tools/observability/go.mod tools/observability/go.sum
	@$(STEP) $@ nice $(GO) -C tools/observability build -tags remove_all_sd -o ../../$@ github.com/prometheus/prometheus/cmd/$(@F)

bin/otelcol: tools/collector/go.mod tools/collector/go.sum tools/collector/main.go
	@$(STEP) $@ nice $(GO) -C tools/collector build -trimpath -o ../../$@ .

bin/prometheus-nats-exporter: tools/exporter/go.mod tools/exporter/go.sum
	@$(STEP) $@ $(GO) -C tools/exporter build -trimpath -o ../../$@ github.com/nats-io/prometheus-nats-exporter

bin/nats: tools/nats/go.mod tools/nats/go.sum
	@$(STEP) $@ nice $(GO) -C tools/nats build -trimpath -o ../../$@ github.com/nats-io/natscli/nats

# v1.76.0 is v2.13.0 too, whose tag is none that a module can have; cmd/jaeger is what is 2.
bin/jaeger: tools/jaeger/go.mod tools/jaeger/go.sum
	@$(STEP) $@ nice $(GO) -C tools/jaeger build -trimpath -o ../../$@ github.com/jaegertracing/jaeger/cmd/jaeger

# A Docker engine: what it and compose are made of lies together, for it finds the others there.
bin/docker/dockerd: tools/docker/go.mod tools/docker/go.sum
	@$(STEP) 'programs' tools/deps libseccomp-dev pkg-config
	@$(STEP) bin/docker/runc nice $(GO) -C tools/docker build -trimpath -tags seccomp -o ../../bin/docker/runc github.com/opencontainers/runc
	@$(STEP) bin/docker/compose nice $(GO) -C tools/docker build -trimpath -o ../../bin/docker/compose github.com/docker/compose/v5/cmd
	@$(STEP) bin/docker env CGO_ENABLED=0 nice $(GO) -C tools/docker build -trimpath -o ../../bin/docker/ $(addprefix github.com/,containerd/containerd/v2/cmd/containerd containerd/containerd/v2/cmd/containerd-shim-runc-v2 moby/moby/v2/cmd/docker-proxy moby/moby/v2/cmd/dockerd)
	@touch $@

bin/buildctl bin/buildkitd: tools/deployments/go.mod tools/deployments/go.sum
	@$(STEP) $@ nice $(GO) -C tools/deployments build -trimpath -o ../../$@ github.com/moby/buildkit/cmd/$(@F)

bin/helm: tool = helm.sh/helm/v4/cmd/helm
bin/kubeconform: tool = github.com/yannh/kubeconform/cmd/kubeconform
bin/helm bin/kubeconform: tools/helm/go.mod tools/helm/go.sum
	@$(STEP) $@ $(GO) -C tools/helm build -trimpath -o ../../$@ $(tool)

# What kubeconform checks against: made of modules that are pinned, without a network.
bin/schemas: tools/helm/go.mod tools/helm/go.sum tools/helm/schemas.sh tools/helm/schemas/main.go tools/kubernetes/go.mod tools/kubernetes/go.sum
	@$(STEP) $@ tools/helm/schemas.sh $@

bin/etcd: tool = go.etcd.io/etcd/server/v3
KUBERNETES := $(addprefix bin/,kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy kubectl)
$(KUBERNETES): tool = k8s.io/kubernetes/cmd/$(@F)
bin/etcd $(KUBERNETES): tools/kubernetes/go.mod tools/kubernetes/go.sum
	@$(STEP) $@ nice $(GO) -C tools/kubernetes build -trimpath -ldflags "$$(tools/kubernetes/version)" -o ../../$@ $(tool)

CONTAINERD := $(addprefix bin/,containerd containerd-shim-runc-v2 ctr)
$(CONTAINERD): tools/containerd/go.mod tools/containerd/go.sum
	@$(STEP) $@ env CGO_ENABLED=0 nice $(GO) -C tools/containerd build -trimpath -o ../../$@ github.com/containerd/containerd/v2/cmd/$(@F)

bin/coredns bin/pause: tools/cluster/go.mod tools/cluster/go.sum tools/cluster/coredns/main.go tools/cluster/pause/main.go
	@$(STEP) $@ env CGO_ENABLED=0 nice $(GO) -C tools/cluster build -trimpath -ldflags '-s -w' -o ../../$@ ./$(@F)

installed := tools/node_modules/.package-lock.json services/e2e/js/node_modules/.package-lock.json
.PHONY: node_modules
node_modules: $(installed)
$(installed) services/bench/system/js/node_modules/.package-lock.json: %/node_modules/.package-lock.json: %/package.json %/package-lock.json %/.npmrc
	@cd $* && $(CURDIR)/$(STEP) 'npm ci in $*' npm ci --ignore-scripts --loglevel=error
	@touch $@
