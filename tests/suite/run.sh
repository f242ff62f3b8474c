#!/usr/bin/env bash
# Runs Kubernetes' own conformance tests against a laboratory of three nodes, and names those that fail.
#   run.sh SKEIN [FOCUS]    SKEIN: the program; FOCUS: a regular expression, as in `EndpointSlice.*mirror`
# Tests that break nodes or take very long are left out, and the one that needs a sample API server. Those that want the
# cluster for themselves: SKIP='Sample API Server' PROCS=1 run.sh SKEIN '\[Conformance\].*\[(Serial|Slow|Disruptive)\]'
set -euo pipefail
skein=$1 focus=${2:-'\[Conformance\]'}
skip=${SKIP:-'\[Serial\]|\[Disruptive\]|\[Slow\]|Sample API Server'}
here=$(cd "$(dirname "$0")" && pwd)
programs=$("$here/build.sh" | tail -n 1)
kubectl=$("$here/../kubectl.sh" | tail -n 1)
missing=()
[ -e /bin/bash-static ] || missing+=(bash-static)
command -v nc.openbsd >/dev/null || missing+=(netcat-openbsd)
command -v dig >/dev/null || missing+=(bind9-dnsutils)
if [ ${#missing[@]} -gt 0 ]; then
  echo "installing Debian packages: ${missing[*]}"
  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi
work=$(mktemp -d)
registry=
trap '"$skein" lab down >/dev/null; [ -z "$registry" ] || kill "$registry"; rm -rf "$work"' EXIT
echo "making the tests' images"
python3 "$here/images.py" "$programs" "$work/images.tar"
# Nodes ask registry.k8s.io for images as they would anywhere, by way of this machine.
HTTP_PROXY=http://198.18.0.1:5000 "$skein" lab up --nodes 3 --insecure-registry registry.k8s.io
python3 "$here/registry.py" "$work/images.tar" 198.18.0.1 5000 &
registry=$!
"$skein" lab load "$work/images.tar"
report=${REPORT:-/tmp/skein-suite.log}
echo "running Kubernetes' tests, see $report"
export KUBECONFIG=/var/lib/skein-lab/kubeconfig PATH=$(dirname "$kubectl"):$PATH
status=0
"$programs/ginkgo" --no-color --procs="${PROCS:-5}" --focus="$focus" --skip="$skip" --timeout=4h \
  "$programs/e2e.test" -- --provider=skeleton --kubeconfig="$KUBECONFIG" --num-nodes=3 --allowed-not-ready-nodes=0 \
  --report-dir="$work" >"$report" 2>&1 || status=$?
sed -n '/^Summarizing/,$p' "$report" | grep -E '^\s+\[FAIL\]|^Ran |^FAIL|^SUCCESS|^PASS' | sort -u || true
exit $status
