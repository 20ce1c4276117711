"""Real conversations on llama.cpp, with a set's base the GGUF file that its user has anyway.

    python benchmarks/real_device.py                   both bases of `make real`, about an hour
    python benchmarks/real_device.py --quick           two conversations and short answers
    python benchmarks/real_device.py --recipe FILE --runs FOLDER    others
    python benchmarks/real_device.py --json FILE       also write the figures

For each recipe, of whose LC++ `onepass bench` kept the composition in FOLDER/NAME: it is packed for
the recipe's own base, which the set refers to as it is, and run on the recipe's test conversations,
one by one and each anew: the main task's adapter alone, in several steps, and composed, as parts at
their scales and fused into one adapter. The scores are those of llama.cpp's outputs, beside those
of the outputs that PyTorch gave for the same conversations when the recipe was run.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from device import write_figures
from kept import Kept, differences, kept, means

from onepass.api.exporting import write_set
from onepass.core.errors import OnepassError
from onepass.export.manifest import Manifest
from onepass.model.load import load_base
from onepass.serve import Answer, Engine

RECIPES = [Path("recipes/real") / f"{name}-french-summaries.yaml" for name in ("gemma", "smollm2")]
METHOD = "lc++"
NAME = "composed"
# Each form: the engine's mode, whether the composition is fused, and the method it is in a recipe.
FORMS = {
    "main adapter": ("main", False, "main-adapter"),
    "multi-step": ("multi-step", False, "multi-step"),
    "parts": ("composed", False, METHOD),
    "fused": ("composed", True, METHOD),
}
Row = dict[str, Any]


def measure(made: Kept, folder: Path, threads: int, longest: int) -> Row:
    """Every form on the conversations."""
    manifest = pack(made, folder)
    forms = {}
    for form, (mode, fused, method) in FORMS.items():
        options = {"threads": threads, "slots": 1, "cache": False, "check": False}
        with Engine(folder, fused=[NAME] if fused else [], **options) as engine:
            answers = [engine.run(NAME, text, mode, longest) for text in made.texts]
            forms[form] = {
                **costs(answers), "peak_bytes": engine.peak_memory(),
                **quality(made, method, [answer.text for answer in answers]),
            }  # fmt: skip
    sizes = {adapter.role: adapter.bytes for adapter in manifest.adapters}
    return {
        "recipe": made.recipe.name,
        "base": manifest.base.name,
        "conversations": len(made.examples),
        "longest": longest,
        "forms": forms,
        "base_bytes": manifest.base.bytes,
        "bytes_added": {
            METHOD: manifest.composition(NAME).marginal_bytes,
            "joint-expert": sizes["task"],  # it is as large as a task's adapter
        },
    }


def pack(made: Kept, folder: Path) -> Manifest:
    """A set of the kept composition that refers to the recipe's base."""
    base = load_base(made.recipe.base, "cpu", "float32")
    written = write_set(
        {NAME: made.composition(METHOD)}, base, folder, fused=False, linked=True, compactly=True
    )
    assert written.manifest is not None
    return written.manifest


def costs(answers: Sequence[Answer]) -> Row:
    """Means over conversations; speeds over all of their tokens."""
    read = [answer.prompt_tokens - answer.cached_tokens for answer in answers]
    written = [answer.tokens for answer in answers]
    return {
        "seconds": fmean(answer.seconds for answer in answers),
        "read": fmean(read),
        "written": fmean(written),
        "read_per_second": sum(read) / sum(answer.read_seconds for answer in answers),
        "written_per_second": sum(written) / sum(answer.write_seconds for answer in answers),
    }


def quality(made: Kept, method: str, outputs: Sequence[str]) -> Row:
    """The scores of outputs and of those of PyTorch, and in how many the two are the same."""
    theirs = made.predictions(method)
    ours, others = made.scores(outputs), made.scores(theirs)
    same = fmean(100.0 * (a == b) for a, b in zip(outputs, theirs, strict=True))
    return {
        "scores": means(ours), "pytorch": means(others), "difference": differences(ours, others),
        "same": same,
    }  # fmt: skip


def show(row: Row) -> None:
    print(f"\n{row['recipe']}: {row['base']}, {row['conversations']} conversations, ", end="")
    print(f"at most {row['longest']} tokens a step; in brackets PyTorch's scores")
    metrics = list(row["forms"]["parts"]["scores"])
    print(f"{'form':<14}{'read':>6}{'written':>9}{'seconds':>9}{'faster':>8}", end="")
    print(f"{'read/s':>8}{'written/s':>11}{'peak, MiB':>11}", end="")
    print("".join(f"{metric:>16}" for metric in metrics) + f"{'same, %':>9}")
    for form, done in row["forms"].items():
        faster = row["forms"]["multi-step"]["seconds"] / done["seconds"]
        print(f"{form:<14}{done['read']:>6.0f}{done['written']:>9.0f}", end="")
        print(f"{done['seconds']:>9.3f}{faster:>7.2f}x{done['read_per_second']:>8.0f}", end="")
        peak = f"{done['peak_bytes'] / 2**20:.0f}" if done["peak_bytes"] else "?"
        print(f"{done['written_per_second']:>11.1f}{peak:>11}", end="")
        for metric in metrics:
            print(f"{done['scores'][metric]:>8.1f} ({done['pytorch'][metric]:5.1f})", end="")
        print(f"{done['same']:>9.0f}")
    added = row["bytes_added"]
    share = 100 * added[METHOD] / added["joint-expert"]
    print(
        f"base: {row['base_bytes'] / 2**20:.1f} MiB, the user's own; one more combination: ", end=""
    )
    print(f"{added[METHOD]:,} bytes ({share:.1f} % of an adapter's {added['joint-expert']:,})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="two conversations, short answers")
    parser.add_argument("--count", type=int, help="of conversations, the first; default: all")
    parser.add_argument("--recipe", type=Path, nargs="+", default=RECIPES)
    parser.add_argument(
        "--runs", type=Path, default=Path("results/real"), help="has a folder for each recipe"
    )
    parser.add_argument("--threads", type=int, default=1, help="of the engine")
    parser.add_argument("--json", type=Path, help="write the figures into this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[Row] = []
    for recipe in options.recipe:
        try:
            made = kept(recipe, options.runs, 2 if options.quick else options.count)
            longest = 16 if options.quick else made.recipe.max_new_tokens
            with tempfile.TemporaryDirectory() as folder:
                rows.append(measure(made, Path(folder, "set"), options.threads, longest))
        except OnepassError as error:
            parser.error(str(error))
        show(rows[-1])
    if options.json:
        write_figures(options.json, rows, options.threads, options.quick)


if __name__ == "__main__":
    main()
