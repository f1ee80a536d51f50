#!/usr/bin/env bash
# What there is to find out on an NVIDIA GPU, with one command, offline, in under ten minutes: build, compare
# every op with the host, the GPU's tests, the sanitizer, the card's limits, timings against rivals. All in
# one table.
#
#   benchmarks/gpu.sh [--dry-run] [--only NAME[,NAME...]] [--seconds S]
#
#   --dry-run   walks through every step on a CPU, in Triton's interpreter, on tiny sizes. Nothing is built:
#               the package must be importable already.
#   --only      steps and cases with one of these in their name
#   --seconds   for everything; steps that are not reached by then are said to be missing. Default: 570
#
#   PYTHON      the interpreter that has torch and triton (default: .venv/bin/python where it is, else python3)
#   WHEELS      a folder of wheels that it lacks: all of them are installed, beside the package
#   OUT         where everything is written; default: the table to benchmarks/results, logs to build/gpu
#   COMMIT      what the table says where there is no Git
#
# Exit status: 0 where every step went well, 1 where one did not, 2 where it could not start. A missed target
# is no failure.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -z "${PYTHON:-}" ]; then
  PYTHON=python3
  if [ -x .venv/bin/python ]; then PYTHON=.venv/bin/python; fi
fi
# The package is the installed one, not the folder that this runs in.
export PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 PYTHONPATH="${PYTHONPATH:+$PYTHONPATH:}$PWD/benchmarks"
exec "$PYTHON" -m gpu "$@"
