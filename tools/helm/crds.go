//go:build crds

// Package helm is the checks of the Helm chart. This file, which is never built, has go.mod
// name the modules whose CustomResourceDefinitions the schemas are made of.
package helm

import (
	_ "github.com/prometheus-operator/prometheus-operator/pkg/versionutil"
	_ "sigs.k8s.io/gateway-api/apis/v1"
)
