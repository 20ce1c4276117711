"""What rounding the base costs on smalltown, and how much of it a calibration can make up for.

    python benchmarks/quantized.py                  all fourteen tasks, about half an hour
    python benchmarks/quantized.py --quick          one task, few conversations, under a minute
    python benchmarks/quantized.py --json FILE      also write the figures

LC++ is trained twice for each task, on the base as it is and on the base rounded to Q4_0, and run
on held-out conversations: by PyTorch, and by llama.cpp with the base in F16, Q8_0 and Q4_0, the
adapters beside it in 16 or 8 bits, or merged into it before it is rounded. What counts is the share
of outputs that the verifier finds right.
"""

import argparse
import json
import multiprocessing
import tempfile
from collections.abc import Callable, Sequence
from datetime import date
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

TRAINED_ON = ("none", "q4_0")
# Where it runs, the base's type there, what the calibration was trained on, and the adapters' type.
SETTINGS = (
    ("PyTorch", "f32", "none", "f32"),
    ("llama.cpp", "f16", "none", "f16"),
    ("llama.cpp", "q8_0", "none", "q8_0"),
    ("llama.cpp", "q4_0", "none", "f16"),
    ("llama.cpp", "q4_0", "none", "q8_0"),
    ("llama.cpp", "q4_0", "q4_0", "f16"),
    ("llama.cpp", "q4_0", "q4_0", "q8_0"),
    ("llama.cpp", "q4_0", "none", "merged"),
    ("llama.cpp", "q4_0", "q4_0", "merged"),
)
WHOLE, LOST, REGAINED = SETTINGS[1], SETTINGS[4], SETTINGS[6]
MAX_NEW_TOKENS = 96
Right = dict[str, list[float]]
"""For each setting a 1 or 0 per conversation."""


def measure(name: str, steps: int, examples: int, conversations: int) -> Right:
    """One task: train, run everywhere, verify. In a process of its own, on one thread."""
    import torch

    from onepass.adapters.adapter import load_adapter
    from onepass.evaluate.score import score
    from onepass.export import export_gguf
    from onepass.methods import METHODS, Setting
    from onepass.model.assets import embedded_adapter
    from onepass.model.generate import run
    from onepass.model.load import load_base
    from onepass.serve import Engine
    from onepass.tasks.book import parse_task
    from onepass.tasks.corpus import load_corpus

    torch.set_num_threads(1)
    task, corpus = parse_task(name), load_corpus("smalltown")
    train, validation = (
        corpus.examples(task, split, count)
        for split, count in (("train", examples), ("validation", 200))
    )
    tests = corpus.examples(task, "test", conversations)
    texts = [example.input for example in tests]
    parts = {part: load_adapter(embedded_adapter(part)) for part in task.parts}
    bases = {rounding: load_base("tiny", "cpu", quantization=rounding) for rounding in TRAINED_ON}
    options = {"max_steps": steps, "batch_size": 16, "eval_every": 100}
    made = {
        rounding: METHODS.get("lc++").build(Setting(base, task, parts, train, validation, options))
        for rounding, base in bases.items()
    }

    def verified(outputs: Sequence[str]) -> list[float]:
        found = score(outputs, tests, task, ["verified"])["verified"]
        return [value for value in found if value is not None]

    def on_engine(base_type: str, rounding: str, adapters: str, folder: str) -> list[str]:
        export_gguf(
            {"it": made[rounding]}, bases["none"], Path(folder, "set"), base_type,
            None if adapters == "merged" else adapters, merged=adapters == "merged",
        )  # fmt: skip
        with Engine(Path(folder, "set"), threads=1, slots=1) as engine:
            ask: Callable[[str], Any] = partial(engine.run, "it", max_new_tokens=MAX_NEW_TOKENS)
            return [ask(text).text for text in texts]

    right: Right = {}
    for setting in SETTINGS:
        engine, base_type, rounding, adapters = setting
        if engine == "PyTorch":
            outputs = run(bases["none"], made[rounding], texts, MAX_NEW_TOKENS).texts
        else:
            with tempfile.TemporaryDirectory() as folder:
                outputs = on_engine(base_type, rounding, adapters, folder)
        right[" ".join(setting)] = verified(outputs)
    return right


def main() -> None:
    from onepass.core.files import write_text
    from onepass.tasks.benchmark import COMPOSITIONAL_TASKS

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one task, few steps")
    parser.add_argument("--workers", type=int, default=2, help="tasks side by side")
    parser.add_argument("--json", type=Path, help="write the figures into this file")
    options = parser.parse_args()
    size = (20, 200, 10) if options.quick else (300, 4000, 200)
    tasks = COMPOSITIONAL_TASKS[:1] if options.quick else COMPOSITIONAL_TASKS
    found: dict[str, Right] = {}
    with multiprocessing.get_context("spawn").Pool(options.workers, maxtasksperchild=1) as pool:
        jobs = {task: pool.apply_async(measure, (task, *size)) for task in tasks}
        for task, job in jobs.items():
            found[task] = job.get()
            print(task, *(f"{100 * fmean(v):.1f}" for v in found[task].values()), flush=True)
    means = {
        name: 100 * fmean(fmean(right[name]) for right in found.values())
        for name in (" ".join(setting) for setting in SETTINGS)
    }
    print(f"\n{'runs on':<12}{'base':<8}{'adapters':<10}{'calibrated on':<20}{'right, %':>9}")
    for setting in SETTINGS:
        engine, base_type, rounding, adapters = setting
        trained = "the base as it is" if rounding == "none" else f"the base in {rounding}"
        print(
            f"{engine:<12}{base_type:<8}{adapters:<10}{trained:<20}{means[' '.join(setting)]:>9.2f}"
        )
    whole, lost, regained = (means[" ".join(setting)] for setting in (WHOLE, LOST, REGAINED))
    if whole > lost:
        share = 100 * (regained - lost) / (whole - lost)
        print(f"of the {whole - lost:.2f} points that Q4_0 costs, {share:.0f} % come back")
    if options.json:
        steps, examples, conversations = size
        setting = {
            "date": date.today().isoformat(), "steps": steps, "examples": examples,
            "conversations": conversations, "quick": options.quick,
        }  # fmt: skip
        tasks_right = {t: {k: 100 * fmean(v) for k, v in r.items()} for t, r in found.items()}
        text = json.dumps({"setting": setting, "means": means, "tasks": tasks_right}, indent=1)
        write_text(options.json, text + "\n")


if __name__ == "__main__":
    main()
