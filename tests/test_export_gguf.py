"""`onepass export --format gguf`: llama.cpp computes what PyTorch does, to the fourth decimal."""

from pathlib import Path

import pytest
import torch

from architectures import FAMILIES, build
from device_kit import engine_or_skip, three_parts, torch_log_probabilities
from onepass.device import Engine
from onepass.export import export_gguf
from onepass.model.chat import prompt_ids
from onepass.model.generate import run
from onepass.model.load import Base, load_base

engine_or_skip()

CHAT = "Ana: Tea at 5:30?\nBen: Yes, I would like that!\nAna: See you then."


@pytest.fixture(scope="module", params=list(FAMILIES))
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Base:
    return load_base(build(request.param, tmp_path_factory.mktemp("bases") / request.param), "cpu")


@pytest.mark.parametrize("fused", [False, True], ids=["parts", "fused"])
def test_three_adapters_and_a_calibration_are_what_pytorch_computes(
    fused: bool, family: Base, tmp_path: Path
) -> None:
    composition = three_parts(family)
    manifest = export_gguf({"three": composition}, family, tmp_path / "set", "f32", "F32")
    (pass_,) = composition.passes
    scales = {"three": 1.0} if fused else manifest.compositions[0].passes[0].scales
    ids = prompt_ids(family.tokenizer, [f"Summarize.\n\n{CHAT}"])[0]
    with Engine(tmp_path / "set", exact=True, fused=fused, threads=1) as engine:
        found = engine.log_probabilities(ids, scales)
        answer = engine.run("three", CHAT, max_new_tokens=16)
    expected = torch_log_probabilities(family, pass_, ids)
    every = torch.tensor([found[token] for token in range(len(expected))], dtype=torch.float64)
    torch.testing.assert_close(every, expected, atol=1e-4, rtol=0.0)
    assert answer.text == run(family, composition, [CHAT], max_new_tokens=16).texts[0]
