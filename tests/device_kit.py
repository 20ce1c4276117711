"""Compositions on the tiny families, exported and run: what the tests of the device share."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from onepass.adapters.adapter import Adapter, Lora
from onepass.adapters.calibration import Calibration, Form
from onepass.adapters.composition import Composition, Pass, Weighted
from onepass.core.files import sha256
from onepass.export import export_gguf
from onepass.export.manifest import MANIFEST, read_set
from onepass.model.attach import attached
from onepass.model.chat import prompt_ids
from onepass.model.generate import run
from onepass.model.load import Base
from onepass.serve import Engine
from onepass.tasks.book import parse_task

CHAT = "Ana: Tea at 5:30?\nBen: Yes, I would like that!\nAna: See you then."
PAIR = "summarize+translate:es"
THREE = "summarize+translate:es+tone:witty"


def random_parts(base: Base, count: int = 3, size: float = 0.3) -> list[Adapter]:
    """Random adapters of ranks 4, 2, 1 ... for the parts of `THREE`."""
    made = []
    for number, task in enumerate(THREE.split("+")[:count]):
        random = torch.Generator().manual_seed(number)
        rank = max(1, 4 >> number)
        modules = {
            path: Lora(
                torch.randn(rank, in_, generator=random) * size,
                torch.randn(out, rank, generator=random) * size,
            )
            for path, (out, in_) in base.shape.modules.items()
        }
        made.append(Adapter(task, modules, base.name, {"task": task}))
    return made


def random_calibration(base: Base, form: Form = "lowrank", size: float = 0.2) -> Calibration:
    random = torch.Generator().manual_seed(7)
    tensors: dict[str, dict[str, torch.Tensor]] = {}
    for kind, (out, in_) in base.shape.projections().items():
        up = torch.randn(out, 2, generator=random) * size
        down = torch.randn(2, in_, generator=random) * size
        tensors[kind] = {"down": down, "up": up} if form == "lowrank" else {"bias": up[:, 0]}
    return Calibration("lc++" if form == "lowrank" else "lc", form, tensors)


def three_parts(base: Base, form: Form = "lowrank") -> Composition:
    """Half of two adapters, the whole of a third, and a calibration."""
    weighted = zip(random_parts(base), (0.5, 0.5, 1.0), strict=True)
    pass_ = Pass(
        parse_task(THREE),
        tuple(Weighted(a, w) for a, w in weighted),
        random_calibration(base, form),
    )
    return Composition(
        base.shape, parse_task(THREE), (pass_,), "lc++" if form == "lowrank" else "lc"
    )


def pair(base: Base) -> Composition:
    weighted = tuple(Weighted(adapter, 0.5) for adapter in random_parts(base, 2))
    return Composition(
        base.shape,
        parse_task(PAIR),
        (Pass(parse_task(PAIR), weighted, random_calibration(base)),),
        "lc++",
    )


def save_set(base: Base, folder: Path) -> Path:
    """A sound set of two compositions, "three" and "pair", in 32 bits and with test vectors."""
    made = {"three": three_parts(base), "pair": pair(base)}
    export_gguf(made, base, folder, "f32", vectors=True)
    return folder


def other_model(bare: Base, kind: str, **differs: Any) -> Base:
    """A random model of this kind, as large as `bare` and with its tokenizer."""
    torch.manual_seed(3)
    same = bare.model.config.to_dict()
    if kind != same.pop("model_type"):
        same = {name: same[name] for name in same if name.endswith("_id") or name in SIZES}
    config = AutoConfig.for_model(kind, **{**same, **differs})
    return replace(bare, model=AutoModelForCausalLM.from_config(config).eval())


SIZES = {
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "max_position_embeddings",
}  # fmt: skip
STABLELM_12B = {"qk_layernorm": True, "use_parallel_residual": True, "num_key_value_heads": 2}


def opened(folder: Path, **options: Any) -> Engine:
    """An engine that computes as PyTorch does."""
    return Engine(folder, **{"exact": True, "threads": 1, **options})


@torch.inference_mode()
def torch_log_probabilities(base: Base, pass_: Pass, ids: list[int]) -> torch.Tensor:
    """(vocabulary,): of the token after `ids`, with the pass attached to the base."""
    with attached(base, pass_):
        logits: torch.Tensor = base.model(torch.tensor([ids])).logits[0, -1]
    return logits.double().log_softmax(-1)


MESSAGE = f"Summarize.\n\n{CHAT}"


def check_parity(
    base: Base, composition: Composition, folder: Path, fused: bool = False, within: float = 1e-4,
    **options: Any,
) -> None:  # fmt: skip
    """Every log-probability within 1e-4, and the same greedy text."""
    export_gguf({"it": composition}, base, folder, "f32", "f32", **options)
    scales = read_set(folder).compositions[0].passes[0].scales
    (ids,) = prompt_ids(base.tokenizer, [MESSAGE])
    with Engine(folder, exact=True, fused=["it"] if fused else [], threads=1) as engine:
        assert engine.prompt_ids(MESSAGE) == ids
        found = engine.log_probabilities(ids, {"fused/it": 1.0} if fused else scales)
        answer = engine.run("it", CHAT, max_new_tokens=16)
    expected = torch_log_probabilities(base, composition.passes[0], ids)
    every = torch.tensor([found[token] for token in range(len(expected))], dtype=torch.float64)
    torch.testing.assert_close(every, expected, atol=within, rtol=0.0)
    assert answer.text == run(base, composition, [CHAT], max_new_tokens=16).texts[0]


def engine_or_skip() -> None:
    pytest.importorskip("gguf", reason="needs onepass[device]")
    pytest.importorskip("xllamacpp", reason="needs onepass[device]")


def put(where: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """A change of a manifest's field, as in "base.context" or "adapters.0.path"."""

    def change(manifest: dict[str, Any]) -> None:
        *path, last = where.split(".")
        place: Any = manifest
        for key in path:
            place = place[int(key) if isinstance(place, list) else key]
        place[int(last) if isinstance(place, list) else last] = value

    return change


def edit(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    change(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")


def sign(folder: Path) -> None:
    """Have the manifest agree with what the files hold now."""

    def agree(manifest: dict[str, Any]) -> None:
        fused = [entry["fused"] for entry in manifest["compositions"] if entry["fused"]]
        for file in [manifest["base"], *manifest["adapters"], *fused]:
            path = folder / file["path"]
            file.update(bytes=path.stat().st_size, sha256=sha256(path))

    edit(folder, agree)
