#!/usr/bin/env bash
# Real conversations end to end on the three families of the paper: tiny random models with their
# real configurations, compositional sets labelled by our own multi-step pipeline, then one recipe in
# which nothing but the model's path changes. The models know nothing, so the figures are low; that
# the whole way is gone, its time and its memory are the point. Some minutes on two cores.
#   scripts/real_models.sh DIALOGSUM PERSONA_CHAT OUT >results/real-models.txt
# DIALOGSUM and PERSONA_CHAT are a file of the two sets each, which is split, or a folder with all
# three splits; OUT is a folder for all that is
# made. BIN names the folder of python and onepass where it is not .venv/bin.
set -Eeuo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
dialogsum=$(realpath "${1:?name a DialogSum file or folder}")
persona_chat=$(realpath "${2:?name a Synthetic-Persona-Chat file or folder}")
mkdir -p "${3:?name a folder to write}"
out=$(realpath "$3")
bin=${BIN:-.venv/bin}
: >"$out/log.txt"
trap 'tail -n 5 "$out/log.txt" >&2' ERR

onepass() {
  local shown=$*
  shown=${shown//$out/OUT}
  shown=${shown//$dialogsum/DIALOGSUM}
  printf '$ onepass %s\n' "${shown//$persona_chat/PERSONA_CHAT}" | tee -a "$out/log.txt"
  "$bin/onepass" "$@" 2>>"$out/log.txt"
}

data=(dialogsum:"$dialogsum" persona-chat:"$persona_chat")
tasks=(summarize+translate:es summarize+tone:casual reply+translate:es reply+tone:casual)
onepass data prepare --out "$out/sets" --corpus "${data[@]}" --tasks "${tasks[@]}" --limit 80 \
  --translate-with multi-step --tone-with multi-step --max-new-tokens 64
echo

text=$out/text.txt
"$bin/onepass" data export summarize --corpus "${data[0]}" --limit 200 >"$text" 2>>"$out/log.txt"
"$bin/python" tests/architectures.py "$out/models" "$text" >/dev/null 2>>"$out/log.txt"

for model in llama-3.2 qwen2.5 stablelm-2; do
  began=$SECONDS
  onepass bench recipes/real-models.yaml --workers 2 --out "$out/$model" \
    --set base="$out/models/$model" --set corpus="$out/sets" \
    --set train.corpus.summarize="${data[0]}" --set train.corpus.reply="${data[1]}"
  printf '%s: done in %d s, on two workers\n\n' "$model" $((SECONDS - began))
  onepass report "$out/$model" --format markdown | awk '/^## / {n++} n == 1'
  onepass cost "$out/$model" | cut -f 1,2,3,6-11 | tr '\t' ';' | sed 's/;/; /g'
  echo
done
