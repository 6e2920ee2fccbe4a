#!/bin/bash
# One GPU:  sbatch examples/slurm/one_gpu.sh grpo --config configs/grpo_code_qwen3-0.6b.yaml --run.dir runs/code
#SBATCH --job-name=llm-gym
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%j.out
# SLURM sends SIGUSR1 to this shell two minutes before the end of the time or a preemption.
#SBATCH --signal=B:USR1@120
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-.}"
# shellcheck source=examples/slurm/trainer.sh
source examples/slurm/trainer.sh
run_trainer "$@"
