#!/usr/bin/env bash
# pipeline.sh [RUN_DIR [EXPERIMENT [OPTION…]]]: an experiment from its start to its analysis, played and learnt by services.
# Options are those of `rattle up`, such as --steps 1000000 or --set topology.inference=2.
set -euo pipefail
run=${1:-runs/pipeline} experiment=${2:-snake}
shift $(($# < 2 ? $# : 2))

echo "Start: Env, Inference and Training, each a process of its own."
rattle up "$experiment" --run-dir "$run" "$@" &
services=$!
trap 'kill "$services" 2>/dev/null || true' EXIT
until compgen -G "$run/checkpoints/*.safetensors" >/dev/null; do
  kill -0 "$services" || exit 1 # they have ended with an error, and said which
  sleep 0.5
done

echo "Stop: all services end, and Training stores what it has learnt."
kill -TERM "$services" 2>/dev/null || true # a short run may be over already
wait "$services"

echo "Train: the run goes on from there, to its end."
rattle up --resume "$run"

echo "Analyse: 50 fresh games, the curve, the run in SQL, a game to look at, and the policy for other programs."
rattle eval "$run" --episodes 50
rattle plot "$run"
rattle query "SELECT policy_version, mean_return FROM updates ORDER BY policy_version DESC LIMIT 5" --run "$run"
rattle replay "$run" --episode best --gif
rattle export "$run" --onnx "$run/policy.onnx"
