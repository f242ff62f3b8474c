#!/usr/bin/env bash
# Installs what is missing on Debian 12 and builds RocksDB once. Says what it does; does nothing when all is there.
set -euo pipefail
cache=${SKEIN_CACHE:-/var/cache/skein}
here=$(cd "$(dirname "$0")/.." && pwd)

missing=()
need() { # PROGRAM-OR-FILE PACKAGE
  if [ ! -e "$1" ] && ! command -v "$1" >/dev/null 2>&1; then missing+=("$2"); fi
}
need g++ g++
need make make
need /bin/busybox busybox-static
need containerd containerd
need runc runc
need nft nftables
need ip iproute2
need nsenter util-linux
need mkfs.ext4 e2fsprogs
need curl curl
need openssl openssl
need nginx nginx-light
need dbus-daemon dbus-daemon
# Not libclang-cpp, which other packages bring along.
ls /usr/lib/llvm-*/lib/libclang{,-[0-9]*}.so* 2>/dev/null | grep -q . || missing+=(libclang-14-dev)
if [ ${#missing[@]} -gt 0 ]; then
  echo "installing Debian packages: ${missing[*]}"
  [ "$(id -u)" = 0 ] || { echo "run this as root, or install them yourself: apt-get install ${missing[*]}" >&2; exit 1; }
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi
command -v cargo >/dev/null || { echo "Rust 1.95 is missing: install it with rustup (https://rustup.rs)" >&2; exit 1; }
mkdir -p "$cache"
"$here/raft/log/build-rocksdb.sh" "$cache/rocksdb"
