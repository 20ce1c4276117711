"""What a composition costs on llama.cpp, against doing the same task in several steps.

    python benchmarks/device.py                 smalltown on the embedded base, then a 1B shape
    python benchmarks/device.py --quick         smalltown alone, few conversations, half a minute
    python benchmarks/device.py --json FILE     also write the figures

Every figure is made in this run. On smalltown LC++ is trained for a moment (what is measured does
not depend on how well) and seconds are the median over held-out conversations, tokenising and all,
each read anew. The 1B shape is Llama-3.2-1B's with random numbers in 4 bits and random adapters of
rank 32; its file, 0.7 GB, is written to a temporary folder that is removed.
"""

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from onepass.adapters.adapter import Adapter, Lora, load_adapter
from onepass.adapters.composition import Composition, Pass, Weighted
from onepass.core.files import write_text
from onepass.device import Engine
from onepass.export import export_gguf
from onepass.export.gguf.adapter import write_lora
from onepass.export.gguf.architecture import ARCHITECTURES, add_fields, tensor_names
from onepass.export.gguf.file import Planned, storage_type, write_gguf
from onepass.export.gguf.tokenizer import add_tokenizer
from onepass.export.manifest import (
    MANIFEST,
    AdapterFile,
    BaseFile,
    CompositionEntry,
    Manifest,
    PassEntry,
    Prompt,
    describe,
)
from onepass.methods import METHODS, Setting
from onepass.model.assets import embedded_adapter
from onepass.model.load import Base, load_base
from onepass.tasks.corpus import load_corpus
from onepass.tasks.task import parse_task

TASKS = ("summarize+translate:es", "reply+tone:professional")
Row = dict[str, Any]


def smalltown(folder: Path, conversations: int, threads: int, repeats: int = 3) -> list[Row]:
    """Composed (as parts and fused) against multi-step, on held-out conversations of two tasks."""
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
    base_adapter = next(iter(made.values())).passes[0].adapters[0].adapter
    joint = Pass(TASKS[0], (Weighted(random_like(base_adapter), stored=True),))
    made["joint-expert"] = Composition(base.shape, TASKS[0], (joint,), "joint-expert")
    manifest = export_gguf(made, base, folder, "f16")
    rows = {}
    for form, modes in ((False, ("zero-shot", "multi-step", "composed")), (True, ("composed",))):
        with Engine(folder, threads=threads, fused=form, slots=1, cache=False) as engine:
            for mode in modes:
                answers = [
                    min(
                        (engine.run(name, text, mode) for _ in range(repeats)),
                        key=lambda answer: answer.seconds,
                    )
                    for name, some in texts.items()
                    for text in some
                ]
                rows["fused" if form else mode] = {
                    "seconds": statistics.median(answer.seconds for answer in answers),
                    "tokens": statistics.mean(answer.tokens for answer in answers),
                    "prompt_tokens": statistics.mean(answer.prompt_tokens for answer in answers),
                }
            if not form:
                scales = [manifest.composition(name).passes[0].scales for name in TASKS]
                ids = engine.prompt_ids(texts[TASKS[0]][0])
                swap = swap_seconds(engine, ids, scales)
                peak = engine.peak_memory()
    bytes_of = {entry.name: entry.marginal_bytes for entry in manifest.compositions}
    row = {
        "shape": f"tiny, {manifest.base.type}",
        "conversations": conversations * len(TASKS),
        "modes": rows,
        "swap_seconds": swap,
        "peak_bytes": peak,
        "base_bytes": manifest.base.bytes,
        "bytes_added": {"lc++": bytes_of[TASKS[0]], "joint-expert": bytes_of["joint-expert"]},
    }
    return [row]


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


def one_billion(folder: Path, threads: int, repeats: int) -> list[Row]:
    """The same at Llama-3.2-1B's shape, random, in 4 bits: for a short answer and a long one."""
    manifest = write_one_billion(folder)
    sizes = {adapter.name: adapter.bytes for adapter in manifest.adapters}
    both = manifest.compositions[0].passes[0].scales
    rng = np.random.default_rng(0)
    began = time.perf_counter()
    with Engine(folder, context=512, threads=threads, slots=1, cache=False, check=False) as engine:
        load = time.perf_counter() - began
        measured = {
            written: steps_and_seconds(engine, both, written, rng, repeats) for written in (32, 128)
        }
        prompt = rng.integers(300, 2000, 8).tolist()
        swap = swap_seconds(engine, prompt, [both, {"summarize": 1.0}], count=8)
        peak = engine.peak_memory()
    return [
        {
            "shape": f"Llama-3.2-1B, q4_0, random, answers of {written} tokens",
            "conversations": repeats,
            "modes": modes,
            "swap_seconds": swap,
            "load_seconds": load,
            "peak_bytes": peak,
            "base_bytes": manifest.base.bytes,
            "bytes_added": {"lc++": sizes["calibration"], "joint-expert": sizes["summarize"]},
        }
        for written, modes in measured.items()
    ]


def steps_and_seconds(
    engine: Engine, both: dict[str, float], written: int, rng: np.random.Generator, repeats: int
) -> dict[str, Row]:
    """By mode, what it takes to read 200 tokens; a second step reads the first's answer."""
    first = rng.integers(300, 2000, 200).tolist()
    second = rng.integers(300, 2000, 28 + written).tolist()
    plans: dict[str, list[tuple[list[int], dict[str, float]]]] = {
        "zero-shot": [(first, {})],
        "multi-step": [(first, {"summarize": 1.0}), (second, {"translate-es": 1.0})],
        "composed": [(first, both)],
        "fused": [(first, {"fused": 1.0})],
    }
    rows: dict[str, Row] = {}
    for mode, steps in plans.items():
        taken = []
        for _ in range(repeats):
            began = time.perf_counter()
            for prompt, scales in steps:
                engine.complete(prompt, scales, written, to_the_end=True)
            taken.append(time.perf_counter() - began)
        rows[mode] = {
            "seconds": statistics.median(taken),
            "tokens": written * len(steps),
            "prompt_tokens": sum(len(prompt) for prompt, _ in steps),
        }
    return rows


def write_one_billion(folder: Path) -> Manifest:
    """A device set of this shape: two adapters of rank 32, a calibration of rank 4, and all fused.

    The tokenizer is the embedded base's, with padding up to the vocabulary's size.
    """
    config = LlamaConfig(
        vocab_size=128256, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16,
        num_attention_heads=32, num_key_value_heads=8, head_dim=64, max_position_embeddings=4096,
        tie_word_embeddings=True, rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
    )  # fmt: skip
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    base = Base(model, load_base("tiny", "cpu").tokenizer, "one-billion", torch.device("cpu"))
    llama = ARCHITECTURES["llama"]
    name = tensor_names(llama, config.num_hidden_layers)
    planned = []
    for path, tensor in model.named_parameters():
        shape, title = tuple(tensor.shape), name(path)
        planned.append(
            Planned(title, shape, storage_type(title, shape, "q4_0"), partial(_random, shape))
        )

    def fields(writer: Any) -> None:
        writer.add_type("model")
        add_fields(writer, config, llama)
        add_tokenizer(writer, base)

    write_gguf(folder / "base-q4_0.gguf", "llama", fields, planned)
    adapters = []
    ranks = {"summarize": 32, "translate-es": 32, "calibration": 4, "fused": 68}
    for adapter, rank in ranks.items():
        modules = {
            path: Lora(torch.randn(rank, in_) * 0.01, torch.randn(out, rank) * 0.01)
            for path, (out, in_) in base.shape.modules.items()
        }
        place = f"{adapter}.gguf"
        write_lora(Adapter(adapter, modules), config, folder / place, "f16")
        role = "calibration" if adapter == "calibration" else "task"
        facts: Row = describe(folder, place) | {"name": adapter, "role": role, "rank": rank}
        adapters.append(AdapterFile(**facts))
    scales = {"summarize": 0.5, "translate-es": 0.5, "calibration": 1.0}
    task = parse_task(TASKS[0])
    facts = describe(folder, "base-q4_0.gguf") | {
        "name": base.name, "architecture": "llama", "type": "q4_0",
        "vocabulary": config.vocab_size, "context": config.max_position_embeddings,
    }  # fmt: skip
    manifest = Manifest(
        onepass="benchmark",
        base=BaseFile(**facts),
        adapters=adapters,
        compositions=[
            CompositionEntry(
                name="both", task=task.name, method="lc++", parts={}, marginal_bytes=0,
                passes=[PassEntry(task=task.name, instruction=task.instruction, scales=scales)],
            )
        ],
        prompt=Prompt(
            before=[], text_before="", text_after="", after=[], stop=[], control=[],
            normalization=None,
        ),
    )  # fmt: skip
    (folder / MANIFEST).write_text(manifest.model_dump_json(), encoding="utf-8")
    return manifest


def _random(shape: tuple[int, ...]) -> Any:
    rng = np.random.default_rng(shape[0])
    if len(shape) == 1:
        return np.ones(shape, dtype=np.float32)
    # One stretch of rows again and again: to time a product any numbers will do.
    rows = rng.standard_normal((min(shape[0], 256), shape[1]), dtype=np.float32) * 0.02
    return np.resize(rows, shape)


def show(row: Row) -> None:
    modes = row["modes"]
    print(f"\n{row['shape']}: {row['base_bytes'] / 2**20:.1f} MiB, {row['conversations']} runs")
    print(f"{'':<22}{'seconds':>10}{'tokens':>9}{'read':>7}{'faster than multi-step':>25}")
    for mode, figures in modes.items():
        faster = modes["multi-step"]["seconds"] / figures["seconds"]
        title = "composed, fused" if mode == "fused" else mode
        print(
            f"{title:<22}{figures['seconds']:>10.4f}{figures['tokens']:>9.1f}"
            f"{figures['prompt_tokens']:>7.0f}{faster:>24.2f}x"
        )
    added = row["bytes_added"]
    share = 100 * added["lc++"] / added["joint-expert"]
    print(
        f"one more combination: {added['lc++']:,} bytes, {share:.1f} % of a joint expert's", end=""
    )
    print(f" {added['joint-expert']:,}")
    print(f"changing the composition: {1000 * row['swap_seconds']:.2f} ms a request", end="")
    if row["peak_bytes"]:
        print(f"; peak memory of the engine: {row['peak_bytes'] / 2**20:.0f} MiB", end="")
    print(flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="smalltown alone, few conversations")
    parser.add_argument("--threads", type=int, default=1, help="at the 1B shape")
    parser.add_argument("--json", type=Path, help="write the figures into this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows: list[Row] = []
    makes: list[Callable[[Path], list[Row]]] = [
        # One thread: on a base this small more only wait for each other.
        partial(smalltown, conversations=5 if options.quick else 50, threads=1)
    ]
    if not options.quick:
        makes.append(partial(one_billion, threads=options.threads, repeats=2))
    for make in makes:
        with tempfile.TemporaryDirectory() as folder:
            made = make(Path(folder))
        rows += made
        for row in made:
            show(row)
    if options.json:
        import xllamacpp

        setting = {
            "date": date.today().isoformat(), "processor": platform.processor(),
            "threads": options.threads, "quick": options.quick,
            "xllamacpp": xllamacpp.__version__, "torch": torch.__version__,
        }  # fmt: skip
        text = json.dumps({"setting": setting, "rows": rows}, indent=1) + "\n"
        write_text(options.json, text)


if __name__ == "__main__":
    main()
