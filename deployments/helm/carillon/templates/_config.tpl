{{/* carillon.yaml: what the values say, and what depends on the cluster. */}}
{{- define "carillon.config" -}}
{{- include "carillon.refuse" . -}}
{{- $v := .Values -}}
{{- $set := dict
  "shutdown_timeout" (printf "%ds" (int $v.shutdown.timeoutSeconds))
  "nats" (dict "url" (include "carillon.natsURL" .))
  "edge" (dict "listen" ":8080" "drain_window" (printf "%ds" (int $v.shutdown.drainWindowSeconds)))
  "publish" (dict "listen" ":9090" "http_listen" ":8081")
  "presence" (dict "listen" ":9091" "addresses" (include "carillon.presenceAddresses" . | fromJsonArray))
  "ops" (dict "listen" ":9464")
-}}
{{- with $v.nats.caSecret -}}
{{- $_ := set $set.nats "tls" (dict "ca_file" "/tls/nats/ca.crt") -}}
{{- end -}}
{{- range $section := list "edge" "publish" "presence" "ops" -}}
{{- $tls := (get $v $section).tls -}}
{{- if $tls.secretName -}}
{{- $dir := ternary "/tls/ops" "/tls/server" (eq $section "ops") -}}
{{- $files := dict "cert_file" (printf "%s/tls.crt" $dir) "key_file" (printf "%s/tls.key" $dir) -}}
{{- if $tls.clientCertificates -}}
{{- $_ := set $files "client_ca_file" (printf "%s/ca.crt" $dir) -}}
{{- end -}}
{{- $_ := set (get $set $section) "tls" $files -}}
{{- end -}}
{{- end -}}
{{- if $v.presence.tls.secretName -}}
{{- $_ := set $set.presence "dial_tls" (dict "ca_file" "/tls/presence/ca.crt") -}}
{{- end -}}
{{- mergeOverwrite (deepCopy $v.config) $set | toYaml -}}
{{- end -}}

{{/* Of what a process takes only when it starts. Pods are rolled when it changes; they load the
     rest again by themselves, as config.NeedRestart says. */}}
{{- define "carillon.restartChecksum" -}}
{{- $c := include "carillon.config" . | fromYaml -}}
{{- $_ := unset $c "callers" -}}
{{- range list "issuers" "roles_secret" "previous_roles_secret" -}}
{{- $_ := unset (default dict $c.auth) . -}}
{{- end -}}
{{- $_ := unset (default dict $c.log) "level" -}}
{{- range $c.namespaces -}}
{{- $_ := unset . "rules" -}}
{{- end -}}
{{- toYaml $c | sha256sum -}}
{{- end -}}

{{- define "carillon.natsURL" -}}
{{- if .Values.nats.url -}}
{{ .Values.nats.url }}
{{- else if .Values.broker.enabled -}}
{{- if not (hasKey .Subcharts "broker") -}}
{{- fail "broker.enabled wants the NATS chart, which this package was made without: install NATS beside it (docs/kubernetes.md, NATS)" -}}
{{- end -}}
nats://{{ include "carillon.brokerName" . }}:4222
{{- else -}}
nats://nats:4222
{{- end -}}
{{- end -}}

{{/* What the NATS chart calls its Service: as its own helper, the alias being its name. */}}
{{- define "carillon.brokerName" -}}
{{- $name := default "broker" .Values.broker.nameOverride -}}
{{- $long := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- default $long .Values.broker.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* Of each replica, as JSON: edges report to all of them. */}}
{{- define "carillon.presenceAddresses" -}}
{{- $role := include "carillon.roleName" (dict "root" . "role" "presence") -}}
{{- $addresses := list -}}
{{- range until (int .Values.presence.replicas) -}}
{{- $addresses = append $addresses (printf "%s-%d.%s-replicas.%s.svc:9091" $role . $role $.Release.Namespace) -}}
{{- end -}}
{{- toJson $addresses -}}
{{- end -}}

{{/* Refuses values that cannot be meant, with what to write instead. */}}
{{- define "carillon.refuse" -}}
{{- $v := .Values -}}
{{- $instead := dict
  "data_dir" "the roles keep nothing on a disk"
  "shutdown_timeout" "give shutdown.timeoutSeconds"
  "edge.drain_window" "give shutdown.drainWindowSeconds"
  "nats.url" "give nats.url"
  "nats.user" "give nats.passwordSecret"
  "nats.password" "give nats.passwordSecret"
  "nats.credentials" "give nats.credentialsSecret"
  "nats.tls" "give nats.caSecret"
  "edge.listen" "it is :8080"
  "edge.tls" "give edge.tls.secretName"
  "publish.listen" "it is :9090"
  "publish.http_listen" "it is :8081"
  "publish.tls" "give publish.tls.secretName"
  "presence.listen" "it is :9091"
  "presence.addresses" "give presence.replicas"
  "presence.tls" "give presence.tls.secretName"
  "presence.dial_tls" "give presence.tls.secretName"
  "ops.listen" "it is :9464"
  "ops.tls" "give ops.tls.secretName"
  "ops.pprof" "it needs a loopback address"
-}}
{{- range $path, $hint := $instead -}}
{{- $parts := splitList "." $path -}}
{{- $section := $v.config -}}
{{- if eq (len $parts) 2 -}}
{{- $section = default dict (get $v.config (first $parts)) -}}
{{- end -}}
{{- if hasKey $section (last $parts) -}}
{{- fail (printf "config.%s is set by the chart: %s" $path $hint) -}}
{{- end -}}
{{- end -}}
{{- if ge (int $v.shutdown.drainWindowSeconds) (int $v.shutdown.timeoutSeconds) -}}
{{- fail (printf "shutdown.drainWindowSeconds, %d, is not less than shutdown.timeoutSeconds, %d" (int $v.shutdown.drainWindowSeconds) (int $v.shutdown.timeoutSeconds)) -}}
{{- end -}}
{{- if and $v.nats.passwordSecret $v.nats.credentialsSecret -}}
{{- fail "nats.passwordSecret and nats.credentialsSecret are given; NATS takes one" -}}
{{- end -}}
{{- range $section := list "publish" "ops" -}}
{{- with (get $v $section).tls -}}
{{- if and .clientCertificates (not .secretName) -}}
{{- fail (printf "%s.tls.clientCertificates needs %s.tls.secretName" $section $section) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- with $v.edge.autoscaling -}}
{{- if and .enabled (not .connections) (not .cpuPercent) -}}
{{- fail "edge.autoscaling looks at nothing: give connections, cpuPercent or both" -}}
{{- end -}}
{{- end -}}
{{- range $role := list "edge" "publish" -}}
{{- with (get $v $role).autoscaling -}}
{{- if and .enabled (gt (int .minReplicas) (int .maxReplicas)) -}}
{{- fail (printf "%s.autoscaling.minReplicas, %d, is more than maxReplicas, %d" $role (int .minReplicas) (int .maxReplicas)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and $v.gateway.enabled (not $v.gateway.parentRefs) -}}
{{- fail "gateway.enabled needs gateway.parentRefs" -}}
{{- end -}}
{{- end -}}
