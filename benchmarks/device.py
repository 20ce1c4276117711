"""What a composition costs on llama.cpp, against doing the same task in several steps.

    python benchmarks/device.py                 smalltown on the embedded base, then a 1B shape
    python benchmarks/device.py --quick         smalltown alone, few conversations, half a minute
    python benchmarks/device.py --base FILE.gguf ...    your own files, as they are
    python benchmarks/device.py --json FILE     also write the figures

Every figure is made in this run, on a base in 4 bits and adapters in 8, as `onepass pack` writes
them. A composition is run in three forms: parts at their scales, fused into one adapter as the set
is loaded, and merged into the base. A conversation is read for the first time ("new"), or has got
one message more since it was answered ("goes on": each form finds in its cache what it read then).

On smalltown LC++ is trained for a moment (what is measured does not depend on how well) and seconds
are the median over held-out conversations, tokenising and all. The 1B shape is Llama-3.2-1B's with
random numbers, adapters of rank 32, and a calibration of rank 4, and seconds are the least of three
conversations; its file, 0.7 GB, is written to a temporary folder that is removed. Files of one's
own get random adapters of the same ranks, and are measured in the same way.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from one_billion import NAME, RANKS, TASK, write_one_billion

from onepass.adapters.adapter import Adapter, Lora, load_adapter
from onepass.adapters.calibration import Calibration
from onepass.adapters.composition import Composition, Pass, Weighted
from onepass.comparison.environment import environment
from onepass.core.files import write_text
from onepass.export import export_gguf
from onepass.export.manifest import Manifest
from onepass.methods import METHODS, Setting
from onepass.model.assets import embedded_adapter
from onepass.model.load import load_base
from onepass.serve import Answer, Engine
from onepass.tasks.book import parse_task
from onepass.tasks.corpus import load_corpus

TASKS = ("summarize+translate:es", "reply+tone:professional")
FORMS = ("multi-step", "parts", "fused", "merged")
CONVERSATIONS = ("new", "goes on")
LENGTHS = (32, 128)  # of an answer, in tokens
Row = dict[str, Any]


def smalltown(folder: Path, threads: int, conversations: int, repeats: int = 3) -> Row:
    """Each form on held-out conversations of two tasks."""
    base = load_base("tiny", "cpu")
    corpus = load_corpus("smalltown")
    made: dict[str, Composition] = {}
    texts: dict[str, list[str]] = {}
    for name in TASKS:
        task = parse_task(name)
        parts = {part: load_adapter(embedded_adapter(part)) for part in task.parts}
        options = {"max_steps": 60, "eval_every": 60}
        setting = Setting(base, task, parts, corpus.examples(task, "train", 1000), (), options)
        made[name] = METHODS.get("lc++").build(setting)
        texts[name] = [each.input for each in corpus.examples(task, "test", conversations)]
        export_gguf({name: made[name]}, base, folder / f"merged {name}", "q4_0", merged=True)
    joint = Pass(TASKS[0], (Weighted(random_like(parts["reply"]), stored=True),))
    made["joint-expert"] = Composition(base.shape, TASKS[0], (joint,), "joint-expert")
    manifest = export_gguf(made, base, folder / "set", "q4_0", fused=False, compactly=True)

    def run_all(form: str, goes_on: bool) -> Row:
        answers: list[Answer] = []
        for name, some in texts.items():
            place = folder / (f"merged {name}" if form == "merged" else "set")
            fused = [name] if form == "fused" else []
            mode = "multi-step" if form == "multi-step" else "composed"
            with Engine(place, threads=threads, fused=fused, cache=goes_on) as engine:
                for text in some:
                    timed = []
                    for _ in range(repeats):
                        if goes_on:
                            engine.run(name, text.rpartition("\n")[0], mode)
                        timed.append(engine.run(name, text, mode))
                    answers.append(min(timed, key=lambda answer: answer.seconds))
        return {
            "seconds": statistics.median(answer.seconds for answer in answers),
            "written": statistics.mean(answer.tokens for answer in answers),
            "read": statistics.mean(a.prompt_tokens - a.cached_tokens for a in answers),
        }

    cases = [
        {"conversation": kind, "forms": {form: run_all(form, kind == "goes on") for form in FORMS}}
        for kind in CONVERSATIONS
    ]
    with Engine(folder / "set", threads=threads, slots=1, cache=False) as engine:
        scales = [manifest.composition(name).passes[0].scales for name in TASKS]
        swap = swap_seconds(engine, engine.prompt_ids(texts[TASKS[0]][0]), scales)
        peak = engine.peak_memory()
    added = {entry.name: entry.marginal_bytes for entry in manifest.compositions}
    return {
        "shape": f"smalltown, tiny base, {conversations * len(TASKS)} conversations",
        "cases": cases,
        "swap_seconds": swap,
        "peak_bytes": peak,
        "base_bytes": manifest.base.bytes,
        "bytes_added": {"lc++": added[TASKS[0]], "joint-expert": added["joint-expert"]},
    }


def random_like(adapter: Adapter) -> Adapter:
    """An adapter of the same size with other numbers: what a joint expert takes."""
    modules = {
        module: Lora(torch.randn_like(lora.down), lora.up.clone())
        for module, lora in adapter.modules.items()
    }
    return Adapter("joint", modules, adapter.base)


def swap_seconds(
    engine: Engine, prompt: Sequence[int], scales: Sequence[Mapping[str, float]], count: int = 40
) -> float:
    """How much longer a request takes that changes the composition than one that does not."""

    def median(ways: Sequence[Mapping[str, float]]) -> float:
        taken = []
        for number in range(count):
            began = time.perf_counter()
            engine.complete(prompt, ways[number % len(ways)], 1)
            taken.append(time.perf_counter() - began)
        return statistics.median(taken)

    same = statistics.mean(median([way]) for way in scales)
    return median(scales) - same


def one_billion(folder: Path, threads: int) -> Row:
    """Each form at Llama-3.2-1B's shape."""
    manifest = write_one_billion(folder)
    return at_any_shape(folder, threads, manifest, "Llama-3.2-1B's shape, random")


def own_file(folder: Path, threads: int, file: Path, quick: bool) -> Row:
    """Each form on a GGUF file, with random adapters."""
    base = load_base(file, "cpu", "float32")
    parts = tuple(
        Weighted(Adapter(name, random_modules(base.shape.modules), base.name), 0.5)
        for name in ("summarize", "translate-es")
    )
    shared = random_modules(base.shape.projections(), RANKS["calibration"])
    tensors = {kind: {"down": lora.down, "up": lora.up} for kind, lora in shared.items()}
    task = parse_task(TASK)
    pass_ = Pass(task, parts, Calibration("lc++", "lowrank", tensors))
    made = {NAME: Composition(base.shape, task, (pass_,), "lc++")}
    manifest = export_gguf(
        made, base, folder / "set", own=file, linked=True, fused=False, compactly=True
    )
    del base
    lengths = (8,) if quick else LENGTHS
    return at_any_shape(folder / "set", threads, manifest, file.name, lengths, 1 if quick else 3)


def random_modules(
    shapes: Mapping[str, tuple[int, int]], rank: int = RANKS["summarize"]
) -> dict[str, Lora]:
    return {
        name: Lora(torch.randn(rank, in_) * 0.01, torch.randn(out, rank) * 0.01)
        for name, (out, in_) in shapes.items()
    }


def at_any_shape(
    folder: Path, threads: int, manifest: Manifest, shape: str,
    lengths: Sequence[int] = LENGTHS, repeats: int = 3,
) -> Row:  # fmt: skip
    """Each form on conversations of 200 tokens, short answers and long."""
    sizes = {adapter.name.partition("-")[0]: adapter.bytes for adapter in manifest.adapters}
    scales = manifest.compositions[0].passes[0].scales
    options = {"context": 512, "threads": threads, "check": False}
    rng = np.random.default_rng(0)
    began = time.perf_counter()
    Engine(folder, **options).close()
    loaded = time.perf_counter() - began
    began = time.perf_counter()
    with Engine(folder, fused=[NAME], slots=4, **options) as engine:
        fused = time.perf_counter() - began
        cases = [
            {
                "conversation": kind,
                "forms": {
                    form: in_steps(engine, form, scales, written, kind == "goes on", rng, repeats)
                    for form in FORMS
                },
            }
            for written in lengths
            for kind in CONVERSATIONS
        ]
        peak = engine.peak_memory()
    with Engine(folder, slots=1, cache=False, **options) as engine:
        prompt = rng.integers(300, min(2000, manifest.base.vocabulary), 8).tolist()
        swap = swap_seconds(engine, prompt, [scales, {"summarize": 1.0}], count=8)
    return {
        "shape": f"{shape}, best of {repeats}",
        "cases": cases,
        "swap_seconds": swap,
        "load_seconds": loaded,
        "fuse_seconds": fused - loaded,
        "peak_bytes": peak,
        "base_bytes": manifest.base.bytes,
        "bytes_added": {"lc++": sizes["calibration"], "joint-expert": sizes["summarize"]},
    }


def in_steps(
    engine: Engine, form: str, parts: Mapping[str, float], written: int, goes_on: bool,
    rng: np.random.Generator, repeats: int,
) -> Row:  # fmt: skip
    """A form on conversations of 200 tokens, of which 20 are new in one that goes on.

    A second step reads an instruction of 28 tokens, as before in one that goes on, and the first's
    answer.
    """
    # Merged into the base a composition costs what the base alone does.
    scales: dict[str, list[Mapping[str, float]]] = {
        "multi-step": [{"summarize": 1.0}, {"translate-es": 1.0}],
        "parts": [parts],
        "fused": [{f"fused/{NAME}": 1.0}],
        "merged": [{}],
    }

    vocabulary = engine.manifest.base.vocabulary

    def some(count: int) -> list[int]:
        ids: list[int] = rng.integers(300, min(2000, vocabulary), count).tolist()
        return ids

    def answer(conversation: list[int], instruction: list[int]) -> tuple[float, int]:
        read, began = 0, time.perf_counter()
        for step, each in enumerate(scales[form]):
            prompt = [*instruction, *some(written)] if step else conversation
            done = engine.complete(prompt, each, written, to_the_end=True)
            read += done.prompt_tokens - done.cached_tokens
        return time.perf_counter() - began, read

    taken = []
    for _ in range(repeats):
        conversation, instruction = some(200), some(28)
        if goes_on:
            answer(conversation[:180], instruction)
        taken.append(answer(conversation, instruction))
    seconds, read = min(taken)
    return {"seconds": seconds, "written": written * len(scales[form]), "read": read}


def show(row: Row) -> None:
    print(f"\n{row['shape']}")
    print(f"{'conversation':<14}{'form':<12}{'read':>6}{'written':>9}{'seconds':>9}{'faster':>8}")
    for case in row["cases"]:
        for form, done in case["forms"].items():
            faster = case["forms"]["multi-step"]["seconds"] / done["seconds"]
            print(
                f"{case['conversation']:<14}{form:<12}{done['read']:>6.0f}{done['written']:>9.0f}"
                f"{done['seconds']:>9.4f}{faster:>7.2f}x"
            )
    added = row["bytes_added"]
    share = 100 * added["lc++"] / added["joint-expert"]
    print(
        f"base: {row['base_bytes'] / 2**20:.1f} MiB; one more combination: {added['lc++']:,} bytes"
    )
    print(f"({share:.1f} % of a joint expert's {added['joint-expert']:,}); ", end="")
    print(f"changing it: {1000 * row['swap_seconds']:.2f} ms a request", end="")
    if "fuse_seconds" in row:
        print(
            f"; loading: {row['load_seconds']:.2f} s, fusing: {row['fuse_seconds']:.2f} s", end=""
        )
    if row["peak_bytes"]:
        print(f"; peak memory: {row['peak_bytes'] / 2**20:.0f} MiB", end="")
    print(flush=True)


def write_figures(path: Path, rows: Sequence[Row], threads: int, quick: bool) -> None:
    """Write what was measured, and on what; `threads` of the engine."""
    setting = environment("cpu") | {
        "engine_threads": str(threads), "quick": str(quick), "xllamacpp": version("xllamacpp"),
    }  # fmt: skip
    write_text(path, json.dumps({"setting": setting, "rows": rows}, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="smalltown alone, or short answers")
    # One by default: on the tiny base more only wait for each other.
    parser.add_argument("--threads", type=int, default=1, help="of the engine")
    parser.add_argument("--base", type=Path, nargs="+", default=[], help="GGUF files, these alone")
    parser.add_argument("--json", type=Path, help="write the figures into this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows: list[Row] = []
    count = 5 if options.quick else 50
    makes: list[Callable[[Path, int], Row]] = [
        partial(own_file, file=file, quick=options.quick) for file in options.base
    ]
    if not makes:
        makes = [partial(smalltown, conversations=count)]
        makes += [] if options.quick else [one_billion]
    for make in makes:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(make(Path(folder), options.threads))
        show(rows[-1])
    if options.json:
        write_figures(options.json, rows, options.threads, options.quick)


if __name__ == "__main__":
    main()
