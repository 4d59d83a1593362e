#!/bin/bash
# A folder of scenes, or one huge scene, on several machines that share a disk, by Dask.
#
#   examples/dask_machines.sh hazy clear node1 node2
#   examples/dask_machines.sh huge.tif clear.tif node1 node2
#
# Each machine runs a worker of its own; a name "local" runs one here without ssh. If a worker is lost, its scene
# is done by another. With GPUs, start workers with `--resources GPU=1` and a CUDA_VISIBLE_DEVICES each.
# OPTIONS holds options for dehazexl, PORT the scheduler's port.

set -euo pipefail
in=$1 out=$2
shift 2
port=${PORT:-8786}
scheduler=tcp://$(hostname):$port

dask scheduler --host "$(hostname)" --port "$port" --no-dashboard &
trap 'kill $(jobs -p) 2>/dev/null' EXIT

for host in "$@"; do
  worker=(dask worker "$scheduler" --nthreads 1 --memory-limit 0 --no-dashboard)
  if [ "$host" = local ]; then "${worker[@]}" & else ssh "$host" "${worker[@]}" & fi
done

if [ -d "$in" ]; then do=(batch --skip-existing); else do=(run); fi
# shellcheck disable=SC2086
dehazexl "${do[@]}" "$in" "$out" --dask "$scheduler" ${OPTIONS:-}
