#!/usr/bin/env bash
# Trains a policy of LeRobot with the weights of hf-ptr, in LeRobot's environment (docs/lerobot.md).
#
#   bash examples/lerobot_train.sh act data/demos scores.parquet
#   bash examples/lerobot_train.sh smolvla data/demos scores.parquet --policy.load_vlm_weights=true --steps=20000
#
# POLICY DATASET SCORES [options of lerobot-train]. DATASET is a folder in format v3.0, SCORES is from `hf-ptr score`.
set -euo pipefail
policy=$1 dataset=$2 scores=$3
shift 3
exec lerobot-train \
  --policy.type="$policy" \
  --policy.push_to_hub=false \
  --dataset.repo_id="local/$(basename "$dataset")" \
  --dataset.root="$dataset" \
  --sample_weighting.path="$scores" \
  --output_dir="runs/$policy" \
  "$@"
