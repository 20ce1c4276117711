"""Sets whose base is the user's own GGUF file, taken as it is."""

from pathlib import Path
from typing import Any

import pytest
import torch

from device_kit import check_parity, engine_or_skip, other_model, three_parts
from onepass.model.load import Base
from onepass.serve.verify import verify

engine_or_skip()

from gguf_kit import write_model  # noqa: E402

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {},
    "gemma3_text": {
        "head_dim": 12, "query_pre_attn_scalar": 12, "sliding_window": 16, "num_hidden_layers": 7,
    },
    "qwen3": {"head_dim": 12},
    "qwen2": {},
    "mistral": {"sliding_window": None, "head_dim": 8},
    "phi3": {"sliding_window": 512, "tie_word_embeddings": False},
    "smollm3": {"num_hidden_layers": 5},
    "lfm2": {
        "num_hidden_layers": 3, "layer_types": ["conv", "full_attention", "conv"],
        "block_auto_adjust_ff_dim": False, "norm_eps": 1e-5,
    },
}  # fmt: skip
"""By Hugging Face's model_type; stablelm, which has LayerNorms, is tested with the rest."""


def tiny(kind: str, bare: Base) -> Base:
    base = other_model(bare, kind, **ARCHITECTURES[kind])
    with torch.no_grad():
        for weight in base.model.parameters():
            if weight.ndim == 1:  # which start at 0 or 1 and would hide that one is left out
                weight.add_(torch.randn_like(weight) * 0.2)
            else:
                weight.mul_(3)  # so that its logits differ clearly
    return base


@pytest.mark.parametrize("fused", [False, True], ids=["parts", "fused"])
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_each_architecture_computes_what_pytorch_does(
    kind: str, fused: bool, families: dict[str, Base], tmp_path: Path
) -> None:
    base = tiny(kind, families["qwen2.5"])
    file = write_model(base, tmp_path / "model.gguf")
    # llama.cpp takes GELU from a table of 16 bits.
    within = 2e-3 if kind == "gemma3_text" else 1e-4
    options: Any = {"own": file, "vectors": True, "within": within}
    check_parity(base, three_parts(base), tmp_path / "set", fused, **options)
    assert verify(tmp_path / "set", threads=1)
