"""Bases of many families, and the one check of a base."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import AddedToken

from base_kit import TEMPLATE, chat_tokenizer, tiny_model
from cli_kit import FAST as FAST_OPTIONS
from cli_kit import Done, conversations, onepass, write_rows
from device_kit import random_parts
from onepass.adapters.adapter import load_adapter
from onepass.adapters.composition import Composition, Pass, Weighted
from onepass.core.errors import OnepassError, OnepassWarning
from onepass.core.files import read_json
from onepass.export import export_merged
from onepass.methods import METHODS, Setting
from onepass.model.attach import attached, folded
from onepass.model.chat import PLAIN_TEMPLATE, prompt_ids
from onepass.model.generate import generate
from onepass.model.load import Base, load_base
from onepass.model.targets import base_shape, describe_targets
from onepass.model.training.adapter import train_adapter
from onepass.model.training.calibration import train_calibration
from onepass.model.training.options import TrainOptions
from onepass.tasks.book import parse_task
from onepass.tasks.example import Example

LLAMA = "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj"
NEOX = "query_key_value dense dense_h_to_4h dense_4h_to_h"
COVERED = {
    "phi3": "8 layers: o_proj qkv_proj gate_up_proj down_proj in 2 blocks",
    "gpt-neox": f"8 layers: {NEOX} in 2 blocks",
    "falcon": f"8 layers: {NEOX} in 2 blocks",
    "qwen3": f"14 layers: {LLAMA} in 2 blocks",
    "gemma3": f"14 layers: {LLAMA} in 2 blocks",
    "qwen2-vl": f"14 layers: {LLAMA} in 2 blocks",
    "qwen2.5-vl": f"14 layers: {LLAMA} in 2 blocks",
}
FAST = TrainOptions(max_steps=2, batch_size=2, learning_rate=5e-2, precision="float32")
ROWS = [Example(str(i), f"Ana: Tea at {i}?", (f"At {i}.",)) for i in range(4)]


def saved(model: Any, tokenizer: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def logits(base: Base) -> torch.Tensor:
    with torch.no_grad():
        ids = torch.tensor(prompt_ids(base.tokenizer, ["Ana: Tea?"]))
        found: torch.Tensor = base.model(input_ids=ids).logits
    return found


@pytest.mark.parametrize("family", COVERED)
def test_the_linear_layers_of_every_familys_text_blocks_are_adapted(
    family: str, tmp_path: Path
) -> None:
    base = load_base(saved(tiny_model(family), chat_tokenizer(), tmp_path / "base"), "cpu")
    assert describe_targets(base.shape) == COVERED[family]
    assert not any("vision" in path or "visual" in path for path in base.shape.modules)
    assert base.context == 128
    task = parse_task("summarize")
    before = logits(base)
    adapter = train_adapter(base, task, ROWS, rank=2, options=FAST, progress=False)
    assert torch.equal(logits(base), before)
    assert set(adapter.modules) == set(base.shape.modules)
    pass_ = Pass(task, (Weighted(adapter),))
    with attached(base, pass_):
        beside = logits(base)
    assert (beside - before).abs().max() > 1e-4
    with folded(base, pass_):
        torch.testing.assert_close(logits(base), beside, rtol=1e-4, atol=1e-4)
    prompts = ["Ana: Tea?", "Ana: Tea at noon, at the harbour?"]
    together = generate(base, prompts, 4).texts
    assert together == [generate(base, [prompt], 4).texts[0] for prompt in prompts]


def test_an_adapter_is_trained_on_the_targets_given() -> None:
    base = Base.wrap(tiny_model("phi3"), chat_tokenizer())
    adapter = train_adapter(
        base, parse_task("summarize"), ROWS, rank=2, options=FAST, progress=False,
        target_modules=["qkv_proj", "mlp.down_proj"],
    )  # fmt: skip
    assert set(adapter.modules) == {
        f"model.layers.{block}.{path}"
        for block in (0, 1)
        for path in ("self_attn.qkv_proj", "mlp.down_proj")
    }
    for names, message in ((["q_proj"], "o_proj, qkv_proj"), ([], "no target modules")):
        with pytest.raises(OnepassError, match=message):
            base.shape.targets(names)


def test_blocks_without_linear_layers_are_refused() -> None:
    with pytest.raises(OnepassError, match=r"no layer of type Linear.*Conv1D"):
        base_shape(tiny_model("gpt2"))


def test_layers_of_another_shape_are_of_a_type_of_their_own() -> None:
    model = tiny_model("qwen3")
    model.get_submodule("model.layers.1.mlp").up_proj = torch.nn.Linear(32, 40, bias=False)
    types = base_shape(model).projections()
    assert types["mlp.up_proj@48x32"] == (48, 32)
    assert types["mlp.up_proj@40x32"] == (40, 32)
    assert "up_proj" not in types
    assert types["gate_proj"] == (48, 32)


# ---------------------------------------------------------------- what is refused


def wrapped(model: Any = None, tokenizer: Any = None) -> Base:
    return Base.wrap(model or tiny_model("qwen3"), tokenizer or chat_tokenizer(), "mine")


def test_an_adapter_in_the_base_is_refused(tmp_path: Path) -> None:
    folder = saved(tiny_model("qwen3"), chat_tokenizer(), tmp_path / "base")
    peft = get_peft_model(tiny_model("qwen3"), LoraConfig(target_modules=["q_proj"]))
    for model in (peft, peft.base_model.model):
        with pytest.raises(OnepassError, match="base mine holds an adapter; give the model alone"):
            wrapped(model)
    assert wrapped(peft.unload()).name == "mine"
    peft.save_pretrained(folder)
    with pytest.raises(OnepassError, match=r"holds an adapter.*transformers would load both"):
        load_base(folder, "cpu")
    (folder / "config.json").unlink()
    with pytest.raises(OnepassError, match=r"holds an adapter.*name its base"):
        load_base(folder, "cpu")


def test_a_padding_token_beyond_the_embedding_is_replaced() -> None:
    tokenizer = chat_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    assert tokenizer.pad_token_id == 300
    base = wrapped(tokenizer=tokenizer)
    assert base.pad_id == base.end_id
    assert generate(base, ["a", "a [PAD] b"], 3).tokens > 0


@pytest.mark.parametrize("where", ["end", "template", "text"])
def test_a_used_token_beyond_the_embedding_is_named(where: str) -> None:
    tokenizer = chat_tokenizer()
    tokenizer.add_tokens([AddedToken("<|extra|>", special=where != "text")])
    if where != "text":
        old = "<|end|>" if where == "end" else "<|{{ message['role'] }}|>"
        tokenizer.chat_template = TEMPLATE.replace(old, "<|extra|>")
    with pytest.raises(
        OnepassError, match=r"base mine embeds 300 tokens.*'<\|extra\|>' the id 300"
    ):
        wrapped(tokenizer=tokenizer)


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ raise_exception('no users') }}", r"template of the tokenizer fails \(no users\)"),
        ("{% for m in messages %}{{ m.content[0].text }}{% endfor %}", "leaves out the user"),
        ({"chat": TEMPLATE, "tools": TEMPLATE}, "named chat, tools and none named default"),
    ],
)
def test_a_template_that_does_not_work_is_refused(template: Any, words: str) -> None:
    with pytest.raises(OnepassError, match=words):
        wrapped(tokenizer=chat_tokenizer(template))


def test_the_default_of_several_templates_is_used() -> None:
    several = chat_tokenizer({"default": TEMPLATE, "tools": "{{ raise_exception('no') }}"})
    assert prompt_ids(several, ["Ana"]) == prompt_ids(chat_tokenizer(), ["Ana"])


def test_numbers_out_of_reach_are_refused_with_what_to_do() -> None:
    model = tiny_model("qwen3")
    with torch.no_grad():
        for block in model.model.layers:
            block.mlp.down_proj.weight.mul_(3e4)
            block.mlp.up_proj.weight.mul_(3e4)
    assert wrapped(model)
    with pytest.raises(OnepassError, match="NaN or infinity in float16; load it in bfloat16"):
        wrapped(model.half())
    model.float().lm_head.weight.data[3, 3] = float("inf")
    with pytest.raises(OnepassError, match=r"NaN or infinity in lm_head\.weight"):
        wrapped(model)


def test_what_overflows_in_float16_is_not_saved_so(tmp_path: Path) -> None:
    """As Gemma 3, whose layers reach 100,000: fine in bfloat16 and float32 alone."""
    model = tiny_model("gemma3-text")
    with torch.no_grad():
        model.model.layers[0].post_feedforward_layernorm.weight.fill_(5e4)
    base = wrapped(model)
    task = parse_task("summarize")
    (adapter,) = random_parts(base, 1)
    pass_ = Pass(task, (Weighted(adapter),))
    composition = Composition(base.shape, task, (pass_,), "single")
    folder = tmp_path / "merged"
    with pytest.raises(OnepassError, match=r"layernorm .*float16 ends at 65,504; save it in bf"):
        export_merged(composition, base, folder, torch.float16)
    assert not folder.exists()
    export_merged(composition, base, folder, torch.bfloat16)
    assert load_base(folder, "cpu", "bfloat16").shape.modules == base.shape.modules
    with pytest.raises(OnepassError, match="NaN or infinity in float16; load it in bfloat16"):
        load_base(folder, "cpu", "float16")


def test_an_overflow_while_generating_is_an_error() -> None:
    base = wrapped(tiny_model("qwen3").half())
    with torch.no_grad():
        base.model.model.layers[1].mlp.down_proj.weight.mul_(3e4)
        base.model.model.layers[1].mlp.up_proj.weight.mul_(3e4)
    with pytest.raises(OnepassError, match="base mine computes NaN or infinity in float16"):
        generate(base, ["Ana: Tea?"], 4)


def test_a_base_without_a_chat_template_says_so_and_is_asked_plainly_ever_after(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = saved(tiny_model("gemma3-text"), chat_tokenizer(None), tmp_path / "base")
    rows = write_rows(tmp_path / "rows.jsonl", conversations())
    with pytest.warns(OnepassWarning, match="base has no chat template: an answer follows its"):
        onepass(
            capsys, "train", "summarize", "--model", folder, "--corpus", rows, "--rank", 2,
            *FAST_OPTIONS, "--out", tmp_path / "adapter",
        ).succeeded()  # fmt: skip
    assert load_adapter(tmp_path / "adapter").card["template"] == "plain"
    told = onepass(capsys, "inspect", tmp_path / "adapter").succeeded().err
    assert "trained without a chat template; a blank line follows a prompt" in told

    def exported(form: str) -> Done:
        out = ("--out", tmp_path / form, "--format", form)
        return onepass(capsys, "export", tmp_path / "adapter", *out).succeeded()

    assert "give it the prompt and a blank line" in exported("peft").err
    assert read_json(tmp_path / "peft" / "card.json")["card"]["template"] == "plain"
    assert "TEXT\\n\\n'" in exported("mlx").err
    assert "--chat-template ./plain.jinja" in exported("vllm").out
    assert (tmp_path / "vllm" / "plain.jinja").read_text(encoding="utf-8") == PLAIN_TEMPLATE
    exported("vllm")  # over its own files
    exported("merged")
    with warnings.catch_warnings():
        warnings.simplefilter("error", OnepassWarning)
        merged = load_base(tmp_path / "merged", "cpu")
    base = load_base(folder, "cpu")
    assert base.tokenizer.chat_template is None
    assert prompt_ids(merged.tokenizer, ["Ana"]) == prompt_ids(base.tokenizer, ["Ana"])


@pytest.mark.parametrize("template", ["plain", "chat"])
def test_a_composition_records_what_its_prompts_were_put_into(template: str) -> None:
    tokenizer = chat_tokenizer(None if template == "plain" else TEMPLATE)
    base = wrapped(tokenizer=tokenizer)
    task = parse_task("summarize")
    made = METHODS.get("linear").build(Setting(base, task, {task.name: random_parts(base, 1)[0]}))
    assert made.card["template"] == template


# ---------------------------------------------------------------- wrapping


def test_a_wrapped_model_computes_and_trains_and_is_left_as_it_was() -> None:
    model = tiny_model("qwen3").train()
    model.lm_head.requires_grad_(False)
    modes = [module.training for module in model.modules()]
    trainable = [name for name, weight in model.named_parameters() if weight.requires_grad]
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    base = Base.wrap(model, chat_tokenizer())
    assert base.name == "unnamed Qwen3ForCausalLM"
    task = parse_task("summarize")
    adapter = train_adapter(base, task, ROWS, rank=2, options=FAST, progress=False)
    pass_ = Pass(task, (Weighted(adapter),))
    train_calibration(base, [pass_], [ROWS], [[]], rank=2, options=FAST, progress=False)
    generate(base, ["Ana"], 2)
    assert [module.training for module in model.modules()] == modes
    assert [n for n, weight in model.named_parameters() if weight.requires_grad] == trainable
    assert all(weight.grad is None for weight in model.parameters())
    assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())


def test_a_wrapped_model_is_the_base_it_was_loaded_from(base_folder: Path) -> None:
    loaded = load_base(base_folder, "cpu")
    assert Base.wrap(loaded.model, loaded.tokenizer).name == loaded.name == str(base_folder)
