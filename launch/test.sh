#!/usr/bin/env bash
# Installs, builds and runs every test: what CI runs. Works on a fresh Debian 12 or Ubuntu 24.04.
set -euo pipefail
cd "$(dirname "$0")/.."

launch/packages.sh tests
TROUPE_TEST_MODEL=$(launch/fetch_model.sh)
export TROUPE_TEST_MODEL
if [[ -f tests/requirements.txt ]]; then
  stamp=build/venv/.requirements
  if ! cmp -s tests/requirements.txt "$stamp"; then
    echo "== python packages of the tests"
    python3 -m venv build/venv
    build/venv/bin/pip install --quiet --requirement tests/requirements.txt
    cp tests/requirements.txt "$stamp"
  fi
  export TROUPE_TEST_PYTHON=$PWD/build/venv/bin/python
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT
code=0
tests/lint/all.sh 2>&1 | tee "$log" || code=$?
# Sum of all ctest runs: "98% tests passed, 2 tests failed out of 100".
awk -v code="$code" '
  /tests passed, [0-9]+ tests failed out of [0-9]+/ { failed += $4; total += $NF }
  END { printf "%d passed, %d failed%s\n", total - failed, failed,
        code == 0 ? "" : ", and the run ended with exit code " code }' "$log"
exit "$code"
