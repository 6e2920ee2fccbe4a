#!/bin/bash
# Several nodes: the first serves the model with vLLM, the others train, one process per GPU:
#   MODEL=Qwen/Qwen3-4B LORA_RANK=32 LENGTH=3072 sbatch --nodes=3 examples/slurm/several_nodes.sh \
#     spiral --config configs/spiral_kuhn_qwen3-4b.yaml --model.quantize null --run.dir runs/kuhn
# MODEL and LORA_RANK (empty: all weights are trained) must match the configuration. LENGTH must be at least
# rollout.max_prompt_tokens + rollout.max_new_tokens, also those of evaluations. The trainer refuses a server that does not match.
#SBATCH --job-name=llm-gym
#SBATCH --nodes=3
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
mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
if ((${#nodes[@]} < 2)); then
  echo "error: one node serves and the others train: use --nodes=2 or more" >&2
  exit 2
fi
url=http://${nodes[0]}:${VLLM_PORT:-8000}
serve=("${PYTHON:-python}" -m vllm.entrypoints.openai.api_server --model "${MODEL:?set the model}" --dtype bfloat16
  --host 0.0.0.0 --port "${VLLM_PORT:-8000}" --max-model-len "${LENGTH:?set the maximum tokens}" --generation-config vllm
  --logprobs-mode processed_logprobs --data-parallel-size "${SLURM_GPUS_ON_NODE:-1}")
if [[ -n ${LORA_RANK:-} ]]; then
  serve+=(--enable-lora --max-lora-rank "$LORA_RANK" --max-loras 1)
else
  serve+=(--worker-extension-cls algos.engines.vllm_worker.Extension --weight-transfer-config '{"backend": "llm_gym"}')
fi
VLLM_SERVER_DEV_MODE=1 VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 \
  srun --nodes=1 --ntasks=1 --nodelist="${nodes[0]}" "${serve[@]}" &
server=$!
trap 'kill "$server" 2>/dev/null || true' EXIT
until curl --silent --fail --max-time 5 --output /dev/null "$url/health"; do
  if ! kill -0 "$server" 2>/dev/null; then
    wait "$server" # ends this job with the server's exit status
    exit 1
  fi
  sleep 5
done
TRAINER_NODES=$(IFS=,; echo "${nodes[*]:1}")
export TRAINER_NODES
run_trainer "$@" --engine.kind vllm_server --engine.url "$url"
