#!/bin/bash
# A folder of scenes as a SLURM job array: eight tasks, each with its share of the megabytes.
#
#   sbatch examples/slurm_array.sh /data/hazy /data/clear --model dehazexl-s
#
# dehazexl finds the number of its task in SLURM's variables. A task that ran into its time limit is simply
# submitted again: what is done is skipped, and what it had begun has left no half file.
#
#SBATCH --job-name=dehazexl
#SBATCH --array=0-7
#SBATCH --cpus-per-task=8
#SBATCH --mem=16G
#SBATCH --time=04:00:00
#SBATCH --signal=TERM@60
#SBATCH --output=dehazexl-%A-%a.log

set -euo pipefail
in=$1 out=$2
shift 2

# `exec` hands SLURM's signals to dehazexl itself: it stops at once and cleans up.
exec dehazexl batch "$in" "$out" --skip-existing --max-ram "$((${SLURM_MEM_PER_NODE:-16384} * 9 / 10))M" "$@"
