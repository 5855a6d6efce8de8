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

k apply --filename "$manifests"
k wait --for=condition=complete --timeout="$TIMEOUT" "job/$release-training"

# The dashboard has the run's volume, too, and goes on after the Job.
mkdir -p runs
k exec "deployment/$release-dashboard" -- tar -C /runs -cf - "$release" | tar -C runs -xf -
echo "The run is in runs/$release. Next: rattle plot runs/$release"
echo "Its pods serve the policy until you remove them: kubectl delete --filename $manifests"
