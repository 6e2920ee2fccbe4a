#!/bin/bash
# All GPUs of one node, one process per GPU:
#   sbatch examples/slurm/one_node.sh grpo --config configs/grpo_mbpp_qwen2.5-1.5b.yaml --run.dir runs/mbpp
# DeepSpeed:  sbatch --export=ALL,ZERO=2 examples/slurm/one_node.sh ...
#SBATCH --job-name=llm-gym
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%j.out
#SBATCH --signal=B:USR1@120
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-.}"
# shellcheck source=examples/slurm/trainer.sh
source examples/slurm/trainer.sh
run_trainer "$@"
