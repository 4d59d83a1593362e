#!/bin/bash
# Scenes of a folder through GNU parallel, several batches at a time; each loads the model once for its share.
#
#   examples/gnu_parallel.sh hazy clear 4 --model mgbl-s
#
# On one machine `dehazexl batch --jobs 4` does the same with less; parallel is for its own powers, such as
# other machines (--sshlogin) or a log of jobs (--joblog).

set -euo pipefail
in=$1 out=$2 jobs=$3
shift 3

find "$in" -type f \( -name '*.tif' -o -name '*.png' \) -print0 | sort -z |
  parallel --null --jobs "$jobs" --max-args 50 --quote --will-cite \
    dehazexl batch --base "$in" --skip-existing "$@" {} "$out"
