#!/usr/bin/env bash
# Drives a cluster with Helm: `client.sh HELM KUBECONFIG CONTEXT IMAGE`. Prints what it has seen to hold, and ends with
# another code than 0 at the first thing that does not.
set -euo pipefail
helm=$1 image=$4
export KUBECONFIG=$2 HELM_KUBECONTEXT=$3
major=$("$helm" version --template '{{.Version}}' | cut -c2)
export HELM_NAMESPACE=helm-$major-client
chart=$(cd "$(dirname "$0")" && pwd)/chart
HOME=$(mktemp -d)
export HOME
trap 'rm -rf "$HOME"' EXIT

fail() { echo "$*" >&2; exit 1; }
# expect WHAT FOUND WANTED
expect() { [ "$2" = "$3" ] || fail "$1: $2 instead of $3"; echo "ok: $1"; }
release() { "$helm" "$@" --set "image=$image" --wait --timeout 60s >/dev/null; }
status() { "$helm" status shop | sed -n "s/^$1: //p"; }
password() { "$helm" get manifest shop | sed -n 's/^  password: //p'; }
# What an upgrade undoes when it fails was renamed by Helm 4.
undo=$([ "$major" = 3 ] && echo --atomic || echo --rollback-on-failure)

release install shop "$chart" --create-namespace
expect "a chart is installed, its hook run, its definition there first" "$(status STATUS)" deployed
first=$(password)

"$helm" test shop --timeout 60s >/dev/null && echo "ok: the chart's own test passes"

release upgrade shop "$chart" --set page=second --set replicas=2
expect "an upgrade is a revision" "$(status REVISION)" 2
expect "what an upgrade looks up is what the cluster has" "$(password)" "$first"
"$helm" test shop --timeout 60s >/dev/null && echo "ok: the upgraded one passes, too"

"$helm" upgrade shop "$chart" --set "image=$image" --set ready=false --wait --timeout 3s "$undo" >/dev/null 2>&1 &&
  fail "an upgrade that never gets ready is said to be good"
expect "an upgrade that fails is undone" "$(status STATUS)" deployed
expect "what is there then is what was there before" "$("$helm" get values shop | grep -c -e '^page: second' -e '^ready:')" 1

"$helm" upgrade shop "$chart" --set "image=$image" --set replicas=-1 >"$HOME/said" 2>&1 && fail "-1 replicas are accepted"
grep -q 'must be greater than or equal to 0' "$HOME/said" || fail "a bad value is explained as: $(cat "$HOME/said")"
echo "ok: a bad value is refused in Kubernetes' words"

"$helm" rollback shop 1 --wait --timeout 60s >/dev/null
expect "a rollback is a revision, too" "$("$helm" history shop | grep -c 'Rollback to 1')" 1
"$helm" test shop --timeout 60s >/dev/null && echo "ok: the first page is back"

"$helm" uninstall shop --wait --timeout 60s >/dev/null
expect "nothing is left" "$("$helm" list --short)" ""
