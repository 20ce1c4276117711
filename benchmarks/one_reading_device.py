"""Several requests on one conversation on llama.cpp: ordinary, step by step, activated.

    python benchmarks/one_reading_device.py                   the embedded base
    python benchmarks/one_reading_device.py --base FILE.gguf  a file of your own, as it is
    python benchmarks/one_reading_device.py --quick           short, to see that it works
    python benchmarks/one_reading_device.py --repeats 1       one conversation of each length
    python benchmarks/one_reading_device.py --json FILE --plot FILE.png

Fourteen combinations, one after the other, on a conversation that none has seen: each a different
request, as on a phone. They are run in four ways: the composition as one adapter (ordinary), in two
steps (multi-step), the activated composition (activated), and the same after the conversation was
read as it came (read ahead). Adapters have rank 32 and calibrations rank 4, with random numbers,
since speed does not depend on them; every answer and every step writes the same number of tokens.
Seconds include tokenising, and are the median over conversations. The first token of multi-step is
that of its last step. All engines of a run have the same number of threads, one at a time.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch

from onepass.adapters.adapter import Adapter, Lora
from onepass.adapters.calibration import Calibration
from onepass.adapters.composition import Composition, Pass, Weighted
from onepass.comparison.environment import environment
from onepass.core.files import write_text
from onepass.core.optional import optional
from onepass.export import export_gguf
from onepass.model.activation import activation_of
from onepass.model.load import Base, load_base
from onepass.serve import Engine
from onepass.tasks.benchmark import COMPOSITIONAL_TASKS
from onepass.tasks.book import parse_task
from onepass.tasks.task import Task

RANK, CALIBRATION_RANK = 32, 4
LENGTHS = (250, 500, 1000, 2000)  # of a conversation, in tokens
REQUESTS = (1, 2, 5, 14)
ORDINARY, STEPS, ACTIVATED, AHEAD = "ordinary", "multi-step", "activated", "read ahead"
Row = dict[str, Any]
_NAMES = ("Ana", "Ben", "Cleo", "Dan", "Eve")
_WORDS = [
    "shall", "we", "meet", "at", "the", "harbour", "station", "park", "for", "tea", "cake",
    "before", "after", "five", "seven", "tomorrow", "please", "bring", "tickets", "umbrella",
    "yes", "no", "maybe", "thanks", "why", "not", "I", "cannot", "come", "because", "my",
    "sister", "is", "late", "and", "it", "will", "rain",
]  # fmt: skip


def random_adapter(name: str, base: Base, seed: int, invocation: tuple[int, ...]) -> Adapter:
    random = torch.Generator().manual_seed(seed)
    modules = {
        path: Lora(
            torch.randn(RANK, in_, generator=random) * 0.01,
            torch.randn(out, RANK, generator=random) * 0.01,
        )
        for path, (out, in_) in base.shape.modules.items()
    }
    return Adapter(name, modules, base.name, {"task": name}, invocation=invocation)


def random_calibration(base: Base, seed: int) -> Calibration:
    random = torch.Generator().manual_seed(seed)
    tensors = {
        kind: {
            "down": torch.randn(CALIBRATION_RANK, in_, generator=random) * 0.01,
            "up": torch.randn(out, CALIBRATION_RANK, generator=random) * 0.01,
        }
        for kind, (out, in_) in base.shape.projections().items()
    }
    return Calibration("lc++", "lowrank", tensors)


def compositions(base: Base, activated: bool) -> dict[str, Composition]:
    """The fourteen pairs, of nine random adapters, each with a calibration of its own."""

    def as_run(name: str) -> Task:
        return parse_task(name).activated() if activated else parse_task(name)

    adapters: dict[str, Adapter] = {}
    made = {}
    for seed, name in enumerate(COMPOSITIONAL_TASKS):
        task = as_run(name)
        for part in task.parts:
            begin = activation_of(base.tokenizer, part).invocation if activated else ()
            adapters.setdefault(part.name, random_adapter(part.name, base, len(adapters), begin))
        parts = tuple(Weighted(adapters[part.name], 0.5) for part in task.parts)
        pass_ = Pass(task, parts, random_calibration(base, 100 + seed))
        made[name] = Composition(base.shape, task, (pass_,), "lc++")
    return made


def conversation(engine: Engine, length: int, seed: int) -> str:
    """Random turns, of about so many tokens; no two seeds begin alike."""
    random = np.random.default_rng(seed)
    lines: list[str] = []
    for turn in count():
        words = " ".join(random.choice(_WORDS, 8))
        line = f"{_NAMES[int(random.integers(5))]}: {words if turn else f'{seed} {words}'}."
        if len(engine.tokenize("\n".join([*lines, line]))) > length:
            return "\n".join(lines)
        lines.append(line)
    raise AssertionError


def request(engine: Engine, name: str, mode: str, text: str, written: int) -> Row:
    """One answer, not ended before it has so many tokens; a later step reads as many of the text.

    The adapters say nothing that makes sense, so that what a step says is not given to the next.
    """
    began = time.perf_counter()
    read = 0
    for number, pass_ in enumerate(engine.passes(name, mode)):
        if number:
            text = text[: 3 * written]
        prompt, _ = engine.fitted(pass_, text, written)
        done = engine.complete(prompt, pass_.scales, written, to_the_end=True, aside=number > 0)
        read += done.prompt_tokens - done.cached_tokens
    whole = time.perf_counter() - began
    return {"first": whole - done.write_seconds, "whole": whole, "read": read}


def measured(
    engine: Engine, way: str, names: Sequence[str], length: int, written: int, seeds: Sequence[int]
) -> Row:
    """Each request in turn, its figures the medians over conversations."""
    runs = []
    ahead = []
    for seed in seeds:
        text = conversation(engine, length, seed)
        if way == AHEAD:
            ahead.append(engine.read(text, max_new_tokens=written).seconds)
        mode = "multi-step" if way == STEPS else "composed"
        runs.append([request(engine, name, mode, text, written) for name in names])
    medians = [
        {
            key: statistics.median(run[place][key] for run in runs)
            for key in ("first", "whole", "read")
        }
        for place in range(len(names))
    ]
    row: Row = {"way": way, "length": length, "requests": medians}
    return row | ({"ahead": statistics.median(ahead)} if ahead else {})


def measure(
    base: Base, file: Path | None, folder: Path, threads: int, quick: bool, repeats: int
) -> Iterator[Row]:
    lengths, written = (LENGTHS, 40) if not quick else (LENGTHS[:2], 8)
    for activated in (False, True):
        made = compositions(base, activated)
        names = list(made)[: REQUESTS[-1] if not quick else 3]
        kept = {name: made[name] for name in names}
        where = folder / ("activated" if activated else "ordinary")
        export_gguf(
            kept, base, where, "q4_0", own=file, linked=file is not None, fused=False,
            compactly=True,
        )  # fmt: skip
        context = min(base.context, max(lengths) + written + 200)
        options = {"context": context, "threads": threads, "check": False}
        with Engine(where, fused=[] if activated else names, **options) as engine:
            for length in lengths:
                if length + written + 100 > context:
                    continue
                seeds = iter(count(1000 * length))
                for way in (ACTIVATED, AHEAD) if activated else (ORDINARY, STEPS):
                    taken = [next(seeds) for _ in range(repeats)]
                    yield measured(engine, way, names, length, written, taken)


def total(row: Mapping[str, Any], count: int, figure: str = "whole") -> float:
    """Of the first so many requests together."""
    return sum(each[figure] for each in row["requests"][:count])


def show(row: Row) -> None:
    requests = row["requests"]
    asked = [each for each in REQUESTS if each <= len(requests)]
    firsts = " ".join(f"{requests[each - 1]['first']:>8.3f}" for each in asked)
    wholes = " ".join(f"{total(row, each):>8.2f}" for each in asked)
    print(f"{row['length']:>6} {row['way']:<11}{firsts} |{wholes}", flush=True)


def plot(rows: Sequence[Row], path: Path, title: str) -> None:
    """Left, seconds to the first token of a second request; right, for several requests in all."""
    plots = optional("matplotlib.pyplot", "plot", "--plot")
    figure, (left, right) = plots.subplots(1, 2, figsize=(10, 4), layout="constrained")
    ways = list(dict.fromkeys(row["way"] for row in rows))
    lengths = sorted({row["length"] for row in rows})
    shown = 1000 if 1000 in lengths else lengths[-1]
    for way in ways:
        own = sorted((row for row in rows if row["way"] == way), key=lambda row: row["length"])
        left.plot(
            [row["length"] for row in own], [row["requests"][1]["first"] for row in own], "o-",
            label=way,
        )  # fmt: skip
        (at,) = (row for row in own if row["length"] == shown)
        counts = range(1, len(at["requests"]) + 1)
        right.plot(counts, [total(at, each) for each in counts], "o-", label=way)
    left.set(xlabel="tokens of conversation", ylabel="seconds to the second request's first token")
    right.set(xlabel=f"requests on one conversation of {shown} tokens", ylabel="seconds in all")
    right.xaxis.get_major_locator().set_params(integer=True)
    for each in (left, right):
        each.set_ylim(bottom=0)
        each.grid(alpha=0.3)
        each.legend()
    figure.suptitle(title)
    figure.savefig(path, dpi=150)
    plots.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="three requests, short texts")
    parser.add_argument("--repeats", type=int, help="conversations (3; 1 with --quick)")
    parser.add_argument("--threads", type=int, default=1, help="of the engine")
    parser.add_argument("--base", type=Path, help="a GGUF file; by default the embedded base")
    parser.add_argument("--json", type=Path, help="write the figures into this file")
    parser.add_argument("--plot", type=Path, help="draw them into this PNG file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    base = load_base(options.base or "tiny", "cpu", "float32")
    name = options.base.name if options.base else "the embedded base"
    print(f"{name}, threads: {options.threads}; seconds to the first token of request ..., and for")
    print("so many requests in all")
    print(f"tokens {'':<11}{' '.join(f'{n:>8}' for n in REQUESTS)} |", end="")
    print(" ".join(f"{n:>8}" for n in REQUESTS))
    rows = []
    repeats = options.repeats or (1 if options.quick else 3)
    with tempfile.TemporaryDirectory() as folder:
        for row in measure(
            base, options.base, Path(folder), options.threads, options.quick, repeats
        ):
            rows.append(row)
            show(row)
    setting = environment("cpu") | {
        "base": name, "engine_threads": str(options.threads), "quick": str(options.quick),
        "conversations": str(repeats),
        "xllamacpp": version("xllamacpp"),
    }  # fmt: skip
    if options.json:
        write_text(options.json, json.dumps({"setting": setting, "rows": rows}, indent=1) + "\n")
    if options.plot:
        plot(rows, options.plot, f"{name}, threads: {options.threads}")


if __name__ == "__main__":
    main()
