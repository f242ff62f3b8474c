#!/usr/bin/env bash
# All faults and a load on the laboratory, minute after minute, each round with another seed: what was tried, and what
# was lost. Usage: chaos/soak.sh SKEIN MINUTES [SEED]
set -euo pipefail
skein=$1 minutes=$2 seed=${3:-$(date +%s)}
experiment=$(dirname "$0")/soak.yaml
trap '"$skein" lab down' EXIT
"$skein" lab down
"$skein" lab up --nodes 5 --disk-mib 1024
end=$(($(date +%s) + minutes * 60)) rounds=0 lost=0
while [ "$(date +%s)" -lt "$end" ]; do
  echo "round $((rounds + 1)), seed $seed"
  "$skein" chaos run "$experiment" --seed "$seed" || lost=$((lost + 1))
  rounds=$((rounds + 1)) seed=$((seed + 1))
done
echo "$rounds rounds, $lost of them failed"
[ "$lost" = 0 ]
