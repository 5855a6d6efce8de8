#!/usr/bin/env bash
# train.sh [EXPERIMENT]: train it as a Job of Kubernetes, and copy the run into runs/, where `rattle plot` finds it.
# NAMESPACE says where, REGISTRY and TAG which images, TIMEOUT how long it may take.
set -euo pipefail
experiment=${1:-$(dirname "$0")/snake.yaml}
NAMESPACE=${NAMESPACE:-rattle}
TIMEOUT=${TIMEOUT:-24h}
release=$(basename "$experiment" .yaml)
manifests=$release-manifests.yaml

k() {
  kubectl --namespace "$NAMESPACE" "$@"
}

# The manifests hold no secret: keep them, and apply them again after a change.
rattle manifests "$experiment" --plain --release "$release" --namespace "$NAMESPACE" --name "$release" \
  ${REGISTRY:+--registry "$REGISTRY"} ${TAG:+--tag "$TAG"} >"$manifests"

kubectl get namespace "$NAMESPACE" >/dev/null 2>&1 || kubectl create namespace "$NAMESPACE"

# The token goes through a pipe: arguments can be read by all users of this machine.
if ! k get secret "$release-token" --output name >/dev/null 2>&1; then
  python -c 'import secrets; print(secrets.token_urlsafe(32), end="")' |
    k create secret generic "$release-token" --from-file=token=/dev/stdin
fi

job=job/$release-training

# is CONDITION: whether the Job is Complete, or Failed.
is() {
  [ "$(k get "$job" --ignore-not-found --output "jsonpath={.status.conditions[?(@.type==\"$1\")].status}")" = True ]
}

# Kubernetes starts no failed Job again, and changes none that is there. The run is in the volume, which stays.
if is Failed; then k delete "$job"; fi
k apply --filename "$manifests"
# Whichever comes first: both wait for one condition only.
kubectl --namespace "$NAMESPACE" wait --for=condition=complete --timeout="$TIMEOUT" "$job" &
complete=$!
kubectl --namespace "$NAMESPACE" wait --for=condition=failed --timeout="$TIMEOUT" "$job" >/dev/null 2>&1 &
failed=$!
trap 'kill $complete $failed 2>/dev/null || true' EXIT
wait -n $complete $failed || true
if is Failed; then
  echo "The Job has failed: kubectl --namespace $NAMESPACE logs $job says why. Run this again to go on." >&2
  exit 1
fi
is Complete || { echo "The Job was not complete within $TIMEOUT; it goes on." >&2; exit 1; }

# The dashboard has the run's volume, too, and goes on after the Job.
mkdir -p runs
k exec "deployment/$release-dashboard" -- tar -C /runs -cf - "$release" | tar -C runs -xf -
echo "The run is in runs/$release. Next: rattle plot runs/$release"
echo "Its pods serve the policy until you remove them: kubectl delete --filename $manifests"
