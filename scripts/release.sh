#!/usr/bin/env bash
# release.sh [VERSION]: check that all files say this version, then build wheel, sdist, charts and site in dist/VERSION.
# Without a version it takes the one of the tag at HEAD, such as v0.2.0. It publishes nothing: its last lines are the
# commands that do.
#   REGISTRY=registry.example.org/me    build the images on this machine, too
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
  echo "Error: $*" >&2
  exit 1
}

head=$(git rev-parse --verify --quiet HEAD 2>/dev/null) || fail "this is not a git checkout with a commit"
version=${1:-}
if [ -z "$version" ]; then
  version=$(git describe --exact-match --tags --match 'v*' 2>/dev/null) ||
    fail "HEAD has no tag: name the version, such as: make release VERSION=0.2.0"
  version=${version#v}
fi
[[ $version =~ ^[0-9]+\.[0-9]+\.[0-9]+$ ]] || fail "'$version' is not a version like 0.2.0"
[ -z "$(git status --porcelain)" ] || fail "the checkout has changes: commit or remove them (git status lists them)"
tagged=$(git rev-parse --verify --quiet "v$version^{commit}" || true)
[ -z "$tagged" ] || [ "$tagged" = "$head" ] || fail "the tag v$version is at another commit: check it out first"

wrong=()
# says FILE EXPRESSION: whether all that matches in a file is the version; the expression has it in its first group.
says() {
  local found
  found=$(sed -nE "s/$2/\1/p" "$1" 2>/dev/null | sort -u | paste -sd' ') || true
  [ "$found" = "$version" ] || wrong+=("$1 says ${found:-nothing}")
}
says pyproject.toml '^version = "(.*)"$'
says CITATION.cff '^version: (.*)$'
says src/rattle/services/Dockerfile '^ARG VERSION=(.*)$'
for chart in k8s/*/Chart.yaml; do
  says "$chart" '^[a-zA-Z]+ersion: "?([0-9][^"]*)"?$' # version and appVersion
done
for values in k8s/*/values-*.yaml; do
  if grep -q '^  tag: ' "$values"; then says "$values" '^  tag: (.*)$'; fi
done
grep -qE "^## ${version//./\\.}( |$)" CHANGELOG.md || wrong+=("CHANGELOG.md has no heading '## $version'")
if [ ${#wrong[@]} -gt 0 ]; then
  printf -v list '%s, ' "${wrong[@]}"
  fail "not everything is of version $version: ${list%, }"
fi
[ -x .venv/bin/uv ] || fail ".venv has no tools for a release: run make .venv/.developers"

out=dist/$version
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
rm -rf "$out"
mkdir -p "$out"
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct) # the wheel and the site of a commit are the same each time
export SOURCE_DATE_EPOCH

echo "Building wheel and sdist"
git archive HEAD | tar -x -C "$scratch" # only what is committed
.venv/bin/uv build --quiet --offline --no-build-isolation --python .venv/bin/python --out-dir "$out" "$scratch"
rm -f "$out/.gitignore"
echo "Building the site"
make --no-print-directory --silent site
tar --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$SOURCE_DATE_EPOCH" -C dist -czf \
  "$out/rattle-site-$version.tar.gz" site
if command -v helm >/dev/null; then
  echo "Packaging the charts"
  said=$(helm package --destination "$out" k8s/*/ 2>&1) || fail "helm package: $said"
else
  echo "The charts are not packaged: helm is missing"
fi
if [ -n "${REGISTRY:-}" ]; then
  scripts/build-and-push.sh '' "$version"
else
  echo "The images are not built: set REGISTRY"
fi
(cd "$out" && sha256sum -- * >SHA256SUMS)

registry=${REGISTRY:-registry.example.org/me}
echo
echo "$out/SHA256SUMS:"
sed 's/^/  /' "$out/SHA256SUMS"
echo "Nothing is published. These commands publish it:"
[ -n "$tagged" ] || echo "  git tag -a v$version -m 'Rattle $version'"
echo "  git push origin v$version"
echo "  .venv/bin/uv publish $out/rattle-$version*"
echo "  scripts/build-and-push.sh $registry $version"
for chart in "$out"/*.tgz; do
  [ ! -e "$chart" ] || echo "  helm push $chart oci://$registry/charts"
done
