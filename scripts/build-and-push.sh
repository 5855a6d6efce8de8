#!/usr/bin/env bash
# build-and-push.sh REGISTRY TAG [SERVICE…]: build the images of all services, or of some, and push them as
# REGISTRY/snake_rl_SERVICE:TAG. Without a registry ('') they stay on this machine.
#   PLATFORMS=linux/amd64,linux/arm64   for several architectures, with docker buildx and a registry
#   CUDA=1                              the variant of training for NVIDIA's GPUs too, TAG-cuda
#   BUILD_ARGS="--build-arg …"          more arguments for all builds
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
  echo "Error: $*" >&2
  exit 1
}

[ $# -ge 2 ] || fail "build-and-push.sh REGISTRY TAG [SERVICE…], such as: build-and-push.sh ghcr.io/me 0.1.0"
registry=${1%/} tag=$2
shift 2
all=(src/rattle/services/*/Dockerfile)
all=("${all[@]%/Dockerfile}")
all=("${all[@]##*/}")
services=("$@")
[ $# -gt 0 ] || services=("${all[@]}")
[[ $tag =~ ^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$ ]] || fail "'$tag' is no tag of an image"
command -v docker >/dev/null || fail "docker is missing"
for service in "${services[@]}"; do
  [ -f "src/rattle/services/$service/Dockerfile" ] || fail "there is no service '$service', but ${all[*]}"
done

platforms=${PLATFORMS:-}
prefix=${registry:+$registry/}
[ -z "$platforms" ] || [ -n "$registry" ] || fail "PLATFORMS needs a registry: images of several platforms live there only"
[ -z "$platforms" ] || docker buildx version >/dev/null 2>&1 || fail "PLATFORMS needs docker buildx"
export DOCKER_BUILDKIT=1
revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)

# build IMAGE:TAG DOCKERFILE ARGUMENT…
build() {
  local name=$1 file=$2
  shift 2
  echo "Building $prefix$name"
  # shellcheck disable=SC2086 # BUILD_ARGS are words
  if [ -n "$platforms" ]; then
    docker buildx build --platform "$platforms" --sbom=true --provenance=true --push \
      --build-arg BASE="${prefix}snake_rl_base:$tag" --build-arg VERSION="$tag" --build-arg REVISION="$revision" \
      ${BUILD_ARGS:-} "$@" -f "$file" -t "$prefix$name" .
  else
    docker build --quiet --build-arg BASE="${prefix}snake_rl_base:$tag" --build-arg VERSION="$tag" \
      --build-arg REVISION="$revision" ${BUILD_ARGS:-} "$@" -f "$file" -t "$prefix$name" . >/dev/null
    [ -z "$registry" ] || docker push --quiet "$prefix$name"
  fi
}

build "snake_rl_base:$tag" src/rattle/services/Dockerfile
for service in "${services[@]}"; do
  build "snake_rl_$service:$tag" "src/rattle/services/$service/Dockerfile"
  if [ "$service" = training ] && [ -n "${CUDA:-}" ]; then
    build "snake_rl_training:$tag-cuda" src/rattle/services/training/Dockerfile --build-arg PYTORCH=gpu
  fi
done
