"""The whole path on each of the three families: train, merge, calibrate, generate, save, load."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import Tensor

from architectures import FAMILIES, build
from cli_kit import onepass, rows_of, write_rows
from onepass.adapters.adapter import Adapter, load_adapter, save_adapter
from onepass.adapters.composition import (
    Composition,
    Pass,
    Weighted,
    load_composition,
    save_composition,
)
from onepass.evaluate.score import score
from onepass.export import export_peft
from onepass.methods import METHODS, Setting
from onepass.model import tokens
from onepass.model.attach import attached, folded
from onepass.model.chat import prompt_ids
from onepass.model.generate import generate, run
from onepass.model.load import Base, load_base
from onepass.model.targets import describe_targets
from onepass.model.training.adapter import train_adapter
from onepass.model.training.options import TrainOptions
from onepass.tasks.book import parse_task
from onepass.tasks.example import Example

TASK = parse_task("summarize+translate:es")
FAST = TrainOptions(max_steps=2, batch_size=4, learning_rate=2e-2, precision="float32")


@pytest.fixture(scope="module", params=list(FAMILIES))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(request.param, tmp_path_factory.mktemp("families") / request.param)


@pytest.fixture(scope="module")
def base(folder: Path) -> Base:
    return load_base(folder, device="cpu")


@pytest.fixture(scope="module")
def adapters(base: Base) -> dict[str, Adapter]:
    def example(i: int, part: str) -> Example:
        return Example(str(i), f"Ana: Tea at {i}?\nBen: Yes.", (f"{part}, at {i}.",))

    return {
        part.name: train_adapter(
            base, part, [example(i, part.name) for i in range(8)], rank=2,
            options=FAST, progress=False,
        )
        for part in TASK.parts
    }  # fmt: skip


def logits(base: Base, text: str = "Ana: Tea at noon?") -> Tensor:
    ids = torch.tensor([prompt_ids(base.tokenizer, [text])[0]])
    with torch.no_grad():
        found: Tensor = base.model(input_ids=ids).logits
    return found


EXPECTED = {
    "llama-3.2": (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n"
        "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHi 😀<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    ),
    "qwen2.5": (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\nHi 😀<|im_end|>\n<|im_start|>assistant\n"
    ),
    "stablelm-2": "<|im_start|>user\nHi 😀<|im_end|>\n<|im_start|>assistant\n",
}


def test_the_prompt_is_the_familys_and_begins_once(base: Base) -> None:
    ids = prompt_ids(base.tokenizer, ["Hi 😀"])[0]
    assert base.tokenizer.decode(ids) == EXPECTED[Path(base.name).name]


def test_an_answer_ends_with_the_familys_end_of_turn(base: Base) -> None:
    family = Path(base.name).name
    wanted = "<|eot_id|>" if family == "llama-3.2" else "<|im_end|>"
    assert base.tokenizer.convert_ids_to_tokens(base.end_id) == wanted
    configured = base.tokenizer.convert_tokens_to_ids(list(FAMILIES[family].stops))
    assert {base.end_id, *configured} <= base.stop_ids


def test_all_seven_projections_of_every_layer_are_targets(base: Base) -> None:
    names = "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj"
    assert describe_targets(base.shape) == f"14 layers: {names} in 2 blocks"
    layer = base.model.get_submodule("model.layers.0.self_attn.q_proj")
    assert (layer.bias is not None) == (Path(base.name).name != "llama-3.2")


def test_an_adapter_loads_in_plain_peft_with_the_same_logits(
    base: Base, folder: Path, adapters: dict[str, Adapter], tmp_path: Path
) -> None:
    save_adapter(adapters["summarize"], tmp_path / "adapter")
    loaded = load_adapter(tmp_path / "adapter")
    with attached(base, Pass(parse_task("summarize"), (Weighted(loaded),))):
        ours = logits(base)
    assert (ours - logits(base)).abs().max() > 1e-4
    theirs = load_base(folder, device="cpu")
    peft = PeftModel.from_pretrained(theirs.model, tmp_path / "adapter")
    ids = torch.tensor([prompt_ids(base.tokenizer, ["Ana: Tea at noon?"])[0]])
    with torch.no_grad():
        torch.testing.assert_close(peft(input_ids=ids).logits, ours, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["linear", "ties", "lc", "lc++", "lc-column", "multi-step"])
def test_the_whole_path(
    base: Base, adapters: dict[str, Adapter], method: str, tmp_path: Path
) -> None:
    examples = [
        Example(str(i), f"Ana: Tea at {i}?\nBen: Yes.", (f"Té a las {i}.",)) for i in range(8)
    ]
    options = {"max_steps": 2, "batch_size": 4, "precision": "float32", "learning_rate": 5e-2}
    found = METHODS.get(method)
    setting = Setting(base, TASK, adapters, examples, options=options if found.learns else {})
    before = logits(base)
    composition = found.build(setting)
    assert torch.equal(logits(base), before), "the base must be left as it was"
    save_composition(composition, tmp_path / "composition")
    loaded = load_composition(tmp_path / "composition")
    texts = [example.input for example in examples[:3]]
    ours, theirs = (
        run(base, each, texts, max_new_tokens=6).texts for each in (composition, loaded)
    )
    assert ours == theirs
    assert set(score(ours, examples[:3], TASK)) >= {"rougeL"}
    for pass_ in composition.passes:
        with attached(base, pass_):
            beside = logits(base)
        with folded(base, pass_):
            torch.testing.assert_close(logits(base), beside, rtol=1e-4, atol=1e-4)


def test_a_composition_is_one_adapter_for_peft(
    base: Base, folder: Path, adapters: dict[str, Adapter], tmp_path: Path
) -> None:
    weighted = tuple(Weighted(adapter, 0.5) for adapter in adapters.values())
    pass_ = Pass(TASK, weighted)
    composition = Composition(base.shape, TASK, (pass_,), "linear")
    export_peft(composition, tmp_path / "x", torch.float32)
    peft = PeftModel.from_pretrained(load_base(folder, device="cpu").model, tmp_path / "x")
    ids = torch.tensor([prompt_ids(base.tokenizer, ["Ana: Tea at noon?"])[0]])
    with folded(base, pass_), torch.no_grad():
        torch.testing.assert_close(peft(input_ids=ids).logits, logits(base), rtol=1e-4, atol=1e-4)


def test_texts_do_not_depend_on_their_company(base: Base) -> None:
    prompts = [f"Ana: Tea at {i}?{' Really?' * i}" for i in range(5)]
    together = generate(base, prompts, max_new_tokens=8).texts
    alone = [generate(base, [prompt], max_new_tokens=8).texts[0] for prompt in prompts]
    assert together == alone


def test_a_spread_base_gives_the_same_loss(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = tokens.encode_examples(
        base, TASK, [Example("1", "Ana: Hi.", ("Hola, Ana.",)), Example("2", "Ben: Tea?", ("Té.",))]
    )
    batch = tokens.collate(rows, base.pad_id, base.device)
    whole = tokens.target_logits(base.model, batch)
    monkeypatch.setattr(base.model, "hf_device_map", {"a": 0, "b": 1}, raising=False)
    torch.testing.assert_close(tokens.target_logits(base.model, batch), whole)


def test_changes_go_to_each_layers_own_device(folder: Path, adapters: dict[str, Adapter]) -> None:
    """A layer on the meta device stands for one on a second GPU: to mix the two is an error."""
    spread = load_base(folder, device="cpu")
    far = spread.model.get_submodule("model.layers.1").to("meta")
    pass_ = Pass(parse_task("summarize"), (Weighted(adapters["summarize"]),))
    with attached(spread, pass_):
        assert far.self_attn.q_proj(torch.empty(1, 3, 32, device="meta")).device.type == "meta"
    with folded(spread, pass_):
        assert far.mlp.down_proj.weight.device.type == "meta"
        assert spread.model.get_submodule("model.layers.0.mlp.up_proj").weight.device.type == "cpu"


def test_the_commands_take_a_real_family(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"input": f"Ana: Tea at {n}?\nBen: Yes.", "target": f"Ben y Ana: té a las {n}."}
        for n in range(20)
    ]
    data = write_rows(tmp_path / "rows.jsonl", rows)
    fast = ("--batch-size", 4, "--steps", 2, "--validation", 2, "--device", "cpu")
    made = [tmp_path / "a", tmp_path / "b"]
    for task, out in zip(TASK.parts, made, strict=True):
        onepass(
            capsys, "train", task, "--model", folder, "--corpus", data, "--rank", 2,
            "--dtype", "float32", "--out", out, *fast,
        ).succeeded()  # fmt: skip
    onepass(
        capsys, "calibrate", TASK.name, "--model", folder, "--adapters", *made, "--data", data,
        "--out", tmp_path / "c", *fast,
    ).succeeded()  # fmt: skip
    done = onepass(
        capsys, "generate", tmp_path / "c", "--model", folder, "--input", data,
        "--max-new-tokens", 4, "--device", "cpu", "--dtype", "float32",
    ).succeeded()  # fmt: skip
    assert len(rows_of(done.out)) == 20


def test_a_model_in_the_hubs_cache_is_found_offline_by_its_name(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "hub" / "models--acme--tiny-chat"
    snapshot = kept / "snapshots" / ("0" * 40)
    snapshot.parent.mkdir(parents=True)
    snapshot.symlink_to(folder)
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text("0" * 40)
    script = (
        "from onepass.model.load import load_base\n"
        "from onepass.core.errors import OnepassError\n"
        "print(load_base('acme/tiny-chat', 'cpu').name)\n"
        "try: load_base('acme/other', 'cpu')\n"
        "except OnepassError as error: print(error)\n"
    )
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    found, missing = done.stdout.splitlines()
    assert found == "acme/tiny-chat"
    for words in ("acme/other", "HF_HUB_OFFLINE", "hf download acme/other", str(tmp_path)):
        assert words in missing
    assert load_base(snapshot, "cpu").name == "acme/tiny-chat"
