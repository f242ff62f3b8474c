#!/usr/bin/env bash
# Builds the RocksDB that the librocksdb-sys crate carries as a unity build: several source files in one
# compiler run, so that each header is parsed once for all of them. Five minutes on 2 cores instead of 22.
#
#   raft/log/build-rocksdb.sh OUT     leaves OUT/librocksdb.a; does nothing when it is already there for this version
#
# Files whose anonymous namespaces clash cannot share a run: a group that fails to compile is halved until it does.
set -euo pipefail
out=${1:?usage: build-rocksdb.sh OUT}
here=$(cd "$(dirname "$0")" && pwd)

manifest=$(cd "$here" && cargo metadata --format-version 1 --locked |
  tr ',' '\n' | grep -o '"manifest_path":"[^"]*librocksdb-sys-[^"]*"' | head -n 1 | cut -d'"' -f4)
src=$(dirname "$manifest")
version=$(basename "$src")
if [ -f "$out/librocksdb.a" ] && [ "$(cat "$out/version" 2>/dev/null)" = "$version" ]; then
  exit 0
fi

export out src
export FLAGS="-std=c++20 -O2 -g0 -fPIC -fno-rtti -w -msse2 -I. -Irocksdb/include -Irocksdb -DNDEBUG -DHAVE_ALIGNED_NEW
  -DHAVE_UINT128_EXTENSION -DOS_LINUX -DROCKSDB_PLATFORM_POSIX -DROCKSDB_LIB_IO_POSIX -DROCKSDB_SCHED_GETCPU_PRESENT
  -DROCKSDB_AUXV_GETAUXVAL_PRESENT -DROCKSDB_FALLOCATE_PRESENT -DROCKSDB_RANGESYNC_PRESENT -DROCKSDB_SUPPORT_THREAD_LOCAL"

compile() { # NAME FILE...: one object from these files, or from each half of them
  local name=$1; shift
  local unit="$out/obj/$name.cc" n=$#
  printf '#include "%s"\n' "$@" >"$unit"
  # shellcheck disable=SC2086
  if (cd "$src" && g++ $FLAGS -c "$unit" -o "$out/obj/$name.o" 2>"$out/obj/$name.err"); then
    echo "  rocksdb: $n files ($name)"
    return
  fi
  if [ "$n" = 1 ]; then
    cat "$out/obj/$name.err" >&2
    return 1
  fi
  compile "${name}a" "${@:1:n/2}" && compile "${name}b" "${@:n/2+1}"
}
export -f compile

rm -rf "$out/obj"; mkdir -p "$out/obj"
echo "building RocksDB ($version) on $(nproc) cores: about 5 minutes on 2 cores, once" >&2
{ grep -v 'util/build_version.cc' "$src/rocksdb_lib_sources.txt" | sed 's|^|rocksdb/|'; echo build_version.cc; } |
  xargs -n 14 | awk '{ printf "g%02d %s\n", NR, $0 }' |
  xargs -P "$(nproc)" -I{} bash -c 'set -e; compile {}' >&2
rm -f "$out/librocksdb.a"
ar crs "$out/librocksdb.a" "$out"/obj/*.o
rm -rf "$out/obj"
echo "$version" >"$out/version"
