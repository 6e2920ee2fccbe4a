# shellcheck shell=bash
# Sourced by the other scripts of this folder. Variables: PYTHON, ZERO (1, 2 or 3: DeepSpeed), TRAINER_NODES (default: all nodes
# of the job).

# run_trainer ALGORITHM ARGUMENTS...: one process per task. Ends this shell with the trainer's exit status.
#   SIGUSR1 (SLURM's warning) is forwarded to the trainer, which saves a checkpoint and ends with 128 + 10. The job is then
#   requeued and continues with --resume. If a task dies, the others end half a minute later.
run_trainer() {
  local algorithm=$1 tasks status=0
  shift
  local arguments=("$@")
  if ((${SLURM_RESTART_COUNT:-0} > 0)); then
    arguments+=(--resume)
  fi
  local nodes
  mapfile -t nodes < <(scontrol show hostnames "${TRAINER_NODES:-$SLURM_JOB_NODELIST}")
  tasks=$((${#nodes[@]} * ${SLURM_NTASKS_PER_NODE:-1}))
  export MASTER_ADDR=${nodes[0]} MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000)) OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
  if [[ -n ${ZERO:-} ]]; then
    export ACCELERATE_USE_DEEPSPEED=true ACCELERATE_DEEPSPEED_CONFIG_FILE=configs/deepspeed/zero$ZERO.json
  fi
  # The variables that torchrun would set, from SLURM's. Without torchrun, signals and exit statuses are passed on.
  # shellcheck disable=SC2016
  local ranks='if ((SLURM_NTASKS > 1)) || [[ -n ${ACCELERATE_USE_DEEPSPEED:-} ]]; then
    export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS
  fi
  exec "$@"'
  srun --nodes="${#nodes[@]}" --ntasks="$tasks" --nodelist="$(IFS=,; echo "${nodes[*]}")" --wait=30 \
    bash -c "$ranks" task "${PYTHON:-python}" "algos/$algorithm.py" "${arguments[@]}" &
  local trainer=$!
  trap 'kill -USR1 "$trainer" 2>/dev/null || true' USR1
  while true; do
    status=0
    wait "$trainer" || status=$?
    kill -0 "$trainer" 2>/dev/null || break # wait also returns after the trap has run
  done
  if ((status == 128 + 10)); then
    echo "saved; requeueing job $SLURM_JOB_ID"
    scontrol requeue "$SLURM_JOB_ID"
  fi
  exit "$status"
}
