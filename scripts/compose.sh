#!/usr/bin/env bash
# compose.sh init | up [SERVICE…] | down | logs [SERVICE…]: Rattle on this machine, from images, as compose.yaml says.
# `init` writes .env and .secrets/, and keeps every secret that there is; PROFILES says what `up` starts.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
  echo "Error: $*" >&2
  exit 1
}

compose() {
  command -v docker >/dev/null || fail "docker is missing: install Docker, or run Rattle without it: make train"
  if docker compose version >/dev/null 2>&1; then
    docker compose "$@"
  elif command -v docker-compose >/dev/null; then
    docker-compose "$@"
  else
    fail "Docker has no compose: install its plugin, or docker-compose 1.29 or later"
  fi
}

secret() {
  head -c 24 /dev/urandom | base64 | tr '+/' '-_'
}

# keep NAME VALUE: write a variable into .env, unless it is there.
keep() {
  grep -q "^$1=" .env || echo "$1=$2" >>.env
}

# replace NAME VALUE: write a variable into .env, in place of what is there.
replace() {
  sed -i.old "/^$1=/d" .env && rm .env.old
  echo "$1=$2" >>.env
}

# Who runs the services: whoever calls this, but never root.
owner() {
  if [ "$(id -u)" = 0 ]; then echo 10001; else id "-$1"; fi
}

write_token() {
  mkdir -p .secrets
  chmod 700 .secrets
  [ -s .secrets/token ] || secret >.secrets/token
  # Prometheus has a user of its own; the folder keeps this copy from the other users of this machine.
  cp .secrets/token .secrets/prometheus-token
  chmod 600 .secrets/token
  chmod 644 .secrets/prometheus-token
  if [ "$(id -u)" = 0 ]; then chown "$(owner u):$(owner g)" .secrets/token; fi
}

init() {
  umask 077
  touch .env
  chmod 600 .env
  keep COMPOSE_PROFILES core
  keep RATTLE_UID "$(owner u)"
  keep RATTLE_GID "$(owner g)"
  keep RUN_SUFFIX "-$(head -c 4 /dev/urandom | od -An -tx1 | tr -d ' ')"
  for name in RABBITMQ_PASSWORD CLICKHOUSE_PASSWORD GRAFANA_PASSWORD; do keep "$name" "$(secret)"; done
  keep STORE_CREDENTIALS "http://rattle:$(sed -n 's/^CLICKHOUSE_PASSWORD=//p' .env)@clickhouse:8123"
  keep ENABLE_RABBITMQ false
  if [ -n "${PROFILES:-}" ]; then
    replace COMPOSE_PROFILES "$PROFILES"
    case ",$PROFILES," in
      *,telemetry,*) replace ENABLE_RABBITMQ true ;;
      *) replace ENABLE_RABBITMQ false ;;
    esac
  fi
  write_token
  echo ".env and .secrets/token are there; profiles: $(sed -n 's/^COMPOSE_PROFILES=//p' .env)"
}

command=${1:-}
[ $# = 0 ] || shift
case "$command" in
  init) init ;;
  up)
    [ -s .env ] && [ -s .secrets/token ] && [ -z "${PROFILES:-}" ] || init
    compose up -d "$@"
    ;;
  down) compose --profile core --profile sync --profile telemetry down "$@" ;;
  logs) compose logs --tail 100 "$@" ;;
  *) fail "compose.sh init | up | down | logs" ;;
esac
