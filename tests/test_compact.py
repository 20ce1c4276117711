"""Compact device sets: what layers share is stored once; llama.cpp is given what it always was."""

import errno
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from architectures import build
from device_kit import (
    CHAT,
    PAIR,
    edit,
    engine_or_skip,
    put,
    random_calibration,
    random_parts,
    sign,
    three_parts,
    torch_log_probabilities,
)
from onepass.adapters.calibration import calibration_bytes
from onepass.adapters.composition import Composition, Pass, Weighted
from onepass.core.errors import OnepassError
from onepass.export import export_gguf
from onepass.export.gguf.compact import block_order, compact, expand
from onepass.export.gguf.file import Planned, describe_lora, read_gguf, write_gguf
from onepass.export.manifest import MANIFEST
from onepass.model.blocks import Array
from onepass.model.generate import run
from onepass.model.load import Base, load_base
from onepass.serve import Engine
from onepass.serve.verify import verify
from onepass.tasks.book import parse_task

engine_or_skip()

LAYERS = 4


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    folder = tmp_path_factory.mktemp("bases") / "llama"
    return load_base(build("llama-3.2", folder, layers=LAYERS), "cpu")


def on_some_layers(base: Base) -> Composition:
    """An adapter on layers 0, 1 and 3, and one on 1 alone; the calibration reaches what they do."""
    acting = [("0", "1", "3"), ("1",)]
    adapters = []
    for adapter, layers in zip(random_parts(base, 2), acting, strict=True):
        modules = {m: lora for m, lora in adapter.modules.items() if m.split(".")[2] in layers}
        adapters.append(Weighted(replace(adapter, modules=modules), 0.5))
    pass_ = Pass(parse_task(PAIR), tuple(adapters), random_calibration(base))
    return Composition(base.shape, parse_task(PAIR), (pass_,), "lc++")


@pytest.fixture(scope="module")
def made(base: Base) -> dict[str, Composition]:
    return {"three": three_parts(base), "some": on_some_layers(base)}


@pytest.fixture(scope="module")
def whole(
    made: dict[str, Composition], base: Base, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A sound compact set; not to be changed."""
    folder = tmp_path_factory.mktemp("sets") / "whole"
    export_gguf(made, base, folder, "f32", "f32", fused=False, vectors=True, compactly=True)
    return folder


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which compact files are expanded."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return tmp_path / "temporary"


def numbers(shape: tuple[int, ...], value: float = 1.0) -> Array:
    return np.full(shape, value, np.float32)


def names(path: Path) -> list[str]:
    return [tensor.name for tensor in read_gguf(path).tensors]


# ---------------------------------------------------------------- the law
NUMBERS = st.lists(st.integers(0, 2), min_size=1, max_size=40)
"""By block, which of three contents a tensor has there; 0: the block has none."""


@given(
    contents=st.dictionaries(st.sampled_from(["a.lora_a", "a.lora_b", "b" * 30]), NUMBERS),
    type_=st.sampled_from(["F32", "F16", "Q8_0"]),
    shape=st.tuples(st.integers(1, 3), st.sampled_from([32, 64])),
)
@settings(max_examples=60)
def test_expanding_gives_back_the_file(
    contents: dict[str, list[int]], type_: str, shape: tuple[int, int]
) -> None:
    planned = [
        Planned(f"blk.{block}.{rest}", shape, type_, partial(numbers, shape, which))
        for rest, blocks in contents.items()
        for block, which in enumerate(blocks)
        if which
    ]
    planned.append(Planned("output.lora_a", (3,), "F32", partial(numbers, (3,))))
    planned.sort(key=lambda each: block_order(each.name))
    with tempfile.TemporaryDirectory() as folder:
        plain, small, again = (Path(folder, name) for name in ("plain", "small", "again"))
        write_gguf(plain, "llama", partial(describe_lora, name="é"), planned)
        shutil.copy(plain, small)
        smaller = compact(small)
        assert smaller == any(len(b) - b.count(0) > len({*b} - {0}) for b in contents.values())
        assert small.stat().st_size < plain.stat().st_size or not smaller
        assert all(len(name) <= 63 for name in names(small))
        expand(small, again, 40)
        assert again.read_bytes() == plain.read_bytes()


def test_scattered_blocks_take_as_few_names_as_fit(tmp_path: Path) -> None:
    path, shape = tmp_path / "x.gguf", (2, 32)
    planned = [
        Planned(f"blk.{block}.attn_output.weight.lora_a", shape, "F16", partial(numbers, shape))
        for block in (*range(0, 40, 2), 41, 42, 43)
    ]
    write_gguf(path, "llama", partial(describe_lora, name="it"), planned)
    assert compact(path)
    assert names(path) == [
        "blk.0,2,4,6,8,10,12,14,16,18,20,22,24.attn_output.weight.lora_a",
        "blk.26,28,30,32,34,36,38,41-43.attn_output.weight.lora_a",
    ]
    assert not compact(path)  # it is as small as it gets


@pytest.mark.parametrize("type_", ["f32", "f16", "q8_0"])
def test_a_compact_set_is_the_plain_one_when_expanded(
    type_: str, made: dict[str, Composition], base: Base, tmp_path: Path
) -> None:
    plain, small = (
        export_gguf(made, base, tmp_path / name, "f16", type_, compactly=name == "small")
        for name in ("plain", "small")
    )
    assert [a.compact for a in small.adapters] == [a.role == "calibration" for a in small.adapters]
    assert small.compositions[0].fused == plain.compositions[0].fused
    for before, after in zip(plain.adapters, small.adapters, strict=True):
        one, other = tmp_path / "plain" / before.path, tmp_path / "small" / after.path
        expand(other, tmp_path / "expanded", LAYERS)
        assert (tmp_path / "expanded").read_bytes() == one.read_bytes()
        if not after.compact:
            assert one.read_bytes() == other.read_bytes()


def test_one_more_combination_costs_its_calibration(base: Base, tmp_path: Path) -> None:
    composition = three_parts(base)
    (pass_,) = composition.passes
    assert pass_.calibration is not None
    options: dict[str, Any] = {"fused": False, "compactly": True}
    manifest = export_gguf({"it": composition}, base, tmp_path / "set", "q4_0", "f16", **options)
    own = calibration_bytes(pass_.calibration, torch.float16)
    assert manifest.compositions[0].marginal_bytes == pytest.approx(own, abs=600)
    expert = Weighted(random_parts(base, 1)[0], stored=True)  # which differs from layer to layer
    joint = Composition(
        base.shape, parse_task(PAIR), (Pass(parse_task(PAIR), (expert,)),), "joint-expert"
    )
    manifest = export_gguf({"it": joint}, base, tmp_path / "joint", **options)
    assert not manifest.adapters[0].compact


# ---------------------------------------------------------------- on the engine
@pytest.mark.parametrize("name", ["three", "some"])
def test_a_compact_set_computes_what_pytorch_does(
    name: str, made: dict[str, Composition], base: Base, whole: Path, temporary: Path
) -> None:
    with Engine(whole, exact=True, threads=1) as engine:
        assert not list(temporary.iterdir())  # llama.cpp has read what was there
        ids = engine.prompt_ids(CHAT)
        found = engine.log_probabilities(ids, engine.manifest.composition(name).passes[0].scales)
        text = engine.run(name, CHAT, max_new_tokens=8).text
    expected = torch_log_probabilities(base, made[name].passes[0], ids)
    every = torch.tensor([found[token] for token in range(len(expected))], dtype=torch.float64)
    torch.testing.assert_close(every, expected, atol=1e-4, rtol=0.0)
    assert text == run(base, made[name], [CHAT], max_new_tokens=8).texts[0]


def test_a_compact_set_is_verified(whole: Path) -> None:
    assert [checked.composition for checked in verify(whole, threads=1)] == ["three", "some"]
    listed = names(whole / "adapters" / "calibration-some.gguf")
    assert {name.split(".")[1] for name in listed} == {"0-1,3"}
    assert len(listed) == 14


def test_plain_llama_cpp_refuses_a_compact_file(device: Path) -> None:
    edit(device, put("adapters.3.compact", False))
    with pytest.raises(OnepassError, match=r"llama.cpp cannot load .*"):
        Engine(device, threads=1)


def test_sets_of_the_first_format_still_run(base: Base, tmp_path: Path) -> None:
    export_gguf({"it": three_parts(base)}, base, tmp_path / "set", "f32", "f32", vectors=True)

    def of_format_1(manifest: dict[str, Any]) -> None:
        assert manifest["format"] == "onepass device 5"
        manifest["format"] = "onepass device 1"
        del manifest["samples"], manifest["activations"]
        for field in ("blocks", "own", "linked", "license"):
            del manifest["base"][field]
        (entry,) = manifest["compositions"]
        for part in (entry, *entry["passes"]):
            task = part["task"]
            part["task"] = task["name"]
        entry["passes"][0]["instruction"] = task["instruction"]
        for adapter in manifest["adapters"]:
            del adapter["compact"], adapter["invocation"]

    edit(tmp_path / "set", of_format_1)
    assert verify(tmp_path / "set", threads=1)


def test_without_room_to_expand_it_says_so(
    whole: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: Path, target: Path, *limits: int) -> None:
        target.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("onepass.serve.plain.expand", full)
        with pytest.raises(OnepassError, match=r"temporary/onepass-.*No space left.*TMPDIR"):
            Engine(whole)
    assert not list(temporary.iterdir())
    monkeypatch.setattr(tempfile, "tempdir", str(whole / MANIFEST))
    with pytest.raises(OnepassError, match=r"manifest.json: Not a directory.*TMPDIR"):
        Engine(whole)


# ---------------------------------------------------------------- damaged files
def swap(old: bytes, new: bytes, count: int = -1) -> Callable[[bytes], bytes]:
    assert len(old) == len(new)

    def change(data: bytes) -> bytes:
        assert old in data
        return data.replace(old, new, count)

    return change


DAMAGED: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "header": (lambda data: data[:300], "cut short"),
    "empty": (lambda data: b"", "no GGUF file"),
    "beyond": (swap(b"blk.0-3.attn_k", b"blk.0-4.attn_k"), "lora_a: its blocks are not"),
    "no block": (swap(b"blk.0-3.attn_k", b"blk.*-3.attn_k"), "its blocks are not"),
    "backwards": (swap(b"blk.0-3.attn_k", b"blk.3-0.attn_k"), "its blocks are not"),
    "twice": (swap(b"blk.0-3.attn_k", b"blk.3,3.attn_k"), "its blocks are not"),
    "overlapping": (swap(b"blk.0-3.attn_v", b"blk.2-2.attn_k"), "its blocks are not"),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_a_damaged_compact_file_is_refused_by_name(
    what: str, device: Path, temporary: Path
) -> None:
    change, why = DAMAGED[what]
    path = device / "adapters" / "calibration-three.gguf"
    path.write_bytes(change(path.read_bytes()))
    sign(device)
    with pytest.raises(OnepassError, match=rf"calibration-three\.gguf.*{why}"):
        Engine(device, threads=1)
    assert not list(temporary.iterdir())
