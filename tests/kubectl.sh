#!/usr/bin/env bash
# Prints the path of a kubectl: the one on PATH, or one built from Kubernetes' Go modules into the cache.
set -euo pipefail
cache=${SKEIN_CACHE:-/var/cache/skein}
if command -v kubectl; then exit 0; fi
if [ -x "$cache/kubectl" ]; then echo "$cache/kubectl"; exit 0; fi
command -v go >/dev/null || { echo "kubectl is missing, and Go (1.26) to build it is missing too: install one of them" >&2; exit 1; }
echo "building kubectl from its Go modules, once: some minutes" >&2
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
cd "$work"
cat >main.go <<'GO'
package main

import (
	"k8s.io/component-base/cli"
	"k8s.io/kubectl/pkg/cmd"
	"k8s.io/kubectl/pkg/cmd/util"
)

func main() {
	if err := cli.RunNoErrOutput(cmd.NewDefaultKubectlCommand()); err != nil {
		util.CheckErr(err)
	}
}
GO
printf 'module kubectl\n\ngo 1.26.0\n' >go.mod
go get k8s.io/kubectl@v0.37.2 k8s.io/component-base@v0.37.2 >&2
go mod tidy >&2
mkdir -p "$cache"
go build -o "$cache/kubectl" . >&2
echo "$cache/kubectl"
