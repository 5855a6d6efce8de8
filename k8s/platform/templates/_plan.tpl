{{/*
What follows from the values and the experiment, as YAML: who plays where, who learns what, by which names services are
asked. It ends the rendering, in one line, where values do not go together.
*/}}
{{- define "rattle.plan" -}}
{{- $full := include "rattle.fullname" . -}}
{{- $experiment := include "rattle.experiment" . | fromYaml -}}
{{- if hasKey $experiment "Error" -}}
{{- fail (printf "experiment: this is no YAML of an experiment: %s" $experiment.Error) -}}
{{- end -}}
{{- $section := dict -}}
{{- range $name := list "env" "env_service" "training" "inference" "train" -}}
{{- $_ := set $section $name (get $experiment $name | default dict) -}}
{{- end -}}
{{- $sync := get $experiment "sync" | default dict -}}
{{- if kindIs "string" $sync -}}{{- $sync = dict "mode" $sync -}}{{- end -}}
{{- $syncMode := $sync.mode | default "none" -}}
{{- $mode := $section.training.mode | default "on_policy" -}}
{{- $api := $section.inference.api | default (eq $syncMode "none" | ternary "vector" "agent") -}}
{{- $policies := $section.training.policies | default (list "main") -}}
{{- $url := $section.env.url | default "" -}}
{{- $known := not .Values.existingConfigMap -}}
{{- $plays := and .Values.inference.enabled (not .Values.inference.policy) -}}
{{- $hasSync := ne $syncMode "none" -}}
{{- if hasKey .Values.sync "enabled" -}}
{{- if and $known (ne .Values.sync.enabled $hasSync) -}}
{{- fail (printf "sync.enabled is %t, but sync.mode of the experiment is %s: change one of them, or leave sync.enabled out" .Values.sync.enabled $syncMode) -}}
{{- end -}}
{{- $hasSync = .Values.sync.enabled -}}
{{- end -}}

{{- if and $url .Values.env.enabled -}}
{{- fail (printf "env.url of the experiment is %s, so no Env service is needed: set env.enabled=false, or leave env.url out" $url) -}}
{{- end -}}
{{- if and $plays $known (not .Values.env.enabled) (not $url) -}}
{{- fail "there is nothing to play in: set env.enabled=true, or name a server in env.url of the experiment" -}}
{{- end -}}
{{- if and $plays (not .Values.training.enabled) -}}
{{- fail "inference plays, but nobody learns: set training.enabled=true, or have it serve only with inference.policy=FILE" -}}
{{- end -}}
{{- range $name := list "env" "inference" -}}
{{- $own := index $.Values $name -}}
{{- if and $own.enabled $own.autoscaling.enabled -}}
{{- if gt (int $own.autoscaling.minReplicas) (int $own.autoscaling.maxReplicas) -}}
{{- fail (printf "%s.autoscaling.minReplicas is %v, which is more than maxReplicas, %v" $name $own.autoscaling.minReplicas $own.autoscaling.maxReplicas) -}}
{{- end -}}
{{- if and $plays (ne $mode "async") -}}
{{- fail (printf "%s.autoscaling: in training.mode %s every update waits for all worlds, which a fixed number of pods shares: set %s.replicas, or training.mode: async in the experiment" $name $mode $name) -}}
{{- end -}}
{{- if and $plays $hasSync -}}
{{- fail (printf "%s.autoscaling: the Sync service leads a fixed set of pods: set %s.replicas, or sync: none in the experiment" $name $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if gt (int .Values.training.replicas) (len $policies) -}}
{{- fail (printf "training.replicas is %v, but training.policies of the experiment names %d: a policy is trained by one service" .Values.training.replicas (len $policies)) -}}
{{- end -}}
{{- if and .Values.training.enabled (eq .Values.training.kind "job") $known -}}
{{- if and (hasKey $section.train "steps") (not $section.train.steps) (not $section.train.seconds) (kindIs "invalid" $section.train.stop_at_return) -}}
{{- fail "training.kind is job, but the run has no end: give the experiment train.steps, train.seconds or train.stop_at_return, or set training.kind=service" -}}
{{- end -}}
{{- end -}}
{{- if and (eq $syncMode "lockstep") $url -}}
{{- fail "sync.mode is lockstep, whose Env services are part of the run: leave env.url out of the experiment" -}}
{{- end -}}
{{- if and .Values.tls.enabled (not .Values.tls.existingSecret) (not .Values.tls.certManager.enabled) -}}
{{- fail "tls.enabled needs certificates: name a Secret in tls.existingSecret, or set tls.certManager.enabled=true" -}}
{{- end -}}
{{- if and .Values.tls.mutual (not .Values.tls.enabled) -}}
{{- fail "tls.mutual needs tls.enabled=true" -}}
{{- end -}}
{{- if .Values.telemetry.enabled -}}
{{- range $key, $value := dict "broker.host" .Values.telemetry.broker.host "store.host" .Values.telemetry.store.host "existingSecret" .Values.telemetry.existingSecret -}}
{{- if not $value -}}{{- fail (printf "telemetry.enabled needs telemetry.%s, such as those of the chart data-stack" $key) -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- if and .Values.gateway.enabled (not .Values.gateway.parentRefs) -}}
{{- fail "gateway.enabled needs gateway.parentRefs, the Gateway that routes belong to" -}}
{{- end -}}

{{- $scheme := .Values.tls.enabled | ternary "https" "http" -}}
{{- $envs := list -}}
{{- $members := list -}}
{{- $participants := $sync.participants | default list -}}
{{- $hosts := list -}}
{{- $envPods := 0 -}}
{{- if .Values.env.enabled -}}
{{- $envPods = .Values.env.autoscaling.enabled | ternary .Values.env.autoscaling.maxReplicas .Values.env.replicas | int -}}
{{- range $number := until $envPods -}}
{{- $host := printf "%s-env-%d.%s-env" $full $number $full -}}
{{- if not $.Values.env.autoscaling.enabled -}}
{{- $envs = append $envs (printf "%s://%s:5000" $scheme $host) -}}
{{- $hosts = append $hosts $host -}}
{{- end -}}
{{- $members = append $members (printf "env-%d" $number) -}}
{{- if eq $syncMode "pace" -}}{{- $participants = append $participants (printf "%s:5556" $host) -}}{{- end -}}
{{- end -}}
{{- if .Values.env.autoscaling.enabled -}}{{- $envs = list (printf "%s://%s-env-any:5000" $scheme $full) -}}{{- end -}}
{{- else if $url -}}
{{- $envs = list $url -}}
{{- end -}}
{{- $inferencePods := .Values.inference.autoscaling.enabled | ternary .Values.inference.autoscaling.maxReplicas .Values.inference.replicas | int -}}
{{- range $number := until $inferencePods -}}{{- $members = append $members (printf "inference-%d" $number) -}}{{- end -}}
{{- if eq $syncMode "lockstep" -}}{{- $participants = concat $members $participants -}}{{- end -}}
{{- $runName := .Values.run.name | default .Release.Name -}}
{{- $runId := .Values.run.id | default (printf "%s-%s" $runName (printf "%s/%s/%s" .Release.Namespace .Release.Name $runName | sha256sum | trunc 8)) -}}
{{- $trainings := list -}}
{{- $addresses := list -}}
{{- range $number := until (int .Values.training.replicas) -}}
{{- $name := $number | eq 0 | ternary (printf "%s-training" $full) (printf "%s-training-%d" $full $number) -}}
{{- $share := list -}}
{{- range $index, $policy := $policies -}}
{{- if eq (mod $index (int $.Values.training.replicas)) $number -}}{{- $share = append $share $policy -}}{{- end -}}
{{- end -}}
{{- $trainings = append $trainings (dict "name" $name "policies" $share "runId" ($number | eq 0 | ternary $runId (printf "%s-%s" $runId (first $share)))) -}}
{{- $host := printf "%s-0.%s-training" $name $full -}}
{{- $hosts = append $hosts $host -}}
{{- $addresses = append $addresses (printf "%s:50051" $host) -}}
{{- end -}}
{{- range $name := list "env-any" "env" "inference" "inference-any" "sync" "ingest" "dashboard" -}}
{{- range $end := list "" (printf ".%s" $.Release.Namespace) (printf ".%s.svc" $.Release.Namespace) (printf ".%s.svc.%s" $.Release.Namespace $.Values.clusterDomain) -}}
{{- $hosts = append $hosts (printf "%s-%s%s" $full $name $end) -}}
{{- end -}}
{{- end -}}
{{- if .Values.gateway.enabled -}}
{{- range $name, $route := .Values.gateway.routes -}}{{- $hosts = concat $hosts ($route.hostnames | default list) -}}{{- end -}}
{{- end -}}
{{- $snakes := $section.inference.snakes | default 4 | int -}}
{{- $room := 0 -}}
{{- if and (eq $api "agent") $envPods (not $section.env_service.snakes) -}}
{{- $room = div (add (mul $snakes (len $policies)) (sub $envPods 1)) $envPods -}}
{{- end -}}
mode: {{ $mode }}
syncMode: {{ $syncMode }}
hasSync: {{ $hasSync }}
api: {{ $api }}
plays: {{ $plays }}
envs: {{ toJson $envs }}
participants: {{ toJson $participants }}
inferencePods: {{ $inferencePods }}
trainings: {{ toJson $trainings }}
addresses: {{ toJson $addresses }}
runName: {{ $runName | quote }}
runId: {{ $plays | ternary $runId "" | quote }}
hosts: {{ concat $hosts .Values.security.allowedHosts | uniq | toJson }}
room: {{ $room }}
{{- end -}}
