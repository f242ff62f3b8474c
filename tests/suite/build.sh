#!/usr/bin/env bash
# Makes Kubernetes' own end-to-end tests and what they start in containers, once, from its Go module: about 25 minutes on
# 2 cores. Prints the folder.
set -euo pipefail
version=1.37.2
cache=${SKEIN_CACHE:-/var/cache/skein}
folder=$cache/suite-$version
[ -e "$folder/done" ] && { echo "$folder"; exit 0; }
command -v go >/dev/null || { echo "Go (1.26) is missing, which Kubernetes' tests are built with" >&2; exit 1; }
echo "building Kubernetes' tests from their Go module, once: about 25 minutes on 2 cores" >&2
mkdir -p "$folder"
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
cd "$work"
sources=$(go mod download -json "k8s.io/kubernetes@v$version" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')
# The module names its parts by folders beside it; they are published under versions of their own.
{
  printf 'module suite\n\ngo 1.26.0\n\nrequire k8s.io/kubernetes v%s\n' "$version"
  sed -nE "s,^\s*(k8s\.io/[a-z-]+) => \./staging.*,replace \1 => \1 v0.${version#1.},p" "$sources/go.mod"
} >go.mod
printf 'package suite\n\nimport (\n\t_ "k8s.io/kubernetes/test/e2e"\n\t_ "k8s.io/kubernetes/test/images/agnhost/netexec"\n)\n' >suite.go
go mod tidy -e >/dev/null 2>&1
build() { CGO_ENABLED=0 go build -mod=mod -ldflags "-s -w" -o "$folder/$1" "$2" >&2; }
build agnhost k8s.io/kubernetes/test/images/agnhost
build nnp k8s.io/kubernetes/test/images/nonewprivs
build regression k8s.io/kubernetes/test/images/regression-issue-74839
build ginkgo github.com/onsi/ginkgo/v2/ginkgo
# Some tests go by the version that they were built as.
stamp=k8s.io/component-base/version
go test -mod=mod -c -ldflags "-X $stamp.gitVersion=v$version -X $stamp.gitMajor=1 -X $stamp.gitMinor=${version:2:2}" \
  -o "$folder/e2e.test" k8s.io/kubernetes/test/e2e >&2
ln -sfn "$sources/test/images" "$folder/sources"
touch "$folder/done"
echo "$folder"
