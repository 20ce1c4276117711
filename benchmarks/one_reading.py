"""Time and memory of a calibration that reads each text once, against the ordinary one.

    python benchmarks/one_reading.py                  a random base of Gemma 3 270M's shapes
    python benchmarks/one_reading.py --base PATH      a real one: a folder or a GGUF file
    python benchmarks/one_reading.py --quick          a narrow random base, under a minute
    python benchmarks/one_reading.py --json FILE      also write the figures

Each trains LC++ of rank 4 on a merge of two adapters of rank 16, for `--epochs` over the same
random texts, as long as DialogSum's conversations with their summaries, in batches of 8. Ordinary
adapters run every token through the model at every step, forward and back. Activated ones leave the
texts to the bare base: in the first epoch each is read, without a gradient; afterwards only the
invocation and the target are run. Every figure is of a process of its own: seconds of the clock for
a step (medians) and for the whole training, and the peak of its memory that is not a page of the
base's file.
"""

import argparse
import multiprocessing
import statistics
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from figures import write_figures
from loss import BATCH, CALIBRATION, Watched, random_base, random_pass, random_rows

TAIL = 12  # tokens that an instruction takes


def measure(kind: str, options: argparse.Namespace) -> dict[str, Any]:
    import torch

    from onepass.core.memory import forget_peak_memory
    from onepass.model.load import load_base
    from onepass.model.training import calibration
    from onepass.model.training.options import TrainOptions
    from onepass.tasks.example import Example

    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    base = load_base(options.base, "cpu") if options.base else random_base(options.quick)
    activated = kind == "activated"
    rows = random_rows(base, options.batches * BATCH, TAIL if activated else None)
    calibration.encode_examples = lambda *given: rows if given[2] else []
    pass_ = random_pass(base, activated)
    marks: list[float] = []

    def on_step(step: int, loss: float) -> None:
        marks.append(time.perf_counter())

    forget_peak_memory()
    with Watched() as watched:
        marks.append(time.perf_counter())
        calibration.train_calibration(
            base, [pass_], [[Example("random", "", ("",))]], rank=CALIBRATION, progress=False,
            options=TrainOptions(batch_size=BATCH, max_steps=options.epochs * options.batches),
            on_step=on_step,
        )  # fmt: skip
    steps = [later - earlier for earlier, later in pairwise(marks)]
    first, later = steps[1 : options.batches], steps[options.batches :]
    return {
        "first_epoch_step": statistics.median(first),
        "later_step": statistics.median(later),
        "training": marks[-1] - marks[0],
        "own_peak_mib": watched.peak / 2**20,
        "tokens_read": base.readings.tokens_read,
        "tokens": options.epochs * sum(map(len, rows)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a narrow random base")
    parser.add_argument("--base", help="a folder or a GGUF file")
    parser.add_argument("--batches", type=int, default=4, help="of 8 texts, in an epoch")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the figures into this file")
    options = parser.parse_args()
    spawn = multiprocessing.get_context("spawn")
    rows: dict[str, Any] = {}
    print(f"{'':<10}{'s/step, first':>14}{'s/step, later':>14}{'training, s':>12}{'own MiB':>9}")
    for kind in ("ordinary", "activated"):
        with spawn.Pool(1) as pool:
            row = rows[kind] = pool.apply(measure, (kind, options))
        print(
            f"{kind:<10}{row['first_epoch_step']:>14.2f}{row['later_step']:>14.2f}"
            f"{row['training']:>12.1f}{row['own_peak_mib']:>9.0f}",
            flush=True,
        )
    one, other = rows["activated"], rows["ordinary"]
    ratios = {name: one[name] / other[name] for name in one if name not in ("tokens_read",)}
    print(
        f"of the ordinary one: a step {ratios['first_epoch_step']:.2f}, then "
        f"{ratios['later_step']:.2f}; the training {ratios['training']:.2f}; memory "
        f"{ratios['own_peak_mib']:.2f}"
    )
    if options.json:
        setting = {
            "threads": options.threads, "epochs": options.epochs, "quick": options.quick,
            "base": Path(options.base).name if options.base else "random",
            "texts": options.batches * BATCH, "batch": BATCH,
        }  # fmt: skip
        packages = ("torch", "transformers")
        write_figures(options.json, setting, packages, rows=rows, ratios=ratios)


if __name__ == "__main__":
    main()
