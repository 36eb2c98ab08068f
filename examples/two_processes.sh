#!/bin/sh
# Trains on two processes of this machine: on CPUs by gloo, where there is no GPU.
#
#   make demo                        # or any teacher, student and split, named as below
#   sh examples/two_processes.sh [options of padd train]
#
# Each process samples, grades and learns from half of the prompts of a step; gradients are summed,
# so that the run takes the steps of one process. The first one writes the result.
set -eu
teacher=${TEACHER:-runs/toy/toy/teacher}
student=${STUDENT:-runs/toy/warmup}
split=${SPLIT:-runs/toy/split}
out=${OUT:-runs/two-processes}

# One thread a process: two of them with as many threads as there are cores only wait for each other.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

# --prompts-per-step counts the prompts of both, and must divide among them.
torchrun --standalone --nproc-per-node 2 -m padd_cli train --config toy \
    --teacher "$teacher" --student "$student" --split "$split" --out "$out" \
    --steps 2 --prompts-per-step 4 --device cpu --workers 1 "$@"
