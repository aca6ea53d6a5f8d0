#!/usr/bin/env bash
# with_model.sh PROGRAM [ARGUMENT...]: runs `PROGRAM MODEL` or `PROGRAM ARGUMENT1 MODEL ARGUMENT...`
# with the model of TROUPE_TEST_MODEL; exit code 77 when that is not set.
set -euo pipefail

if [[ -z ${TROUPE_TEST_MODEL:-} ]]; then
  echo 'skipped: set TROUPE_TEST_MODEL=$(launch/fetch_model.sh)'
  exit 77
fi
exec "$1" "${@:2:1}" "$TROUPE_TEST_MODEL" "${@:3}"
