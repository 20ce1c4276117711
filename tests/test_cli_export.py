"""`onepass export` and `cost`: other runtimes compute the same; counts are the paper's."""

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

from cli_kit import TASK, onepass, random_composition, save_random_composition
from conftest import TEXT, MakeAdapter
from onepass.adapters.composition import Composition, Pass, cost, save_composition
from onepass.core.errors import OnepassError
from onepass.export import export_merged, export_peft
from onepass.model.attach import attached
from onepass.model.load import Base, load_base
from onepass.tasks.book import parse_task
from onepass.tasks.task import task_from

Capture = pytest.CaptureFixture[str]


def logits(model: torch.nn.Module, base: Base) -> torch.Tensor:
    ids = base.tokenizer(TEXT, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        result: torch.Tensor = model(input_ids=ids).logits
    return result


@pytest.mark.parametrize("form", ["lowrank", "column"])
def test_peft_computes_what_the_composition_does(
    form: str, tmp_path: Path, base: Base, base_folder: Path, make_adapter: MakeAdapter,
    capsys: Capture,
) -> None:  # fmt: skip
    composition = random_composition(base, make_adapter, form)  # type: ignore[arg-type]
    save_composition(composition, tmp_path / "composition")
    done = onepass(
        capsys, "export", tmp_path / "composition", "--out", tmp_path / "out",
        "--save-as", "float32",
    ).succeeded()  # fmt: skip
    assert done.out == "Summarize the conversation in Spanish.\n\n{text}\n"
    with attached(base, composition.passes[0]):
        expected = logits(base.model, base)
    bare = AutoModelForCausalLM.from_pretrained(base_folder)
    found = logits(PeftModel.from_pretrained(bare, str(tmp_path / "out")), base)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("form", ["lowrank", "column", "output"])
def test_a_merged_model_computes_what_the_composition_does(
    form: str, tmp_path: Path, base: Base, base_folder: Path, make_adapter: MakeAdapter,
    capsys: Capture,
) -> None:  # fmt: skip
    composition = random_composition(base, make_adapter, form)  # type: ignore[arg-type]
    save_composition(composition, tmp_path / "composition")
    for _ in range(2):  # what it wrote it may write anew
        onepass(
            capsys, "export", tmp_path / "composition", "--out", tmp_path / "out",
            "--as", "merged", "--model", base_folder, "--save-as", "float32",
        ).succeeded()  # fmt: skip
    with attached(base, composition.passes[0]):
        expected = logits(base.model, base)
    exported = load_base(tmp_path / "out", "cpu")
    torch.testing.assert_close(logits(exported.model, exported), expected, atol=1e-4, rtol=1e-4)
    card = json.loads((tmp_path / "out" / "onepass.json").read_text())
    assert task_from(card["task"]) == composition.task


def test_exporting_leaves_the_base_as_it_was(
    tmp_path: Path, base: Base, make_adapter: MakeAdapter
) -> None:
    before, config = logits(base.model, base), base.model.config
    export_merged(random_composition(base, make_adapter, "output"), base, tmp_path / "out")
    assert torch.equal(logits(base.model, base), before)
    assert base.model.config is config
    assert not config.attention_bias


def test_a_lora_cannot_hold_output_biases(
    tmp_path: Path, base: Base, make_adapter: MakeAdapter, capsys: Capture
) -> None:
    folder = save_random_composition(tmp_path / "composition", base, make_adapter, "output")
    onepass(capsys, "export", folder, "--out", tmp_path / "out").refused("column", "merged")
    assert not (tmp_path / "out").exists()


def test_an_architecture_without_biases_is_refused(
    tmp_path: Path, base: Base, make_adapter: MakeAdapter
) -> None:
    config = Qwen2Config(
        vocab_size=len(base.tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2,
    )  # fmt: skip
    other = Base(Qwen2ForCausalLM(config), base.tokenizer, base.name, base.device)
    composition = random_composition(base, make_adapter, "output")
    with pytest.raises(OnepassError, match=r"(down|o)_proj .*no place for a bias.*qwen2"):
        export_merged(composition, other, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_only_single_passes_without_shots_can_be_exported(tmp_path: Path, base: Base) -> None:
    def composition(*passes: Pass) -> Composition:
        return Composition(base.shape, parse_task(TASK), passes, "some")

    single = Pass(parse_task(TASK))
    for refused, why in (
        (composition(Pass(parse_task("summarize")), Pass(parse_task("translate:es"))), "2 passes"),
        (composition(Pass(parse_task(TASK), shots=(("a", "b"),))), "solved examples"),
        (composition(single), "base alone"),
    ):
        with pytest.raises(OnepassError, match=why):
            export_peft(refused, tmp_path / "out")
    export_merged(composition(single), base, tmp_path / "out")  # the base itself, for what it is


def test_cost_gives_the_papers_table_to_the_digit(capsys: Capture) -> None:
    assert onepass(capsys, "cost").succeeded().out.splitlines() == [
        "model\tLoRA r=32\tLC\tLC++ r=4\tcore of two",
        "llama-3.2-1b\t22,544,384\t23,552\t176,128\t28,672",
        "qwen2.5-1.5b\t36,929,536\t23,040\t164,864\t28,672",
        "stablelm-2-1.6b\t30,277,632\t21,504\t157,696\t28,672",
        "mean\t29,917,184 = 57.06 MiB\t22,699 = 0.043 MiB = 0.08 %\t166,229 = 0.32 MiB = 0.56 %"
        "\t28,672 = 0.055 MiB = 0.10 %",
    ]


def test_cost_reads_any_models_configuration(base_folder: Path, capsys: Capture) -> None:
    done = onepass(capsys, "cost", base_folder, "--rank", 2, "--calibration-rank", 1).succeeded()
    row = done.out.splitlines()[1].split("\t")
    # Per layer q 32+32, k and v 16+32, o 32+32, gate and up 48+32, down 32+48.
    per_rank = 64 + 48 + 48 + 64 + 80 + 80 + 80
    core = 7 * (2 + 2) ** 2
    assert row == [str(base_folder), f"{2 * 2 * per_rank:,}", "224", f"{per_rank:,}", str(core)]


def test_cost_of_a_composition_is_that_of_its_files(
    tmp_path: Path, base: Base, make_adapter: MakeAdapter, capsys: Capture
) -> None:
    folder = save_random_composition(tmp_path / "composition", base, make_adapter)
    spent = cost(random_composition(base, make_adapter, "lowrank"))
    done = onepass(capsys, "cost", folder).succeeded()
    assert done.out.splitlines()[1] == (
        f"{folder}\t1\t{spent.extra_parameters:,}\t{spent.extra_bytes:,}"
    )
    assert spent.extra_bytes == (folder / "calibration-0.safetensors").stat().st_size


def test_cost_of_nothing_known_suggests_what_there_is(tmp_path: Path, capsys: Capture) -> None:
    missing = tmp_path / "missing"
    onepass(capsys, "cost", missing).refused(str(missing), "llama-3.2-1b")
