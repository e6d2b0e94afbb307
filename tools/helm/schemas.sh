#!/usr/bin/env bash
# tools/helm/schemas.sh DIR writes the schemas of Kubernetes, of the Prometheus operator and of
# the Gateway API to DIR, from the modules that go.mod pins.
set -euo pipefail
cd "$(dirname "$0")/../.."
out=$PWD/$1

dir() { # dir MODULE PATH: where the module that tools/MODULE/go.mod pins is, downloaded
  go -C "tools/$1" mod download "$2"
  go -C "tools/$1" list -m -f '{{.Dir}}' "$2"
}
kubernetes=$(dir kubernetes k8s.io/kubernetes)
prometheus=$(dir helm github.com/prometheus-operator/prometheus-operator)
gateway=$(dir helm sigs.k8s.io/gateway-api)

rm -rf "$out"
go -C tools/helm run ./schemas "$out" "$kubernetes/api/openapi-spec/swagger.json" \
  "$prometheus"/example/prometheus-operator-crd/monitoring.coreos.com_{servicemonitors,prometheusrules}.yaml \
  "$gateway"/config/crd/standard/gateway.networking.k8s.io_{http,grpc}routes.yaml
