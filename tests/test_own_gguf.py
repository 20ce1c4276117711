"""Sets whose base is the user's own GGUF file, taken as it is."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from activated_device_kit import (
    SPANISH,
    TURNS,
    WITTY,
    activated,
)
from activated_kit import log_probabilities, prompt_of
from architectures import build
from device_kit import (
    CHAT,
    STABLELM_12B,
    check_parity,
    edit,
    engine_or_skip,
    opened,
    other_model,
    pair,
    put,
    three_parts,
)
from onepass.api.exporting import write_set
from onepass.core.errors import OnepassError
from onepass.core.files import sha256
from onepass.export import export_gguf
from onepass.export.gguf.base import write_base
from onepass.export.gguf.own import layout_in, read_own, stored_numbers
from onepass.model.blocks import stored_values
from onepass.model.load import Base, load_base
from onepass.serve.verify import verify

engine_or_skip()
from gguf import GGMLQuantizationType as Kind  # noqa: E402

from gguf_kit import PERMUTED, write_model  # noqa: E402

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {},
    "gemma3_text": {
        "head_dim": 12, "query_pre_attn_scalar": 12, "sliding_window": 16, "num_hidden_layers": 7,
    },
    "qwen3": {"head_dim": 12},
    "qwen2": {},
    "mistral": {"sliding_window": None, "head_dim": 8},
    "phi3": {"sliding_window": 512, "tie_word_embeddings": False},
    "smollm3": {"num_hidden_layers": 5},
    "lfm2": {
        "num_hidden_layers": 3, "layer_types": ["conv", "full_attention", "conv"],
        "block_auto_adjust_ff_dim": False, "norm_eps": 1e-5,
    },
}  # fmt: skip
"""By Hugging Face's model_type; stablelm, which has LayerNorms, is tested with the rest."""


def tiny(kind: str, bare: Base) -> Base:
    base = other_model(bare, kind, **ARCHITECTURES[kind])
    with torch.no_grad():
        for weight in base.model.parameters():
            if weight.ndim == 1:  # which start at 0 or 1 and would hide that one is left out
                weight.add_(torch.randn_like(weight) * 0.2)
            else:
                weight.mul_(3)  # so that its logits differ clearly
    return base


@pytest.mark.parametrize("fused", [False, True], ids=["parts", "fused"])
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_each_architecture_computes_what_pytorch_does(
    kind: str, fused: bool, families: dict[str, Base], tmp_path: Path
) -> None:
    base = tiny(kind, families["qwen2.5"])
    file = write_model(base, tmp_path / "model.gguf")
    # llama.cpp takes GELU from a table of 16 bits.
    within = 2e-3 if kind == "gemma3_text" else 1e-4
    options: Any = {"own": file, "vectors": True, "within": within}
    check_parity(base, three_parts(base), tmp_path / "set", fused, **options)
    assert verify(tmp_path / "set", threads=1)


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_one_reading_is_right_in_each_architecture(
    kind: str, families: dict[str, Base], tmp_path: Path
) -> None:
    """With a text longer than a sliding window, read as it grows, and answers taken back."""
    base = tiny(kind, families["qwen2.5"])
    file = write_model(base, tmp_path / "model.gguf")
    made = {name: activated(base, words) for name, words in (("one", SPANISH), ("two", WITTY))}
    export_gguf(made, base, tmp_path / "set", "f32", "f32", own=file, vectors=True)
    assert verify(tmp_path / "set", threads=1)
    within = 2e-3 if kind == "gemma3_text" else 1e-4
    with opened(tmp_path / "set") as engine:
        for turns in (2, 3, 4):
            text = "\n".join(TURNS[:turns])
            start = engine.read(text, max_new_tokens=24).prompt_tokens
            for name, composition in [*made.items(), *made.items()]:
                answer = engine.run(name, text, max_new_tokens=24)
                assert answer.cached_tokens in ((start,) if kind != "lfm2" else (0, start))
                (pass_,) = composition.passes
                ids, begin = prompt_of(base, pass_.task, text)
                found = engine.log_probabilities(ids, engine.passes(name)[0].scales)
                expected = log_probabilities(base, pass_, ids, begin)
                worst = max(abs(float(expected[token]) - value) for token, value in found.items())
                assert worst < within, (name, turns)


@pytest.mark.parametrize("family_name", ["llama-3.2", "stablelm-2", "stablelm 12b"])
def test_a_file_that_was_converted_here_can_be_taken_too(
    family_name: str, families: dict[str, Base], tmp_path: Path
) -> None:
    """With scaled rotary positions; with LayerNorms and biases; with norms per head."""
    base = families.get(family_name)
    base = base or other_model(families["stablelm-2"], "stablelm", **STABLELM_12B)
    write_base(base, tmp_path / "model.gguf", "f32")
    check_parity(base, three_parts(base), tmp_path / "set", own=tmp_path / "model.gguf")


@pytest.mark.parametrize("kind", ["llama", "smollm3", "phi3"])
def test_a_test_vector_is_of_the_numbers_in_the_file(
    kind: str, families: dict[str, Base], tmp_path: Path
) -> None:
    """Of eight bits a weight, read back in the order of rows that PyTorch has."""
    base = tiny(kind, families["qwen2.5"])
    file = read_own(write_model(base, tmp_path / "model.gguf", Kind.Q8_0))
    layout = layout_in(file, base, base.shape.modules)
    assert layout.heads == ({"q_proj": 4, "k_proj": 2} if kind in PERMUTED else {})
    found = dict(stored_numbers(file, base, layout))
    matrices = {path: w for path, w in base.model.named_parameters() if w.ndim == 2}
    assert found.keys() == matrices.keys()
    for path, weight in matrices.items():
        expected = stored_values(weight.detach().numpy(), "q8_0")
        assert torch.equal(found[path], torch.from_numpy(expected)), path
    export_gguf({"it": three_parts(base)}, base, tmp_path / "set", own=file.path, vectors=True)
    (checked,) = verify(tmp_path / "set", threads=1)
    assert checked.tolerance == 1.0
    assert checked.difference < 0.3


def test_a_base_read_from_a_file_gets_that_file(
    base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_base(base, tmp_path / "micro.gguf", "q8_0")
    loaded = load_base(tmp_path / "micro.gguf", "cpu")
    made = {"it": three_parts(loaded)}
    written = write_set(made, loaded, tmp_path / "set", vectors=True).manifest
    assert written is not None
    assert written.base.own
    assert (tmp_path / "set" / written.base.path).read_bytes() == Path(loaded.name).read_bytes()
    assert verify(tmp_path / "set", threads=1)
    converted = write_set(made, loaded, tmp_path / "set", "q4_0").manifest
    assert converted is not None
    assert (converted.base.own, converted.base.type) == (False, "q4_0")


@pytest.fixture(scope="module")
def sound(qwen: Base, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(qwen, tmp_path_factory.mktemp("sound") / "model.gguf")


# ---------------------------------------------------------------- files that are referred to
@pytest.fixture(scope="module")
def linked(qwen: Base, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with model.gguf and two sets that share it."""
    folder = tmp_path_factory.mktemp("linked")
    write_model(qwen, folder / "model.gguf")
    for name in ("one", "other"):
        export_gguf(
            {"it": pair(qwen)}, qwen, folder / name, own=folder / "model.gguf", linked=True,
            vectors=True,
        )  # fmt: skip
    return folder


def test_several_sets_share_a_file(linked: Path) -> None:
    for name in ("one", "other"):
        assert not list((linked / name).glob("*.gguf"))
        assert verify(linked / name, threads=1)


def test_a_file_that_was_moved_is_found_beside_the_set_or_where_it_is_said_to_be(
    linked: Path, tmp_path: Path
) -> None:
    shutil.copytree(linked / "one", tmp_path / "moved" / "set")
    edit(tmp_path / "moved" / "set", put("base.path", "/nowhere/model.gguf"))
    device = tmp_path / "moved" / "set"
    with pytest.raises(OnepassError, match=r"/nowhere/model\.gguf is missing.*--base.*SHA-256 "):
        opened(device)
    with opened(device, base=linked / "model.gguf") as engine:
        assert engine.run("it", CHAT, max_new_tokens=2).tokens
    shutil.copy(linked / "model.gguf", tmp_path / "moved")
    assert verify(device, threads=1)
    data = (linked / "model.gguf").read_bytes()
    (tmp_path / "other.gguf").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(OnepassError, match=r"other\.gguf is not the file that manifest.json"):
        opened(device, base=tmp_path / "other.gguf")
    with pytest.raises(OnepassError, match=r"none\.gguf is missing"):
        opened(device, base=tmp_path / "none.gguf")


def test_a_file_inside_the_folder_to_be_written_is_not_only_referred_to(
    sound: Path, qwen: Base, tmp_path: Path
) -> None:
    made = {"it": pair(qwen)}
    manifest = export_gguf(made, qwen, tmp_path / "set", own=sound)
    file = tmp_path / "set" / manifest.base.path
    with pytest.raises(OnepassError, match=r"written anew; move the file, or leave out --link"):
        export_gguf(made, qwen, tmp_path / "set", own=file, linked=True)
    assert file.is_file()
    assert export_gguf(made, qwen, tmp_path / "set", own=file).base.sha256 == manifest.base.sha256


# ---------------------------------------------------------------- files that do not fit
def refused(file: Path, base: Base, folder: Path, why: str, **options: Any) -> None:
    with pytest.raises(OnepassError, match=why):
        export_gguf({"it": pair(base)}, base, folder / "set", own=file, **options)
    assert not (folder / "set").exists()


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.9, 0.999])
def test_a_file_that_was_cut_short_is_refused(
    share: float, sound: Path, qwen: Base, tmp_path: Path
) -> None:
    data = sound.read_bytes()
    (tmp_path / "cut.gguf").write_bytes(data[: int(share * len(data))])
    refused(tmp_path / "cut.gguf", qwen, tmp_path, r"cut\.gguf is no GGUF file, or is cut short")


def test_a_missing_file_and_one_of_several_parts_are_refused(
    sound: Path, qwen: Base, tmp_path: Path
) -> None:
    refused(tmp_path / "none.gguf", qwen, tmp_path, r"there is no file .*none\.gguf")
    refused(tmp_path, qwen, tmp_path, r"there is no file ")
    write_model(qwen, tmp_path / "part.gguf", split_count=3)
    refused(tmp_path / "part.gguf", qwen, tmp_path, r"part\.gguf: it is one of 3 parts; join them")


def test_a_file_of_another_model_is_refused(
    qwen: Base, families: dict[str, Base], tmp_path: Path
) -> None:
    bare = families["qwen2.5"]
    for differs, why in (
        ({"num_hidden_layers": 3, "layer_types": None}, "it has 3 blocks, not 2"),
        ({"intermediate_size": 96}, r"blk.0.ffn_gate.weight is \(96, 32\) \(out, in\), .* \(64, "),
        ({"head_dim": 16}, "attn_q.weight"),
        ({}, "the cosine between its blk.0.* and .*_proj is -?0"),
    ):
        other = other_model(bare, "qwen2" if "head_dim" not in differs else "qwen3", **differs)
        file = write_model(other, tmp_path / "other.gguf")
        refused(file, bare, tmp_path, rf"other\.gguf is not the model that .* is: .*{why}")
    lfm = tiny("lfm2", bare)
    file = write_model(tiny("llama", bare), tmp_path / "other.gguf")
    refused(file, lfm, tmp_path, "it has 2 blocks, not 3")


def test_a_file_with_another_tokenizer_is_refused(
    families: dict[str, Base], tmp_path: Path
) -> None:
    base = families["qwen2.5"]
    words = load_base(build("qwen2.5", tmp_path / "other", ["Wholly other words, and more"] * 9))
    file = write_model(replace(base, tokenizer=words.tokenizer), tmp_path / "words.gguf")
    refused(
        file, base, tmp_path, r"words\.gguf has another tokenizer than .* words differ, the fir"
    )


def test_a_type_that_only_llama_cpp_knows_is_packed_without_a_test_vector(
    families: dict[str, Base], tmp_path: Path
) -> None:
    """One bit a weight, in blocks of 128, which the package gguf does not dequantise."""
    base = other_model(
        families["llama-3.2"], "mistral", hidden_size=128, intermediate_size=128, head_dim=32
    )
    file = write_model(base, tmp_path / "bits.gguf", Kind.Q1_0)
    assert read_own(file).unread == ["q1_0"]
    export_gguf({"it": pair(base)}, base, tmp_path / "set", own=file, vectors=True)
    assert verify(tmp_path / "set", threads=1) == []
    with opened(tmp_path / "set") as engine:
        assert engine.run("it", CHAT, max_new_tokens=4).tokens == 4


def test_a_type_that_nobody_knows_is_named(sound: Path, qwen: Base, tmp_path: Path) -> None:
    data = sound.read_bytes()
    name = b"blk.0.attn_q.weight"
    place = data.index(name) + len(name) + 4 + 2 * 8
    spoilt = data[:place] + (99).to_bytes(4, "little") + data[place + 4 :]
    (tmp_path / "new.gguf").write_bytes(spoilt)
    refused(tmp_path / "new.gguf", qwen, tmp_path, r"new\.gguf has tensors of a type.*99.*upgrade")


def test_what_must_change_the_base_is_refused(sound: Path, qwen: Base, tmp_path: Path) -> None:
    refused(sound, qwen, tmp_path, "a merged set changes the base", merged=True)
    with pytest.raises(OnepassError, match=r"output biases, .*taken as it is.*--form column"):
        export_gguf({"it": three_parts(qwen, "output")}, qwen, tmp_path / "set", own=sound)
    with pytest.raises(OnepassError, match=r"converted to q4_0, or .* taken as it is; leave out"):
        write_set({"it": pair(qwen)}, qwen, tmp_path / "set", "q4_0", gguf=sound)
    with pytest.raises(OnepassError, match=r"can only refer to a GGUF file"):
        write_set({"it": pair(qwen)}, qwen, tmp_path / "set", linked=True)


# ---------------------------------------------------------------- what is told
@pytest.mark.parametrize(
    ("license_", "linked", "told"),
    [
        ("apache-2.0", False, ""),
        ("gemma", False, "the licence of model.gguf is gemma: passing on the set"),
        (None, False, "the licence of model.gguf is not stated: passing on the set"),
        ("gemma", True, ""),
    ],
)
def test_a_licence_is_on_record_and_told_before_a_copy_is_made(
    license_: str | None, linked: bool, told: str, qwen: Base, tmp_path: Path
) -> None:
    file = write_model(qwen, tmp_path / "model.gguf", license_=license_)
    lines: list[str] = []
    options: Any = {"own": file, "linked": linked, "told": lines.append}
    manifest = export_gguf({"it": pair(qwen)}, qwen, tmp_path / "set", **options)
    assert manifest.base.license == (license_ or "")
    assert [line for line in lines if "licence" in line] == [f for f in lines[:1] if told]
    assert lines[0].startswith(told or "base-model.gguf" if not linked else "adapters/")


def test_a_base_without_a_chat_template_gets_a_plain_one_and_says_so(
    families: dict[str, Base], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tiny("mistral", families["llama-3.2"])
    monkeypatch.setattr(base.tokenizer, "chat_template", None)
    file = write_model(base, tmp_path / "model.gguf")
    lines: list[str] = []
    options: Any = {"own": file, "vectors": True, "told": lines.append}
    manifest = export_gguf({"it": pair(base)}, base, tmp_path / "set", **options)
    assert any("has no chat template: a prompt is the instruction" in line for line in lines)
    assert manifest.prompt.before == [base.tokenizer.bos_token_id]
    assert (manifest.prompt.text_before, manifest.prompt.text_after) == ("", "\n\n")
    assert verify(tmp_path / "set", threads=1)


def test_a_calibration_on_other_numbers_is_remarked_on(
    qwen: Base, sound: Path, tmp_path: Path
) -> None:
    def remarks(**card: Any) -> list[str]:
        made = {"it": replace(pair(qwen), card=card)}
        return write_set(made, qwen, tmp_path / "set", gguf=sound).remarks

    assert not remarks(base_sha256=sha256(sound))
    assert "on another file (SHA-256 0123" in remarks(base_sha256="0123" * 16)[0]
    assert "on other numbers than model.gguf holds" in remarks()[0]


def test_a_window_that_llama_cpp_does_not_have_is_told(
    families: dict[str, Base], tmp_path: Path
) -> None:
    base = other_model(families["qwen2.5"], "mistral", sliding_window=64, head_dim=8)
    file = write_model(base, tmp_path / "model.gguf", window=False)
    lines: list[str] = []
    export_gguf({"it": pair(base)}, base, tmp_path / "set", own=file, told=lines.append)
    assert "attends to 64 tokens at a time, but llama.cpp" in lines[0]
