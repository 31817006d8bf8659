#!/bin/bash
# sbatch recipes/accelerate/slurm.sh RECIPE [key=value …]
#
# The job receives SIGTERM two minutes before its time limit and on preemption. The run then saves a checkpoint at the end
# of its step, and the job is requeued and resumes. A job that ends by itself, with or without an error, is not requeued.
#SBATCH --job-name=hf-ptr
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -u
FIRST=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

srun bash -c 'exec accelerate launch \
  --config_file recipes/accelerate/multi_node.yaml \
  --num_machines "$SLURM_NNODES" --num_processes $((SLURM_NNODES * 8)) --machine_rank "$SLURM_NODEID" \
  --main_process_ip "$0" --main_process_port 29500 \
  -m hf_ptr.train "$@"' "$FIRST" "$@" &
RUN=$!
STOPPED=0
trap 'STOPPED=1; kill -TERM "$RUN"' TERM
# The trap interrupts the first wait before the run has ended.
wait "$RUN" || wait "$RUN"
CODE=$?
[ "$STOPPED" -eq 1 ] && scontrol requeue "$SLURM_JOB_ID"
exit "$CODE"
