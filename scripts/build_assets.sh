#!/usr/bin/env bash
# Makes src/onepass/assets anew: the tiny base, then its nine task adapters, two at a time.
# About an hour on two cores. It reproduces the quality, not the bits.
#   scripts/build_assets.sh            everything
#   scripts/build_assets.sh adapters   the adapters of the base that is there
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive HF_HUB_OFFLINE=1

assets=src/onepass/assets
onepass=.venv/bin/onepass
log=results/assets
mkdir -p "$assets/adapters" "$log"

if [[ ${1:-all} == all ]]; then
  "$onepass" pretrain --out build/pretrain
  rm -rf "$assets/tiny"
  cp -r build/pretrain/final "$assets/tiny"
  cp build/pretrain/log.jsonl "$log/pretrain.jsonl"
  cp build/pretrain/options.json "$log/pretrain-options.json"
fi

tasks=(summarize reply translate:es translate:fr translate:de
  tone:professional tone:casual tone:witty tone:paraphrase)

train() {
  local folder=${1/:/-}
  "$onepass" train "$1" --rank 16 --examples 8000 --validation 200 --steps 500 --batch-size 32 \
    --learning-rate 3e-3 --eval-every 100 --test 400 --save-as bfloat16 \
    --out "$assets/adapters/$folder" >"$log/$folder.txt" 2>&1
  tail -n 3 "$log/$folder.txt"
}
export -f train
export assets onepass log
printf '%s\n' "${tasks[@]}" | xargs -P 2 -I {} bash -c 'train "$1"' _ {}
