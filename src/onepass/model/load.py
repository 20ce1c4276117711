"""Loading a base: the embedded one, a model folder, a GGUF file, or a hub name.

Only safetensors and GGUF weights are read and no code that comes with a model is run.
"""

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from onepass.adapters.composition import BaseShape
from onepass.core.errors import OnepassError, OnepassWarning
from onepass.core.files import known_sha256
from onepass.core.hub import cached_name, explain
from onepass.core.registry import unknown
from onepass.model.assets import TINY
from onepass.model.chat import end_id
from onepass.model.check import check_model
from onepass.model.gguf_file import find_gguf
from onepass.model.precision import fast_bfloat16
from onepass.model.quantized import (
    BITS,
    QUANTIZATIONS,
    ROUNDINGS,
    quantization_config,
    round_weights,
)
from onepass.model.quiet import quiet
from onepass.model.reading import Readings
from onepass.model.targets import base_shape

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from onepass.model.one_reading import Reading

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_ANY_LENGTH = 1 << 20

BALANCED = "balanced"
"""The device that is all GPUs at once: each has some of the layers, by `accelerate`."""

_TOO_LONG = "sequence-length-is-longer-than-the-specified-maximum"


@dataclass(frozen=True, repr=False)
class Base:
    """A causal language `model` with its `tokenizer`; nothing here changes its weights for good.

    `name` is what adapters and compositions are tied to: "tiny", a hub name, or the absolute path
    of a folder or GGUF file. `load_base(base.name)` loads it again.
    `device` is where inputs go; a balanced model has layers on other devices too.
    `quantization` is one of `onepass.model.quantized.QUANTIZATIONS`.
    """

    model: "PreTrainedModel"
    tokenizer: Any
    name: str
    device: torch.device
    quantization: str = "none"

    @classmethod
    def wrap(cls, model: "PreTrainedModel", tokenizer: Any, name: str | None = None) -> "Base":
        """The base of a model and tokenizer in memory, checked like a loaded one.

        `name` defaults to where the model was loaded from. The model itself is used, not a copy.
        It is frozen and in evaluation mode only while it is trained on or generates, and is left
        as it was found.
        """
        found = name or str(getattr(model, "name_or_path", "")) or f"unnamed {type(model).__name__}"
        if found != "tiny" and Path(found).expanduser().exists():
            found = _source(found)[1]
        check_model(model, tokenizer, found)
        return cls(model, tokenizer, found, model.device)

    def __repr__(self) -> str:
        count = sum(weight.numel() for weight in self.model.parameters())
        dtype = str(self.model.dtype).removeprefix("torch.")
        rounded = "" if self.quantization == "none" else f" {self.quantization}"
        return f"<Base {self.name}: {count:,} parameters, {dtype}{rounded} on {self.device}>"

    @cached_property
    def shape(self) -> BaseShape:
        return base_shape(self.model, name=self.name)

    @cached_property
    def file_digest(self) -> str | None:
        """The SHA-256 of the GGUF file that the base was read from; None if there is none."""
        file = find_gguf(Path(self.name)) if os.path.isabs(self.name) else None
        return None if file is None else known_sha256(file)

    @cached_property
    def readings(self) -> Readings:
        """The texts that the base has read for activated adapters; see `Readings`."""
        return Readings(self.model, self.name)

    def read(self, texts: str | Sequence[str], **options: Any) -> "Reading":
        """Read texts once, for `Reading.answer` with one activated composition after another.

        options: those of `onepass.model.one_reading.Reading`.
        """
        from onepass.model.one_reading import Reading

        return Reading(self, [texts] if isinstance(texts, str) else texts, **options)

    @property
    def identity(self) -> str:
        """What a training depends on of the base: its name, and how its numbers were rounded."""
        return self.name if self.quantization == "none" else f"{self.name} {self.quantization}"

    @cached_property
    def context(self) -> int:
        """The most tokens that prompt and answer may have together."""
        config = self.model.config.get_text_config()
        return int(getattr(config, "max_position_embeddings", None) or _ANY_LENGTH)

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
        """A filler; masked or after the text wherever it stands, so its value never matters."""
        padding = self.tokenizer.pad_token_id
        rows = self.model.get_input_embeddings().weight.shape[0]
        return int(self.end_id if padding is None or padding >= rows else padding)


def load_base(
    name_or_path: str | Path = "tiny",
    device: str = "auto",
    dtype: str = "auto",
    quantization: str = "none",
) -> Base:
    """The base called "tiny" (embedded), in a local folder or GGUF file, or under a hub name.

    `device` is "auto" (CUDA where there is one), a torch device, or "balanced" (layers spread over
    all GPUs). `dtype` is "auto" (bfloat16 on CUDA, float32 elsewhere), "fast" (bfloat16 wherever
    the hardware multiplies it, else float32), "float32", "bfloat16" or "float16". `quantization` is
    "none", "8bit" or "4bit" (bitsandbytes, on a GPU), or "q8_0" or "q4_0" (the numbers that a GGUF
    file of that type would hold). The first use of a GGUF file converts it (see
    `onepass.model.from_gguf`).

    Raises:
        OnepassError: the base is not found or not let in, is stored neither as safetensors nor as
            GGUF, is damaged or incomplete, or fails `check_model`; or there is no such device or
            option.
    """
    where, kind, config = check_machine(device, dtype, quantization)
    if kind == torch.bfloat16 and where.type == "cpu" and not fast_bfloat16(where):
        warnings.warn(
            "this processor does not multiply bfloat16: it takes many times as long as float32; "
            'dtype "fast" has bfloat16 only where it is fast',
            OnepassWarning,
            stacklevel=2,
        )
    placed: dict[str, Any] = {}
    if device == BALANCED:
        placed["device_map"] = BALANCED
    if config is not None:
        placed.setdefault("device_map", {"": where})
        placed["quantization_config"] = config
    found_at, name = _source(str(name_or_path))
    source = _folder(found_at)
    try:
        with quiet():
            tokenizer = _tokenizer(source)
            model, found = _auto_class(source).from_pretrained(
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
    model.requires_grad_(False).eval()
    if quantization in ROUNDINGS:
        round_weights(model, quantization)
    if not placed:
        model.to(where)
    model.name_or_path = model.config.name_or_path = name  # what PEFT writes into an adapter
    check_model(model, tokenizer, name)
    return Base(model, tokenizer, name, where, quantization)


def check_machine(
    device: str, dtype: str, quantization: str
) -> tuple[torch.device, torch.dtype, Any]:
    """The device and dtype of a base, and bitsandbytes' settings if it is used.

    Raises:
        OnepassError: there is no such device or option.
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
    """Raise the errors of `load_base` that show without reading the weights."""
    check_machine(device, dtype, quantization)
    source, _ = _source(str(name_or_path))
    if file := find_gguf(Path(source)):
        from onepass.model.from_gguf import check_gguf

        check_gguf(file)


def load_tokenizer(name_or_path: str | Path) -> Any:
    """The tokenizer of a base alone; errors are those of `load_base`."""
    source = _folder(_source(str(name_or_path))[0])
    try:
        with quiet():
            return _tokenizer(source)
    except Exception as error:  # as above
        raise _not_loaded(name_or_path, source, error) from error


def load_skeleton(name_or_path: str | Path) -> "PreTrainedModel":
    """A base without its weights, on the meta device, where it takes no memory.

    Reads only its config.json, or converts its GGUF file; errors are those of `load_base`.
    """
    from transformers import AutoConfig

    source = _folder(_source(str(name_or_path))[0])
    try:
        with quiet():
            config = AutoConfig.from_pretrained(source, trust_remote_code=False)
            with torch.device("meta"):
                return _auto_class(source).from_config(config, trust_remote_code=False)
    except Exception as error:  # as above
        raise _not_loaded(name_or_path, source, error) from error


def _auto_class(source: str) -> Any:
    """The class that loads a text model, or a multimodal one that has no class for its text alone.

    Either way only the text model is fed and adapted.
    """
    from transformers import (
        MODEL_FOR_CAUSAL_LM_MAPPING,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
        AutoConfig,
        AutoModelForCausalLM,
        AutoModelForImageTextToText,
    )

    kind = type(AutoConfig.from_pretrained(source, trust_remote_code=False))
    multimodal = kind in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    if multimodal and kind not in MODEL_FOR_CAUSAL_LM_MAPPING:
        return AutoModelForImageTextToText
    return AutoModelForCausalLM


def _tokenizer(source: str) -> Any:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    # Texts too long are shortened later, with a notice; transformers need not warn.
    tokenizer.deprecation_warnings[_TOO_LONG] = True
    return tokenizer


def _not_loaded(given: str | Path, source: str, error: BaseException) -> OnepassError:
    return OnepassError(
        f"cannot load the base {given}: {explain(source, error)}; expected 'tiny', a GGUF file, "
        "a folder with config.json, tokenizer and safetensors weights, or the hub name of a model"
    )


def _source(name: str) -> tuple[str, str]:
    """Where transformers finds the base, and what we call it."""
    if name == "tiny":
        if not (TINY / "config.json").is_file():
            raise OnepassError("the embedded base 'tiny' is missing; reinstall onepass")
        return str(TINY), name
    folder = Path(name).expanduser()
    where = os.path.abspath(folder)
    if where == str(TINY):
        return where, "tiny"
    if folder.exists() and (file := find_gguf(Path(where))):
        return str(file), str(file)
    if folder.is_dir():
        has_config = (folder / "config.json").is_file()
        if (folder / "adapter_config.json").is_file():
            hint = "transformers would load both; move one away" if has_config else "name its base"
            raise OnepassError(f"{folder} holds an adapter (adapter_config.json): {hint}")
        if not has_config:
            hint = ""
            if (folder / "snapshots").is_dir():  # one of the hub's cache
                hint = "; name a folder in its snapshots, or the model by its hub name"
            raise OnepassError(f"{folder} has no config.json; expected a model folder{hint}")
        return where, cached_name(Path(where)) or where
    if folder.exists():
        raise OnepassError(f"{folder} is no GGUF file; name the folder that holds the model")
    is_file = folder.suffix == ".gguf"
    if is_file or name.startswith((".", "~")) or folder.is_absolute() or name.count("/") > 1:
        raise OnepassError(
            f"there is no {'file' if is_file else 'folder'} {folder}; "
            "name a model folder, a GGUF file, or 'tiny'"
        )
    return name, name


def _folder(source: str) -> str:
    """What transformers loads: the folder that a GGUF file is converted to, or `source` itself."""
    file = find_gguf(Path(source)) if os.path.isabs(source) else None
    if file is None:
        return source
    from onepass.model.from_gguf import converted

    return str(converted(file))


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
    if dtype == "fast":
        return torch.bfloat16 if fast_bfloat16(device) else torch.float32
    if dtype not in _DTYPES:
        raise unknown("dtype", dtype, ["auto", "fast", *_DTYPES])
    return _DTYPES[dtype]
