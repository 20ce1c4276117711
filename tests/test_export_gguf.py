"""`onepass export --format gguf`: llama.cpp computes what PyTorch does, to the fourth decimal."""

import random
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import normalizers, pre_tokenizers
from transformers import LlamaConfig

from architectures import build
from device_kit import (
    CHAT,
    PAIR,
    STABLELM_12B,
    check_parity,
    engine_or_skip,
    other_model,
    pair,
    random_parts,
    three_parts,
)
from onepass.adapters.adapter import Adapter, Lora
from onepass.adapters.composition import Composition, Pass, Weighted
from onepass.core.errors import OnepassError
from onepass.export import export_gguf
from onepass.export.gguf.adapter import as_stored, write_lora
from onepass.export.gguf.architecture import layout_of
from onepass.export.gguf.base import stored_state
from onepass.export.types import ADAPTER_TYPES
from onepass.model.chat import prompt_ids, text_ids
from onepass.model.generate import run
from onepass.model.load import Base, load_base
from onepass.serve import Engine
from onepass.serve.verify import verify
from onepass.tasks.book import parse_task

engine_or_skip()
from gguf import GGUFReader  # noqa: E402
from gguf.quants import dequantize  # noqa: E402


@pytest.mark.parametrize("fused", [False, True], ids=["parts", "fused"])
def test_three_adapters_and_a_calibration_are_what_pytorch_computes(
    fused: bool, family: Base, tmp_path: Path
) -> None:
    check_parity(family, three_parts(family), tmp_path / "set", fused)


def test_a_column_calibration_is_an_adapter_of_rank_one(
    families: dict[str, Base], tmp_path: Path
) -> None:
    base = families["qwen2.5"]
    composition = three_parts(base, "column")
    check_parity(base, composition, tmp_path / "set")
    manifest = export_gguf({"it": composition}, base, tmp_path / "set")
    assert [(a.role, a.rank) for a in manifest.adapters][-1] == ("calibration", 1)


def test_output_biases_are_folded_into_a_base_of_their_own(
    families: dict[str, Base], tmp_path: Path
) -> None:
    base = families["llama-3.2"]
    check_parity(base, three_parts(base, "output"), tmp_path / "set")
    with Engine(tmp_path / "set", threads=1) as engine:
        assert engine.manifest.base.merged
        assert not engine.manifest.adapters
        with pytest.raises(OnepassError, match="the whole composition"):
            engine.run("it", CHAT, "multi-step")


def test_output_biases_beside_other_compositions_or_without_a_place_are_refused(
    families: dict[str, Base], tmp_path: Path
) -> None:
    llama, qwen = families["llama-3.2"], families["qwen2.5"]
    both = {"biased": three_parts(llama, "output"), "plain": three_parts(llama)}
    with pytest.raises(OnepassError, match=r"export it alone.*--form column"):
        export_gguf(both, llama, tmp_path / "set")
    with pytest.raises(OnepassError, match=r"o_proj .*no place for a bias.*qwen2.*--form column"):
        export_gguf({"it": three_parts(qwen, "output")}, qwen, tmp_path / "set")
    assert not (tmp_path / "set").exists()


def test_a_composition_summed_into_the_base_is_what_pytorch_computes(
    family: Base, tmp_path: Path
) -> None:
    composition = three_parts(family)
    manifest = export_gguf(
        {"it": composition}, family, tmp_path / "set", "f32", "f32", merged=True, vectors=True
    )
    assert (manifest.adapters, manifest.base.merged) == ([], True)
    assert manifest.compositions[0].marginal_bytes == manifest.base.bytes
    expected = run(family, composition, [CHAT], max_new_tokens=16).texts[0]
    with Engine(tmp_path / "set", exact=True, threads=1) as engine:
        assert engine.run("it", CHAT, max_new_tokens=16).text == expected
        with pytest.raises(OnepassError, match="the whole composition"):
            engine.run("it", CHAT, "main")
    assert verify(tmp_path / "set", threads=1)[0].difference < 1e-3
    steps = replace(composition, passes=(*composition.passes, *composition.passes))
    with pytest.raises(OnepassError, match=r"one composition.*one of 2 passes"):
        export_gguf({"it": steps}, family, tmp_path / "set", merged=True)


@given(
    rank=st.integers(1, 70),
    length=st.sampled_from([32, 48, 64]),
    adapter_type=st.sampled_from(ADAPTER_TYPES),
)
@settings(max_examples=40, deadline=None)
def test_an_adapters_file_holds_what_it_is_said_to(
    rank: int, length: int, adapter_type: str
) -> None:
    """Read back by the gguf package; no larger than in 16 bits, and close where it is rounded."""
    config = LlamaConfig(
        hidden_size=length, intermediate_size=32, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=4,
    )  # fmt: skip
    random = torch.Generator().manual_seed(rank)
    down, up = (torch.randn(shape, generator=random) for shape in ((rank, length), (96, rank)))
    adapter = Adapter("it", {"model.layers.0.mlp.up_proj": Lora(down, up)})
    with tempfile.TemporaryDirectory() as folder:
        write_lora(adapter, layout_of(config), Path(folder, "it.gguf"), adapter_type)
        read = {
            tensor.name.rpartition(".")[2]: torch.tensor(
                dequantize(tensor.data, tensor.tensor_type)
            )
            for tensor in GGUFReader(Path(folder, "it.gguf")).tensors
        }
    (stored,) = as_stored(adapter, adapter_type).modules.values()
    torch.testing.assert_close(read["lora_b"] @ read["lora_a"], stored.delta())
    torch.testing.assert_close(read["lora_a"][:rank], stored.down, rtol=0.0, atol=0.0)
    torch.testing.assert_close(read["lora_b"][:, :rank], stored.up, rtol=0.0, atol=0.0)
    worst = {"f32": 0.0, "f16": 1e-3, "q8_0": 0.02}[adapter_type]
    assert (stored.up - up).abs().max() <= worst * up.abs().max()


@pytest.mark.parametrize(
    ("like", "kind", "differs"),
    [
        pytest.param("stablelm-2", "stablelm", STABLELM_12B, id="stablelm 12b"),
        pytest.param(
            "stablelm-2", "stablelm", {"tie_word_embeddings": True, "use_qkv_bias": False},
            id="stablelm tied",
        ),
        pytest.param("llama-3.2", "mistral", {"sliding_window": None, "head_dim": 8}, id="mistral"),
        pytest.param("qwen2.5", "qwen3", {"head_dim": 8}, id="qwen3"),
    ],
)  # fmt: skip
def test_relatives_of_the_families_are_what_pytorch_computes(
    like: str, kind: str, differs: dict[str, Any], families: dict[str, Base], tmp_path: Path
) -> None:
    base = other_model(families[like], kind, **differs)
    check_parity(base, three_parts(base), tmp_path / "set")


def test_two_compositions_share_the_base_and_the_task_adapters(
    families: dict[str, Base], tmp_path: Path
) -> None:
    base = families["qwen2.5"]
    summarize, spanish, witty = map(Weighted, random_parts(base))
    steps = (
        Pass(parse_task("summarize"), (summarize,)),
        Pass(parse_task("translate:es"), (spanish,)),
    )
    joint = (Pass(parse_task(PAIR), (replace(witty, stored=True),)),)
    made = {
        "three": three_parts(base),
        "pair": pair(base),
        "joint": Composition(base.shape, joint[0].task, joint, "joint-expert"),
        "steps": Composition(base.shape, joint[0].task, steps, "multi-step"),
    }
    manifest = export_gguf(made, base, tmp_path / "set", "f32", "f32")
    # The calibration of both is one content, and the third adapter is a task's already.
    assert [a.name for a in manifest.adapters] == [
        "summarize", "translate-es", "tone-witty", "calibration-three",
    ]  # fmt: skip
    size = {adapter.name: adapter.bytes for adapter in manifest.adapters}
    marginal = {entry.name: entry.marginal_bytes for entry in manifest.compositions}
    assert marginal == {"three": size["calibration-three"], "pair": 0, "joint": 0, "steps": 0}
    assert manifest.compositions[1].parts == {
        "summarize": "summarize", "translate:es": "translate-es",
    }  # fmt: skip
    with Engine(tmp_path / "set", exact=True, threads=1) as engine:
        for name, composition in made.items():
            expected = run(base, composition, [CHAT], max_new_tokens=8).texts[0]
            assert engine.run(name, CHAT, max_new_tokens=8).text == expected
        as_mode = engine.run("pair", CHAT, "multi-step", max_new_tokens=8).text
        assert as_mode == engine.run("steps", CHAT, max_new_tokens=8).text


@pytest.mark.parametrize("base_type", ["f16", "q8_0", "q4_0"])
def test_a_smaller_base_is_within_its_tolerance(
    base_type: str, family: Base, tmp_path: Path
) -> None:
    before = {name: tensor.clone() for name, tensor in family.model.state_dict().items()}
    made = {"it": three_parts(family)}
    export_gguf(made, family, tmp_path / "set", base_type, fused=False, vectors=True)
    (checked,) = verify(tmp_path / "set", threads=1)
    assert checked.difference <= checked.tolerance
    for name, tensor in family.model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize("base_type", ["q8_0", "q4_0"])
def test_a_file_holds_the_numbers_that_a_calibration_was_trained_on(base_type: str) -> None:
    trained_on = load_base("tiny", "cpu", quantization=base_type).model
    stored = dict(stored_state(load_base("tiny", "cpu"), base_type))
    assert all(torch.equal(tensor, trained_on.get_parameter(p)) for p, tensor in stored.items())
    plain = dict(load_base("tiny", "cpu").model.named_parameters())
    changed = {p for p, t in trained_on.named_parameters() if not torch.equal(t, plain[p])}
    assert changed == stored.keys()


def test_the_same_composition_gives_the_same_bytes(
    families: dict[str, Base], tmp_path: Path
) -> None:
    base = families["stablelm-2"]
    one, other = (
        export_gguf({"it": three_parts(base)}, base, tmp_path / name, "q8_0", vectors=True)
        for name in ("one", "other")
    )
    assert one == other


def test_unsupported_models_are_refused_with_those_that_are(
    families: dict[str, Base], tmp_path: Path
) -> None:
    base = families["llama-3.2"]
    composition = three_parts(base)

    def refused(match: str, **changed: Any) -> None:
        before = {name: getattr(base.model.config, name, None) for name in changed}
        try:
            for name, value in changed.items():
                setattr(base.model.config, name, value)
            with pytest.raises(OnepassError, match=match):
                export_gguf({"it": composition}, base, tmp_path / "set")
        finally:
            for name, value in before.items():
                setattr(base.model.config, name, value)

    refused("type gpt_neox .*llama, mistral, qwen2, qwen3, stablelm", model_type="gpt_neox")
    refused("sliding_window is 16", sliding_window=16)
    refused("hidden_act is gelu", hidden_act="gelu")
    refused("rope_type is yarn", rope_parameters={"rope_type": "yarn", "rope_theta": 1e4})
    with pytest.raises(OnepassError, match="base type 'q4_k'"):
        export_gguf({"it": composition}, base, tmp_path / "set", "q4_k")
    assert not (tmp_path / "set").exists()


# ---------------------------------------------------------------- tokenizers
TEXTS = (
    "Hello world, it's 2026-11-25 and I'VE paid €1234567.89!  Isn't it?\n\n\n  Two\tthree   four ",
    "def f(x):\n    return {'a': [1, 22, 333, 4444]}  # ok\r\n\tif x != None: pass\n",
    "¿Qué tal, señor Ñandú? Straße, naïve café, cafe\u0301, Ελληνικά, русский, العربية, हिन्दी",
    "東京は大きい。한국어 텍스트 🙂🙃👩‍👩‍👧 ½ ² ① Ⅷ \u00a0\u2003\u200b zero\u0000width",
    "<|im_end|><|eot_id|><|end|> <|begin_of_text|>is text<|user|>",
)
_POOL = "ab Zé'sS\n\r\t 019.,!?-_#éßñ日本語🙂\u00a0\u0301٣½'ll're<|>"


def texts() -> Iterator[str]:
    yield from TEXTS
    rng = random.Random(5)
    for length in range(1, 120):
        yield "".join(rng.choices(_POOL, k=length % 40 + 1))


@pytest.mark.parametrize(
    ("family_name", "whole", "pre"),
    [
        ("llama-3.2", False, "dbrx"),
        ("llama-3.2", True, "llama-bpe"),
        ("qwen2.5", False, "qwen2"),
        ("tiny", False, "gpt-2"),
        ("smollm2", False, "smollm"),
    ],
)
def test_llama_cpp_tokenises_as_the_base_does(
    family_name: str, whole: bool, pre: str, tmp_path: Path
) -> None:
    gguf = pytest.importorskip("gguf")
    if family_name in ("tiny", "smollm2"):
        base = load_base("tiny", "cpu")
    else:
        base = load_base(build(family_name, tmp_path / "base", TEXTS * 3, vocab_size=1200), "cpu")
    backend = base.tokenizer.backend_tokenizer
    backend.model.ignore_merges = whole
    if family_name == "qwen2.5":  # as the real one's, which llama.cpp does not know of
        backend.normalizer = normalizers.NFC()
    if family_name == "smollm2":
        bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(True), bytes_])
    composition = Composition(
        base.shape, parse_task("summarize"), (Pass(parse_task("summarize")),), "zero-shot"
    )
    manifest = export_gguf({"it": composition}, base, tmp_path / "set", "f32")
    reader = gguf.GGUFReader(tmp_path / "set" / manifest.base.path)
    assert reader.get_field("tokenizer.ggml.pre").contents() == pre
    with Engine(tmp_path / "set", threads=1) as engine:
        for text in texts():
            assert engine.tokenize(text) == text_ids(base.tokenizer, [text])[0], repr(text)
            message = text.strip() or "."
            assert engine.prompt_ids(message) == prompt_ids(base.tokenizer, [message])[0]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"pre_tokenizer": None}, "splits words in a way"),
        ({"model": {"ignore_merges": True}}, "splits words in a way"),
        ({"normalizer": {"type": "Lowercase"}}, "normalises texts by Lowercase"),
        ({"model": {"type": "Unigram"}}, "of type Unigram"),
        ({"model": {"byte_fallback": True}}, "byte fallback"),
    ],
)
def test_a_tokenizer_llama_cpp_does_not_have_is_refused(
    change: dict[str, Any], why: str, families: dict[str, Base], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    import onepass.export.gguf.tokenizer as module

    base = families["qwen2.5"]
    described = module.described_tokenizer(base)
    for name, value in change.items():
        described[name] = {**described[name], **value} if name == "model" else value
    monkeypatch.setattr(module, "_backend_json", lambda base: described)
    composition = Composition(
        base.shape, parse_task("summarize"), (Pass(parse_task("summarize")),), "zero-shot"
    )
    with pytest.raises(OnepassError, match=why):
        export_gguf({"it": composition}, base, tmp_path / "set")


def test_a_template_that_changes_the_message_is_refused(
    families: dict[str, Base], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = families["qwen2.5"]
    shouting = base.tokenizer.chat_template.replace(
        'message["content"]', 'message["content"] | upper'
    )
    monkeypatch.setattr(base.tokenizer, "chat_template", shouting)
    composition = Composition(
        base.shape, parse_task("summarize"), (Pass(parse_task("summarize")),), "zero-shot"
    )
    with pytest.raises(OnepassError, match="does more to a message"):
        export_gguf({"it": composition}, base, tmp_path / "set")
