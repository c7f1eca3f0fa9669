{{- define "cloudify.name" -}}
{{- if contains "cloudify" .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{ else }}{{ printf "%s-cloudify" (.Release.Name | trunc 31 | trimSuffix "-") }}{{ end }}
{{- end }}

{{- define "cloudify.matchLabels" -}}
app.kubernetes.io/name: cloudify
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "cloudify.labels" -}}
{{ include "cloudify.matchLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "cloudify.podSecurityLabels" -}}
pod-security.kubernetes.io/enforce: restricted
pod-security.kubernetes.io/warn: restricted
pod-security.kubernetes.io/audit: restricted
{{- end }}

{{- define "cloudify.apiHost" -}}{{ .Values.api.host | default (printf "api.%s" .Values.domain) }}{{- end }}

{{- define "cloudify.keysSecret" -}}{{ .Values.keys.existingSecret | default (printf "%s-keys" (include "cloudify.name" .)) }}{{- end }}

{{- define "cloudify.evaluationSecret" -}}{{ include "cloudify.name" . }}-evaluation{{- end }}

{{- define "cloudify.databaseSecret" -}}{{ .Values.database.existingSecret | default (include "cloudify.evaluationSecret" .) }}{{- end }}
{{- define "cloudify.redisSecret" -}}{{ .Values.redis.existingSecret | default (include "cloudify.evaluationSecret" .) }}{{- end }}
{{- define "cloudify.objectStoreSecret" -}}{{ .Values.objectStore.existingSecret | default (include "cloudify.evaluationSecret" .) }}{{- end }}

{{- /* The image's name with a suffix: registry:5000/cloudify:1.2 and -builder make registry:5000/cloudify-builder:1.2. */}}
{{- define "cloudify.siblingImage" -}}
{{- $parts := regexFind ":[^:/]+$" .image -}}
{{ trimSuffix $parts .image }}{{ .suffix }}{{ $parts }}
{{- end }}

{{- define "cloudify.builderImage" -}}
{{ .Values.executor.builderImage | default (include "cloudify.siblingImage" (dict "image" .Values.image "suffix" "-builder")) }}
{{- end }}

{{- define "cloudify.evaluationImage" -}}
{{ .Values.evaluation.image | default (include "cloudify.siblingImage" (dict "image" .Values.image "suffix" "-evaluation")) }}
{{- end }}

{{- /* Endpoint of the object store where it is known to the chart, otherwise empty. */}}
{{- define "cloudify.objectStoreEndpoint" -}}
{{- if .Values.objectStore.endpoint }}{{ .Values.objectStore.endpoint }}
{{- else if and .Values.evaluation.enabled (not .Values.objectStore.existingSecret) }}http://{{ include "cloudify.name" . }}-stores.{{ .Release.Namespace }}.svc:8333
{{- end }}
{{- end }}

{{- /* Pools by name, each the defaults with the pool's own values. */}}
{{- define "cloudify.pools" -}}
{{- $pools := dict }}
{{- range $name, $own := .Values.workers.pools }}
{{- $pool := mustMergeOverwrite (deepCopy $.Values.workers.defaults) (deepCopy ($own | default dict)) }}
{{- $_ := set $pools $name $pool }}
{{- end }}
{{- $pools | toJson }}
{{- end }}

{{- define "cloudify.scheme" -}}{{ if eq .Values.tls.mode "none" }}http{{ else }}https{{ end }}{{- end }}

{{- define "cloudify.tlsSecret" -}}
{{- if eq .Values.tls.mode "certManager" }}{{ .Values.tls.secretName | default (printf "%s-tls" (include "cloudify.name" .)) }}{{ else }}{{ .Values.tls.secretName }}{{ end }}
{{- end }}

{{- define "cloudify.priorityClass" -}}
{{- if .Values.priorityClasses.enabled }}
priorityClassName: {{ include "cloudify.name" . }}-{{ .Release.Namespace }}-platform
{{- end }}
{{- end }}
