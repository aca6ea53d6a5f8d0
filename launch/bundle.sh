#!/usr/bin/env bash
# Packs the built program and the libraries it needs into one relocatable archive, for hosts that
# have the CUDA toolkit's libraries, NCCL and Open MPI but not CAF, spdlog and the rest.
#   launch/bundle.sh [BUILD_DIR] [ARCHIVE]      default: build/cuda, troupe-<machine>.tar.xz
# There: tar xf ARCHIVE && troupe/bin/troupe doctor
set -euo pipefail
cd "$(dirname "$0")/.."

build=${1:-build/cuda}
archive=${2:-troupe-$(uname -m).tar.xz}
program=$build/launch/troupe
[[ -x $program ]] || { echo "$program is not built: cmake --build $build --target troupe" >&2; exit 2; }

# What belongs to the host: the C and C++ libraries, the driver's and CUDA's libraries, Open MPI.
host='^(ld-linux|linux-vdso|libc\.|libm\.|libdl\.|librt\.|libpthread\.|libresolv\.|libstdc\+\+'
host+='|libgcc_s|libcuda|libcudart|libcublas|libnvrtc|libnvidia|libnccl|libmpi|libopen-'
host+='|libhwloc|libevent|libudev)'

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/troupe/bin" "$work/troupe/lib" "$work/troupe/licenses"
cp "$program" "$work/troupe/bin/"
strip "$work/troupe/bin/troupe"
cp LICENSE "$work/troupe/licenses/troupe"
ldd "$program" | awk '$2 == "=>" && $3 ~ /^\// { print $1, $3 } $3 == "not" { print $1, "missing" }' |
while read -r name path; do
  [[ $name =~ $host ]] && continue
  [[ $path == missing ]] && { echo "$name is not on this machine either" >&2; exit 1; }
  cp -L "$path" "$work/troupe/lib/$name"
  package=$(dpkg-query -S "$(realpath "$path")" 2> /dev/null | head -n 1 | cut -d: -f1 || true)
  [[ -f /usr/share/doc/$package/copyright ]] &&
    cp -L "/usr/share/doc/$package/copyright" "$work/troupe/licenses/$package"
done
tar -C "$work" -cJf "$archive" troupe
echo "$archive: $(du -h "$archive" | cut -f1), $(find "$work/troupe/lib" -type f | wc -l) libraries"
