{{/* The pod of a role: dict "root" . "role" "edge" "ports" (dict "http" 8080). */}}
{{- define "carillon.pod" -}}
{{- $values := get .root.Values .role -}}
{{- $files := include "carillon.files" (merge (dict "configMap" (include "carillon.fullname" .root)) .) | fromYamlArray -}}
{{- $scheme := ternary "" ", scheme: HTTPS" (empty .root.Values.ops.tls.secretName) -}}
metadata:
  # Not the chart's version: another would roll pods that stay as they are.
  labels:
    {{- include "carillon.roleSelector" . | nindent 4 }}
    {{- with .root.Values.commonLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    kubectl.kubernetes.io/default-container: carillon
    checksum/config: {{ include "carillon.restartChecksum" .root }}
    {{- with $values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "carillon.serviceAccountName" .root }}
  {{- include "carillon.podSecurity" .root | nindent 2 }}
  {{- with .root.Values.shutdown }}
  terminationGracePeriodSeconds: {{ add (int .preStopSeconds) (int .timeoutSeconds) 5 }}
  {{- end }}
  {{- with .root.Values.topologyKeys }}
  topologySpreadConstraints:
    {{- range . }}
    - topologyKey: {{ . }}
      maxSkew: 1
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels:
          {{- include "carillon.roleSelector" $ | nindent 10 }}
      {{- if ne $.role "presence" }}
      # Of one revision: a roll would else be spread around the pods that are about to go.
      matchLabelKeys: [pod-template-hash]
      {{- end }}
    {{- end }}
  {{- end }}
  {{- with $values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- range $key := list "nodeSelector" "tolerations" "affinity" }}
  {{- with get $values $key }}
  {{ $key }}:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- end }}
  containers:
    - name: carillon
      {{- include "carillon.container" .root | nindent 6 }}
      args: [{{ .role }}]
      env:
        {{- include "carillon.environment" . | nindent 8 }}
        {{- with include "carillon.memoryLimit" . }}
        - {name: GOMEMLIMIT, value: {{ . }}}
        {{- end }}
      ports:
        {{- range $name, $port := .ports }}
        - {name: {{ $name }}, containerPort: {{ $port }}}
        {{- end }}
        - {name: ops, containerPort: 9464}
      # It lives as soon as it listens, and is ready when it can serve: without NATS it waits.
      startupProbe:
        httpGet: {path: /healthz, port: ops{{ $scheme }}}
        periodSeconds: 1
        failureThreshold: 60
      livenessProbe:
        httpGet: {path: /healthz, port: ops{{ $scheme }}}
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 6
      readinessProbe:
        httpGet: {path: /readyz, port: ops{{ $scheme }}}
        periodSeconds: 3
        timeoutSeconds: 2
      lifecycle:
        preStop:
          sleep: {seconds: {{ int .root.Values.shutdown.preStopSeconds }}}
      resources:
        {{- toYaml $values.resources | nindent 8 }}
      volumeMounts:
        {{- range $files }}
        - {name: {{ .volume }}, mountPath: {{ .path }}, readOnly: true}
        {{- end }}
  volumes:
    {{- range $files }}
    - name: {{ .volume }}
      {{- toYaml .source | nindent 6 }}
    {{- end }}
{{- end -}}

{{- define "carillon.podSecurity" -}}
automountServiceAccountToken: false
# Else Kubernetes' variables for a Service, CARILLON_EDGE_PORT, stand beside Carillon's own.
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  seccompProfile: {type: RuntimeDefault}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* What each container of the image has. */}}
{{- define "carillon.container" -}}
image: {{ include "carillon.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end -}}

{{- define "carillon.environment" -}}
- {name: CARILLON_CONFIG, value: /etc/carillon/carillon.yaml}
{{- if ne .role "presence" }}
{{- if .root.Values.nats.passwordSecret }}
- {name: CARILLON_NATS_USER, value: {{ .role }}}
- {name: CARILLON_NATS_PASSWORD_FILE, value: /nats/password}
{{- end }}
{{- if .root.Values.nats.credentialsSecret }}
- {name: CARILLON_NATS_CREDENTIALS, value: /nats/creds}
{{- end }}
{{- end }}
- name: POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: POD_NAMESPACE
  valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
- name: OTEL_RESOURCE_ATTRIBUTES
  value: k8s.namespace.name=$(POD_NAMESPACE),k8s.pod.name=$(POD_NAME),carillon.role={{ .role }}
{{- with .root.Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* What Go is told of the memory that a role may have: 85 %, as docs/performance.md advises.
     Nothing if extraEnv says it, or the limit is none in Mi or Gi. */}}
{{- define "carillon.memoryLimit" -}}
{{- $limit := (((get .root.Values .role).resources).limits).memory | default "" | toString -}}
{{- $given := false -}}
{{- range .root.Values.extraEnv -}}
{{- $given = or $given (eq .name "GOMEMLIMIT") -}}
{{- end -}}
{{- if and (not $given) (regexMatch "^[0-9]+(\\.[0-9]+)?[MG]i$" $limit) -}}
{{- $mebibytes := mulf (regexFind "^[0-9.]+" $limit | float64) (ternary 1024 1 (hasSuffix "Gi" $limit)) -}}
{{- printf "%dMiB" (mulf $mebibytes 0.85 | int) -}}
{{- end -}}
{{- end -}}

{{/* What a role finds in directories: a list of volume, path and source. They are mounted whole,
     never by subPath: only so do files follow their ConfigMap and Secrets. "configMap" is the
     name of the one with carillon.yaml. */}}
{{- define "carillon.files" -}}
{{- $v := .root.Values -}}
- {volume: config, path: /etc/carillon, source: {configMap: {name: {{ .configMap }}}}}
{{- range $name, $secret := $v.secrets }}
- {volume: secret-{{ $name }}, path: /secrets/{{ $name }}, source: {secret: {secretName: {{ $secret }}, defaultMode: 0440}}}
{{- end }}
{{- with (get $v .role).tls.secretName }}
- {volume: tls-server, path: /tls/server, source: {secret: {secretName: {{ . }}, defaultMode: 0440}}}
{{- end }}
{{- with $v.ops.tls.secretName }}
- {volume: tls-ops, path: /tls/ops, source: {secret: {secretName: {{ . }}, defaultMode: 0440}}}
{{- end }}
{{- if ne .role "presence" }}
{{- with $v.presence.tls.secretName }}
- {volume: tls-presence, path: /tls/presence, source: {secret: {secretName: {{ . }}, items: [{key: ca.crt, path: ca.crt}]}}}
{{- end }}
{{- with $v.nats.caSecret }}
- {volume: tls-nats, path: /tls/nats, source: {secret: {secretName: {{ . }}, items: [{key: ca.crt, path: ca.crt}]}}}
{{- end }}
{{- with $v.nats.passwordSecret }}
- {volume: nats, path: /nats, source: {secret: {secretName: {{ . }}, defaultMode: 0440, items: [{key: {{ $.role }}, path: password}]}}}
{{- end }}
{{- with $v.nats.credentialsSecret }}
- {volume: nats, path: /nats, source: {secret: {secretName: {{ . }}, defaultMode: 0440, items: [{key: {{ $.role }}.creds, path: creds}]}}}
{{- end }}
{{- end }}
{{- end -}}
