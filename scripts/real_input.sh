#!/usr/bin/env bash
# The whole path on real conversations, with the tiny base, whose words are not theirs: that it runs
# is the point, not what comes out. Some five minutes on two cores.
#   scripts/real_input.sh DIALOGSUM_FILE_OR_FOLDER >results/real-input.txt
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export OMP_WAIT_POLICY=passive HF_HUB_OFFLINE=1
data=${1:?name a DialogSum file or folder}
onepass=.venv/bin/onepass
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

run() {
  echo "\$ onepass ${*//$work\//}"
  "$onepass" "$@"
  echo
}

run train summarize --corpus "dialogsum:$data" --rank 16 --steps 300 --learning-rate 3e-3 \
  --validation 40 --test 50 --out "$work/adapter" 2>&1
run data export summarize --corpus "dialogsum:$data" --split test --limit 50 --out "$work/test.jsonl" 2>&1
run calibrate summarize+translate:es --adapters "$work/adapter" src/onepass/assets/adapters/translate-es \
  --examples 500 --steps 60 --out "$work/composed" 2>&1
run generate "$work/composed" --input "$work/test.jsonl" --out "$work/predictions.jsonl" 2>&1
run score "$work/predictions.jsonl" --task summarize --corpus "$work/test.jsonl" --split all 2>&1
