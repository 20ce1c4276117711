"""One rule for the names of bases, one for those of layers, and adapters by their hub name."""

import os
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from adapter_kit import dense_sum, random_adapter, same_numbers, small_base
from onepass.adapters.adapter import (
    WEIGHTS,
    Adapter,
    adapter_bytes,
    load_adapter,
    save_adapter,
)
from onepass.adapters.inspect import meet
from onepass.adapters.merging import check_mergeable, merge
from onepass.adapters.naming import TINY, compare_bases, layer_name, rename_modules
from onepass.adapters.shape import BaseShape, check_adapter, for_base
from onepass.core.errors import OnepassError, OnepassWarning

REVISION = "0123456789abcdef0123456789abcdef01234567"


def in_cache(cache: Path, name: str) -> Path:
    """An empty snapshot of the repository `name` in a hub cache, to be filled."""
    kept = cache / f"models--{name.replace('/', '--')}"
    snapshot = kept / "snapshots" / REVISION
    snapshot.mkdir(parents=True)
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text(REVISION)
    return snapshot


# ------------------------------------------------------------------ bases


def test_when_two_names_are_one_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("here/llama", "there/llama"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "here" / "llama.gguf").touch()
    (tmp_path / "link").symlink_to(tmp_path / "here" / "llama")
    snapshot = in_cache(tmp_path / "hub", "Acme/Llama")
    here, there, link = (str(tmp_path / name) for name in ("here/llama", "there/llama", "link"))
    (tmp_path / "there" / "llama.gguf").touch()
    (tmp_path / "other.gguf").write_bytes(b"GGUF")
    moved, other_file = str(tmp_path / "there" / "llama.gguf"), str(tmp_path / "other.gguf")
    file, elsewhere = f"{here}.gguf", f"/cluster/hub/models--Acme--Llama/snapshots/{REVISION}"
    for names in (
        ("tiny", str(TINY), os.path.relpath(TINY)),
        ("Acme/Llama", "acme/llama", "Acme/Llama/", str(snapshot), elsewhere),
        (here, f"{here}/", link, "here/llama", "./link", "there/../link"),
        ("/cluster/llama", "/cluster/llama/"),
        (file, moved),
    ):
        for one in names:
            assert {compare_bases(one, other) for other in names} == {"same"}
    copy = str(tmp_path / "copies" / "Acme" / "Llama")
    Path(copy).mkdir(parents=True)
    known = [
        "tiny",
        "Acme/Llama",
        "other/llama",
        here,
        there,
        copy,
        file,
        "/cluster/llama",
        "llama",
    ]
    unknown = {
        ("Acme/Llama", copy),
        *((file, name) for name in known),
        *(("/cluster/llama", name) for name in known),
        *(("llama", name) for name in known if name != "tiny"),
    }
    for one in known:
        for other in known:
            doubtful = (one, other) in unknown or (other, one) in unknown
            verdict = "same" if one == other else "unknown" if doubtful else "different"
            assert compare_bases(one, other) == verdict, (one, other)
    assert compare_bases(file, other_file) == "different"


def test_a_base_whose_name_says_too_little_is_judged_by_its_shapes_and_reported_once() -> None:
    adapter = replace(random_adapter(0), base="/cluster/scratch/small")
    with pytest.warns(
        OnepassWarning, match=r"/cluster/scratch/small; .* org/small, but the shapes"
    ):
        check_adapter(adapter, small_base())
    with pytest.warns(OnepassWarning, match="do not show whether"):
        merge([random_adapter(1), adapter])
    wide = BaseShape("org/small", {m: (9, i) for m, (_, i) in small_base().modules.items()})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(OnepassError, match="it was trained on another base"):
            check_adapter(adapter, wide)
        check_adapter(replace(adapter, base=None), small_base())
    with pytest.warns(OnepassWarning):
        assert for_base(adapter, small_base()).base == "org/small"


# ------------------------------------------------------------------ layers

CLASSES = [
    "model.", "", "language_model.model.", "model.language_model.", "model.language_model.model.",
    "thinker.model.", "module.model.", "transformer.",
]  # fmt: skip


def of_class(adapter: Adapter, before: str) -> Adapter:
    """The adapter as it would be if it had been trained on another class of the same model."""
    modules = {before + m.removeprefix("model."): lora for m, lora in adapter.modules.items()}
    return replace(adapter, modules=modules)


@given(classes=st.lists(st.sampled_from(CLASSES), min_size=2, max_size=4))
def test_adapters_of_several_classes_of_one_model_meet_layer_by_layer(classes: list[str]) -> None:
    adapters = [random_adapter(i) for i in range(len(classes))]
    pairs = zip(adapters, classes, strict=True)
    given = [of_class(adapter, before) for adapter, before in pairs]
    check_mergeable(given)
    merged, expected = merge(given), merge(adapters)
    assert merged.modules.keys() == given[0].modules.keys()
    assert len(meet(given[0], given[1])) == 6
    for adapter in (merged, *given):
        fitted = for_base(adapter, small_base())
        assert fitted.modules.keys() == small_base().modules.keys()
        check_adapter(fitted, small_base())
    for module, lora in for_base(merged, small_base()).modules.items():
        assert torch.equal(lora.delta(), expected.modules[module].delta())


def test_an_adapter_that_fits_as_it_is_stays_the_same_object() -> None:
    adapter = random_adapter(0)
    assert for_base(adapter, small_base()) is adapter


@pytest.mark.parametrize(
    ("before", "infix"),
    [
        ("base_model.model.", ".default"),
        ("base_model.model.", ".my-adapter"),
        ("base_model.model.base_model.model.", ""),
        ("base_model.model._orig_mod.", ""),
        ("base_model.model.base_layer._fsdp_wrapped_module.", ".default"),
        ("", ""),
    ],
)
def test_what_wrappers_put_into_keys_is_taken_out(before: str, infix: str, tmp_path: Path) -> None:
    save_adapter(random_adapter(0), tmp_path / "a")
    tensors = {
        before + key.removeprefix("base_model.model.").replace(".weight", f"{infix}.weight"): tensor
        for key, tensor in load_file(tmp_path / "a" / WEIGHTS).items()
    }
    save_file(tensors, tmp_path / "a" / WEIGHTS)
    assert same_numbers(load_adapter(tmp_path / "a"), random_adapter(0))


@pytest.mark.parametrize(
    "other",
    [
        "model.vision_tower.encoder.layers.0.q_proj",
        "model.visual.layers.0.self_attn.q_proj",
        "encoder.layers.0.self_attn.q_proj",
        "model.layers.10.self_attn.q_proj",
        "lm_head",
    ],
)
def test_other_layers_are_not_taken_for_the_same(other: str) -> None:
    known = ["model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj"]
    assert rename_modules([other], known, "a") == {other: other}
    assert layer_name(other) not in map(layer_name, known)


def test_what_the_base_or_the_other_adapter_lacks_is_refused_with_both_lists() -> None:
    whole, base = random_adapter(0, name="whole"), small_base()
    vision = {m.replace("model.", "model.vision."): lora for m, lora in whole.modules.items()}
    seeing = Adapter("seeing", {**whole.modules, **vision}, whole.base)
    with pytest.raises(OnepassError, match=r"model\.vision\.layers.* and 3 more, which .* lay.*0"):
        for_base(seeing, base)
    foreign = Adapter("foreign", vision, whole.base)
    lists = r"share no module: model\.vision\.layers\.0.*; and model\.layers\.0\.self_attn"
    for check in (check_mergeable, merge):
        with pytest.raises(OnepassError, match=lists):
            check([foreign, whole])
    assert len(merge([foreign, whole], force=True).modules) == 12
    check_mergeable([foreign])
    twice = Adapter("twice", {**whole.modules, **of_class(whole, "model.language_model.").modules})
    with pytest.raises(OnepassError, match=r"under two names, model\.layers.* and model\.lang"):
        for_base(twice, base)


def test_a_merge_keeps_the_task_type_of_its_parts(tmp_path: Path) -> None:
    def adapters(*types: str | None) -> Sequence[Adapter]:
        return [replace(random_adapter(i), task_type=kind) for i, kind in enumerate(types)]

    assert merge(adapters("SEQ_CLS", None, "SEQ_CLS")).task_type == "SEQ_CLS"
    assert merge(adapters(None)).task_type is None
    mixed = adapters("CAUSAL_LM", "SEQ_CLS")
    with pytest.raises(
        OnepassError, match=r"'adapter-0' \(CAUSAL_LM\) and 'adapter-1' \(SEQ_CLS\)"
    ):
        merge(mixed)
    assert merge(mixed, force=True).task_type == "CAUSAL_LM"


# ------------------------------------------------------------------ the hub


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, which is out of reach."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "hub"


def test_an_adapter_in_the_hubs_cache_is_found_by_its_name(hub: Path) -> None:
    for number, name in enumerate(("acme/spanish", "acme/summaries")):
        snapshot = in_cache(hub, name)
        save_adapter(random_adapter(number), snapshot.parent / "made")
        (snapshot.parent / "made" / "card.json").unlink()
        (snapshot.parent / "made").rename(snapshot)
        assert same_numbers(load_adapter(name), random_adapter(number))
        assert load_adapter(name).name == load_adapter(snapshot).name == name.partition("/")[2]
    assert adapter_bytes("acme/spanish") == adapter_bytes(random_adapter(0))
    merged = merge(["acme/spanish", Path("acme/summaries")])
    for module, lora in merged.modules.items():
        parts = [random_adapter(i).modules[module] for i in range(2)]
        assert torch.allclose(lora.delta().double(), dense_sum(parts, [0.5, 0.5]), atol=1e-5)


def test_an_adapter_that_is_not_on_this_machine_is_refused_with_what_to_do(hub: Path) -> None:
    with pytest.raises(OnepassError) as caught:
        load_adapter("acme/missing")
    for words in ("acme/missing", "adapter_config.json", "HF_HUB_OFFLINE", str(hub), "hf download"):
        assert words in str(caught.value)
    in_cache(hub, "acme/base").joinpath("config.json").write_text("{}")
    with pytest.raises(OnepassError, match=r"acme/base on the hub has no adapter_config\.json"):
        load_adapter("acme/base")
    for name in ("missing", "./acme/missing", "a/b/c", "/acme/missing", "acme/mis sing"):
        with pytest.raises(OnepassError, match="is not a folder; give an adapter's folder in PEFT"):
            load_adapter(name)
