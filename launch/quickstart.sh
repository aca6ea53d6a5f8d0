#!/usr/bin/env bash
# From a fresh machine to a streamed answer: packages, build, default model, two CPU ranks.
#   launch/quickstart.sh [--once] [--port N]
# Stays up until Ctrl-C; --once leaves after the answer.
set -euo pipefail
cd "$(dirname "$0")/.."

once=no
port=8000
while (($#)); do
  case $1 in
    --once) once=yes ;;
    --port) port=${2:?--port needs a number}; shift ;;
    *) echo "unknown option $1; use --once or --port N" >&2; exit 2 ;;
  esac
  shift
done

launch/packages.sh
[[ -f build/cpu/build.ninja ]] || { echo "== configuring"; cmake --preset cpu; }
echo "== building"
cmake --build build/cpu --target troupe
troupe=build/cpu/launch/troupe
model=$(launch/fetch_model.sh)

echo "== starting two ranks"
log=$(mktemp)
"$troupe" serve "$model" --tp 2 --port "$port" > "$log" 2>&1 &
server=$!
stop() {  # ordered: the server drains, ends its ranks and removes its files
  kill -TERM "$server" 2> /dev/null || true
  wait "$server" 2> /dev/null || true
  rm -f "$log"
}
trap stop EXIT
trap 'exit 0' INT TERM
until grep -q ' ready at ' "$log"; do
  if ! kill -0 "$server" 2> /dev/null; then
    code=0
    wait "$server" || code=$?
    cat "$log" >&2
    exit "$code"
  fi
  sleep 0.02
done

question='Tell me in two sentences what an orchestra conductor does.'
echo "== $question"
"$troupe" chat "http://127.0.0.1:$port" --once "$question" --max-tokens 128 --temperature 0
[[ $once == yes ]] && exit 0

name=$("$troupe" chat "http://127.0.0.1:$port" --print-model)
cat << EOF

Serving at http://127.0.0.1:$port until Ctrl-C. To go on:

  $troupe chat http://127.0.0.1:$port

  curl -N http://127.0.0.1:$port/v1/chat/completions -H 'Content-Type: application/json' \\
    -d '{"model": "$name", "stream": true, "messages": [{"role": "user", "content": "Hello"}]}'

  pip install openai; then in python3:
    from openai import OpenAI
    client = OpenAI(base_url="http://127.0.0.1:$port/v1", api_key="none")
    for part in client.chat.completions.create(
        model="$name", stream=True, messages=[{"role": "user", "content": "Hello"}]):
      print(part.choices[0].delta.content or "", end="", flush=True)

EOF
tail -n +1 -f --pid="$server" "$log" &
wait "$server"
