"""The parameter counts of table 2 of arXiv 2507.16083, to the digit, from the models' shapes."""

import pytest

from adapter_kit import random_adapter, random_calibration, small_base
from onepass.adapters.cost import lc_parameters, lcpp_parameters, lora_parameters
from onepass.adapters.shape import BaseShape


def llama_like(name: str, hidden: int, mlp: int, layers: int, kv: int) -> BaseShape:
    paths = {
        "self_attn.q_proj": (hidden, hidden),
        "self_attn.k_proj": (kv, hidden),
        "self_attn.v_proj": (kv, hidden),
        "self_attn.o_proj": (hidden, hidden),
        "mlp.gate_proj": (mlp, hidden),
        "mlp.up_proj": (mlp, hidden),
        "mlp.down_proj": (hidden, mlp),
    }
    return BaseShape(
        name, {f"model.layers.{i}.{path}": s for i in range(layers) for path, s in paths.items()}
    )


MODELS = {
    "Llama-3.2-1B": (llama_like("llama", 2048, 8192, 16, 512), 22_544_384, 23_552, 176_128),
    "Qwen2.5-1.5B": (llama_like("qwen", 1536, 8960, 28, 256), 36_929_536, 23_040, 164_864),
    "StableLM-2-1.6B": (llama_like("stablelm", 2048, 5632, 24, 2048), 30_277_632, 21_504, 157_696),
}


@pytest.mark.parametrize("model", MODELS)
def test_each_models_counts(model: str) -> None:
    shape, lora, lc, lcpp = MODELS[model]
    assert lora_parameters(shape, 32) == lora
    assert lc_parameters(shape) == lc
    assert lcpp_parameters(shape, 4) == lcpp


def test_their_means_as_the_paper_rounds_them() -> None:
    shapes = [shape for shape, *_ in MODELS.values()]
    lora = sum(lora_parameters(shape, 32) for shape in shapes) / 3
    lc = sum(lc_parameters(shape) for shape in shapes) / 3
    lcpp = sum(lcpp_parameters(shape, 4) for shape in shapes) / 3
    assert (round(lora), round(lc), round(lcpp)) == (29_917_184, 22_699, 166_229)
    mebibytes = [round(2 * count / 2**20, 2) for count in (lora, lcpp)]
    assert mebibytes == [57.06, 0.32]
    assert [round(100 * count / lora, 2) for count in (lc, lcpp)] == [0.08, 0.56]


def test_counts_are_those_of_the_things_counted() -> None:
    base = small_base()
    assert lora_parameters(base, 3) == random_adapter(0, rank=3).parameter_count
    assert lc_parameters(base) == random_calibration("output").parameter_count
    assert lc_parameters(base) == random_calibration("column").parameter_count
    assert lcpp_parameters(base, 2) == random_calibration("lowrank", rank=2).parameter_count


def test_layers_of_another_shape_count_as_a_type_of_their_own() -> None:
    base = BaseShape("odd", {f"layers.{i}.q_proj": (out, 4) for i, out in enumerate((4, 8, 8))})
    assert lora_parameters(base, 1) == 8 + 12 + 12
    assert lc_parameters(base) == 4 + 8
    assert lcpp_parameters(base, 2) == 2 * (8 + 12)
