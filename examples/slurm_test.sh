#!/usr/bin/env bash
# slurm_test.sh TROUPE MODEL: runs slurm.sh with two "hosts" that are both this one, waits for both
# replicas, asks for one answer.
set -euo pipefail

folder=$(mktemp -d)
export PATH=$folder:$PATH SLURM_JOB_NODELIST=two TROUPE=$1 TROUPE_TP=1
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export TROUPE_PORT=$((20000 + $$ % 10000))
printf '#!/bin/sh\nprintf "localhost\\nlocalhost\\n"\n' > "$folder/scontrol"
chmod +x "$folder/scontrol"

: > "$folder/out"
./slurm.sh "$2" > "$folder/out" 2>&1 &
job=$!
trap 'kill -TERM $job 2> /dev/null || true; wait $job || true; cat "$folder/out"; rm -rf "$folder"' EXIT
url=http://127.0.0.1:$TROUPE_PORT
replicas=
until [[ $replicas == 2 ]]; do
  kill -0 $job || exit 1
  key=$(sed -n 's/.* with the key //p' "$folder/out")
  replicas=$(curl --silent --header "Authorization: Bearer $key" "$url/metrics" |
    sed -n 's/^troupe_replicas_ready.* //p') || true
  sleep 0.1
done
curl --silent --fail --max-time 60 --header "Authorization: Bearer $key" \
  --header 'Content-Type: application/json' --data '{"prompt": "Hello", "max_tokens": 4}' \
  "$url/v1/completions" | grep '"finish_reason":"length"'
