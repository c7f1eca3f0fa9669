{{- define "cloudify.pullSecretNames" -}}
{{- $names := list }}
{{- range .Values.imagePullSecrets }}{{ $names = append $names .name }}{{ end }}
{{- join "," $names }}
{{- end }}

{{- /* Settings that every process has. A hook runs before the ConfigMap exists and gets them as variables. */}}
{{- define "cloudify.settings" -}}
{{- $name := include "cloudify.name" . -}}
CLOUDIFY_HOME: /var/lib/cloudify
CLOUDIFY_S3_BUCKET: {{ .Values.objectStore.bucket | quote }}
CLOUDIFY_S3_REGION: {{ .Values.objectStore.region | quote }}
CLOUDIFY_API_HOST: 0.0.0.0
CLOUDIFY_API_PORT: "8000"
CLOUDIFY_API_HOSTS: {{ list (include "cloudify.apiHost" .) (printf "%s-api" $name) (printf "%s-api.%s" $name .Release.Namespace) (printf "%s-api.%s.svc" $name .Release.Namespace) (printf "%s-api.%s.svc.cluster.local" $name .Release.Namespace) | join "," | quote }}
CLOUDIFY_TRUSTED_PROXIES: {{ join "," .Values.trustedProxies | quote }}
CLOUDIFY_SITES_DOMAIN: {{ .Values.domain | quote }}
CLOUDIFY_SITES_SCHEME: {{ include "cloudify.scheme" . }}
CLOUDIFY_SITES_PORT: {{ ternary "80" "443" (eq .Values.tls.mode "none") | quote }}
CLOUDIFY_METRICS_HOST: 0.0.0.0
CLOUDIFY_METRICS_PORT: "9464"
{{- if .Values.sitePods.enabled }}
CLOUDIFY_SITES_NAMESPACE: {{ .Values.namespaces.sites.name }}
CLOUDIFY_SITES_IMAGE: {{ .Values.image | quote }}
{{- with include "cloudify.pullSecretNames" . }}
CLOUDIFY_SITES_PULL_SECRETS: {{ . | quote }}
{{- end }}
CLOUDIFY_SITES_API_URL: http://{{ $name }}-api.{{ .Release.Namespace }}.svc
CLOUDIFY_SITES_MAXIMUM_REPLICAS: {{ int64 .Values.sitePods.maximumReplicas | quote }}
CLOUDIFY_SITES_FORMER_KEPT: {{ int64 .Values.sitePods.formerKept | quote }}
{{- end }}
{{- with .Values.limits.stageTimeoutSeconds }}
CLOUDIFY_STAGE_TIMEOUT_SECONDS: {{ int64 . | quote }}
{{- end }}
{{- if .Values.caBundle.existingConfigMap }}
CLOUDIFY_CA_BUNDLE: /run/cloudify/ca/{{ .Values.caBundle.key }}
{{- end }}
{{- with include "cloudify.objectStoreEndpoint" . | trim }}
CLOUDIFY_S3_ENDPOINT: {{ . | quote }}
{{- else }}
CLOUDIFY_S3_ENDPOINT_FILE: /run/cloudify/secrets/s3-endpoint
{{- end }}
CLOUDIFY_DATABASE_URL_FILE: /run/cloudify/secrets/database-url
CLOUDIFY_REDIS_URL_FILE: /run/cloudify/secrets/redis-url
CLOUDIFY_S3_ACCESS_KEY_FILE: /run/cloudify/secrets/s3-access-key
CLOUDIFY_S3_SECRET_KEY_FILE: /run/cloudify/secrets/s3-secret-key
CLOUDIFY_SECRET_KEY_FILE: /run/cloudify/secrets/secret-key
CLOUDIFY_ENCRYPTION_KEYS_FILE: /run/cloudify/secrets/encryption-keys
{{- range $key, $value := .Values.settings }}
{{ $key }}: {{ ternary (toString $value) (int64 $value | toString) (kindIs "string" $value | or (kindIs "bool" $value)) | quote }}
{{- end }}
{{- end }}

{{- /* What runs commands, which only workers are told. */}}
{{- define "cloudify.executorSettings" -}}
CLOUDIFY_EXECUTOR: {{ .Values.executor.name }}
CLOUDIFY_BUILDER_IMAGE: {{ include "cloudify.builderImage" . | trim | quote }}
{{- if eq .Values.executor.name "kubernetes" }}
CLOUDIFY_KUBERNETES_NAMESPACE: {{ .Values.namespaces.builds.name }}
{{- with include "cloudify.pullSecretNames" . }}
CLOUDIFY_KUBERNETES_PULL_SECRETS: {{ . | quote }}
{{- end }}
CLOUDIFY_KUBERNETES_RUNTIME_CLASS: {{ .Values.executor.runtimeClassName | quote }}
CLOUDIFY_KUBERNETES_USER_NAMESPACES: {{ .Values.executor.userNamespaces | quote }}
{{- if .Values.priorityClasses.enabled }}
CLOUDIFY_KUBERNETES_PRIORITY_CLASS: {{ include "cloudify.name" . }}-{{ .Release.Namespace }}-builds
{{- end }}
{{- end }}
{{- end }}

{{- /* The way out of commands in pods, for the workers that run them. */}}
{{- define "cloudify.egressSettings" -}}
{{- $host := printf "%s-egress" (include "cloudify.name" .) -}}
CLOUDIFY_EGRESS_GATEWAY: http://{{ $host }}.{{ .Release.Namespace }}.svc:3128
CLOUDIFY_EGRESS_CONTROL: http://{{ $host }}-control.{{ .Release.Namespace }}.svc:3129
CLOUDIFY_EGRESS_TOKEN_FILE: /run/cloudify/egress/token
{{- end }}

{{- define "cloudify.egressVolume" -}}
- name: egress
  secret:
    secretName: {{ include "cloudify.keysSecret" . }}
    defaultMode: 0440
    items: [{key: {{ .Values.keys.egressTokenKey }}, path: token}]
{{- end }}

{{- define "cloudify.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "cloudify.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "cloudify.podLabels" -}}
{{ include "cloudify.labels" .root }}
app.kubernetes.io/component: {{ .component }}
{{- with .root.Values.pods.labels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "cloudify.podAnnotations" -}}
checksum/config: {{ include "cloudify.settings" .root | sha256sum }}
{{- with .root.Values.pods.annotations }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /* The placement of a pod: `from` holds tolerations, nodeSelector, affinity and spreadTopologyKey. */}}
{{- define "cloudify.placement" -}}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets: {{ toYaml . | nindent 2 }}
{{- end }}
{{- include "cloudify.priorityClass" .root }}
{{- with .from.spreadTopologyKey }}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "cloudify.matchLabels" $.root | nindent 8 }}
        app.kubernetes.io/component: {{ $.component }}
{{- end }}
{{- with .from.tolerations }}
tolerations: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .from.nodeSelector }}
nodeSelector: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .from.affinity }}
affinity: {{ toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "cloudify.mounts" -}}
- {name: home, mountPath: /var/lib/cloudify}
- {name: tmp, mountPath: /tmp}
- {name: secrets, mountPath: /run/cloudify/secrets, readOnly: true}
{{- if .Values.caBundle.existingConfigMap }}
- {name: ca, mountPath: /run/cloudify/ca, readOnly: true}
{{- end }}
{{- end }}

{{- /* All volumes but `home`. */}}
{{- define "cloudify.volumes" -}}
- name: tmp
  emptyDir: {sizeLimit: 512Mi}
- name: secrets
  projected:
    defaultMode: 0440
    sources:
      - secret:
          name: {{ include "cloudify.databaseSecret" . }}
          items: [{key: {{ ternary .Values.database.urlKey "database-url" (ne .Values.database.existingSecret "") }}, path: database-url}]
      - secret:
          name: {{ include "cloudify.redisSecret" . }}
          items: [{key: {{ ternary .Values.redis.urlKey "redis-url" (ne .Values.redis.existingSecret "") }}, path: redis-url}]
      - secret:
          name: {{ include "cloudify.objectStoreSecret" . }}
          items:
            {{- if not (include "cloudify.objectStoreEndpoint" . | trim) }}
            - {key: {{ .Values.objectStore.endpointKey }}, path: s3-endpoint}
            {{- end }}
            - {key: {{ ternary .Values.objectStore.accessKeyKey "s3-access-key" (ne .Values.objectStore.existingSecret "") }}, path: s3-access-key}
            - {key: {{ ternary .Values.objectStore.secretKeyKey "s3-secret-key" (ne .Values.objectStore.existingSecret "") }}, path: s3-secret-key}
      - secret:
          name: {{ include "cloudify.keysSecret" . }}
          items:
            - {key: {{ .Values.keys.secretKeyKey }}, path: secret-key}
            - {key: {{ .Values.keys.encryptionKeysKey }}, path: encryption-keys}
{{- if .Values.caBundle.existingConfigMap }}
- name: ca
  configMap:
    name: {{ .Values.caBundle.existingConfigMap }}
{{- end }}
{{- end }}

{{- /* Figures of section 7.2 of the specification. */}}
{{- define "cloudify.probes" -}}
startupProbe:
  httpGet: {path: {{ .startup }}, port: {{ .port }}}
  initialDelaySeconds: 5
  periodSeconds: 5
  timeoutSeconds: 3
  failureThreshold: 30
livenessProbe:
  httpGet: {path: {{ .live }}, port: {{ .port }}}
  initialDelaySeconds: 10
  periodSeconds: 30
  timeoutSeconds: 3
  failureThreshold: 3
readinessProbe:
  httpGet: {path: {{ .ready }}, port: {{ .port }}}
  initialDelaySeconds: 5
  periodSeconds: 10
  timeoutSeconds: 3
  failureThreshold: 3
{{- end }}

{{- /* Requests that are already on their way reach a pod for some seconds after its end was decided. */}}
{{- define "cloudify.waitForEndpoints" -}}
lifecycle:
  preStop:
    exec: {command: [sleep, "5"]}
{{- end }}
