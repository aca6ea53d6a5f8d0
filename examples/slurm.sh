#!/usr/bin/env bash
# Serves a model on all hosts of a Slurm job: sbatch --nodes=4 slurm.sh MODEL
# The first host has the gateway; every host has one replica of TROUPE_TP ranks, joined with the
# service's join file, which reaches rank 0 through mpirun's standard input. MODEL and troupe have
# the same path on all hosts. Without Slurm: set SLURM_JOB_NODELIST and provide `scontrol`, or
# replace the loop by a list of hosts that ssh reaches.
#SBATCH --job-name=troupe
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
set -euo pipefail

model=${1:?usage: sbatch --nodes=N slurm.sh MODEL}
troupe=${TROUPE:-troupe}
port=${TROUPE_PORT:-8000}
ranks=${TROUPE_TP:-2}
mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
here=${hosts[0]}

secrets=$(mktemp -d)  # 0700
pids=()
finish() {
  kill -TERM "${pids[@]}" 2> /dev/null || true  # the gateway drains and dismisses all replicas
  wait || true
  rm -rf "$secrets"
}
trap finish EXIT
trap 'exit 0' TERM INT

# The gateway and this host's replica. Clients of other hosts need a key.
head -c 32 /dev/urandom | base64 > "$secrets/keys"
"$troupe" serve "$model" --tp "$ranks" --host 0.0.0.0 --port "$port" --rank-host "$here" \
  --api-key-file "$secrets/keys" --join-file "$secrets/join.json" &
gateway=$!
pids+=("$gateway")
echo "http://$here:$port with the key $(< "$secrets/keys")"
until curl --silent --fail "http://127.0.0.1:$port/ready" > /dev/null; do
  kill -0 "$gateway" 2> /dev/null || { echo "the gateway did not start" >&2; exit 1; }
  sleep 1
done

for host in "${hosts[@]:1}"; do
  mpirun -n "$ranks" --host "$host:$ranks" --mca btl self,vader,tcp \
    "$troupe" rank --join - < "$secrets/join.json" &
done
wait "$gateway"
