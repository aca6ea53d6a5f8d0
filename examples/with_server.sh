#!/usr/bin/env bash
# Runs a command against a server of its own: with_server.sh TROUPE MODEL COMMAND [ARGUMENT...]
# The command finds the server's address in TROUPE_URL.
set -euo pipefail

troupe=$1
model=$2
shift 2

exec {log}< <(exec "$troupe" serve "$model" --in-process --tp 2 --port 0 --kv-tokens 4096 2>&1)
server=$!
trap 'kill -TERM "$server" 2> /dev/null || true; wait "$server" || true' EXIT
url=
log_text=
while [[ -z $url ]] && read -r line <&"$log"; do
  if [[ $line =~ ready\ at\ (http://[^ ]+) ]]; then
    url=${BASH_REMATCH[1]}
  else
    log_text+=$line$'\n'
  fi
done
[[ -n $url ]] || { echo "the server did not start: $log_text" >&2; exit 1; }
cat <&"$log" > /dev/null &  # so that the server can go on writing
TROUPE_URL=$url "$@"
