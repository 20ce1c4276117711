"""Device sets that are wrong: damaged files, manifests that lie; what `pack verify` finds."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from architectures import build
from device_kit import CHAT, edit, engine_or_skip, pair, sign, three_parts
from onepass.core.errors import OnepassError
from onepass.device import Engine
from onepass.device.verify import verify
from onepass.export import export_gguf
from onepass.export.manifest import MANIFEST
from onepass.model.load import Base, load_base

engine_or_skip()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return load_base(build("qwen2.5", tmp_path_factory.mktemp("bases") / "qwen"), "cpu")


@pytest.fixture(scope="module")
def whole(base: Base, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound set of two compositions; not to be changed."""
    folder = tmp_path_factory.mktemp("sets") / "whole"
    made = {"three": three_parts(base), "pair": pair(base)}
    export_gguf(made, base, folder, "f32", "f32", vectors=True)
    return folder


@pytest.fixture
def device(whole: Path, tmp_path: Path) -> Path:
    """A copy of the set that a test may spoil."""
    return Path(shutil.copytree(whole, tmp_path / "device"))


def opened(folder: Path, **options: Any) -> Engine:
    return Engine(folder, **{"exact": True, "threads": 1, **options})


# ---------------------------------------------------------------- bad sets
def spoil(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))


BASE = "base-f32.gguf"


def put(where: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """A change of a manifest's field, as in "base.context" or "adapters.0.path"."""

    def change(manifest: dict[str, Any]) -> None:
        *path, last = where.split(".")
        place: Any = manifest
        for key in path:
            place = place[int(key) if isinstance(place, list) else key]
        place[int(last) if isinstance(place, list) else last] = value

    return change


def _twice(manifest: dict[str, Any]) -> None:
    manifest["adapters"][1]["name"] = manifest["adapters"][0]["name"]


def _fused_of_two_passes(manifest: dict[str, Any]) -> None:
    manifest["compositions"][0]["passes"] *= 2


SCALE = "compositions.0.passes.0.scales.summarize"
CONTRADICTIONS: list[tuple[Callable[[dict[str, Any]], None], str]] = [
    (put("adapters.0.path", "../device/adapters/../../elsewhere.gguf"), "points outside"),
    (put("compositions.0.passes.0.scales.nobody", 1.0), "'three' uses adapter 'nobody'; the set "),
    (_twice, "two adapters are called 'summarize'"),
    (put(SCALE, "much"), rf"field {SCALE}.*'much'"),
    (put(SCALE, float("nan")), rf"field {SCALE}.*finite"),
    (put("format", "onepass device 7"), r"field format.*onepass device 7"),
    (put("base.type", "q9"), r"field base.type.*f32\|f16.*'q9'"),
    (put("base.vocabulary", 0), "field base.vocabulary.*greater than 0"),
    (put("base.context", 0), "field base.context.*greater than 0"),
    (put("base.merged", True), "the base is merged.*2 compositions and 4 adapters"),
    (put("adapters.0.rank", 0), "field adapters.0.rank.*greater than 0"),
    (put("compositions.0.task", "sumarize"), "unknown task 'sumarize'.*'summarize'"),
    (put("compositions.1.parts", {"zzz": "summarize"}), "'pair' has parts zzz; its task .* has"),
    (_fused_of_two_passes, r"'three' takes 2 passes.*fused/three.gguf"),
    (put("vectors.0.tolerance", 1e9), "field vectors.0.tolerance.*equal to 1 "),
    (put("vectors.0.tolerance", -1), "field vectors.0.tolerance.*greater than 0"),
    (put("vectors.0.top", []), "test vector of composition 'three' has 8 tokens.*0"),
]


@pytest.mark.parametrize(("change", "why"), CONTRADICTIONS)
def test_a_manifest_that_contradicts_itself_is_refused(
    change: Callable[[dict[str, Any]], None], why: str, device: Path
) -> None:
    edit(device, change)
    with pytest.raises(OnepassError, match=rf"manifest\.json.*{why}"):
        opened(device)


@pytest.mark.parametrize(
    ("file", "change", "why"),
    [
        (BASE, lambda data: data[:-100], "has .* bytes, but manifest.json says"),
        (BASE, lambda data: data[:-1] + bytes([data[-1] ^ 1]), "SHA-256 differs"),
        ("adapters/summarize.gguf", lambda data: b"", "summarize.gguf has 0 bytes"),
        (MANIFEST, lambda data: data[:-9], "not JSON"),
    ],
)
def test_a_file_that_was_cut_or_changed_is_refused(
    file: str, change: Callable[[bytes], bytes], why: str, device: Path
) -> None:
    spoil(device / file, change)
    with pytest.raises(OnepassError, match=why):
        opened(device)


def test_a_missing_file_or_manifest_is_named(device: Path, tmp_path: Path) -> None:
    (device / "adapters" / "summarize.gguf").unlink()
    with pytest.raises(OnepassError, match=r"summarize.gguf is missing"):
        opened(device)
    with pytest.raises(OnepassError, match=r"no device set: it has no manifest.json"):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("file", "change"),
    [
        (BASE, lambda data: data[: len(data) // 2]),
        (BASE, lambda data: b"no GGUF at all" * 100),
        ("adapters/summarize.gguf", lambda data: data[:2000]),
        ("adapters/summarize.gguf", lambda data: data.replace(b"blk.1.attn_q", b"blk.9.attn_q")),
    ],
    ids=["half", "no gguf", "half adapter", "other layers"],
)
def test_a_bad_gguf_with_the_right_checksum_ends_the_engine_not_us(
    file: str, change: Callable[[bytes], bytes], device: Path
) -> None:
    spoil(device / file, change)
    sign(device)
    with pytest.raises(OnepassError, match=r"llama.cpp cannot load .*base-f32.gguf: \S+"):
        opened(device)


def test_a_base_without_a_tokenizer_aborts_the_engine_not_us(device: Path) -> None:
    spoil(device / BASE, lambda data: data.replace(b"gpt2", b"none", 1))
    sign(device)
    with pytest.raises(OnepassError), opened(device) as engine:
        engine.run("pair", CHAT)


def test_adapters_of_another_base_are_refused(device: Path, tmp_path: Path) -> None:
    other = load_base(build("qwen2.5", tmp_path / "wider", hidden=64), "cpu")
    export_gguf({"three": three_parts(other)}, other, tmp_path / "other", "f32", "f32")
    shutil.copy(tmp_path / "other" / BASE, device / BASE)
    sign(device)
    with pytest.raises(OnepassError, match="cannot load"):
        opened(device)
    with pytest.raises(OnepassError, match=r"attn_k.weight.*made for another base"):
        verify(device)


def test_adapters_in_each_others_place_are_found_by_the_test_vector(device: Path) -> None:
    def swap(manifest: dict[str, Any]) -> None:
        one, other = manifest["adapters"][:2]
        one["name"], other["name"] = other["name"], one["name"]
        manifest["compositions"][0]["passes"][0]["scales"]["summarize"] = 0.25

    assert [each.composition for each in verify(device)] == ["three", "pair"]
    edit(device, swap)
    with pytest.raises(OnepassError, match=r"'three'.*differ by .* from PyTorch's"):
        verify(device)


def test_a_base_of_the_same_shape_is_found_by_the_test_vector(device: Path, tmp_path: Path) -> None:
    other = load_base(build("qwen2.5", tmp_path / "qwen", seed=1), "cpu")
    export_gguf({"three": three_parts(other)}, other, tmp_path / "other", "f32", "f32")
    shutil.copy(tmp_path / "other" / BASE, device / BASE)
    sign(device)
    with pytest.raises(OnepassError, match=r"differ by .* from PyTorch's"):
        verify(device)
