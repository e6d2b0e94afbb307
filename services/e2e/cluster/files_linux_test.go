package cluster_test

// The networks of the cluster, beside tools/node's.
const (
	nodeAddress = "10.77.0.1"
	podNetwork  = "10.88.0.0/16"
	services    = "10.96.0.0/16"
	apiAddress  = "10.96.0.1"
	dnsAddress  = "10.96.0.10"
)

// What the programs of the node are configured with, in their own formats.
const (
	containerdFile = `
version = 3
root = "/var/lib/containerd"
state = "/run/containerd"
[grpc]
address = "/run/containerd/containerd.sock"
# Not in the machine's /opt, which comes first where programs are looked for.
[plugins.'io.containerd.internal.v1.opt']
path = "/run/containerd/opt"
[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = "pause:1"
[plugins.'io.containerd.cri.v1.runtime']
# The root of a container or of a small machine may not lower it, as pods of the system want.
restrict_oom_score_adj = true
[plugins.'io.containerd.cri.v1.runtime'.cni]
bin_dirs = ["/usr/lib/cni"]
conf_dir = "{{.Dir}}/cni"
`
	// A pod has a cable to the node, which routes: with a bridge, answers of one pod to
	// another would pass by what the node has to put right in them.
	cniFile = `
{"cniVersion": "1.0.0", "name": "pods", "plugins": [{
	"type": "ptp", "mtu": 1500,
	"ipam": {"type": "host-local", "dataDir": "/run/ipam", "ranges": [[{"subnet": "{{.PodNetwork}}"}]], "routes": [{"dst": "0.0.0.0/0"}]}
}]}
`
	// Nothing is evicted for the disk of whoever runs this.
	kubeletFile = `
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: {{.Node}}
cgroupDriver: cgroupfs
cgroupRoot: {{.Cgroup}}
failCgroupV1: false
failSwapOn: false
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
resolvConf: {{.Dir}}/resolv.conf
volumePluginDir: {{.Dir}}/volume-plugins
clusterDomain: cluster.local
clusterDNS: [{{.DNS}}]
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: true}
  x509: {clientCAFile: {{.Dir}}/ca.pem}
authorization: {mode: Webhook}
tlsCertFile: {{.Dir}}/kubelet.pem
tlsPrivateKeyFile: {{.Dir}}/kubelet.key
evictionHard: {memory.available: 0%, nodefs.available: 0%, nodefs.inodesFree: 0%, imagefs.available: 0%, imagefs.inodesFree: 0%}
imageGCHighThresholdPercent: 100
localStorageCapacityIsolation: false
`
	proxyFile = `
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clientConnection: {kubeconfig: {{.Dir}}/kube-proxy.kubeconfig}
mode: nftables
clusterCIDR: {{.PodNetwork}}
hostnameOverride: node
# They are the whole machine's.
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
`
	kubeconfigFile = `
apiVersion: v1
kind: Config
current-context: it
clusters: [{name: it, cluster: {server: "https://{{.Node}}:6443", certificate-authority: {{.Dir}}/ca.pem}}]
users: [{name: it, user: {client-certificate: {{.Dir}}/{{.User}}.pem, client-key: {{.Dir}}/{{.User}}.key}}]
contexts: [{name: it, context: {cluster: it, user: it}}]
`
)

// dnsManifest is the cluster's DNS, of which it needs one.
const dnsManifest = `
apiVersion: v1
kind: ServiceAccount
metadata: {name: coredns, namespace: kube-system}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: coredns}
rules:
  - {apiGroups: [""], resources: [services, pods, namespaces], verbs: [list, watch]}
  - {apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list, watch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: coredns}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: coredns}
subjects: [{kind: ServiceAccount, name: coredns, namespace: kube-system}]
---
apiVersion: v1
kind: ConfigMap
metadata: {name: coredns, namespace: kube-system}
data:
  Corefile: |
    .:53 {
      errors
      ready
      kubernetes cluster.local
    }
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: coredns, namespace: kube-system}
spec:
  selector: {matchLabels: {k8s-app: kube-dns}}
  template:
    metadata: {labels: {k8s-app: kube-dns}}
    spec:
      serviceAccountName: coredns
      dnsPolicy: Default
      containers:
        - name: coredns
          image: coredns
          imagePullPolicy: Never
          args: [-conf, /etc/coredns/Corefile]
          readinessProbe: {httpGet: {path: /ready, port: 8181}, periodSeconds: 1}
          volumeMounts: [{name: config, mountPath: /etc/coredns}]
      volumes: [{name: config, configMap: {name: coredns}}]
---
apiVersion: v1
kind: Service
metadata: {name: kube-dns, namespace: kube-system}
spec:
  clusterIP: {{.DNS}}
  selector: {k8s-app: kube-dns}
  ports: [{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53, protocol: TCP}]
`
