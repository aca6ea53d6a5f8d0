#!/usr/bin/env bash
# Fails if a document names a file, a test or a member function that does not exist.
set -euo pipefail
bad=0
missing() {
  echo "$1: there is no $2"
  bad=1
}
for document in *.md examples/README.md; do
  folder=$(dirname "$document")
  while read -r link; do
    [[ $link == *://* || -e $folder/${link%%#*} ]] || missing "$document" "$link"
  done < <(grep -oE '\]\([^)#]+' "$document" | cut -c3-)
  while read -r path; do  # `launch/test.sh`, `gpu/model/shard`; build/ is made, not kept
    compgen -G "$path" > /dev/null || compgen -G "$path.*" > /dev/null || missing "$document" "$path"
  done < <(grep -oE '`(launch|http|actors|nccl|gpu|tests|examples)/[A-Za-z0-9_./*-]*' "$document" |
    tr -d '\140')
  while read -r name; do  # `Router.RefusesAtTheDoor`, `SamplerTest.*`
    suite=${name%%.*} test=${name#*.}
    grep -rqE "^TEST(_F|_P)?\($suite, ${test/\*/[A-Za-z]*}\)" --include='*.cpp' tests ||
      missing "$document" "$name"
  done < <(grep -oE '`[A-Z][A-Za-z]+\.([A-Z][A-Za-z_0-9]+|[a-z_]+_[a-z_]+|\*)`' "$document" |
    grep -v '\.md`' | tr -d '\140')
  while read -r name; do  # `Router::apply`
    grep -rqE "(${name%%::*}::${name##*::}|[ *&]${name##*::}\()" --include='*.h' --include='*.cpp' \
      launch http actors nccl gpu || missing "$document" "$name"
  done < <(grep -oE '`[A-Z][A-Za-z]+::[a-z_]+`' "$document" | tr -d '\140')
done
exit $bad
