#!/bin/bash
# A Cloud TPU slice of any size: one training over all its hosts, which jax.distributed finds by itself.
#   PROJECT=my-project SHARE=10.0.0.2:/share bash launch/tpu_pod.sh create     makes the slice
#   ... install     copies the committed code of this checkout to every host and installs it
#   ... train       starts training on every host in the background; options after it go to training
#   ... logs        follows what the first host prints
#   ... delete      ends the slice, and what it costs
#   DRY_RUN=1 ...   prints the commands and runs none
# The same `train` goes on where a run stopped. All hosts must see one file system (SHARE, an NFS export such as
# Filestore), for the weights, the data and the workdir.
set -euo pipefail

PROJECT=${PROJECT:-}                       # Google Cloud project
SHARE=${SHARE:-}                           # HOST:/EXPORT, mounted as /mnt/share on every host
ZONE=${ZONE:-us-east5-a}                   # a zone that has the accelerator
NAME=${NAME:-memalpha}                     # of the slice
ACCELERATOR=${ACCELERATOR:-v5p-32}         # v5p counts cores, two to a chip: 16 chips on 4 hosts
RUNTIME=${RUNTIME:-v2-alpha-tpuv5}         # the image that belongs to the accelerator
CHIPS=${CHIPS:-16}                         # parameters and trajectories are split over so many
EXPERIMENT=${EXPERIMENT:-experiments/grpo.py}
MODEL=${MODEL:-/mnt/share/Qwen3-4B}        # folder of weights
DATA=${DATA:-/mnt/share/train-v1.1.json}   # file of episodes
WORKDIR=${WORKDIR:-/mnt/share/runs/grpo}   # everything the run writes

help() { sed -n '2,/^set/s/^# //p' "$0"; }
case ${1:-} in -h | --help) help && exit ;; '') help >&2 && exit 2 ;; esac
: "${PROJECT:?set it to your Google Cloud project}" "${SHARE:?set it to HOST:/EXPORT of an NFS share}"

run() {
  printf '+'; printf ' %q' "$@"; echo
  [ -n "${DRY_RUN:-}" ] || "$@"
}
tpu() { run gcloud compute tpus tpu-vm "$1" "${@:2}" "--project=$PROJECT" "--zone=$ZONE"; }
on_hosts() { tpu ssh "$NAME" "--worker=$1" "--command=$2"; }

cd "$(dirname "$0")/.."
step=$1
shift
case $step in
  create)
    tpu create "$NAME" "--accelerator-type=$ACCELERATOR" "--version=$RUNTIME"
    ;;
  install)
    archive=$(mktemp --suffix=.tar.gz)
    trap 'rm -f "$archive"' EXIT
    run git archive --format=tar.gz "--output=$archive" HEAD
    tpu scp "$archive" "$NAME:memalpha_jax.tar.gz" --worker=all
    # uv brings a Python of its own: that of the image may be older than 3.11.
    on_hosts all "set -e
      mkdir -p memalpha_jax && tar -xzf memalpha_jax.tar.gz -C memalpha_jax && cd memalpha_jax
      python3 -m pip install --quiet --user uv
      python3 -m uv venv --quiet --allow-existing --python 3.12 .venv
      python3 -m uv pip install --quiet --python .venv/bin/python --editable '.[tpu]'
      sudo apt-get install -qq -y nfs-common
      sudo mkdir -p /mnt/share
      mountpoint -q /mnt/share || sudo mount -t nfs $(printf %q "$SHARE") /mnt/share"
    ;;
  train)
    command=(.venv/bin/python -m memalpha_jax.train "--config=$EXPERIMENT" "--workdir=$WORKDIR"
      "--config.policy.path=$MODEL" "--config.episodes.path=$DATA"
      "--config.mesh.fsdp=$CHIPS" "--config.grpo.block_rows=$CHIPS" "$@")
    # In the background, so that it outlives the connection.
    on_hosts all "cd memalpha_jax && mountpoint /mnt/share && { nohup $(printf '%q ' "${command[@]}")>train.log 2>&1 </dev/null & }"
    ;;
  logs)
    on_hosts 0 "tail -n 100 -F memalpha_jax/train.log"
    ;;
  delete)
    tpu delete "$NAME"
    ;;
  *)
    echo "error: unknown step '$step'; give create, install, train, logs or delete" >&2
    exit 2
    ;;
esac
