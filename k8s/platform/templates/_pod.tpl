{{/* What all pods have: dict "root" $ "component" NAME. */}}
{{- define "rattle.podMetadata" -}}
labels:
  {{- include "rattle.labels" . | nindent 2 }}
  {{- with (index .root.Values .component).podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
annotations:
  kubectl.kubernetes.io/default-container: {{ .component }}
  checksum/experiment: {{ include "rattle.experiment" .root | sha256sum }}
  {{- with (index .root.Values .component).podAnnotations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{- define "rattle.podSecurity" -}}
serviceAccountName: {{ .Values.serviceAccount.name | default (include "rattle.fullname" .) }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- toYaml .Values.podSecurityContext | nindent 2 }}
{{- end -}}

{{- define "rattle.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
{{- end -}}

{{- define "rattle.podPlace" -}}
{{- $own := index .root.Values .component -}}
{{ include "rattle.podSecurity" .root }}
terminationGracePeriodSeconds: {{ add $own.terminationGracePeriodSeconds (ternary (.root.Values.inference.drainSeconds | int) 0 (eq .component "inference")) }}
{{- with $own.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $own.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $own.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $own.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .root.Values.topologySpread }}
topologySpreadConstraints:
  {{- range . }}
  - {{- toYaml . | nindent 4 }}
    labelSelector:
      matchLabels:
        {{- include "rattle.selector" $ | nindent 8 }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* Environment variables of all services: dict "root" $ "component" NAME "plan" PLAN. */}}
{{- define "rattle.variables" -}}
{{- $root := .root -}}
{{- $indexed := has .component (list "env" "inference") -}}
{{- if $indexed }}
- name: POD_INDEX
  valueFrom:
    fieldRef:
      fieldPath: metadata.labels['apps.kubernetes.io/pod-index']
{{- end }}
- name: SERVICE_NAME
  value: {{ $indexed | ternary (printf "%s-$(POD_INDEX)" .component) .component }}
{{- if and .plan.runId (has .component (list "env" "inference" "sync")) }}
- name: RUN_ID
  value: {{ .plan.runId | quote }}
{{- end }}
{{- if .plan.hosts }}
- name: RATTLE_SECURITY__ALLOWED_HOSTS
  value: {{ toJson .plan.hosts | quote }}
{{- end }}
{{- if $root.Values.security.token.enabled }}
- name: RATTLE_SECURITY__TOKEN_FILE
  value: /run/secrets/rattle/token
{{- else }}
- name: RATTLE_SECURITY__TRUST_NETWORK
  value: "true"
{{- end }}
{{- with $root.Values.security.open }}
- name: RATTLE_SECURITY__OPEN
  value: {{ toJson . | quote }}
{{- end }}
{{- if $root.Values.tls.enabled }}
- name: RATTLE_SECURITY__CERTIFICATE
  value: /run/secrets/rattle-tls/tls.crt
- name: RATTLE_SECURITY__PRIVATE_KEY
  value: /run/secrets/rattle-tls/tls.key
- name: RATTLE_SECURITY__AUTHORITY
  value: /run/secrets/rattle-tls/ca.crt
- name: RATTLE_SECURITY__MUTUAL
  value: {{ $root.Values.tls.mutual | quote }}
- name: ADDRESS_FILE
  value: /tmp/rattle-address.json
{{- end }}
{{- if $root.Values.telemetry.enabled }}
{{- include "rattle.telemetryVariables" . }}
{{- end }}
{{- with concat $root.Values.extraEnv (index $root.Values .component).extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* How a service publishes its rows; ingest and the dashboard know the store as well. */}}
{{- define "rattle.telemetryVariables" -}}
{{- $root := .root }}
{{- if ne .component "dashboard" }}
- name: RATTLE_TELEMETRY__BROKER
  value: {{ include "rattle.telemetryUrl" (dict "root" $root "kind" "broker") | quote }}
{{- range $variable, $key := dict "RABBITMQ_USERNAME" "rabbitmq-username" "RABBITMQ_PASSWORD" "rabbitmq-password" }}
- name: {{ $variable }}
  valueFrom:
    secretKeyRef:
      name: {{ $root.Values.telemetry.existingSecret }}
      key: {{ $key }}
{{- end }}
{{- if $root.Values.telemetry.caSecret }}
- name: RATTLE_TELEMETRY__CA_FILE
  value: /run/secrets/rattle-telemetry/ca.crt
{{- end }}
{{- end }}
{{- if has .component (list "ingest" "dashboard" "tests") }}
- name: RATTLE_TELEMETRY__STORE
  value: {{ include "rattle.telemetryUrl" (dict "root" $root "kind" "store" "credentials" false) | quote }}
{{- range $variable, $key := dict "CLICKHOUSE_USERNAME" "clickhouse-username" "CLICKHOUSE_PASSWORD" "clickhouse-password" }}
- name: {{ $variable }}
  valueFrom:
    secretKeyRef:
      name: {{ $root.Values.telemetry.existingSecret }}
      key: {{ $key }}
{{- end }}
- name: RATTLE_CREDENTIALS
  value: {{ include "rattle.telemetryUrl" (dict "root" $root "kind" "store" "credentials" true) | quote }}
{{- if $root.Values.telemetry.caSecret }}
- name: SSL_CERT_FILE
  value: /run/secrets/rattle-telemetry/ca.crt
{{- end }}
{{- end }}
{{- end -}}

{{- define "rattle.mounts" -}}
{{- $root := .root -}}
- name: tmp
  mountPath: /tmp
- name: experiment
  mountPath: /etc/rattle
  readOnly: true
{{- if $root.Values.security.token.enabled }}
- name: token
  mountPath: /run/secrets/rattle
  readOnly: true
{{- end }}
{{- if $root.Values.tls.enabled }}
- name: tls
  mountPath: /run/secrets/rattle-tls
  readOnly: true
{{- end }}
{{- if and $root.Values.telemetry.enabled $root.Values.telemetry.caSecret }}
- name: telemetry-ca
  mountPath: /run/secrets/rattle-telemetry
  readOnly: true
{{- end }}
{{- with (index $root.Values .component).extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "rattle.volumes" -}}
{{- $root := .root -}}
- name: tmp
  emptyDir:
    sizeLimit: {{ $root.Values.scratchSize }}
- name: experiment
  configMap:
    name: {{ $root.Values.existingConfigMap | default (printf "%s-experiment" (include "rattle.fullname" $root)) }}
{{- if $root.Values.security.token.enabled }}
- name: token
  secret:
    secretName: {{ include "rattle.tokenSecret" $root }}
    defaultMode: 0440
    items:
      - key: token
        path: token
{{- end }}
{{- if $root.Values.tls.enabled }}
- name: tls
  secret:
    secretName: {{ include "rattle.tlsSecret" $root }}
    defaultMode: 0440
    items:
      - key: tls.crt
        path: tls.crt
      - key: tls.key
        path: tls.key
      - key: ca.crt
        path: ca.crt
{{- end }}
{{- if and $root.Values.telemetry.enabled $root.Values.telemetry.caSecret }}
- name: telemetry-ca
  secret:
    secretName: {{ $root.Values.telemetry.caSecret }}
    items:
      - key: ca.crt
        path: ca.crt
{{- end }}
{{- with (index $root.Values .component).extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/*
Probes over HTTP. Startup: the process has begun to answer. Readiness: it can do its work. Liveness: it still answers,
and is started anew where it does not.
*/}}
{{- define "rattle.httpProbes" -}}
startupProbe:
  {{- include "rattle.httpProbe" (dict "root" .root "path" "/healthz") | nindent 2 }}
  periodSeconds: 2
  failureThreshold: 90
  timeoutSeconds: 5
readinessProbe:
  {{- include "rattle.httpProbe" (dict "root" .root "path" "/readyz") | nindent 2 }}
  periodSeconds: 5
  failureThreshold: 2
  timeoutSeconds: 5
livenessProbe:
  {{- include "rattle.httpProbe" (dict "root" .root "path" "/healthz") | nindent 2 }}
  periodSeconds: 20
  failureThreshold: 3
  timeoutSeconds: 10
{{- end -}}

{{/* The kubelet shows no certificate of its own: where all clients must, the container asks itself. */}}
{{- define "rattle.httpProbe" -}}
{{- if .root.Values.tls.mutual -}}
exec:
  command: {{ concat (list "python" "-m" "rattle.services.utils.health") (eq .path "/readyz" | ternary (list "--ready") list) | toJson }}
{{- else -}}
httpGet:
  path: {{ .path }}
  port: http
  {{- if .root.Values.tls.enabled }}
  scheme: HTTPS
  {{- end }}
{{- end -}}
{{- end -}}

{{/* Those who are asked through a Service are still asked for a moment after they are to end. */}}
{{- define "rattle.farewell" -}}
lifecycle:
  preStop:
    sleep:
      seconds: 5
{{- end -}}
