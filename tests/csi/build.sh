#!/usr/bin/env bash
# Makes what the tests of storage drivers need, once: a driver, Kubernetes' own sidecars for it, and csi-sanity. Prints
# the folder that they are in.
set -euo pipefail
cache=${SKEIN_CACHE:-/var/cache/skein}
here=$(cd "$(dirname "$0")" && pwd)
out=$cache/csi-$(cat "$here"/go.* "$here"/driver/* | sha256sum | cut -c1-16)
if [ ! -e "$out/done" ]; then
  command -v go >/dev/null || { echo "Go (1.26) is missing, which the storage driver of the tests needs" >&2; exit 1; }
  echo "building a CSI driver and Kubernetes' sidecars for it, once: 5 minutes" >&2
  rm -rf "$cache"/csi-* && mkdir -p "$out"
  cd "$here"
  export CGO_ENABLED=0
  go build -ldflags '-s -w' -o "$out/" ./driver tool >&2
  touch "$out/done"
fi
echo "$out"
