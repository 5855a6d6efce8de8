#!/bin/sh
# install.sh LIST…: put packages, in the pinned versions and with the pinned hashes, where images of services have them.
# Left out are tests and headers that come with packages, and of Plotly all but the script that pages load.
set -eu
target=/opt/rattle/packages
lists=""
for list; do lists="$lists -r $list"; done
# shellcheck disable=SC2086 # one word for each list
python -m pip install --quiet --disable-pip-version-check --root-user-action ignore --no-deps --require-hashes \
  --only-binary :all: ${PYTORCH_INDEX:+--extra-index-url "$PYTORCH_INDEX"} --target "$target" $lists
find "$target" -depth -type d -name tests -exec rm -rf {} +
rm -rf "$target/pyarrow/include"
for part in graph_objs labextension matplotlylib validators; do rm -rf "$target/plotly/$part"; done
