"""Loading a base: the embedded one, a local folder in Hugging Face layout, or a hub name.

Only safetensors weights are read and no code that comes with a model is run.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from onepass.adapters.composition import BaseShape
from onepass.core.errors import OnepassError
from onepass.core.hub import cached_name, explain
from onepass.core.registry import unknown
from onepass.model.assets import TINY
from onepass.model.chat import end_id
from onepass.model.quantized import (
    BITS,
    QUANTIZATIONS,
    ROUNDINGS,
    quantization_config,
    round_weights,
)
from onepass.model.quiet import quiet

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The linear layers of a Llama-like block that adapters and calibrations change."""

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_ANY_LENGTH = 1 << 20

BALANCED = "balanced"
"""The device that is all GPUs at once: each has some of the layers, by `accelerate`."""

_TOO_LONG = "sequence-length-is-longer-than-the-specified-maximum"


@dataclass(frozen=True)
class Base:
    """A frozen causal language `model` with its `tokenizer`.

    `name` is what adapters and compositions are tied to: "tiny", a hub name, or a folder's name.
    `device` is where inputs go; a balanced model has layers on other devices too.
    `quantization` is one of `onepass.model.quantized.QUANTIZATIONS`.
    """

    model: PreTrainedModel
    tokenizer: Any
    name: str
    device: torch.device
    quantization: str = "none"

    @cached_property
    def shape(self) -> BaseShape:
        return base_shape(self.model, name=self.name)

    @property
    def identity(self) -> str:
        """What a training depends on of the base: its name, and how its numbers were rounded."""
        return self.name if self.quantization == "none" else f"{self.name} {self.quantization}"

    @cached_property
    def context(self) -> int:
        """The most tokens that prompt and answer may have together."""
        return int(getattr(self.model.config, "max_position_embeddings", None) or _ANY_LENGTH)

    @cached_property
    def end_id(self) -> int:
        """The token that an answer is trained to end with."""
        return end_id(self.tokenizer)

    @cached_property
    def stop_ids(self) -> frozenset[int]:
        """Every token at which generation stops."""
        configured = getattr(self.model.generation_config, "eos_token_id", None)
        more = configured if isinstance(configured, list) else [configured]
        return frozenset(
            token
            for token in (self.end_id, self.tokenizer.eos_token_id, *more)
            if token is not None
        )

    @cached_property
    def pad_id(self) -> int:
        """A filler; masked or behind the text wherever it stands, so its value never matters."""
        padding = self.tokenizer.pad_token_id
        return int(self.end_id if padding is None else padding)


def load_base(
    name_or_path: str | Path = "tiny",
    device: str = "auto",
    dtype: str = "auto",
    quantization: str = "none",
) -> Base:
    """The base called "tiny" (embedded), in a local folder, or under a hub name.

    `device` is "auto" (CUDA where there is one), a torch device, or "balanced" (layers spread over
    all GPUs). `dtype` is "auto" (bfloat16 on CUDA, float32 elsewhere), "float32", "bfloat16" or
    "float16". `quantization` is "none", "8bit" or "4bit" (bitsandbytes, on a GPU), or "q8_0" or
    "q4_0" (the numbers that a GGUF file of that type would hold). Raises
    `OnepassError` when the base is not found or not let in, is not stored as safetensors, is
    damaged or incomplete, or holds NaN or infinity, and for a device or option there is not.
    """
    where, kind, config = check_machine(device, dtype, quantization)
    placed: dict[str, Any] = {}
    if device == BALANCED:
        placed["device_map"] = BALANCED
    if config is not None:
        placed.setdefault("device_map", {"": where})
        placed["quantization_config"] = config
    source, name = _source(str(name_or_path))
    try:
        with quiet():
            tokenizer = _tokenizer(source)
            model, found = AutoModelForCausalLM.from_pretrained(
                source,
                dtype=kind,
                attn_implementation="sdpa",
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                **placed,
            )
    except Exception as error:  # the libraries below raise everything, bare Exception included
        raise _not_loaded(name_or_path, source, error) from error
    if found["missing_keys"]:
        missing = sorted(found["missing_keys"])
        raise OnepassError(
            f"the base {name_or_path} lacks {len(missing)} tensors, the first is {missing[0]}; "
            "its weight files are incomplete, fetch them again"
        )
    _check_finite(model, name_or_path)
    model.requires_grad_(False).eval()
    if quantization in ROUNDINGS:
        round_weights(model, quantization)
    if not placed:
        model.to(where)
    return Base(model, tokenizer, name, where, quantization)


def check_machine(
    device: str, dtype: str, quantization: str
) -> tuple[torch.device, torch.dtype, Any]:
    """Where a base goes, its dtype, and bitsandbytes' settings if it is to be used.

    Errors are those of `load_base` for a device or an option there is not.
    """
    where = _device(device)
    kind = _dtype(dtype, where)
    if quantization not in QUANTIZATIONS:
        raise unknown("quantization", quantization, list(QUANTIZATIONS))
    in_bits = quantization in BITS
    return where, kind, quantization_config(quantization, where, kind) if in_bits else None


def check_loadable(
    name_or_path: str | Path, device: str = "auto", dtype: str = "auto", quantization: str = "none"
) -> None:
    """Refuse what `load_base` would, as far as can be told without reading the base."""
    check_machine(device, dtype, quantization)
    _source(str(name_or_path))


def load_tokenizer(name_or_path: str | Path) -> Any:
    """The tokenizer of a base alone; errors are those of `load_base`."""
    source, _ = _source(str(name_or_path))
    try:
        with quiet():
            return _tokenizer(source)
    except Exception as error:  # as above
        raise _not_loaded(name_or_path, source, error) from error


def load_skeleton(name_or_path: str | Path) -> PreTrainedModel:
    """A base without its weights, on the meta device, where it takes no memory.

    Needs nothing but its config.json; errors are those of `load_base`.
    """
    source, _ = _source(str(name_or_path))
    try:
        with quiet():
            config = AutoConfig.from_pretrained(source, trust_remote_code=False)
            with torch.device("meta"):
                return AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except Exception as error:  # as above
        raise _not_loaded(name_or_path, source, error) from error


def base_shape(
    model: PreTrainedModel, targets: Iterable[str] = PROJECTIONS, name: str | None = None
) -> BaseShape:
    """The (out, in) shape of each linear layer whose last name is in `targets`.

    Works on a model on the meta device too. `name` defaults to the name in the model's config.
    """
    wanted = set(targets)
    modules = {
        path: (module.out_features, module.in_features)
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear) and path.rpartition(".")[2] in wanted
    }
    name = str(model.config.name_or_path) if name is None else name
    if not modules:
        raise OnepassError(
            f"the base {name} has no linear layer named {', '.join(sorted(wanted))}; "
            "only models with Llama-like blocks can be composed"
        )
    return BaseShape(name, modules)


def _tokenizer(source: str) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    # Texts too long are shortened here, with a notice of ours; transformers need not warn.
    tokenizer.deprecation_warnings[_TOO_LONG] = True
    return tokenizer


def _not_loaded(given: str | Path, source: str, error: BaseException) -> OnepassError:
    return OnepassError(
        f"cannot load the base {given}: {explain(source, error)}; expected 'tiny', a folder with "
        "config.json, tokenizer and safetensors weights, or the hub name of such a model"
    )


def _source(name: str) -> tuple[str, str]:
    """Where transformers finds the base, and what we call it."""
    if name == "tiny":
        if not (TINY / "config.json").is_file():
            raise OnepassError("the embedded base 'tiny' is missing; reinstall onepass")
        return str(TINY), name
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            hint = ""
            if (folder / "snapshots").is_dir():  # one of the hub's cache
                hint = "; name a folder in its snapshots, or the model by its hub name"
            raise OnepassError(f"{folder} has no config.json; expected a model folder{hint}")
        return str(folder), cached_name(folder.absolute()) or folder.resolve().name
    if folder.exists():
        raise OnepassError(f"{folder} is a file; name the folder that holds the model")
    if name.startswith((".", "~")) or folder.is_absolute() or name.count("/") > 1:
        raise OnepassError(f"there is no folder {folder}; name a model folder, or 'tiny'")
    return name, name


def _device(device: str) -> torch.device:
    if device == BALANCED:
        if not torch.cuda.is_available():
            raise OnepassError("device 'balanced' spreads a base over GPUs, and there is none")
        device = "cuda:0"  # accelerate puts the embedding on the first
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise OnepassError(f"device {device!r} cannot be used ({reason}); try 'cpu'") from error


def _dtype(dtype: str, device: torch.device) -> torch.dtype:
    if dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if dtype not in _DTYPES:
        raise unknown("dtype", dtype, ["auto", *_DTYPES])
    return _DTYPES[dtype]


def _check_finite(model: PreTrainedModel, name: str | Path) -> None:
    for path, weight in model.named_parameters():
        if not all(torch.isfinite(end) for end in torch.aminmax(weight.detach())):
            raise OnepassError(f"the base {name} holds NaN or infinity in {path}; fetch it again")
