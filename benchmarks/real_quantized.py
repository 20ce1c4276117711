"""What rounding a pretrained base to 4 bits costs, and what calibrating on the rounded one regains.

    python benchmarks/real_quantized.py               SmolLM2 135M, about a quarter of an hour
    python benchmarks/real_quantized.py --quick       two conversations and short answers
    python benchmarks/real_quantized.py --recipe FILE --rounded FILE --runs FOLDER    others
    python benchmarks/real_quantized.py --json FILE   also write the figures

Two recipes that differ in their `quantization` alone, both of which `onepass bench` has run with
`keep: true` in FOLDER/NAME. Here the composition of the first, LC++ calibrated on the base as it
is, is run on the rounded base too, by PyTorch; and both compositions by llama.cpp, from one set
with its base in the rounded type. The other scores are those of the recipes' own outputs.
"""

import argparse
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from device import write_figures
from kept import Kept, Scores, differences, kept, means
from real_device import METHOD

from onepass.api.exporting import write_set
from onepass.core.errors import OnepassError
from onepass.model.generate import run
from onepass.model.load import load_base
from onepass.serve import Engine

RECIPES = [
    Path("recipes/real/smollm2-french-summaries.yaml"), Path("recipes/real/smollm2-quantized.yaml"),
]  # fmt: skip
PLAIN = ("linear", "multi-step")
"""Methods that learn nothing from the base, so that all they lose is the rounding's."""
Setting = tuple[str, str, str, str]
"""Method, what it runs on, whether the base is rounded there, and where it was calibrated."""
AS_IS, ROUNDED = "as it is", "rounded"
WHOLE = (METHOD, "PyTorch", AS_IS, AS_IS)
LOST, REGAINED = (METHOD, "PyTorch", ROUNDED, AS_IS), (METHOD, "PyTorch", ROUNDED, ROUNDED)
ON_DEVICE = {AS_IS: (METHOD, "llama.cpp", ROUNDED, AS_IS),
             ROUNDED: (METHOD, "llama.cpp", ROUNDED, ROUNDED)}  # fmt: skip
PAIRS = {
    "rounding costs": (LOST, WHOLE),
    "calibrating on it regains": (REGAINED, LOST),
    "and on llama.cpp": (ON_DEVICE[ROUNDED], ON_DEVICE[AS_IS]),
}


def measure(made: Kept, rounded: Kept, longest: int, threads: int) -> dict[Setting, Scores]:
    """The scores of the conversations in every setting."""
    outputs = {}
    for each, where in ((made, AS_IS), (rounded, ROUNDED)):
        for method in (*PLAIN, METHOD):
            learned = where if method == METHOD else "-"
            outputs[method, "PyTorch", where, learned] = each.predictions(method)
    compositions = {AS_IS: made.composition(METHOD), ROUNDED: rounded.composition(METHOD)}
    recipe = rounded.recipe
    base = load_base(recipe.base, "cpu", recipe.dtype, recipe.quantization)
    found = run(base, compositions[AS_IS], made.texts, longest, recipe.batch_size)
    outputs[LOST] = found.texts
    del base
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder, "set")
        base = load_base(recipe.base, "cpu", "float32")
        write_set(compositions, base, place, recipe.quantization, fused=False, compactly=True)
        del base
        with Engine(place, threads=threads, slots=1, cache=False) as engine:
            for where, setting in ON_DEVICE.items():
                answers = [engine.run(where, t, max_new_tokens=longest) for t in made.texts]
                outputs[setting] = [answer.text for answer in answers]
    return {setting: made.scores(texts) for setting, texts in outputs.items()}


def show(found: Mapping[Setting, Scores], kind: str) -> None:
    metrics = list(found[WHOLE])
    head = f"{'method':<12}{'runs on':<12}{'base':<10}{'calibrated on':<15}"
    print("\n" + head + "".join(f"{metric:>10}" for metric in metrics))
    for (method, engine, base, learned), scores in found.items():
        names = [kind if each == ROUNDED else each for each in (base, learned)]
        print(f"{method:<12}{engine:<12}{names[0]:<10}{names[1]:<15}", end="")
        print("".join(f"{value:>10.2f}" for value in means(scores).values()))
    for title, (one, other) in PAIRS.items():
        for metric, (middle, low, high) in differences(found[one], found[other]).items():
            print(f"{title}: {metric} {middle:+.2f} ({low:+.2f} to {high:+.2f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="two conversations, short answers")
    parser.add_argument("--recipe", type=Path, default=RECIPES[0], help="with the base as it is")
    parser.add_argument("--rounded", type=Path, default=RECIPES[1], help="with a `quantization`")
    parser.add_argument(
        "--runs", type=Path, default=Path("results/real"), help="has a folder for each recipe"
    )
    parser.add_argument("--threads", type=int, default=1, help="of the engine")
    parser.add_argument("--json", type=Path, help="write the figures into this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    count = 2 if options.quick else None
    try:
        made, rounded = (
            kept(each, options.runs, count) for each in (options.recipe, options.rounded)
        )
        if made.texts != rounded.texts:
            raise OnepassError("the two recipes were tested on different conversations")
        longest = 16 if options.quick else made.recipe.max_new_tokens
        found = measure(made, rounded, longest, options.threads)
    except OnepassError as error:
        parser.error(str(error))
    kind = rounded.recipe.quantization
    show(found, kind)
    if options.json:
        rows: list[dict[str, Any]] = [
            {
                "type": kind,
                "conversations": len(made.examples),
                "longest": longest,
                "means": {", ".join(setting): means(scores) for setting, scores in found.items()},
                "differences": {
                    title: differences(found[one], found[other])
                    for title, (one, other) in PAIRS.items()
                },
            }
        ]
        write_figures(options.json, rows, options.threads, options.quick)


if __name__ == "__main__":
    main()
