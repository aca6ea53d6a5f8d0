#!/usr/bin/env bash
# Installs what building and testing needs, on Debian 12 and Ubuntu 24.04. As root or with sudo.
# Does nothing when it has already run here with the same list.
set -euo pipefail
cd "$(dirname "$0")/.."

. /etc/os-release
case "${VERSION_CODENAME:-}" in
  bookworm) boost=libboost1.81-dev ;;
  noble) boost=libboost1.83-dev ;;
  *) echo "packages.sh knows Debian 12 and Ubuntu 24.04; this is ${PRETTY_NAME:-unknown}" >&2
     exit 2 ;;
esac
packages=(g++ cmake ninja-build ccache pkg-config git ca-certificates
  libcaf-dev "$boost" libopenmpi-dev openmpi-bin nlohmann-json3-dev libpcre2-dev libicu-dev
  libcli11-dev libspdlog-dev libfmt-dev prometheus-cpp-dev libssl-dev libcurl4-openssl-dev
  libgtest-dev libgmock-dev librapidcheck-dev clang-format-14 clang-tidy-14
  python3 python3-pip python3-venv)

stamp=build/.packages
wanted="$VERSION_CODENAME ${packages[*]}"
if [[ -f $stamp && $(< "$stamp") == "$wanted" ]] && command -v mpirun cmake ninja > /dev/null; then
  exit 0
fi
missing=()
for package in "${packages[@]}"; do
  status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2> /dev/null || true)
  [[ $status == installed ]] || missing+=("$package")
done
if ((${#missing[@]})); then
  as_root=()
  if ((EUID != 0)); then
    command -v sudo > /dev/null || { echo "run this as root, or install sudo" >&2; exit 2; }
    as_root=(sudo)
  fi
  echo "== installing ${#missing[@]} packages"
  "${as_root[@]}" apt-get update -q
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y --no-install-recommends "${missing[@]}"
fi
mkdir -p build
echo "$wanted" > "$stamp"
