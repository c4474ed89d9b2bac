#!/bin/sh
# One machine, all its accelerators: install with the GPU extra, then the tiny run from warm start to evaluation.
#   sh launch/single_gpu.sh [WORKDIR]
set -eu
workdir=${1:-runs/tiny_gpu}
python3 -m venv .venv
.venv/bin/python -m pip install --quiet --editable '.[gpu]'
.venv/bin/python -m memalpha_jax.warmstart --config=experiments/tiny.py --workdir="$workdir"
.venv/bin/python -m memalpha_jax.train --config=experiments/tiny.py --workdir="$workdir"
.venv/bin/python -m memalpha_jax.evaluate --workdir="$workdir"
