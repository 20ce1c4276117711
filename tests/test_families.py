"""Tiny random models of the families people have, through training, calibration and export."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM, GenerationConfig

from base_kit import chat_tokenizer, tiny_model
from device_kit import random_parts
from onepass.adapters.adapter import Adapter
from onepass.adapters.calibration import Form
from onepass.adapters.composition import (
    Composition,
    Pass,
    Weighted,
    load_composition,
    pass_delta,
    save_composition,
)
from onepass.api.exporting import export
from onepass.core.errors import OnepassError
from onepass.export import export_merged, export_peft
from onepass.methods import METHODS, Setting
from onepass.model.attach import attached, folded
from onepass.model.chat import prompt_ids
from onepass.model.generate import generate
from onepass.model.load import Base, load_base
from onepass.model.targets import describe_targets
from onepass.model.training.adapter import train_adapter
from onepass.model.training.options import TrainOptions
from onepass.tasks.book import parse_task
from onepass.tasks.example import Example

TASK = parse_task("summarize+translate:es")
LLAMA = "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj"
TARGETS = {
    "llama": f"14 layers: {LLAMA} in 2 blocks",
    "qwen2": f"14 layers: {LLAMA} in 2 blocks",
    "stablelm": f"14 layers: {LLAMA} in 2 blocks",
    "gemma3-text": f"14 layers: {LLAMA} in 2 blocks",
    "qwen3": f"14 layers: {LLAMA} in 2 blocks",
    "smollm3": f"14 layers: {LLAMA} in 2 blocks",
    "phi3": "8 layers: o_proj qkv_proj gate_up_proj down_proj in 2 blocks",
    "mistral": f"14 layers: {LLAMA} in 2 blocks",
    "lfm2": "17 layers: in_proj out_proj w1 w3 w2 q_proj k_proj v_proj in 3 blocks",
    "gemma4-text": f"18 layers: {LLAMA} per_layer_input_gate per_layer_projection in 2 blocks",
}
FAST: dict[str, Any] = {
    "max_steps": 2,
    "batch_size": 4,
    "learning_rate": 5e-2,
    "precision": "float32",
}
METHOD: dict[Form, str] = {"output": "lc", "column": "lc-column", "lowrank": "lc++"}
WINDOW, TOKENS = 16, 24
# Of different lengths, and most longer than the sliding windows and LFM2's convolutions.
PROMPTS = [
    *("Ana: Tea at noon?" + " Ben: Yes, at the harbour?" * count for count in (0, 1, 3, 2)),
    *("Ben: No.", "Ana: Shall we? " * 3 + "Ben: Please!"),
]


@pytest.fixture(scope="module", params=list(TARGETS))
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Base:
    """The family's base; a sixth of its words end an answer, so that rows end at various times."""
    model = tiny_model(request.param)
    model.generation_config = GenerationConfig(eos_token_id=list(range(0, 300, 6)), pad_token_id=0)
    folder = tmp_path_factory.mktemp("families") / request.param
    model.save_pretrained(folder)
    chat_tokenizer().save_pretrained(folder)
    return load_base(folder, "cpu")


def family(base: Base) -> str:
    return Path(base.name).name


@pytest.fixture(scope="module")
def adapters(base: Base) -> dict[str, Adapter]:
    return {
        part.name: train_adapter(
            base, part, rows(part.name), rank=2, options=TrainOptions(**FAST), progress=False
        )
        for part in TASK.parts
    }


def rows(word: str) -> list[Example]:
    return [Example(str(i), f"Ana: Tea at {i}?", (f"{word}, at {i}.",)) for i in range(8)]


@pytest.fixture(scope="module")
def calibrated(base: Base, adapters: dict[str, Adapter]) -> dict[Form, Composition]:
    """A trained calibration of each form on the linear merge."""
    setting = Setting(base, TASK, adapters, rows("ambas"), options=FAST)
    return {form: METHODS.get(name).build(setting) for form, name in METHOD.items()}


def logits(model: torch.nn.Module, base: Base, text: str = PROMPTS[2]) -> Tensor:
    ids = torch.tensor(prompt_ids(base.tokenizer, [text]))
    assert ids.shape[1] > 2 * WINDOW
    with torch.no_grad():
        found: Tensor = model(input_ids=ids).logits
    return found


def composed(base: Base, pass_: Pass) -> Tensor:
    with folded(base, pass_):
        return logits(base.model, base)


def close(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_the_page_lists_these_families() -> None:
    page = (Path(__file__).parents[1] / "docs" / "bases.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `(\w+)` \|", page.partition("## Architectures")[2], re.MULTILINE)
    assert listed == [tiny_model(name).config.model_type for name in TARGETS]


# ---------------------------------------------------------------- train, merge, calibrate


def test_an_adapter_alone_is_what_was_trained(base: Base, adapters: dict[str, Adapter]) -> None:
    assert describe_targets(base.shape) == TARGETS[family(base)]
    for name, adapter in adapters.items():
        assert set(adapter.modules) == set(base.shape.modules)
        pass_ = Pass(parse_task(name), (Weighted(adapter),))
        merge = METHODS.get("linear").build(Setting(base, parse_task(name), {name: adapter}))
        for each in (pass_, merge.passes[0]):
            for path, lora in pass_delta(each).items():
                close(lora.delta(), adapter.modules[path].delta())
        with attached(base, pass_):
            beside = logits(base.model, base)
        close(composed(base, pass_), beside)
        assert (beside - logits(base.model, base)).abs().max() > 1e-2


@pytest.mark.parametrize("form", list(METHOD))
def test_a_trained_calibration_folds_as_it_attaches(
    form: Form, base: Base, calibrated: dict[Form, Composition], tmp_path: Path
) -> None:
    composition = calibrated[form]
    (pass_,) = composition.passes
    assert pass_.calibration is not None
    for parts in pass_.calibration.tensors.values():
        assert all(part.abs().max() > 0 for part in parts.values())
    before = logits(base.model, base)
    save_composition(composition, tmp_path / "saved")
    (loaded,) = load_composition(tmp_path / "saved").passes
    with attached(base, pass_):
        beside = logits(base.model, base)
    close(composed(base, pass_), beside)
    close(composed(base, loaded), beside)
    merge = composed(base, Pass(TASK, pass_.adapters))
    assert (beside - merge).abs().max() > 1e-2
    assert torch.equal(logits(base.model, base), before)


def test_a_type_is_one_place_of_one_shape(base: Base, calibrated: dict[Form, Composition]) -> None:
    types = base.shape.projections()
    calibration = calibrated["lowrank"].passes[0].calibration
    assert calibration is not None
    assert set(calibration.tensors) == set(types)
    if family(base) == "lfm2":
        assert types["conv.out_proj"] == (32, 32)
        assert types["self_attn.out_proj"] == (32, 48)
    elif family(base) == "gemma4-text":
        sizes = {name: shape for name, shape in types.items() if "q_proj" in name}
        assert sizes == {
            "self_attn.q_proj@32x32": (32, 32),
            "self_attn.q_proj@64x32": (64, 32),
        }
    else:
        assert not any("." in name for name in types)


# ---------------------------------------------------------------- generate


def test_texts_are_those_of_transformers_alone_and_in_company(base: Base) -> None:
    (adapter,) = random_parts(base, 1, size=0.2)
    pass_ = Pass(parse_task("summarize"), (Weighted(adapter),))
    with attached(base, pass_):
        attached_texts = generate(base, PROMPTS, TOKENS).texts
    with folded(base, pass_):
        texts = generate(base, PROMPTS, TOKENS).texts
        alone = [generate(base, [prompt], TOKENS).texts[0] for prompt in PROMPTS]
        theirs = [answer(base, prompt) for prompt in PROMPTS]
    assert texts == alone == attached_texts == [text for text, _ in theirs]
    assert len({count for _, count in theirs}) > 1, "rows must end at various times"


def test_longrope_turns_each_text_at_its_own_length() -> None:
    """As Phi-4-mini's, whose rotary angles change beyond 4,096 tokens."""
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 36,
            "short_factor": [1.0] * 4, "long_factor": [1.0, 3.0, 8.0, 16.0]}  # fmt: skip
    model = tiny_model(
        "phi3", sliding_window=None, max_position_embeddings=256, rope_parameters=rope,
        original_max_position_embeddings=36,
    )  # fmt: skip
    base = Base.wrap(model, chat_tokenizer(), "longrope")
    lengths = sorted(len(ids) for ids in prompt_ids(base.tokenizer, PROMPTS))
    assert lengths[0] + TOKENS < 36 < lengths[1] + TOKENS, "one is short, and some pass the turn"
    assert lengths[-2] < 36 < lengths[-1]
    texts = generate(base, PROMPTS, TOKENS).texts
    assert texts == [generate(base, [prompt], TOKENS).texts[0] for prompt in PROMPTS]
    assert texts == [answer(base, prompt)[0] for prompt in PROMPTS]


def answer(base: Base, prompt: str) -> tuple[str, int]:
    """The text of transformers' own greedy generation, and the number of its tokens."""
    ids = torch.tensor(prompt_ids(base.tokenizer, [prompt]))
    whole = base.model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=TOKENS, do_sample=False
    )
    tokens = whole[0, ids.shape[1] :].tolist()
    kept = tokens[:-1] if tokens[-1] in base.stop_ids else tokens
    text: str = base.tokenizer.decode(kept, skip_special_tokens=True)
    return text.strip(), len(tokens)


# ---------------------------------------------------------------- export


@pytest.mark.parametrize("form", ["column", "lowrank"])
def test_peft_computes_the_same(
    form: Form, base: Base, calibrated: dict[Form, Composition], tmp_path: Path
) -> None:
    composition = calibrated[form]
    expected = composed(base, composition.passes[0])
    export_peft(composition, tmp_path / "adapter", torch.float32)
    model = AutoModelForCausalLM.from_pretrained(base.name, dtype=torch.float32)
    close(logits(PeftModel.from_pretrained(model, tmp_path / "adapter"), base), expected)


@pytest.mark.parametrize("form", list(METHOD))
def test_transformers_computes_the_same_from_a_merged_model(
    form: Form, base: Base, calibrated: dict[Form, Composition], tmp_path: Path
) -> None:
    composition = calibrated[form]
    expected = composed(base, composition.passes[0])
    if form == "output" and family(base) not in ("llama", "smollm3"):
        with pytest.raises(OnepassError, match=r"no place for a bias.*--form column"):
            export_merged(composition, base, tmp_path / "merged", torch.float32)
        assert not (tmp_path / "merged").exists()
        return
    export_merged(composition, base, tmp_path / "merged", torch.float32)
    loaded = load_base(tmp_path / "merged", "cpu")
    close(logits(loaded.model, base), expected)
    assert loaded.stop_ids == base.stop_ids


def test_biases_of_the_attention_alone_merge_where_it_can_have_them(
    base: Base, calibrated: dict[Form, Composition], tmp_path: Path
) -> None:
    whole = calibrated["output"].passes[0]
    assert whole.calibration is not None
    (first, _) = whole.adapters
    modules = {m: lora for m, lora in first.adapter.modules.items() if ".self_attn." in m}
    pass_ = replace(whole, adapters=(Weighted(replace(first.adapter, modules=modules), 0.5),))
    composition = replace(calibrated["output"], passes=(pass_,))
    if family(base) not in ("llama", "smollm3", "gemma3-text", "gemma4-text", "qwen3"):
        with pytest.raises(OnepassError, match="no place for a bias"):
            export_merged(composition, base, tmp_path / "merged", torch.float32)
        return
    expected = composed(base, pass_)
    assert (expected - composed(base, replace(pass_, calibration=None))).abs().max() > 1e-3
    export_merged(composition, base, tmp_path / "merged", torch.float32)
    close(logits(load_base(tmp_path / "merged", "cpu").model, base), expected)


def test_vllm_gets_what_peft_reads_and_a_word_where_it_takes_no_adapters(
    base: Base, calibrated: dict[Form, Composition], tmp_path: Path
) -> None:
    composition = calibrated["lowrank"]
    written = export(composition, "vllm", tmp_path / "served", save_as="float32")
    told = [remark for remark in written.remarks if "takes no adapters" in remark]
    assert len(told) == (family(base) == "stablelm")
    model = AutoModelForCausalLM.from_pretrained(base.name, dtype=torch.float32)
    peft = PeftModel.from_pretrained(model, tmp_path / "served" / "served")
    close(logits(peft, base), composed(base, composition.passes[0]))
