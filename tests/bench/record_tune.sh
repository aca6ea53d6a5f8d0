#!/usr/bin/env bash
# Makes the tune table that the program ships for this machine's GPU: times the multiplications of
# the common shapes that the table lacks. To time some of them anew, take their lines out first; all
# of them, remove the file. Lines of another GPU, driver or library are dropped. Run on an idle GPU,
# then build again.
#   tests/bench/record_tune.sh BENCH_STEP gpu/cuda/tune/h200.jsonl [MODEL:TP[:bf16|fp8] ...]
# BENCH_STEP: cuda_step_bench, or "build/cuda/launch/troupe bench step". Up to a minute a model.
set -euo pipefail
read -ra bench <<< "$1"
table=$2
shift 2
(($#)) || set -- llama-3-8b:1 qwen3-8b:1 llama-3-8b:2 llama-3-70b:1:fp8 llama-3-70b:2 \
  llama-3-70b:4 llama-3-70b:8
for spec in "$@"; do
  IFS=: read -r model tp only <<< "$spec"
  for weights in ${only:-bf16 fp8}; do
    "${bench[@]}" --retune --model "$model" --tp "$tp" --weights "$weights" \
      --max-rows 512 --step-tokens 8192 --kv-tokens 16384 --tune-file "$table"
  done
done
wc -l "$table"
