{{/* Names, labels and the image. Names leave room for what is put behind them: the longest is
     that of a pod of the presence StatefulSet. */}}

{{- define "carillon.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "carillon.fullname" -}}
{{- $name := include "carillon.name" . -}}
{{- $long := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- default $long .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* Of a role: dict "root" . "role" "edge". */}}
{{- define "carillon.roleName" -}}
{{- printf "%s-%s" (include "carillon.fullname" .root) .role -}}
{{- end -}}

{{- define "carillon.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "carillon.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* By which the pods of all roles are found. */}}
{{- define "carillon.selector" -}}
app.kubernetes.io/name: {{ include "carillon.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* By which the pods of one are: dict "root" . "role" "edge". */}}
{{- define "carillon.roleSelector" -}}
{{ include "carillon.selector" .root }}
app.kubernetes.io/component: {{ .role }}
{{- end -}}

{{- define "carillon.commonLabels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "carillon.labels" -}}
{{ include "carillon.selector" . }}
{{ include "carillon.commonLabels" . }}
{{- end -}}

{{- define "carillon.roleLabels" -}}
{{ include "carillon.roleSelector" . }}
{{ include "carillon.commonLabels" .root }}
{{- end -}}

{{/* Of pods that run once, which no Service or policy of the roles may find. */}}
{{- define "carillon.jobSelector" -}}
app.kubernetes.io/name: {{ include "carillon.name" . }}-job
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "carillon.jobLabels" -}}
{{ include "carillon.jobSelector" . }}
{{ include "carillon.commonLabels" . }}
{{- end -}}

{{- define "carillon.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ default $.Chart.AppVersion .tag }}
{{- end -}}
{{- end -}}
{{- end -}}
