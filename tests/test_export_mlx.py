"""`onepass export --format mlx`: mlx-lm computes what PyTorch does, to the fourth decimal.

mlx-lm is no part of the lock; the tests that run it are skipped where it is not installed.
docs/device.md, "On MLX", has the commands for an environment with it, which Linux can have too.
"""

import importlib
import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig

from architectures import FAMILIES
from base_kit import chat_tokenizer, tiny_model
from cli_kit import TASK, onepass, random_composition
from conftest import MakeAdapter
from device_kit import (
    CHAT,
    STABLELM_12B,
    other_model,
    random_calibration,
    random_parts,
    three_parts,
    torch_log_probabilities,
)
from onepass.adapters.adapter import Adapter, Lora, load_adapter
from onepass.adapters.calibration import Form
from onepass.adapters.composition import Composition, Pass, Weighted, pass_delta, save_composition
from onepass.api.exporting import export
from onepass.core.files import read_json, write_json
from onepass.export import export_merged, export_mlx
from onepass.export.mlx import unread_by_mlx
from onepass.model.assets import TINY, embedded_adapter
from onepass.model.attach import merged
from onepass.model.chat import PINNED, prompt_ids
from onepass.model.generate import generate
from onepass.model.load import Base, load_base
from onepass.tasks.book import parse_task
from onepass.tasks.task import task_from

NEWER: dict[str, dict[str, Any]] = {
    "gemma3-text": {
        "hidden_size": 64,  # whose root, by which mlx-lm multiplies, is exact in bfloat16
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "rope_theta": 5e5, "factor": 8.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 2e4},
        },
    },
    "qwen3": {},
    "smollm3": {},
    "phi3": {"sliding_window": None},
    "mistral": {"sliding_window": None},
    "lfm2": {"head_dim": 8},  # as many as heads share its width
}
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def mlx_lm() -> Any:
    advice = "needs mlx-lm: pip install 'mlx[cpu]' mlx-lm, in an environment of its own"
    core = pytest.importorskip("mlx.core", reason=advice, exc_type=ImportError)
    found = pytest.importorskip("mlx_lm", reason=advice, exc_type=ImportError)
    core.set_default_device(core.cpu)
    return found


def saved(name: str, folder: Path) -> Path:
    """The folder of a tiny base of one of the families in `base_kit`."""
    tiny_model(name, **NEWER[name]).save_pretrained(folder)
    chat_tokenizer().save_pretrained(folder)
    return folder


def readable(base: Base, folder: Path) -> Path:
    """The base in a folder, with what mlx-lm would not see in its config.json added."""
    base.model.save_pretrained(folder)
    base.tokenizer.save_pretrained(folder)
    config = folder / "config.json"
    write_json(config, {**read_json(config), **unread_by_mlx(folder)})
    return folder


def mlx_log_probabilities(model: Any, ids: list[int]) -> Tensor:
    """(vocabulary,): of the token after `ids`."""
    core = importlib.import_module("mlx.core")
    logits = model(core.array([ids]))[0, -1].astype(core.float32)
    return torch.tensor(logits.tolist(), dtype=torch.float64).log_softmax(-1)


def mlx_text(model: Any, tokenizer: Any, base: Base, ids: list[int], tokens: int) -> str:
    """mlx-lm's greedy answer, ended and decoded as ours is."""
    for stop in base.tokenizer.convert_ids_to_tokens(sorted(base.stop_ids)):
        tokenizer.add_eos_token(stop)
    stream = importlib.import_module("mlx_lm.generate").stream_generate
    answer = [part.token for part in stream(model, tokenizer, prompt=ids, max_tokens=tokens)]
    kept = [token for token in answer if token not in base.stop_ids]
    text: str = base.tokenizer.decode(kept, skip_special_tokens=True)
    return text.strip()


def check_parity(mlx_lm: Any, base: Base, pass_: Pass, model: Path, adapter: Path | None) -> None:
    """The same prompt, every log-probability within 1e-4, and the same greedy text."""
    loaded, tokenizer = mlx_lm.load(str(model), adapter_path=str(adapter) if adapter else None)
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": CHAT}], tokenize=False, add_generation_prompt=True, **PINNED
    )
    ids = tokenizer.encode(asked, add_special_tokens=False)
    assert ids == prompt_ids(base.tokenizer, [CHAT])[0]
    expected = torch_log_probabilities(base, pass_, ids)
    unchanged = torch_log_probabilities(base, Pass(pass_.task), ids)
    assert (unchanged - expected).abs().max() > 0.1, "the pass must matter"
    found = mlx_log_probabilities(loaded, ids)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0.0)
    with merged(base, pass_):
        answer = generate(base, [CHAT], max_new_tokens=16).texts[0]
    assert mlx_text(loaded, tokenizer, base, ids, 16) == answer


def halved(composition: Composition) -> Pass:
    """Its pass as one adapter whose factors were rounded to 16 bits."""
    (pass_,) = composition.passes
    factors = {
        module: Lora(lora.down.half().float(), lora.up.half().float())
        for module, lora in pass_delta(pass_, composition.base).items()
    }
    return Pass(pass_.task, (Weighted(Adapter("halved", factors, composition.base.name)),))


def test_it_computes_the_same_change(
    base: Base, make_adapter: MakeAdapter, tmp_path: Path, capsys: Capture
) -> None:
    """mlx-lm gives y + scale (x A) B, so A B is ΔW turned round."""
    composition = random_composition(base, make_adapter, "lowrank")
    save_composition(composition, tmp_path / "both")
    out = tmp_path / "out"
    options = ("export", tmp_path / "both", "--out", out, "--format", "mlx")
    onepass(capsys, *options, "--save-as", "float32").succeeded()
    config = json.loads((out / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["num_layers"] == 2
    assert config["lora_parameters"]["scale"] == 1.0
    assert set(config["lora_parameters"]["keys"]) == {
        *(f"self_attn.{kind}_proj" for kind in "qkvo"),
        *(f"mlp.{kind}_proj" for kind in ("gate", "up", "down")),
    }
    tensors = load_file(out / "adapters.safetensors")
    for module, lora in pass_delta(composition.passes[0], base.shape).items():
        a, b = tensors[f"{module}.lora_a"], tensors[f"{module}.lora_b"]
        assert a.shape[1] == config["lora_parameters"]["rank"]
        torch.testing.assert_close((a @ b).T, lora.delta())
    card = json.loads((out / "onepass.json").read_text(encoding="utf-8"))
    assert task_from(card["task"]) == composition.task
    onepass(capsys, *options).succeeded()


def check_adapter(
    mlx_lm: Any,
    composition: Composition,
    base: Base,
    folder: Path,
    dtype: torch.dtype | None = None,
) -> None:
    export_mlx(composition, folder / "adapter", dtype)
    pass_ = halved(composition) if dtype is torch.float16 else composition.passes[0]
    check_parity(mlx_lm, base, pass_, readable(base, folder / "base"), folder / "adapter")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("form", ["lowrank", "column"])
def test_mlx_lm_computes_what_pytorch_does(
    form: Form, dtype: torch.dtype, mlx_lm: Any, family: Base, tmp_path: Path
) -> None:
    check_adapter(mlx_lm, three_parts(family, form), family, tmp_path, dtype)


def test_layers_and_modules_without_an_adapter_stay_as_they_are(
    mlx_lm: Any, family: Base, tmp_path: Path
) -> None:
    wanted = ("model.layers.0.mlp.down_proj", "model.layers.1.self_attn.q_proj")
    modules = {wanted[n]: random_parts(family)[n].modules[wanted[n]] for n in range(2)}
    few = Weighted(Adapter("few", modules, family.name), 3.0)
    pass_ = Pass(parse_task("summarize"), (few,))
    composition = Composition(family.shape, pass_.task, (pass_,), "single")
    check_adapter(mlx_lm, composition, family, tmp_path)


def test_the_larger_stablelm_is_what_pytorch_computes(
    mlx_lm: Any, families: dict[str, Base], tmp_path: Path
) -> None:
    base = other_model(families["stablelm-2"], "stablelm", **STABLELM_12B)
    check_adapter(mlx_lm, three_parts(base), base, tmp_path)


@pytest.mark.parametrize(
    ("name", "form"), [*((name, "lowrank") for name in FAMILIES), ("llama-3.2", "output")]
)
def test_mlx_lm_runs_a_merged_model_as_it_is(
    name: str, form: Form, mlx_lm: Any, families: dict[str, Base], tmp_path: Path
) -> None:
    base = families[name]
    composition = three_parts(base, form)
    export_merged(composition, base, tmp_path / "merged", torch.float32)
    check_parity(mlx_lm, base, composition.passes[0], tmp_path / "merged", None)


@pytest.mark.parametrize("name", NEWER)
def test_the_newer_families_are_what_pytorch_computes(
    name: str, mlx_lm: Any, tmp_path: Path
) -> None:
    base = load_base(saved(name, tmp_path / name), "cpu")
    composition = three_parts(base)
    check_adapter(mlx_lm, composition, base, tmp_path)
    export_merged(composition, base, tmp_path / "merged", torch.float32)
    check_parity(mlx_lm, base, composition.passes[0], tmp_path / "merged", None)


@pytest.mark.parametrize("name", NEWER)
def test_merging_leaves_the_rotary_positions_of_the_newer_families(
    name: str, tmp_path: Path
) -> None:
    base = load_base(saved(name, tmp_path / name), "cpu")
    export_merged(three_parts(base), base, tmp_path / "merged")
    assert unread_by_mlx(tmp_path / "merged") == {}
    rope = AutoConfig.from_pretrained(tmp_path / name).rope_parameters
    assert AutoConfig.from_pretrained(tmp_path / "merged").rope_parameters == rope


def test_a_sliding_window_that_mlx_lm_ignores_is_reported(tmp_path: Path) -> None:
    for name in ("phi3", "mistral", "gemma3-text"):
        folder = tmp_path / name
        tiny_model(name).save_pretrained(folder)
        chat_tokenizer().save_pretrained(folder)
        composition = three_parts(load_base(folder, "cpu"))
        remarks = export(composition, "mlx", tmp_path / f"{name}-mlx").remarks
        told = [remark for remark in remarks if "more than 16 tokens" in remark]
        assert len(told) == (name != "gemma3-text")


def tiny_composition() -> Composition:
    """Two embedded adapters, half of each, and a small random calibration."""
    base = load_base("tiny", "cpu")
    parts = [load_adapter(embedded_adapter(part)) for part in TASK.split("+")]
    calibration = random_calibration(base, size=0.05)
    pass_ = Pass(parse_task(TASK), tuple(Weighted(part, 0.5) for part in parts), calibration)
    return Composition(base.shape, parse_task(TASK), (pass_,), "lc++")


def test_the_command_that_is_printed_says_what_generate_says(
    mlx_lm: Any, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_composition(tiny_composition(), tmp_path / "both")
    (tmp_path / "chat.txt").write_text(CHAT, encoding="utf-8")
    out = tmp_path / "an adapter"
    done = onepass(
        capsys, "export", tmp_path / "both", "--out", out, "--format", "mlx",
        "--save-as", "float32",
    ).succeeded()  # fmt: skip
    (line,) = [line for line in done.err.splitlines() if "mlx_lm.generate" in line]
    command = shlex.split("mlx_lm.generate" + line.partition("mlx_lm.generate")[2])
    assert command[-1] == "Summarize the conversation in Spanish.\\n\\nTEXT"
    command[-1] = command[-1].replace("TEXT", CHAT)
    expected = onepass(
        capsys, "generate", tmp_path / "both", "--input", tmp_path / "chat.txt", "--device", "cpu"
    ).succeeded()  # fmt: skip
    monkeypatch.setattr("sys.argv", [*command, "--max-tokens", "128", "--verbose", "F"])
    importlib.import_module("mlx_lm.generate").main()
    assert capsys.readouterr().out.strip() == expected.out.strip() != ""


def test_it_tells_what_mlx_lm_would_not_read_of_the_base(
    family_folders: dict[str, Path], tmp_path: Path, capsys: Capture
) -> None:
    assert unread_by_mlx(TINY) == unread_by_mlx(family_folders["qwen2.5"]) == {}
    assert unread_by_mlx(family_folders["stablelm-2"]) == {
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.25,
    }
    folder = family_folders["llama-3.2"]
    save_composition(three_parts(load_base(folder, "cpu")), tmp_path / "three")
    out = tmp_path / "out"
    options = ("export", tmp_path / "three", "--out", out, "--format", "mlx", "--model")
    told = onepass(capsys, *options, folder).succeeded().err
    assert str(folder / "config.json") in told
    (line,) = [line for line in told.splitlines() if "older names" in line]
    fields = json.loads("{" + line.partition("or none: ")[2] + "}")
    assert fields["rope_theta"] == 500000.0
    assert fields["rope_scaling"]["rope_type"] == "llama3"
    told = onepass(capsys, *options, TINY).succeeded().err
    assert "rope" not in told


@pytest.mark.parametrize("name", FAMILIES)
def test_a_merged_model_has_its_rotary_positions_under_both_names(
    name: str, families: dict[str, Base], family_folders: dict[str, Path], tmp_path: Path
) -> None:
    export_merged(three_parts(families[name]), families[name], tmp_path / "merged")
    assert unread_by_mlx(tmp_path / "merged") == {}
    written = read_json(tmp_path / "merged" / "config.json")
    rope = AutoConfig.from_pretrained(family_folders[name]).rope_parameters
    assert written["rope_theta"] == rope["rope_theta"]
    assert AutoConfig.from_pretrained(tmp_path / "merged").rope_parameters == rope
