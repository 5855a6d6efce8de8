{{/* The name of an object: that of the release, and what it is. */}}
{{- define "rattle.fullname" -}}
{{- .Values.fullnameOverride | default .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* Labels that pods are chosen by: dict "root" $ "component" NAME. */}}
{{- define "rattle.selector" -}}
app.kubernetes.io/name: rattle
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- with .component }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- end -}}

{{/* All labels: dict "root" $ "component" NAME. */}}
{{- define "rattle.labels" -}}
{{ include "rattle.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: rattle
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* A service's image: dict "root" $ "service" NAME; training on GPUs has another one. */}}
{{- define "rattle.image" -}}
{{- $own := index .root.Values .service -}}
{{- $tag := .root.Values.image.tag | default .root.Chart.AppVersion -}}
{{- if and (eq .service "training") .root.Values.training.gpu.enabled -}}
{{- $tag = printf "%s-cuda" $tag -}}
{{- end -}}
{{- $name := printf "snake_rl_%s:%s" .service $tag -}}
{{- $own.image | default (.root.Values.image.registry | empty | ternary $name (printf "%s/%s" .root.Values.image.registry $name)) -}}
{{- end -}}

{{/* The experiment as a map, empty where it is not known. */}}
{{- define "rattle.experiment" -}}
{{- if .Values.existingConfigMap -}}
{{- $found := lookup "v1" "ConfigMap" .Release.Namespace .Values.existingConfigMap -}}
{{- dig "data" "experiment.yaml" "{}" ($found | default dict) -}}
{{- else if kindIs "string" .Values.experiment -}}
{{- .Values.experiment -}}
{{- else -}}
{{- toYaml .Values.experiment -}}
{{- end -}}
{{- end -}}

{{- define "rattle.tokenSecret" -}}
{{- .Values.security.token.existingSecret | default (printf "%s-token" (include "rattle.fullname" .)) -}}
{{- end -}}

{{- define "rattle.tlsSecret" -}}
{{- .Values.tls.existingSecret | default (printf "%s-tls" (include "rattle.fullname" .)) -}}
{{- end -}}

{{/* A URL's beginning at which brokers and stores are asked: dict "root" $ "kind" broker|store "credentials" bool. */}}
{{- define "rattle.telemetryUrl" -}}
{{- $own := index .root.Values.telemetry .kind -}}
{{- if eq .kind "broker" -}}
{{- printf "%s://%s:%v/%s" ($own.tls | ternary "amqps" "amqp") $own.host $own.port ($own.vhost | replace "/" "%2F") -}}
{{- else -}}
{{- $user := .credentials | ternary "$(CLICKHOUSE_USERNAME):$(CLICKHOUSE_PASSWORD)@" "" -}}
{{- printf "%s://%s%s:%v/%s" ($own.tls | ternary "https" "http") $user $own.host $own.port $own.database -}}
{{- end -}}
{{- end -}}
