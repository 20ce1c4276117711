"""A device set of Llama-3.2-1B's shape with random numbers, for what does not depend on them."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from onepass.adapters.adapter import Adapter, Lora, projection
from onepass.export.gguf.adapter import write_lora
from onepass.export.gguf.architecture import ARCHITECTURES, add_fields, layout_of
from onepass.export.gguf.compact import compact
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
from onepass.model.load import Base, load_base
from onepass.tasks.book import parse_task

NAME = "both"
TASK = "summarize+translate:es"
SCALES = {"summarize": 0.5, "translate-es": 0.5, "calibration": 1.0}
RANKS = {"summarize": 32, "translate-es": 32, "calibration": 4}


def write_one_billion(folder: Path) -> Manifest:
    """A base in 4 bits, two adapters of rank 32 in 8, and a calibration of rank 4, stored once.

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
    layout = layout_of(config)
    planned = []
    for path, tensor in model.named_parameters():
        shape, title = tuple(tensor.shape), layout.name(path)
        planned.append(
            Planned(title, shape, storage_type(title, shape, "q4_0"), partial(_random, shape))
        )

    def fields(writer: Any) -> None:
        writer.add_type("model")
        add_fields(writer, config, llama)
        add_tokenizer(writer, base)

    write_gguf(folder / "base-q4_0.gguf", "llama", fields, planned)
    shared = {
        kind: _lora(RANKS["calibration"], shape) for kind, shape in base.shape.projections().items()
    }
    adapters = []
    for adapter, rank in RANKS.items():
        modules = {
            path: shared[projection(path)] if adapter == "calibration" else _lora(rank, shape)
            for path, shape in base.shape.modules.items()
        }
        place = f"{adapter}.gguf"
        write_lora(Adapter(adapter, modules), layout, folder / place, "q8_0")
        role = "calibration" if adapter == "calibration" else "task"
        facts: Any = {
            "compact": compact(folder / place),
            "name": adapter,
            "role": role,
            "rank": rank,
        }
        adapters.append(AdapterFile(**facts, **describe(folder, place)))
    task = parse_task(TASK)
    facts = {
        **describe(folder, "base-q4_0.gguf"),
        "name": base.name, "architecture": "llama", "type": "q4_0",
        "vocabulary": config.vocab_size, "context": config.max_position_embeddings,
        "blocks": config.num_hidden_layers,
    }  # fmt: skip
    manifest = Manifest(
        onepass="benchmark",
        base=BaseFile(**facts),
        adapters=adapters,
        compositions=[
            CompositionEntry(
                name=NAME, task=task.name, method="lc++", parts={}, marginal_bytes=0,
                passes=[PassEntry(task=task.name, instruction=task.instruction, scales=SCALES)],
            )
        ],
        prompt=Prompt(
            before=[], text_before="", text_after="", after=[], stop=[], control=[],
            normalization=None,
        ),
    )  # fmt: skip
    (folder / MANIFEST).write_text(manifest.model_dump_json(), encoding="utf-8")
    return manifest


def _lora(rank: int, shape: tuple[int, int]) -> Lora:
    return Lora(torch.randn(rank, shape[1]) * 0.01, torch.randn(shape[0], rank) * 0.01)


def _random(shape: tuple[int, ...]) -> Any:
    rng = np.random.default_rng(shape[0])
    if len(shape) == 1:
        return np.ones(shape, dtype=np.float32)
    # One stretch of rows again and again: to time a product any numbers will do.
    rows = rng.standard_normal((min(shape[0], 256), shape[1]), dtype=np.float32) * 0.02
    return np.resize(rows, shape)
