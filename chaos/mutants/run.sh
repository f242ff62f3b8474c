#!/usr/bin/env bash
# Breaks the code with each patch, in a worktree of its own, and runs seeds until an invariant notices.
# A mutant that lives, or is caught by another invariant than the patch names, is a failure.
# It has a target folder of its own: cargo would take artifacts of one checkout for those of another.
set -euo pipefail
cd "$(dirname "$0")/../.."
patches=$PWD/chaos/mutants
target=${CARGO_TARGET_DIR:-$PWD/target}
work=$(mktemp -d)
trap 'git worktree remove --force "$work/tree" >/dev/null 2>&1 || true; rm -rf "$work"' EXIT
git worktree add --quiet --detach "$work/tree" HEAD
failed=0
for patch in "$patches"/${1:-*}.patch; do
    name=$(basename "$patch" .patch)
    expected=$(sed -n 's/^caught-by: //p' "$patch")
    git -C "$work/tree" checkout --quiet .
    git -C "$work/tree" apply "$patch"
    (cd "$work/tree" && CARGO_TARGET_DIR=$target/mutants cargo build --quiet --locked --workspace --bin skein-sim) || { echo "$name: does not build"; exit 1; }
    caught=$("$target/mutants/debug/skein-sim" --from 1 --seeds "${SEEDS:-300}" 2>/dev/null | grep -m1 '^seed' || true)
    if [[ -z $caught ]]; then echo "$name: LIVES"; failed=1
    elif [[ $caught =~ ($expected) ]]; then echo "$name: caught, $caught"
    else echo "$name: caught by another than ($expected): $caught"; failed=1
    fi
done
exit $failed
