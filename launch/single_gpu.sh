#!/bin/bash
# One machine, all its accelerators: installs the package with the GPU extra into .venv, then runs from start to evaluation.
#   bash launch/single_gpu.sh                                  the tiny run, warm start included
#   EXPERIMENT=experiments/grpo_0_6b_lora.py MODEL=/path/to/Qwen3-0.6B DATA=/path/to/dev-v1.1.json \
#     WORKDIR=runs/lora bash launch/single_gpu.sh              a Qwen3
#   DRY_RUN=1 bash launch/single_gpu.sh                        prints the commands and runs none
# Options after the script's name go to training, e.g. --config.grpo.steps=10.
set -euo pipefail

EXPERIMENT=${EXPERIMENT:-experiments/tiny.py}  # the config
WORKDIR=${WORKDIR:-runs/tiny_gpu}              # everything the run writes; the same one goes on where it stopped
MODEL=${MODEL:-}                               # policy to start from; without one a small policy is warm started
DATA=${DATA:-}                                 # file of episodes, where the config reads one
VENV=${VENV:-.venv}                            # virtual environment, made where there is none
PYTHON=${PYTHON:-python3}                      # Python 3.11 or newer, to make it with
export XLA_PYTHON_CLIENT_MEM_FRACTION=${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.95}  # of a GPU; JAX alone takes 0.75

case ${1:-} in -h | --help) sed -n '2,/^set/s/^# //p' "$0" && exit ;; esac

run() {
  printf '+'; printf ' %q' "$@"; echo
  [ -n "${DRY_RUN:-}" ] || "$@"
}

cd "$(dirname "$0")/.."
run "$PYTHON" -m venv "$VENV"
run "$VENV/bin/python" -m pip install --quiet --editable '.[gpu]'
options=("--config=$EXPERIMENT" "--workdir=$WORKDIR")
if [ -n "$DATA" ]; then options+=("--config.episodes.path=$DATA"); fi
if [ -n "$MODEL" ]; then
  options+=("--config.policy.path=$MODEL")
else
  run "$VENV/bin/python" -m memalpha_jax.warmstart "${options[@]}" "$@"
fi
run "$VENV/bin/python" -m memalpha_jax.train "${options[@]}" "$@"
run "$VENV/bin/python" -m memalpha_jax.evaluate "--workdir=$WORKDIR"
