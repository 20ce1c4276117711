"""Activated compositions in other formats: PEFT computes the same, and what cannot says so."""

import json
from dataclasses import replace
from pathlib import Path

import peft
import pytest
import torch

from activated_device_kit import (
    SPANISH,
    TALK,
    WITTY,
    activated,
    activated_parts,
    ordinary,
    tiny,
)
from activated_kit import greedy, prompt_of
from cli_kit import onepass
from device_kit import random_parts
from onepass.adapters.adapter import load_adapter, save_adapter
from onepass.adapters.composition import Composition, Pass, Weighted, save_composition
from onepass.api import exporting
from onepass.core.errors import OnepassError
from onepass.export import export_merged, export_mlx, export_peft, export_vllm
from onepass.model.load import Base, load_base

TEXTS = (TALK, "Ana: [Hm]", "[[ [Summarize", f"{TALK}\n\n[Summarize it.]\nBen: no")
COUNT = 10


@pytest.fixture(scope="module")
def base() -> Base:
    return tiny()


@pytest.mark.parametrize("words", [SPANISH, WITTY])
def test_peft_says_what_we_say(words: str, base: Base, tmp_path: Path) -> None:
    """It finds the invocation itself, and keeps a cache of its own."""
    composition = activated(base, words)
    export_peft(composition, tmp_path / "adapter", tokenizer=base.tokenizer)
    model = peft.PeftModel.from_pretrained(load_base("tiny", "cpu").model, tmp_path / "adapter")
    (pass_,) = composition.passes
    different = 0
    for text in TEXTS:
        ids, _ = prompt_of(base, pass_.task, text)
        with torch.inference_mode():
            said = model.generate(
                input_ids=torch.tensor([ids]), max_new_tokens=COUNT, do_sample=False,
                eos_token_id=list(base.stop_ids), pad_token_id=base.pad_id,
            )  # fmt: skip
        found = said[0, len(ids) :].tolist()
        assert found == greedy(base, pass_, text, COUNT)
        everywhere = replace(pass_, task=replace(pass_.task, activate=""))
        different += found != greedy(base, everywhere, text, COUNT)
    assert different


def test_the_adapter_states_the_tokens_of_its_task(base: Base, tmp_path: Path) -> None:
    """Those of the task that it does, whatever its parts were trained to act from."""
    composition = activated(base)
    (pass_,) = composition.passes
    parts = tuple(
        replace(each, adapter=replace(each.adapter, invocation=(5, 6))) for each in pass_.adapters
    )
    other = replace(composition, passes=(replace(pass_, adapters=parts),))
    export_peft(other, tmp_path / "adapter", tokenizer=base.tokenizer)
    bracket = base.tokenizer("[", add_special_tokens=False)["input_ids"]
    stated = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert stated["alora_invocation_tokens"] == bracket
    assert load_adapter(tmp_path / "adapter").invocation == tuple(bracket)
    with pytest.raises(OnepassError, match="give the tokenizer of its base"):
        export_peft(other, tmp_path / "again")
    export_peft(ordinary(base), tmp_path / "plain")
    stated = json.loads((tmp_path / "plain" / "adapter_config.json").read_text())
    assert not stated.get("alora_invocation_tokens")


def test_the_command_line_exports_what_peft_reads(
    base: Base, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_composition(activated(base), tmp_path / "spanish")
    onepass(capsys, "export", tmp_path / "spanish", "--out", tmp_path / "adapter").succeeded()
    config = peft.PeftConfig.from_pretrained(tmp_path / "adapter")
    assert config.alora_invocation_tokens == list(load_adapter(tmp_path / "adapter").invocation)


def test_a_vllm_that_does_not_know_them_does_not_start(base: Base, tmp_path: Path) -> None:
    """Rather than let them act on the whole prompt."""
    several = {"spanish": activated(base), "plain": ordinary(base)}
    written = exporting.export(several, "vllm", tmp_path / "both", base=base)
    assert "--enable-activated-lora --enable-prefix-caching" in written.command
    assert "pull request 19710" in "".join(written.remarks)
    assert "19710" in (tmp_path / "both" / "README.md").read_text()
    stated = {
        name: json.loads((tmp_path / "both" / name / "adapter_config.json").read_text())
        for name in several
    }
    assert stated["spanish"]["alora_invocation_tokens"]
    assert not stated["plain"].get("alora_invocation_tokens")
    command = export_vllm({"plain": ordinary(base)}, tmp_path / "plain", "tiny")
    assert "activated" not in command


def test_formats_that_act_on_the_whole_prompt_refuse(base: Base, tmp_path: Path) -> None:
    why = "acts only from its invocation on, and .* would act on the whole prompt; export it as"
    with pytest.raises(OnepassError, match=why):
        export_merged(activated(base), base, tmp_path / "merged")
    with pytest.raises(OnepassError, match=why):
        export_mlx(activated(base), tmp_path / "mlx")


def test_an_activated_pass_does_not_take_an_ordinary_adapter(base: Base) -> None:
    (pass_,) = activated(base).passes
    mixed = (*pass_.adapters, Weighted(random_parts(base, 1)[0]))
    with pytest.raises(OnepassError, match="ordinary ones"):
        Composition(base.shape, pass_.task, (Pass(pass_.task, mixed),), "mixed")


def test_pack_and_inspect_show_from_where_it_acts(
    base: Base, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, made in (("spanish", activated(base)), ("plain", ordinary(base))):
        save_composition(made, tmp_path / name)
    both = tmp_path / "spanish", tmp_path / "plain"
    done = onepass(capsys, "pack", *both, "--out", tmp_path / "set", "--base-type", "f32")
    done.succeeded()
    assert "spanish: activated, acts from '[' in 'TEXT\\n\\n[Summarize the conv" in done.err
    assert "plain: activated" not in done.err
    kinds = dict(line.split("\t")[:2] for line in done.out.splitlines())
    assert kinds["adapters/summarize.gguf"] == "task, rank 4, activated"
    assert kinds["adapters/summarize-2.gguf"] == "task, rank 4"
    (one, _), other = activated_parts(base, SPANISH), random_parts(base, 1)[0]
    for name, adapter in (("active", one), ("ordinary", replace(other, name="ordinary"))):
        save_adapter(adapter, tmp_path / name)
    done = onepass(capsys, "inspect", tmp_path / "active", tmp_path / "ordinary").succeeded()
    assert "summarize: activated, acts from the last token ids 62 of a prompt on" in done.err
    assert "ordinary: activated" not in done.err
