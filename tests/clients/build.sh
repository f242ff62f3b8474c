#!/usr/bin/env bash
# Makes the programs that drive a cluster with other clients than kubectl, once: prints the path of the one in Go, and
# the Python that has the client for Python.
set -euo pipefail
cache=${SKEIN_CACHE:-/var/cache/skein} kubernetes=37.0.2
cd "$(dirname "$0")"
command -v go >/dev/null || { echo "Go (1.26) is missing, which the client in Go needs" >&2; exit 1; }
program=$cache/client-go-$(cat go/* | sha256sum | cut -c1-16)
if [ ! -x "$program" ]; then
  echo "building a client with client-go, once: a minute" >&2
  rm -f "$cache"/client-go-*
  (cd go && go build -o "$program.new" . && mv "$program.new" "$program") >&2
fi
python=$cache/python-kubernetes-$kubernetes
if [ ! -x "$python/bin/python" ] || [ ! -e "$python/done" ]; then
  python3 -m venv --help >/dev/null 2>&1 && python3 -c 'import ensurepip' 2>/dev/null || {
    echo "installing Debian packages: python3-venv" >&2
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3-venv >&2
  }
  echo "installing the client for Python, once" >&2
  rm -rf "$python" && python3 -m venv "$python"
  "$python/bin/pip" install --quiet --disable-pip-version-check "kubernetes==$kubernetes" >&2
  touch "$python/done"
fi
echo "$program"
echo "$python/bin/python"
