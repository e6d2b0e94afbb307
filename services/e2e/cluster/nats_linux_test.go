package cluster_test

import (
	"strings"
	"testing"
)

// natsManifest is a NATS server by the name that the chart finds by itself (docs/kubernetes.md).
const natsManifest = `
apiVersion: v1
kind: Service
metadata: {name: nats}
spec:
  clusterIP: None
  publishNotReadyAddresses: true
  selector: {app: nats}
  ports: [{name: nats, port: 4222}]
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: nats}
spec:
  serviceName: nats
  selector: {matchLabels: {app: nats}}
  template:
    metadata: {labels: {app: nats}}
    spec:
      enableServiceLinks: false
      containers:
        - name: nats
          image: nats
          imagePullPolicy: Never
          args: [--jetstream, --store_dir=/data, --http_port=8222]
          readinessProbe: {httpGet: {path: /healthz, port: 8222}, periodSeconds: 1}
          volumeMounts: [{name: data, mountPath: /data}]
      volumes: [{name: data, emptyDir: {}}]
`

// clusterManifest is a cluster of three in a namespace of its own, by the names that the NATS
// chart gives, with the files of deployments/nats as they are.
const clusterManifest = `
apiVersion: v1
kind: Service
metadata: {name: nats}
spec:
  selector: {app: nats}
  ports: [{name: nats, port: 4222}]
---
apiVersion: v1
kind: Service
metadata: {name: nats-headless}
spec:
  clusterIP: None
  publishNotReadyAddresses: true
  selector: {app: nats}
  ports: [{name: nats, port: 4222}]
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: nats}
spec:
  replicas: 3
  serviceName: nats-headless
  podManagementPolicy: Parallel
  selector: {matchLabels: {app: nats}}
  template:
    metadata: {labels: {app: nats}}
    spec:
      enableServiceLinks: false
      # For the names in cluster.conf.
      dnsConfig: {searches: [nats-headless.nats.svc.cluster.local]}
      containers:
        - name: nats
          image: nats
          imagePullPolicy: Never
          args: [--config, /etc/nats/cluster.conf]
          env:
            - {name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
            - {name: CARILLON_NATS_NAME, value: $(POD_NAME).nats-headless.nats.svc}
            - {name: CARILLON_NATS_DATA, value: /data}
            - {name: CARILLON_NATS_CA, value: /tls/ca.crt}
            - {name: CARILLON_NATS_CERT, value: /tls/tls.crt}
            - {name: CARILLON_NATS_KEY, value: /tls/tls.key}
            - {name: CARILLON_EDGE_PASSWORD, valueFrom: {secretKeyRef: {name: carillon-nats, key: edge}}}
            - {name: CARILLON_PUBLISH_PASSWORD, valueFrom: {secretKeyRef: {name: carillon-nats, key: publish}}}
            - {name: CARILLON_SERVE_PASSWORD, valueFrom: {secretKeyRef: {name: carillon-nats, key: serve}}}
            - {name: CARILLON_NATS_ADMIN_PASSWORD, valueFrom: {secretKeyRef: {name: carillon-nats, key: admin}}}
          readinessProbe: {httpGet: {path: /healthz, port: 8222}, periodSeconds: 1}
          volumeMounts: [{name: config, mountPath: /etc/nats}, {name: tls, mountPath: /tls}, {name: data, mountPath: /data}]
      volumes:
        - {name: config, configMap: {name: nats}}
        - {name: tls, secret: {secretName: nats-tls}}
        - {name: data, emptyDir: {}}
`

// startNATS makes the cluster of three, and the Secrets by which Carillon gets in.
func (c *cluster) startNATS(b *testing.B) {
	const names = "nats-%d nats-%d.nats-headless.nats.svc"
	all := []string{"nats.nats.svc"}
	for _, n := range []string{"0", "1", "2"} {
		all = append(all, strings.Fields(strings.ReplaceAll(names, "%d", n))...)
	}
	c.authority.server(b, "nats", nil, all...)
	c.shell(b, strings.ReplaceAll(`
kubectl create namespace nats
kubectl create secret generic nats-tls --namespace=nats \
  --from-file=ca.crt=DIR/ca.pem --from-file=tls.crt=DIR/nats.pem --from-file=tls.key=DIR/nats.key
kubectl create secret generic carillon-nats --namespace=nats \
  --from-literal=edge=e --from-literal=publish=p --from-literal=serve=s --from-literal=admin=a
kubectl create configmap nats --namespace=nats --from-file=deployments/nats/cluster.conf --from-file=deployments/nats/permissions.conf
kubectl create secret generic nats-ca --from-file=ca.crt=DIR/ca.pem
kubectl create secret generic carillon-nats --from-literal=edge=e --from-literal=publish=p
`, "DIR", c.dir))
	c.apply(b, "nats", clusterManifest)
	c.run(b, "kubectl", "rollout", "status", "statefulset/nats", "--namespace=nats", "--timeout="+patience.String())
}
