"""Several adapters as one: the sum of what they do, whatever types their files have."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig

from device_kit import CHAT, engine_or_skip, random_calibration, random_parts
from onepass.adapters.adapter import Adapter, Lora
from onepass.adapters.composition import Composition, Pass, Weighted
from onepass.core.errors import OnepassError
from onepass.model.load import Base
from onepass.tasks.book import parse_task

engine_or_skip()
from gguf import GGUFReader  # noqa: E402
from gguf.quants import dequantize  # noqa: E402

from onepass.export import export_gguf  # noqa: E402
from onepass.export.gguf.adapter import write_lora  # noqa: E402
from onepass.export.gguf.architecture import layout_of  # noqa: E402
from onepass.export.gguf.fuse import fuse  # noqa: E402
from onepass.export.manifest import read_set  # noqa: E402
from onepass.export.types import ADAPTER_TYPES  # noqa: E402
from onepass.serve import Engine  # noqa: E402

CONFIG = LlamaConfig(
    hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2,
)  # fmt: skip
SHAPES = {
    "model.layers.0.mlp.up_proj": (96, 64),
    "model.layers.0.mlp.down_proj": (64, 96),
    "model.layers.1.self_attn.q_proj": (64, 64),
}

Made = tuple[int, str, float, frozenset[str]]
"""An adapter's rank, its type, its scale, and the modules that it changes."""
adapters = st.tuples(
    st.integers(1, 40),
    st.sampled_from(ADAPTER_TYPES),
    st.floats(-2.0, 2.0, width=16),
    st.frozensets(st.sampled_from(sorted(SHAPES)), min_size=1),
)


def write(made: Made, path: Path, seed: int = 0, size: float = 1.0) -> Path:
    rank, type_, _, names = made
    random = torch.Generator().manual_seed(seed)
    modules = {
        name: Lora(
            torch.randn(rank, SHAPES[name][1], generator=random) * size,
            torch.randn(SHAPES[name][0], rank, generator=random) * size,
        )
        for name in sorted(names)
    }
    write_lora(Adapter(path.stem, modules), layout_of(CONFIG), path, type_)
    return path


def deltas(path: Path) -> dict[str, np.ndarray]:
    """ΔW by the weight's name, as the gguf package reads the file."""
    factors = {
        each.name: dequantize(each.data, each.tensor_type).astype(np.float64)
        for each in GGUFReader(path).tensors
    }
    return {
        name.removesuffix(".lora_a"): factors[name.replace("lora_a", "lora_b")] @ factor
        for name, factor in factors.items()
        if name.endswith("lora_a")
    }


@given(several=st.lists(adapters, min_size=1, max_size=4))
@settings(max_examples=60, deadline=None)
def test_the_one_adapter_changes_each_weight_by_the_sum(several: list[Made]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        paths = [write(made, Path(folder, f"{n}.gguf"), n) for n, made in enumerate(several)]
        sources = [(path, made[2]) for path, made in zip(paths, several, strict=True)]
        fuse(sources, Path(folder, "it.gguf"), "llama", "it")
        found = deltas(Path(folder, "it.gguf"))
        expected: dict[str, np.ndarray] = {}
        for path, scale in sources:
            for name, delta in deltas(path).items() if scale else ():
                expected[name] = expected.get(name, 0.0) + scale * delta
    assert found.keys() == expected.keys()
    # Only what is stored in another type loses anything: 8 bits keep 1 part in 254 of a row's most.
    loose = 0.02 if len({made[1] for made in several}) > 1 else 2e-3
    size = sum(abs(scale) * rank for rank, _, scale, _ in several)
    for name, delta in expected.items():
        assert np.abs(found[name] - delta).max() <= loose * size


@pytest.mark.parametrize("types", [("f32", "f32"), ("f16", "f16"), ("q8_0", "q8_0")])
def test_factors_of_one_type_are_taken_over_as_they_are(
    types: Sequence[str], tmp_path: Path
) -> None:
    """With scales that are powers of two, to the last bit."""
    names = frozenset(SHAPES)
    made: list[Made] = [(32, types[0], 0.5, names), (32, types[1], -2.0, names)]
    paths = [write(each, tmp_path / f"{n}.gguf", n) for n, each in enumerate(made)]
    fuse([(paths[0], 0.5), (paths[1], -2.0)], tmp_path / "it.gguf", "llama", "it")
    one, other, found = (deltas(path) for path in (*paths, tmp_path / "it.gguf"))
    for name, delta in found.items():
        np.testing.assert_allclose(delta, 0.5 * one[name] - 2.0 * other[name], rtol=0, atol=1e-12)


def test_what_cannot_be_one_adapter_is_refused(tmp_path: Path) -> None:
    names = frozenset(SHAPES)
    good = write((4, "f16", 1.0, names), tmp_path / "good.gguf")
    target = tmp_path / "it.gguf"
    with pytest.raises(
        OnepassError, match=r"good.gguf: at scale 1e\+09 its numbers do not fit F16"
    ):
        fuse([(good, 1e9)], target, "llama", "it")
    wide = LlamaConfig(**{**CONFIG.to_dict(), "hidden_size": 128})
    path = tmp_path / "wide.gguf"
    lora = Lora(torch.ones(4, 128), torch.ones(96, 4))
    write_lora(Adapter("wide", {"model.layers.0.mlp.up_proj": lora}), layout_of(wide), path, "f16")
    with pytest.raises(OnepassError, match=r"wide.gguf: .*ffn_up.*different bases"):
        fuse([(good, 1.0), (path, 1.0)], target, "llama", "it")
    halved = tmp_path / "halved.gguf"
    halved.write_bytes(good.read_bytes().replace(b"ffn_up.weight.lora_b", b"ffn_up.weight.lora_c"))
    with pytest.raises(OnepassError, match=r"halved.gguf: .*ffn_up.*both halves"):
        fuse([(halved, 1.0)], target, "llama", "it")
    base = tmp_path / "base.gguf"
    base.write_bytes(good.read_bytes()[:-40])
    with pytest.raises(OnepassError, match=r"base.gguf is no GGUF"):
        fuse([(base, 1.0)], target, "llama", "it")


def test_a_composition_is_one_adapter_on_the_engine_or_its_parts(
    base: Base, tmp_path: Path
) -> None:
    """Also one that shares its adapters, and beside ways that there is nothing to fuse of."""
    pair = "summarize+translate:es"
    summarize, spanish = random_parts(base, 2, size=0.1)
    weighted = (Weighted(summarize, 0.5), Weighted(spanish, 0.5))
    whole = Pass(parse_task(pair), weighted, random_calibration(base, size=0.1))
    steps = (
        Pass(parse_task("summarize"), weighted[:1]),
        Pass(parse_task("translate:es"), weighted[1:]),
    )
    made = {
        "whole": Composition(base.shape, parse_task(pair), (whole,), "lc++"),
        "plain": Composition(
            base.shape, parse_task(pair), (Pass(parse_task(pair), weighted),), "linear"
        ),
        "joint": Composition(
            base.shape, parse_task(pair), (Pass(parse_task(pair), weighted[:1]),), "joint-expert"
        ),
        "steps": Composition(base.shape, parse_task(pair), steps, "multi-step"),
    }
    export_gguf(made, base, tmp_path / "set", "f32", fused=False, compactly=True)
    options: dict[str, Any] = {"threads": 1, "exact": True, "slots": 1}
    with Engine(tmp_path / "set", **options) as engine:
        apart = [engine.run(name, CHAT, max_new_tokens=12).text for name in made]
        (ids,) = [engine.prompt_ids(CHAT)]
        scales = engine.manifest.composition("whole").passes[0].scales
        expected = engine.log_probabilities(ids, scales)
    with Engine(tmp_path / "set", fused=list(made), **options) as engine:
        assert [engine.run(name, CHAT, max_new_tokens=12).text for name in made] == apart
        found = engine.log_probabilities(ids, {"fused/whole": 1.0})
        assert max(abs(found[token] - value) for token, value in expected.items()) < 1e-4
        with pytest.raises(OnepassError, match="'fused/joint'"):
            engine.log_probabilities(ids, {"fused/joint": 1.0})
        assert engine.run("whole", CHAT, "main", max_new_tokens=4).tokens
    with pytest.raises(OnepassError, match=r"composition of this set 'hole'.*'whole'"):
        Engine(tmp_path / "set", fused=["hole"])


def test_the_stored_one_keeps_the_rounding_that_each_adapter_has(
    base: Base, tmp_path: Path
) -> None:
    """In 8 bits numbers share a scale: small factors of one must not share it with large ones."""
    pair = "summarize+translate:es"
    random = torch.Generator().manual_seed(0)

    def of_rank_24(size: float) -> dict[str, Lora]:
        return {
            module: Lora(
                torch.randn(24, in_, generator=random),
                torch.randn(out, 24, generator=random) * size,
            )
            for module, (out, in_) in base.shape.modules.items()
        }

    large = Adapter("large", of_rank_24(1.0), base.name)
    small = Adapter("small", of_rank_24(1e-2), base.name)
    weighted = (Weighted(large, 0.5), Weighted(small, 0.5))
    made = {
        "it": Composition(
            base.shape, parse_task(pair), (Pass(parse_task(pair), weighted),), "linear"
        )
    }
    manifest = export_gguf(made, base, tmp_path / "set", "f32", "q8_0", compactly=True)
    (entry,) = manifest.compositions
    assert entry.fused is not None
    scales = entry.passes[0].scales
    apart = {file.name: deltas(tmp_path / "set" / file.path) for file in manifest.adapters}
    for weight, found in deltas(tmp_path / "set" / entry.fused.path).items():
        left = found - scales["large"] * apart["large"][weight]
        expected = scales["small"] * apart["small"][weight]
        np.testing.assert_allclose(left, expected, rtol=0.0, atol=0.01 * np.abs(expected).max())


def test_names_that_files_cannot_have_apart_are_told_apart(base: Base, tmp_path: Path) -> None:
    pair = "summarize+translate:es"
    whole = Pass(
        parse_task(pair), tuple(Weighted(each, 0.5) for each in random_parts(base, 2, size=0.1))
    )
    composition = Composition(base.shape, parse_task(pair), (whole,), "linear")
    made = dict.fromkeys(("a b", "a-b", "A-B"), composition)
    manifest = export_gguf(made, base, tmp_path / "set", "f32")
    places = [entry.fused.path.casefold() for entry in manifest.compositions if entry.fused]
    assert len({*places}) == 3
    assert read_set(tmp_path / "set") == manifest
