"""Device sets that are wrong: damaged files, manifests that lie; what `pack verify` finds."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch.nn.functional as F

from architectures import build
from device_kit import CHAT, edit, engine_or_skip, opened, pair, put, sign, three_parts
from onepass.adapters.adapter import Lora
from onepass.core.errors import OnepassError
from onepass.export import export_gguf
from onepass.export.manifest import MANIFEST
from onepass.model.load import Base, load_base
from onepass.serve.verify import verify

engine_or_skip()


# ---------------------------------------------------------------- bad sets
def spoil(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))


BASE = "base-f32.gguf"


def _fused_of_two_passes(manifest: dict[str, Any]) -> None:
    manifest["compositions"][0]["passes"] *= 2


SCALE = "compositions.0.passes.0.scales.summarize"
INSTRUCTION = "compositions.1.passes.0.task.instruction"
CONTRADICTIONS: list[tuple[Callable[[dict[str, Any]], None], str]] = [
    (put("adapters.0.path", "../device/adapters/../../elsewhere.gguf"), "points outside"),
    (put("compositions.0.passes.0.scales.nobody", 1.0), "'three' uses adapter 'nobody'; the set "),
    (put("adapters.1.name", "summarize"), "two adapters are called 'summarize'"),
    (put(SCALE, "much"), rf"field {SCALE}.*'much'"),
    (put(SCALE, float("nan")), rf"field {SCALE}.*finite"),
    (put("format", "onepass device 7"), r"field format.*onepass device 7"),
    (put("base.type", "q9"), r"field base.*f32\|f16.*'q9'"),
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


ADAPTER = "adapters/summarize.gguf"


@pytest.mark.parametrize(
    ("file", "change"),
    [
        (BASE, lambda data: data[: len(data) // 2]),
        (BASE, lambda data: b"no GGUF at all" * 100),
        (BASE, lambda data: b""),
        (ADAPTER, lambda data: data[:2000]),
        (ADAPTER, lambda data: b"no GGUF at all" * 100),
        (ADAPTER, lambda data: data.replace(b"blk.1.attn_q", b"blk.9.attn_q")),
    ],
    ids=["half", "no gguf", "empty", "half adapter", "no adapter", "other layers"],
)
def test_a_bad_gguf_with_the_right_checksum_is_refused(
    file: str, change: Callable[[bytes], bytes], device: Path
) -> None:
    spoil(device / file, change)
    sign(device)
    for open_it in (opened, verify):
        with pytest.raises(OnepassError, match=str(device)):
            open_it(device)


def test_when_no_file_is_to_blame_the_first_error_is_told(
    device: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onepass.serve.engine.SLOTS", 1000)
    with pytest.raises(OnepassError, match=r"1000 slots: llama_init.*n_seq_max must be <= 256$"):
        opened(device, slots=1000)


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
    edit(device, put("base.type", "f32"))
    for open_it in (opened, verify):
        with pytest.raises(OnepassError, match=r"attn_k.weight.*incorrect shape.*wrong base"):
            open_it(device)


def test_scales_in_each_others_place_are_found_by_the_test_vector(device: Path) -> None:
    def swap(manifest: dict[str, Any]) -> None:
        scales = manifest["compositions"][0]["passes"][0]["scales"]
        scales["summarize"], scales["tone-witty"] = scales["tone-witty"], scales["summarize"]

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


# ---------------------------------------------------------------- manifests that fit no more
@pytest.mark.parametrize(
    ("change", "why"),
    [
        (put("base.type", "f16"), r"says 1 for general.file_type of base-f32.gguf, which has 0"),
        (put("base.vocabulary", 32), r"says 32 for qwen2.vocab_size of .*, which has 320"),
        (put("base.context", 10**12), r"qwen2.context_length of .*, which has 256"),
        (put("base.blocks", 3), r"says 3 for qwen2.block_count of .*, which has 2"),
        (put("vectors.0.tolerance", 0.9), "allows 0.9, files of these types 0.001"),
        (put("vectors", []), "composition 'three': it has no test vector"),
        (lambda manifest: manifest["vectors"].pop(0), "'three': it has no test vector"),
        (put("vectors.1.top.0", {}), "'pair': its test vector says nothing of a token"),
        (put(INSTRUCTION, "Sing."), "'pair': the prompt of its test vector is not"),
        (put("compositions.1.passes.0.task", "sing"), "manifest.json: unknown task 'sing'"),
        (put("compositions.1.passes.0.task", "summarize"), "'pair': the prompt of its test vector"),
        (put("prompt.before", [999999]), "tokenises .* in another way .* from token 0"),
        (put("prompt.text_after", "!"), "tokenises .* in another way than the base's own"),
        (put("samples.1.ids", [5]), "tokenises .* in another way .* from token 0"),
        (put(SCALE, 1e30), r"'three': .*overflow with adapters .*summarize at 1e\+30"),
        (put(SCALE, 0.51), "'three': .*differ by .*, 0.001 is allowed"),
    ],
)
def test_a_manifest_that_its_files_do_not_bear_out_is_not_verified(
    change: Callable[[dict[str, Any]], None], why: str, device: Path
) -> None:
    edit(device, change)
    with pytest.raises(OnepassError, match=why):
        verify(device, threads=1)


@pytest.mark.parametrize("types", [("f16", "f16"), ("q8_0", "q8_0"), ("q4_0", "q8_0")])
def test_whatever_is_packed_is_verified(types: tuple[str, str], qwen: Base, tmp_path: Path) -> None:
    """Of ranks 30, which 8 bits fill up to 32, and 4, which they leave."""
    made = pair(qwen)
    (pass_,) = made.passes
    first, second = pass_.adapters
    modules = {path: padded_to(lora, 30) for path, lora in first.adapter.modules.items()}
    wide = replace(first, adapter=replace(first.adapter, modules=modules))
    made = replace(made, passes=(replace(pass_, adapters=(wide, second)),))
    manifest = export_gguf({"it": made}, qwen, tmp_path / "set", *types, vectors=True)
    assert {adapter.rank for adapter in manifest.adapters} == {2, 30}
    allowed = {"f16": 0.05, "q8_0": 1.0}[types[1]]
    assert {each.tolerance for each in verify(tmp_path / "set", threads=1)} == {allowed}


def padded_to(lora: Lora, rank: int) -> Lora:
    more = rank - lora.rank
    return Lora(F.pad(lora.down, (0, 0, 0, more)), F.pad(lora.up, (0, more)))


def test_numbers_that_overflow_are_refused_whole_and_in_pieces(device: Path) -> None:
    """llama.cpp itself goes on with some token; it is told of each time, not the first alone."""
    edit(device, put(SCALE, 1e30))
    pieces: list[str] = []
    with opened(device) as engine:
        for on_text in (None, None, pieces.append):
            with pytest.raises(OnepassError, match=r"overflow.*summarize at 1e\+30"):
                engine.run("three", CHAT, max_new_tokens=4, on_text=on_text)
        assert engine.run("pair", CHAT, max_new_tokens=4).tokens
    assert not pieces


def test_exchanged_adapters_are_found_by_their_names(device: Path) -> None:
    def exchange(manifest: dict[str, Any]) -> None:
        one, other = manifest["adapters"][:2]
        for field in ("path", "bytes", "sha256"):
            one[field], other[field] = other[field], one[field]

    edit(device, exchange)
    with pytest.raises(OnepassError, match=r"for general.name of adapters/.*; write the set again"):
        verify(device, threads=1)
