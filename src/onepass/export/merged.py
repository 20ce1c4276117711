"""A composition as a whole model: the base with the pass summed into its weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from onepass.adapters.adapter import projection
from onepass.adapters.composition import Composition, check_base, pass_bias
from onepass.adapters.storage import FolderFiles, check_replaceable
from onepass.core.errors import OnepassError
from onepass.core.files import atomic_folder, read_json, write_json
from onepass.export.config_fields import older_names
from onepass.export.single import WITHOUT_BIASES, card_of, refuse_activated, single_pass
from onepass.model.attach import folded
from onepass.model.chat import PLAIN_TEMPLATE
from onepass.model.check import check_range
from onepass.model.load import Base

CARD, CONFIG = "onepass.json", "config.json"
FILES = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt")
OWN_FILES = FolderFiles(CARD, FILES)
# The switches of Llama-like configurations, and the projections they give biases to.
_SWITCHES = {
    "attention_bias": {"q_proj", "k_proj", "v_proj", "o_proj"},
    "mlp_bias": {"gate_proj", "up_proj", "down_proj"},
}


def export_merged(
    composition: Composition,
    base: Base,
    folder: Path | str,
    dtype: torch.dtype = torch.float16,
) -> None:
    """Write a model folder in Hugging Face layout, tokenizer included, weights in `dtype`.

    Its config.json has rotary positions under their older names too, which some runtimes want.

    Raises:
        OnepassError: the composition has several passes, is activated or is for another base, it
            has output biases that the base's architecture has no place for, it computes numbers too
            large for float16, or the folder cannot be written.
    """
    folder = Path(folder)
    check_replaceable(folder, OWN_FILES)
    refuse_activated(composition, "a model that it is summed into", "export it as peft or gguf")
    pass_ = single_pass(composition)
    check_base(composition, base.shape)
    config = deepcopy(base.model.config)
    biased = set(pass_bias(pass_, composition.base))
    for switch, kinds in _SWITCHES.items():
        if hasattr(config, switch) and kinds & {projection(path) for path in biased}:
            setattr(config, switch, True)
    config.dtype = dtype
    places = _bias_places(config)
    if biased - places:
        raise OnepassError(
            f"{sorted(biased - places)[0]} of {base.name} has no place for a bias in a model of "
            f"type {config.model_type}; calibrate with {WITHOUT_BIASES} instead"
        )
    card = {"base": base.name, **card_of(composition)}
    with folded(base, pass_), _zero_biases(base, places), atomic_folder(folder) as temporary:
        if dtype == torch.float16:  # Gemma 3's layers reach 100,000
            check_range(base.model, base.tokenizer, base.name, dtype)
        original, base.model.config = base.model.config, config
        try:
            base.model.save_pretrained(temporary, state_dict=_state(base, dtype))
        finally:
            base.model.config = original
        _save_tokenizer(base.tokenizer, temporary)
        written = read_json(temporary / CONFIG)
        write_json(temporary / CONFIG, {**written, **older_names(written)})
        write_json(temporary / CARD, card)


def _save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Save it with a chat template: for one without, what onepass does then."""
    own, tokenizer.chat_template = (
        tokenizer.chat_template,
        tokenizer.chat_template or PLAIN_TEMPLATE,
    )
    try:
        tokenizer.save_pretrained(folder)
    finally:
        tokenizer.chat_template = own


def _state(base: Base, dtype: torch.dtype) -> dict[str, Tensor]:
    """The model's tensors in `dtype`: tied ones stay tied, but each layer gets a bias of its own.

    A folded calibration gives all layers one bias tensor, which transformers refuses to save.
    """
    state: dict[str, Tensor] = {}
    converted: dict[int, Tensor] = {}
    for name, tensor in base.model.state_dict().items():
        if name.endswith(".bias"):
            state[name] = tensor.to(dtype, copy=True)
            continue
        if tensor.data_ptr() not in converted:
            converted[tensor.data_ptr()] = tensor.to(dtype)
        state[name] = converted[tensor.data_ptr()]
    return state


def _bias_places(config: Any) -> set[str]:
    """The modules that have a bias in a model of this configuration."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    return {
        path
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear) and module.bias is not None
    }


@contextmanager
def _zero_biases(base: Base, places: set[str]) -> Iterator[None]:
    """The base with a bias of 0 wherever the configuration wants one and there is none."""
    bare = [
        layer
        for layer in map(base.model.get_submodule, sorted(places))
        if isinstance(layer, nn.Linear) and layer.bias is None
    ]
    try:
        for layer in bare:
            layer.bias = nn.Parameter(layer.weight.new_zeros(layer.out_features), False)
        yield
    finally:
        for layer in bare:
            layer.bias = None
