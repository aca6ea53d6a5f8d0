#!/usr/bin/env bash
# The API with curl. TROUPE_URL is the server's address, TROUPE_API_KEY its key if it wants one.
set -euo pipefail

url=${TROUPE_URL:-http://127.0.0.1:8000}
call() {  # call PATH [JSON]
  curl --silent --show-error --fail-with-body --no-buffer --max-time 60 \
    ${TROUPE_API_KEY:+--header "Authorization: Bearer $TROUPE_API_KEY"} \
    ${2:+--header 'Content-Type: application/json' --data "$2"} "$url$1"
  echo
}

echo '== which model?'
call /v1/models

echo '== a conversation, streamed: one event a token, then [DONE]'
call /v1/chat/completions '{"stream": true, "temperature": 0, "max_tokens": 16,
  "stream_options": {"include_usage": true},
  "messages": [{"role": "user", "content": "What does a conductor do?"}]}'

echo '== plain text, with the three best alternatives for every token'
call /v1/completions '{"prompt": "The capital of France is", "temperature": 0, "max_tokens": 4,
  "logprobs": 3}'

echo '== token ids in, token ids out'
call /tokenize '{"prompt": "The capital of France is"}'

echo '== how is it doing?'
call /metrics | grep '^troupe_'
