#!/usr/bin/env bash
# cluster.sh COMMAND: Rattle on a Kubernetes cluster, by the charts in k8s/. `make help` lists the commands.
# NAMESPACE, KUBE_CONTEXT, RELEASE, DATA_RELEASE, REGISTRY, TAG, VALUES, DATA_VALUES and TIMEOUT come from the environment.
set -euo pipefail
cd "$(dirname "$0")/.."

NAMESPACE=${NAMESPACE:-rattle}
RELEASE=${RELEASE:-rattle}
DATA_RELEASE=${DATA_RELEASE:-rattle-data}
TIMEOUT=${TIMEOUT:-10m}
OURS="app.kubernetes.io/instance in ($RELEASE,$DATA_RELEASE)"
scratch=""

fail() {
  echo "Error: $*" >&2
  exit 1
}

tidy() {
  if [ -n "$scratch" ]; then rm -rf "$scratch"; fi
}
trap tidy EXIT

# work: make the folder $scratch, which nobody else can read and which goes when this ends.
work() {
  [ -n "$scratch" ] || scratch=$(mktemp -d)
}

k() {
  command kubectl ${KUBE_CONTEXT:+--context "$KUBE_CONTEXT"} --namespace "$NAMESPACE" "$@"
}

h() {
  command helm ${KUBE_CONTEXT:+--kube-context "$KUBE_CONTEXT"} --namespace "$NAMESPACE" "$@"
}

# What everything needs; each is said in one line.
check() {
  command -v kubectl >/dev/null || fail "kubectl is missing: https://kubernetes.io/docs/tasks/tools/"
  command -v helm >/dev/null || fail "helm is missing: https://helm.sh/docs/intro/install/"
  k get --raw /version --request-timeout=10s >/dev/null 2>&1 ||
    fail "the cluster of ${KUBE_CONTEXT:-the current context} does not answer: look at kubectl config get-contexts," \
      "and set KUBE_CONTEXT"
}

there() {
  k get "$@" --ignore-not-found --output name | grep -q .
}

# named KIND RELEASE COMPONENT: what a release has there, whatever fullnameOverride calls it.
named() {
  k get "$1" --selector "app.kubernetes.io/instance=$2,app.kubernetes.io/component=$3" --output name
}

need_release() {
  h status "$1" >/dev/null 2>&1 || fail "release $1 is not in namespace $NAMESPACE: run make deploy"
}

random() {
  local text
  text=$(head -c 512 /dev/urandom | LC_ALL=C tr -dc 'A-Za-z0-9')
  echo "${text:0:$1}"
}

# make_secret RELEASE NAME KEY VALUE…: make a Secret that a release of Helm then takes over and keeps.
# Its values go through a pipe: arguments can be read by all users of this machine.
make_secret() {
  local release=$1 name=$2
  shift 2
  if there secret "$name"; then
    echo "Secret $name is there, and kept"
    return
  fi
  {
    printf 'apiVersion: v1\nkind: Secret\nmetadata:\n  name: %s\n' "$name"
    printf '  labels: {app.kubernetes.io/managed-by: Helm, app.kubernetes.io/instance: %s}\n' "$release"
    printf '  annotations: {meta.helm.sh/release-name: %s, meta.helm.sh/release-namespace: %s,' "$release" "$NAMESPACE"
    printf ' helm.sh/resource-policy: keep}\nstringData:\n'
    while [ $# -gt 1 ]; do
      printf '  %s: "%s"\n' "$1" "$2"
      shift 2
    done
  } | k create --filename - >/dev/null || fail "Secret $name cannot be made"
  echo "Secret $name is made"
}

# value SECRET KEY: what a Secret has.
value() {
  k get secret "$1" --output "jsonpath={.data.$2}" | base64 -d
}

# names KIND FILE: how manifests of a kind are called.
names() {
  sed -n "/^kind: $1\$/,/^  name: /s/^  name: //p" "$2"
}

# telemetry: the values by which the chart k8s/platform finds broker and store, as data.yaml has them.
telemetry() {
  sed -n '/^  values.yaml: |$/,/^---/s/^    //p' "$scratch/data.yaml"
}

# token_secret, credentials_secret: the Secrets that pods of these manifests read, made by the charts or by others.
token_secret() {
  sed -n '/^ *- name: token$/,/secretName: /{/secretName: /{s/.*: //p;q;};}' "$scratch/platform.yaml"
}

credentials_secret() {
  telemetry | sed -n 's/^  existingSecret: //p'
}

# installed: the manifests of what is installed, as platform.yaml and data.yaml.
installed() {
  need_release "$RELEASE"
  work
  h get manifest "$RELEASE" >"$scratch/platform.yaml"
  h get manifest "$DATA_RELEASE" >"$scratch/data.yaml" 2>/dev/null || true # the other release may have its own ways
}

init() {
  there namespace "$NAMESPACE" || k create namespace "$NAMESPACE" >/dev/null ||
    fail "namespace $NAMESPACE cannot be made: ask for it, or name another in NAMESPACE"
  echo "kubectl, helm and the cluster answer; namespace $NAMESPACE is there"
}

# What the charts would make themselves with these values, before they do.
secrets() {
  local name
  work
  charted template "$DATA_RELEASE" k8s/data-stack "${DATA_VALUES:-}" >"$scratch/data.yaml" ||
    fail "k8s/data-stack does not take these values"
  telemetry >"$scratch/telemetry.yaml"
  charted template "$RELEASE" k8s/platform "${VALUES:-}" --values "$scratch/telemetry.yaml" >"$scratch/platform.yaml" ||
    fail "k8s/platform does not take these values"
  name=$(names Secret "$scratch/platform.yaml")
  if [ -n "$name" ]; then
    make_secret "$RELEASE" "$name" token "$(random 43)"
  else
    others token "$(token_secret)"
  fi
  name=$(names Secret "$scratch/data.yaml")
  if [ -n "$name" ]; then
    # The chart adds the names of the users.
    make_secret "$DATA_RELEASE" "$name" rabbitmq-password "$(random 32)" clickhouse-password "$(random 32)"
  else
    others "users of RabbitMQ and ClickHouse" "$(credentials_secret)"
  fi
}

# others WHAT SECRET: say where it is, if anywhere, where no chart makes it.
others() {
  if [ -n "$2" ]; then echo "$1: in your Secret $2"; else echo "$1: none is asked for"; fi
}

# charted "COMMAND…" RELEASE CHART FILES ARGUMENT…: have Helm do it; FILES are values files, with commas between them.
charted() {
  local command=$1 release=$2 chart=$3 files=$4
  shift 4
  if [ -n "$files" ]; then set -- "$@" --values "$files"; fi
  # shellcheck disable=SC2086 # of several words
  h $command "$release" "$chart" "$@"
}

# install RELEASE CHART FILES ARGUMENT…
install() {
  charted "upgrade --install" "$@" --history-max 10 >/dev/null || fail "release $1 was not installed"
  echo "release $1 is installed"
}

# deploy [ARGUMENT…]: more arguments for Helm.
deploy() {
  work
  install "$DATA_RELEASE" k8s/data-stack "${DATA_VALUES:-}" "$@"
  h get manifest "$DATA_RELEASE" >"$scratch/data.yaml"
  telemetry >"$scratch/telemetry.yaml"
  set -- "$@" --values "$scratch/telemetry.yaml"
  if [ -n "${REGISTRY:-}" ]; then set -- "$@" --set-string "image.registry=$REGISTRY"; fi
  if [ -n "${TAG:-}" ]; then set -- "$@" --set-string "image.tag=$TAG"; fi
  install "$RELEASE" k8s/platform "${VALUES:-}" "$@"
}

# of WORKLOAD PATH: what a workload has there.
of() {
  k get "$1" --output "jsonpath={$2}"
}

# is_job JOB CONDITION: whether it is Complete, or Failed.
is_job() {
  [ "$(of "$1" ".status.conditions[?(@.type==\"$2\")].status")" = True ]
}

# job_state JOB: wait until its pod is ready or it has ended, and say which; nobody may see the pod of a short run ready.
job_state() {
  local until
  until=$((SECONDS + $(sed 's/h/*3600+/; s/m/*60+/; s/s/+/' <<<"$TIMEOUT")0))
  until [ "$(of "$1" .status.ready)" = 1 ]; do
    if is_job "$1" Complete; then
      echo complete
      return
    fi
    if is_job "$1" Failed || [ "$SECONDS" -ge "$until" ]; then return 1; fi
    sleep 1
  done
  echo ready
}

# state WORKLOAD: wait until it is as it should be, and say how that is called.
state() {
  case $1 in
    job.*) job_state "$1" ;;
    *) k rollout status "$1" --timeout "$TIMEOUT" >/dev/null && echo ready ;;
  esac
}

health() {
  local all one found
  all=$(k get statefulsets,deployments,jobs --selector "$OURS" --output name)
  [ -n "$all" ] || fail "nothing of $RELEASE or $DATA_RELEASE is in namespace $NAMESPACE: run make deploy"
  for one in $all; do
    if ! found=$(state "$one"); then
      k get pods --selector "$OURS" >&2 || true
      fail "${one#*/} is not ready after $TIMEOUT, or has failed: kubectl --namespace $NAMESPACE describe $one"
    fi
    echo "${one#*/} is $found"
  done
}

create_tables() {
  local ingest
  ingest=$(named deployments "$RELEASE" ingest)
  [ -n "$ingest" ] || fail "$RELEASE has no ingest in namespace $NAMESPACE: run make deploy"
  # The store's address and its credentials are in the container's own environment.
  # shellcheck disable=SC2016
  k exec "$ingest" --container ingest -- \
    sh -c 'rattle create-tables "$RATTLE_TELEMETRY__STORE" >/dev/null' || fail "the tables were not made: make logs TARGET=k8s"
  echo "the tables in ClickHouse are there"
}

# ports: Services of what is installed, each with its port: NAME PORT.
ports() {
  local one name
  for one in platform:dashboard:8080 platform:env-any:5000 platform:inference-any:8000 data:clickhouse:8123; do
    name=${one#*:}
    name=$(names Service "$scratch/${one%%:*}.yaml" | grep -e "-${name%:*}\$") || continue
    echo "$name ${one##*:}"
  done
}

how_to_connect() {
  installed
  local name port token="" secret forward
  forward="kubectl ${KUBE_CONTEXT:+--context $KUBE_CONTEXT }--namespace $NAMESPACE port-forward service"
  secret=$(token_secret)
  [ -z "$secret" ] || token=$(value "$secret" token)
  echo "Run these, or all of them by: make port-forward"
  ports | sed "s|^|  $forward/|"
  echo "Then open (with https where values have tls.enabled):"
  while read -r name port; do
    case $port in
      8080) echo "  the dashboard  http://127.0.0.1:8080/${token:+#token=$token}" ;;
      5000) echo "  the board      http://127.0.0.1:5000/watch${token:+#token=$token}" ;;
      8000) echo "  policies       http://127.0.0.1:8000/v1/models${token:+, with the header Authorization: Bearer $token}" ;;
      8123) echo "  ClickHouse     http://127.0.0.1:8123, user and password by: make passwords" ;;
    esac
  done < <(ports)
  name=$(telemetry | sed -n '/^  store:$/,$s/^    host: //p')
  [ -z "$name" ] || echo "  ClickHouse     elsewhere, at $name, user and password in your Secret $(credentials_secret)"
}

# What the charts have generated, and where the rest is.
passwords() {
  installed
  local name key
  name=$(names Secret "$scratch/platform.yaml")
  if [ -n "$name" ]; then echo "token                $(value "$name" token)"; else others token "$(token_secret)"; fi
  name=$(names Secret "$scratch/data.yaml")
  if [ -z "$name" ]; then
    others "users of RabbitMQ and ClickHouse" "$(credentials_secret)"
    return
  fi
  for key in rabbitmq-username rabbitmq-password clickhouse-username clickhouse-password; do
    printf '%-20s %s\n' "$key" "$(value "$name" "$key")"
  done
}

status() {
  h list
  k get pods,services,persistentvolumeclaims --selector "$OURS"
}

logs() {
  local chosen=$OURS
  if [ -n "${SERVICE:-}" ]; then chosen="$chosen,app.kubernetes.io/component=$SERVICE"; fi
  k logs --selector "$chosen" --all-containers --prefix --tail 100 --max-log-requests 50
}

port_forward() {
  installed
  local name port pids=()
  trap 'kill "${pids[@]}" 2>/dev/null || true; tidy' EXIT
  trap 'exit 130' INT TERM
  while read -r name port; do
    k port-forward "service/$name" "$port" &
    pids+=($!)
  done < <(ports)
  wait -n || fail "a port could not be forwarded"
}

upgrade() {
  need_release "$RELEASE"
  need_release "$DATA_RELEASE"
  deploy --reset-then-reuse-values # of the charts as they are now, with what was set before: registry, experiment
  health
  create_tables
}

# What runs Training: StatefulSets, or Jobs (training.kind).
trainings() {
  k get statefulsets,jobs --selector "app.kubernetes.io/instance=$RELEASE,app.kubernetes.io/component=training" --output name
}

# pod_of TRAINING: its pod; nothing where none of a Job runs.
pod_of() {
  case $1 in
    job.*) k get pods --selector "job-name=${1#*/}" --field-selector status.phase=Running --output name ;;
    *) echo "pod/${1#*/}-0" ;;
  esac
}

# holding_runs TRAINING COMMAND…: run a command in a pod of its image that has its volume, while Training does not run.
holding_runs() {
  local training=$1 name=${1#*/} pod="${1#*/}-volume" claim image field value like="" arrived=yes
  shift
  image=$(of "$training" '.spec.template.spec.containers[0].image')
  claim=$(of "$training" '.spec.template.spec.volumes[?(@.name=="runs")].persistentVolumeClaim.claimName')
  # It is pulled, placed and restricted as Training is.
  for field in serviceAccountName imagePullSecrets securityContext nodeSelector tolerations affinity; do
    value=$(of "$training" ".spec.template.spec.$field") # lists and maps as JSON
    [ -z "$value" ] || like+="  $field: $value"$'\n'
  done
  k delete pod "$pod" --ignore-not-found >/dev/null
  k create --filename - >/dev/null <<POD
apiVersion: v1
kind: Pod
metadata: {name: $pod, labels: {app.kubernetes.io/instance: $RELEASE}}
spec:
  restartPolicy: Never
  automountServiceAccountToken: false
${like%$'\n'}
  containers:
    - name: training
      image: $image
      command: [sleep, "86400"]
      securityContext: {allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {drop: [ALL]}}
      volumeMounts: [{name: runs, mountPath: /runs}]
  volumes:
    - name: runs
      persistentVolumeClaim: {claimName: ${claim:-runs-$name-0}}
POD
  k wait --for condition=Ready "pod/$pod" --timeout "$TIMEOUT" >/dev/null && "$@" "pod/$pod" || arrived=no
  k delete pod "$pod" >/dev/null
  [ "$arrived" = yes ]
}

# runs_from POD, runs_to POD: the files of its volume, as an archive.
# Files of a run appear whole or grow, so a run in progress can be copied: tar says 1 where one has changed.
runs_from() {
  k exec "$1" --container training -- sh -c 'tar -C /runs -cf - . || [ $? = 1 ]'
}

runs_to() {
  k exec --stdin "$1" --container training -- sh -c 'find /runs -mindepth 1 -delete; tar -C /runs -xf -'
}

# The store and the runs, each in a file of its own that appears whole or not at all.
backup() {
  local folder=${TO:-backups/$(date -u +%Y-%m-%dT%H%M%SZ)} store one name pod
  [ ! -e "$folder" ] || fail "$folder is there already: name another with TO="
  umask 077
  mkdir -p "$folder"
  for one in $(trainings); do
    name=${one#*/}
    pod=$(pod_of "$one")
    if [ -n "$pod" ]; then runs_from "$pod"; else holding_runs "$one" runs_from </dev/null; fi >"$folder/$name.tar.part" ||
      fail "the runs of $name were not copied"
    mv "$folder/$name.tar.part" "$folder/$name.tar"
    echo "$folder/$name.tar has the runs of $name"
  done
  store=$(named pods "$DATA_RELEASE" clickhouse)
  if [ -z "$store" ]; then
    echo "$DATA_RELEASE has no ClickHouse: back the store up where it runs"
  else
    k exec "$store" -- rm -f /var/lib/clickhouse/backups/rattle.zip # of a backup that was broken off
    in_store "$store" "BACKUP DATABASE \$CLICKHOUSE_DATABASE TO Disk('backups', 'rattle.zip')" ||
      fail "ClickHouse has made no backup"
    k exec "$store" -- sh -c 'cat /var/lib/clickhouse/backups/rattle.zip' >"$folder/clickhouse.zip.part" ||
      fail "the backup of ClickHouse was not copied"
    mv "$folder/clickhouse.zip.part" "$folder/clickhouse.zip"
    k exec "$store" -- rm -f /var/lib/clickhouse/backups/rattle.zip
    echo "$folder/clickhouse.zip has the store"
  fi
}

# in_store POD STATEMENT: ask ClickHouse beside itself, where the environment has user, password and $CLICKHOUSE_DATABASE.
in_store() {
  k exec "$1" -- sh -c "clickhouse-client --database system --query \"$2\"" >/dev/null
}

# asked WORD: go on only where it is typed.
asked() {
  local word=""
  printf 'Type %s to go on: ' "$1"
  read -r word || true
  [ "$word" = "$1" ] || fail "nothing was changed"
}

restore() {
  local folder=${FROM:-} store one
  [ -n "$folder" ] || fail "say which copy: make restore FROM=backups/…"
  compgen -G "$folder/*.tar" >/dev/null || [ -e "$folder/clickhouse.zip" ] || fail "$folder has no copy that make backup has made"
  store=$(named pods "$DATA_RELEASE" clickhouse)
  [ -n "$store" ] || [ ! -e "$folder/clickhouse.zip" ] ||
    fail "$DATA_RELEASE has no ClickHouse: restore $folder/clickhouse.zip where it runs, and move it away"
  echo "The runs and the store of $RELEASE in namespace $NAMESPACE are replaced by those in $folder."
  asked RESTORE
  for one in $(trainings); do
    if [ -e "$folder/${one#*/}.tar" ]; then restore_runs "$one" "$folder/${one#*/}.tar"; fi
  done
  [ ! -e "$folder/clickhouse.zip" ] || restore_store "$store" "$folder/clickhouse.zip"
}

restore_store() {
  local arrived
  k exec --stdin "$1" -- sh -c 'mkdir -p /var/lib/clickhouse/backups && cat >/var/lib/clickhouse/backups/rattle.zip' <"$2"
  arrived=$(k exec "$1" -- sh -c 'wc -c </var/lib/clickhouse/backups/rattle.zip')
  [ "$((arrived))" = "$(($(wc -c <"$2")))" ] || fail "the copy of the store did not arrive whole; nothing was changed in it"
  in_store "$1" "DROP DATABASE IF EXISTS \$CLICKHOUSE_DATABASE SYNC" || fail "the database could not be replaced"
  in_store "$1" "RESTORE DATABASE \$CLICKHOUSE_DATABASE FROM Disk('backups', 'rattle.zip')" ||
    fail "ClickHouse could not restore: the copy is still in the pod, at /var/lib/clickhouse/backups/rattle.zip"
  k exec "$1" -- rm -f /var/lib/clickhouse/backups/rattle.zip
  echo "the store is restored"
}

# pause TRAINING yes|no: end its pod, and begin it again. A Job that has ended has no pod, and stays as it is.
pause() {
  local replicas=1 suspend=false pod
  if [ "$2" = yes ]; then replicas=0 suspend=true; fi
  pod=$(pod_of "$1")
  case $1 in
    job.*) k patch "$1" --type merge --patch "{\"spec\":{\"suspend\":$suspend}}" >/dev/null ;;
    *) k scale "$1" --replicas "$replicas" >/dev/null ;;
  esac
  if [ "$2" = no ] || [ -z "$pod" ]; then return; fi
  k wait --for delete "$pod" --timeout "$TIMEOUT" >/dev/null || fail "${pod#*/} does not end"
}

# restore_runs TRAINING FILE: Training ends, a pod of its image puts the files into its volume, and Training begins again.
restore_runs() {
  local name=${1#*/}
  pause "$1" yes
  holding_runs "$1" runs_to <"$2" || fail "the runs of $name were not restored, and it stays stopped: run make restore again"
  pause "$1" no
  echo "the runs of $name are restored"
  case $1 in
    job.*) ! is_job "$1" Complete || echo "$name is complete: kubectl delete job/$name and make deploy begin it again" ;;
  esac
}

destroy() {
  echo "In namespace $NAMESPACE of ${KUBE_CONTEXT:-the current context}, these are lost for good, with no way back:"
  echo "  the releases $RELEASE and $DATA_RELEASE, with all their pods"
  echo "  their volumes: all runs, checkpoints and policies, the tables of ClickHouse, the messages of RabbitMQ"
  k get persistentvolumeclaims --selector "$OURS" --output name | sed 's/^/    /'
  echo "  the Secrets that were made for them: the token, the passwords, certificates (yours stay)"
  echo "make backup keeps runs and tables."
  asked DELETE
  local one
  for one in "$RELEASE" "$DATA_RELEASE"; do
    if h status "$one" >/dev/null 2>&1; then h uninstall "$one" --wait >/dev/null || fail "release $one was not uninstalled"; fi
  done
  k delete persistentvolumeclaims --selector "$OURS" >/dev/null
  k delete secrets --selector "$OURS" >/dev/null # those of cert-manager, too
  echo "all of it is gone; namespace $NAMESPACE stays"
}

quick_deploy() {
  init
  secrets
  deploy
  health
  create_tables
  echo "Rattle runs. Next: make how-to-connect"
}

command=${1:-}
case "$command" in
  quick-deploy | init | secrets | deploy | health | create-tables | how-to-connect | passwords | status | logs | \
    port-forward | upgrade | backup | restore | destroy)
    check
    "${command//-/_}"
    ;;
  *) fail "cluster.sh does not know '$command': make help lists what there is" ;;
esac
