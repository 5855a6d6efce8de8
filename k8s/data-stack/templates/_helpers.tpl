{{/* The name of an object: that of the release, and what it is. */}}
{{- define "data.fullname" -}}
{{- .Values.fullnameOverride | default .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* Labels that pods are chosen by: dict "root" $ "component" NAME. */}}
{{- define "data.selector" -}}
app.kubernetes.io/name: rattle-data
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "data.labels" -}}
{{ include "data.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: rattle
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "data.secret" -}}
{{- .Values.credentials.existingSecret | default (printf "%s-credentials" (include "data.fullname" .)) -}}
{{- end -}}

{{/* A variable from the Secret: dict "root" $ "name" VARIABLE "key" KEY. */}}
{{- define "data.variable" -}}
- name: {{ .name }}
  valueFrom:
    secretKeyRef:
      name: {{ include "data.secret" .root }}
      key: {{ .key }}
{{- end -}}

{{/* What all pods have: dict "root" $ "user" NUMBER. */}}
{{- define "data.podSecurity" -}}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: {{ .user }}
  runAsGroup: {{ .user }}
  fsGroup: {{ .user }}
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile:
    type: RuntimeDefault
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "data.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
{{- end -}}

{{/* Where pods of a service may run: its values. */}}
{{- define "data.place" -}}
terminationGracePeriodSeconds: {{ .terminationGracePeriodSeconds }}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* The spec of a volume of a service: its values. */}}
{{- define "data.claim" -}}
accessModes: [ReadWriteOnce]
{{- with .persistence.storageClass }}
storageClassName: {{ . }}
{{- end }}
resources:
  requests:
    storage: {{ .persistence.size }}
{{- end -}}
