#!/usr/bin/env bash
# A simulation as a job of a Ray cluster; from the root of a checkout:
#
#   RAY_ADDRESS=http://HEAD:8265 WORKERS=32 deploy/ray/submit.sh run.yaml /shared/runs/one [flags of the simulation]
#
# The cluster's nodes have what setup.py lists, and see the folder and the config; the code comes from here. The same
# command goes on with a run that was cut. It needs ray[default]; the cluster's token, if it asks for one, is RAY_AUTH_TOKEN.
set -euo pipefail

if (($# < 2)); then
  echo "usage: submit.sh CONFIG RUN_DIR [flags of the simulation]" >&2
  exit 2
fi
config=$1 run_dir=$2
shift 2
exec ray job submit --working-dir . \
  --runtime-env-json '{"excludes": [".git", "/docs", "/tests"]}' \
  -- python -m scripts.simulate --ray auto --workers "${WORKERS:-2}" --config "$config" --continue --run-dir "$run_dir" "$@"
