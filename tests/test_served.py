"""Compositions on a server: the same as here, each pass by a name; and the folder for vLLM."""

import json
import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from cli_kit import TASK, Done, onepass, random_composition, rows_of, write_rows
from conftest import TEXT, MakeAdapter
from endpoint_kit import Stub, completion, serving
from llama_kit import llama_server
from onepass.adapters.adapter import load_adapter
from onepass.adapters.composition import Composition, Pass, Weighted, save_composition
from onepass.core.errors import OnepassError
from onepass.export.vllm import export_vllm, serve_command
from onepass.model.assets import embedded_adapter
from onepass.model.attach import attached
from onepass.model.generate import run
from onepass.model.load import Base, load_base
from onepass.serve import endpoint as endpoint_module
from onepass.serve.served import run_served
from onepass.tasks.book import parse_task
from onepass.tasks.corpus import load_corpus
from onepass.tasks.prompt import build_prompt

Capture = pytest.CaptureFixture[str]
CHATS = ["Ana: Tea at five?\nBen: Yes!", "Cleo: Où es-tu ?\nDan: À la gare.", "Eve: 你好"]


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)
    monkeypatch.delenv(endpoint_module.KEY, raising=False)


@pytest.fixture
def two_steps(base: Base, make_adapter: MakeAdapter) -> Composition:
    """Summarise, then translate what came of it, without being told so."""
    passes = (
        Pass(parse_task("summarize"), (Weighted(make_adapter("summarize")),), shots=(("a", "b"),)),
        Pass(
            parse_task("translate:es").bare(),
            (Weighted(make_adapter("spanish", seed=1)),),
        ),
    )
    return Composition(base.shape, parse_task(TASK), passes, "multi-step")


def generate(capsys: Capture, composition: Path, file: Path, stub: Stub, *more: object) -> Done:
    return onepass(
        capsys, "generate", composition, "-i", file, "--endpoint", stub.url, "--served", *more
    )


def test_each_pass_asks_its_own_model_about_what_came_before(
    tmp_path: Path, two_steps: Composition, capsys: Capture
) -> None:
    save_composition(two_steps, tmp_path / "composition")
    file = write_rows(tmp_path / "in.jsonl", [{"input": text} for text in CHATS])
    with serving(lambda prompt, times: f"<{prompt[-4:]}>") as stub:
        done = generate(capsys, tmp_path / "composition", file, stub, "one", "two").succeeded()
    task = parse_task("summarize")
    first = [build_prompt(task, text, (("a", "b"),)) for text in CHATS]
    second = [f"<{prompt[-4:]}>" for prompt in first]
    asked = {(r["model"], r["messages"][0]["content"]) for r in stub.requests}
    assert asked == {("one", p) for p in first} | {("two", p) for p in second}
    assert [row["prediction"] for row in rows_of(done.out)] == [f"<{p[-4:]}>" for p in second]
    # Formats that print the date are told the one that training saw.
    assert all(r["chat_template_kwargs"] == {"date_string": "26 Jul 2024"} for r in stub.requests)


def test_a_text_the_server_refuses_costs_no_other(
    tmp_path: Path, two_steps: Composition, capsys: Capture
) -> None:
    def reply(prompt: str, times: int) -> Any:
        if "你好" in prompt:
            return (400, {"error": {"message": "the prompt is longer than the context"}})
        return "Said."

    save_composition(two_steps, tmp_path / "composition")
    file = write_rows(tmp_path / "in.jsonl", [{"id": t[:3], "input": t} for t in CHATS])
    with serving(reply) as stub:
        done = generate(capsys, tmp_path / "composition", file, stub, "one", "two")
    assert done.code == 1
    assert [row["prediction"] for row in rows_of(done.out)] == ["Said.", "Said.", ""]
    assert "note: Eve: no answer from one: the server answers 400: the prompt is longer" in done.err
    assert "1 of 3 had no answer" in done.err
    assert len(stub.asked) == 5


def test_an_answer_that_was_cut_off_is_told(
    tmp_path: Path, two_steps: Composition, capsys: Capture
) -> None:
    def reply(prompt: str, times: int) -> Any:
        reason = "length" if "Tea" in prompt else "stop"
        return (200, completion("Said.", finish_reason=reason))

    save_composition(two_steps, tmp_path / "composition")
    file = write_rows(tmp_path / "in.jsonl", [{"id": t[:3], "input": t} for t in CHATS])
    more = ("--max-new-tokens", 3)
    with serving(reply) as stub:
        done = generate(capsys, tmp_path / "composition", file, stub, "one", "two", *more)
    done.succeeded()
    assert [row["prediction"] for row in rows_of(done.out)] == ["Said."] * 3
    notes = [line for line in done.err.splitlines() if line.startswith("note: ")]
    assert notes == ["note: Ana: one was cut off at 3 tokens; allow more"]


def test_wrong_options_are_told(tmp_path: Path, two_steps: Composition, capsys: Capture) -> None:
    save_composition(two_steps, tmp_path / "composition")
    file = write_rows(tmp_path / "in.jsonl", [{"input": text} for text in CHATS])
    command = ("generate", tmp_path / "composition", "-i", file)
    onepass(capsys, *command, "--endpoint", "http://h/v1").refused("--served")
    onepass(capsys, *command, "--served", "one").refused("--endpoint")
    with serving(lambda prompt, times: "x", models=("three",)) as stub:
        generate(capsys, tmp_path / "composition", file, stub, "one").refused("2 passes", "1 ")
    assert not stub.asked


def test_a_real_server_says_what_we_say(tmp_path: Path) -> None:
    """llama.cpp, in its own chat format, tokenizer and arithmetic, gives the same texts."""
    base = load_base("tiny", "cpu")
    parts = [load_adapter(embedded_adapter(part)) for part in TASK.split("+")]
    pass_ = Pass(parse_task("summarize"), (Weighted(parts[0], 1.0), Weighted(parts[1], 0.2)))
    composition = Composition(base.shape, parse_task("summarize"), (pass_,), "linear")
    texts = [e.input for e in load_corpus("smalltown").examples(parse_task(TASK), "test", 4)]
    expected = run(base, composition, texts, 40)
    with llama_server(base, tmp_path, pass_) as endpoint:
        found = run_served(composition, endpoint, ["base"], texts, 40)
    assert found.texts == expected.texts
    assert all(len(text) > 20 for text in found.texts)
    assert found.failed == 0


# ------------------------------------------------------------------ vLLM


def test_the_folder_holds_an_adapter_for_each_pass(
    tmp_path: Path, base: Base, base_folder: Path, make_adapter: MakeAdapter,
    two_steps: Composition, capsys: Capture,
) -> None:  # fmt: skip
    one = random_composition(base, make_adapter, "lowrank")
    save_composition(one, tmp_path / "sum-es")
    save_composition(two_steps, tmp_path / "steps")
    out = tmp_path / "served"
    for _ in range(2):  # what it wrote it may write anew
        done = onepass(
            capsys, "export", tmp_path / "sum-es", tmp_path / "steps", "--format", "vllm",
            "--out", out, "--model", base_folder, "--save-as", "float32",
        ).succeeded()  # fmt: skip
    assert {path.name for path in out.iterdir()} == {
        "sum-es", "steps-1", "steps-2", "serve.sh", "README.md", "onepass.json",
    }  # fmt: skip
    passes = {"sum-es": one.passes[0], "steps-1": two_steps.passes[0]}
    for name, pass_ in passes.items():
        bare = AutoModelForCausalLM.from_pretrained(base_folder)
        model = PeftModel.from_pretrained(bare, str(out / name))
        ids = base.tokenizer(TEXT, return_tensors="pt")["input_ids"]
        with torch.inference_mode(), attached(base, pass_):
            torch.testing.assert_close(model(ids).logits, base.model(ids).logits, atol=1e-4, rtol=0)
    words = shlex.split(done.out.replace("\\\n", ""))
    assert words == [
        "vllm", "serve", str(base_folder.resolve()), "--enable-lora", "--max-lora-rank", "16",
        "--max-loras", "3", "--lora-modules", "sum-es=./sum-es", "steps-1=./steps-1",
        "steps-2=./steps-2", "--host", "127.0.0.1",
    ]  # fmt: skip
    card = json.loads((out / "onepass.json").read_text())
    assert card["served"][1]["models"] == ["steps-1", "steps-2"]
    assert card["served"][1]["prompts"] == ["Summarize the conversation.\n\n{text}", "{text}"]
    assert "--served steps-1 steps-2" in (out / "README.md").read_text()


def test_the_script_runs_the_command_where_the_adapters_are(
    tmp_path: Path, base: Base, make_adapter: MakeAdapter
) -> None:
    export_vllm({"x": random_composition(base, make_adapter, "lowrank")}, tmp_path / "out", "a b")
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "vllm").write_text('#!/bin/sh\npwd\nprintf "%s\\n" "$@"\n')
    (tools / "vllm").chmod(0o755)
    shown = subprocess.run(
        [tmp_path / "out" / "serve.sh", "--port", "8001"],
        env={"PATH": f"{tools}:{os.environ['PATH']}"},
        cwd="/", capture_output=True, text=True, check=True,
    )  # fmt: skip
    where, *words = shown.stdout.splitlines()
    assert Path(where).samefile(tmp_path / "out")
    assert words[:2] == ["serve", "a b"]
    assert words[-4:] == ["--host", "127.0.0.1", "--port", "8001"]


@pytest.mark.parametrize(("rank", "told"), [(1, 8), (8, 8), (9, 16), (33, 64), (257, 320)])
def test_the_rank_is_one_that_vllm_takes(rank: int, told: int) -> None:
    assert f"--max-lora-rank {told} " in serve_command("base", ["a"], rank)


def test_what_vllm_cannot_serve_is_told(
    tmp_path: Path, base: Base, make_adapter: MakeAdapter
) -> None:
    with pytest.raises(OnepassError, match="rank 600, but vLLM takes 512 at most"):
        serve_command("base", ["a"], 600)
    composition = random_composition(base, make_adapter, "lowrank")
    with pytest.raises(OnepassError, match="'a=b' cannot be the name"):
        export_vllm({"a=b": composition}, tmp_path / "out", "base")
    with pytest.raises(OnepassError, match="output biases"):
        export_vllm({"a": random_composition(base, make_adapter, "output")}, tmp_path / "out", "x")
    passes = (composition.passes[0], composition.passes[0])
    two = Composition(base.shape, parse_task(TASK), passes, "multi-step")
    with pytest.raises(OnepassError, match="would be called 'a-1'"):
        export_vllm({"a": two, "a-1": composition}, tmp_path / "out", "base")
    assert not (tmp_path / "out").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(OnepassError, match=r"thesis\.txt, which saving here would delete"):
        export_vllm({"a": composition}, tmp_path / "mine", "base")
