#!/usr/bin/env bash
# The main job on pretrained bases and real text: task adapters, every method, tables, outputs side by
# side. Hours on two cores; stopped, it goes on where it was. Bases are fetched into build/real;
# results go to results/real. The data are read from ../shared/data, see docs/real.md for what they
# are and where to get them.
#   scripts/real.sh [BASE ...]      # smollm2, gemma; by default both
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
data=../shared/data
bin=${BIN:-.venv/bin}
if [[ ! -d $data/dialogsumx_fr ]]; then
  echo "there is no $data/dialogsumx_fr; docs/real.md says which data belong there" >&2
  exit 1
fi
bases=("$@")
((${#bases[@]})) || bases=(smollm2 gemma)
"$bin/python" scripts/weights.py build/real "${bases[@]}"
for base in "${bases[@]}"; do
  for recipe in adapters french-summaries one-reading french-curves register-adapters register; do
    name=$base-$recipe
    [[ -f recipes/real/$name.yaml ]] || continue
    "$bin/onepass" bench "recipes/real/$name.yaml" --out "results/real/$name" --workers 2
    "$bin/onepass" report "results/real/$name" --out "results/real/$name" >/dev/null
    echo "results/real/$name/report.md"
  done
done
