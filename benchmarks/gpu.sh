#!/usr/bin/env bash
# Builds, tests and times everything on an NVIDIA GPU with one command, offline and in under ten minutes: it
# compares every op with the host, runs the GPU tests and the sanitizer, measures the limits of the card, and
# times every op against its rivals. The results go into one table.
#
#   benchmarks/gpu.sh [--dry-run] [--only NAME[,NAME...]] [--seconds S]
#
#   --dry-run   runs every step on a CPU, in Triton's interpreter and on tiny sizes. Nothing is built, so the
#               package must already be importable.
#   --only      runs only the steps and cases that have one of these in their name
#   --seconds   time limit for all steps; the table lists the steps that were not reached. Default: 570
#
#   PYTHON      interpreter with torch and triton. Default: .venv/bin/python if it exists, else python3
#   WHEELS      folder of wheels that this interpreter lacks; all of them are installed next to the package
#   OUT         folder for all output. Default: benchmarks/results for the table, build/gpu for logs
#   COMMIT      commit to show in the table if Git is not available
#
# Exit status: 0 if every step succeeded, 1 if a step failed, 2 if the run could not start. A missed target is
# not a failure.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -z "${PYTHON:-}" ]; then
  PYTHON=python3
  if [ -x .venv/bin/python ]; then PYTHON=.venv/bin/python; fi
fi
# Import the installed package, not the folder that this script runs in.
export PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 PYTHONPATH="${PYTHONPATH:+$PYTHONPATH:}$PWD/benchmarks"
exec "$PYTHON" -m gpu "$@"
