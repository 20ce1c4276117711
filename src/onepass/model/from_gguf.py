"""A GGUF file as a base: converted once into a model folder, by transformers' own reader.

Reading takes up to a minute, mostly for the vocabulary, and several times over, so the folder is
kept in the user's cache under the digest of the file. `ONEPASS_CACHE=off` keeps it for this
process only. Weights are kept in float32, which holds the dequantised numbers exactly.
"""

import io
import os
import shutil
import struct
import sys
import tempfile
import warnings
from atexit import register
from contextlib import redirect_stderr
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Regex, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, PreTrainedModel
from transformers.integrations.gguf import GGUF_CONFIG_ARCHS, read_gguf_metadata
from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS
from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from onepass.core.errors import OnepassError, OnepassWarning
from onepass.core.files import atomic_folder, known_sha256
from onepass.core.optional import optional
from onepass.model.quiet import quiet

CACHE = "ONEPASS_CACHE"
"""The environment variable that is "off" to keep no converted files."""

_NO_DECODERS = {"general", "tokenizer", "t5", "umt5"}
_FACTORS = "rope_freqs.weight"
_VERSION = 2  # of what is made of a file here; raise it with every change
_DIGITS = frozenset({"smollm", "starcoder", "refact", "command-r"})
_LIKE_QWEN2 = frozenset({"stablelm2"})
_LIKE_GPT2 = frozenset({"gpt-2", "default", "phi-2", "mpt", "olmo", "jais", "roberta-bpe"})
"""Names in `tokenizer.ggml.pre` of how words are split, which transformers does not know."""


def check_gguf(file: Path) -> dict[str, Any]:
    """The metadata of a GGUF file that transformers can read, long arrays as their lengths.

    Raises:
        OnepassError: it is damaged, a part of a file, no decoder's, or the package gguf is missing.
    """
    optional("gguf", "device", f"the GGUF file {file.name}")
    try:
        metadata, names = read_gguf_metadata(str(file))
    except (ValueError, IndexError, KeyError, OSError, struct.error) as error:
        raise _damaged(file, error) from error
    if int(metadata.get("split.count", 1)) > 1:
        raise OnepassError(
            f"{file} is one of {metadata['split.count']} parts; "
            "join them with llama.cpp's `llama-gguf-split --merge`"
        )
    architecture = str(metadata["general.architecture"])
    known = {*GGUF_SUPPORTED_ARCHITECTURES, *GGUF_CONFIG_ARCHS} - _NO_DECODERS
    spelt = architecture.replace("-", "").replace("_", "")
    if spelt not in {name.replace("-", "").replace("_", "") for name in known}:
        raise OnepassError(
            f"{file} is of architecture {architecture}, which transformers "
            f"{transformers.__version__} cannot read; it reads {', '.join(sorted(known))}"
        )
    return {**metadata, "factors": [name for name in names if name.startswith("rope_f")]}


def converted(file: Path) -> Path:
    """The model folder made of a GGUF file; errors are those of `check_gguf`."""
    metadata = check_gguf(file)
    keep = os.environ.get(CACHE, "").lower() not in ("off", "0", "no")
    folder = (_kept() if keep else _scratch()) / _name(file)
    if not (folder / "config.json").is_file():
        where = f" to {folder}; {CACHE}=off keeps nothing" if keep else ""
        print(f"converting {file.name}, in about a minute{where}", file=sys.stderr)
        with atomic_folder(folder) as temporary:
            _convert(file, metadata, temporary)
    return folder


def _kept() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "onepass" / "gguf"


@cache
def _scratch() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="onepass-"))
    register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _name(file: Path) -> str:
    return f"{known_sha256(file)[:16]}-{_VERSION}-transformers-{transformers.__version__}"


def _convert(file: Path, metadata: dict[str, Any], folder: Path) -> None:
    # Alone in a folder, for what lies beside it (another tokenizer, an adapter) is not the base.
    with tempfile.TemporaryDirectory() as alone, quiet(), redirect_stderr(io.StringIO()):
        (Path(alone) / "base.gguf").symlink_to(file.absolute())
        source: dict[str, Any] = {"gguf_file": "base.gguf", "trust_remote_code": False}
        try:
            tokenizer = AutoTokenizer.from_pretrained(alone, **source)
            model, found = AutoModelForCausalLM.from_pretrained(
                alone,
                dtype=torch.float32,
                quantization_config=GgufConfig(dequantize=True),
                output_loading_info=True,
                **source,
            )
        except Exception as error:  # the libraries below raise everything
            raise _damaged(file, error) from error
        if found["missing_keys"]:
            missing = sorted(found["missing_keys"])
            raise OnepassError(
                f"{file} lacks {len(missing)} tensors that transformers looks for, "
                f"the first is {missing[0]}"
            )
        _restore_words(tokenizer, file, metadata)
        _restore_rotary(model, file, metadata)
        _restore_scale(model.config)
        ends = model.generation_config.eos_token_id
        ends = list(ends) if isinstance(ends, list) else [ends]
        ends += [metadata.get(f"tokenizer.ggml.{kind}_token_id") for kind in ("eot", "eom")]
        model.generation_config.eos_token_id = sorted({e for e in ends if isinstance(e, int)})
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def _restore_scale(config: Any) -> None:
    """Put Gemma 3's scale of attention into the config: no file states it, and its sizes differ."""
    if config.model_type == "gemma3_text":
        largest = config.num_hidden_layers == 62  # Gemma 3 27B, known by this in llama.cpp too
        share = config.hidden_size // config.num_attention_heads
        config.query_pre_attn_scalar = share if largest else config.head_dim


def _restore_words(tokenizer: Any, file: Path, metadata: dict[str, Any]) -> None:
    """Split words as llama.cpp does by the name in the file; transformers knows not all names."""
    name = str(metadata.get("tokenizer.ggml.pre", "default"))
    if metadata.get("tokenizer.ggml.model") != "gpt2" or name in GGUF_PRE_TOKENIZER_SPLITS:
        return
    first: list[Any] = []
    if name in _DIGITS:
        first = [pre_tokenizers.Digits(individual_digits=True)]
    elif name in _LIKE_QWEN2:
        first = [pre_tokenizers.Split(Regex(GGUF_PRE_TOKENIZER_SPLITS["qwen2"]), "isolated")]
    elif name not in _LIKE_GPT2:
        warnings.warn(
            f"{file.name} splits words as {name!r}, which is not known here: they are split as "
            "GPT-2 does, so some texts may become other tokens than in llama.cpp",
            OnepassWarning,
            stacklevel=1,
        )
    own_regex = name not in _LIKE_QWEN2
    last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=own_regex)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*first, last])


def _restore_rotary(model: PreTrainedModel, file: Path, metadata: dict[str, Any]) -> None:
    """Put the scaling of the rotary positions into the config; transformers leaves it out."""
    parameters = getattr(model.config, "rope_parameters", None) or {"rope_type": "none"}
    plain = parameters.get("full_attention", parameters)  # Gemma 3 has another for local layers
    key = f"{metadata['general.architecture']}.rope.scaling."
    kind = metadata.get(f"{key}type", "none")
    if plain.get("rope_type", "default") != "default":
        return
    if _FACTORS in metadata["factors"]:
        reader = optional("gguf", "device").GGUFReader(file)
        (tensor,) = (each for each in reader.tensors if each.name == _FACTORS)
        plain.update(_scaling(model.config, torch.tensor(tensor.data.copy()).double(), file))
    elif kind == "linear":
        plain.update(rope_type="linear", factor=float(metadata[f"{key}factor"]))
    elif kind != "none" or metadata["factors"]:  # Phi-3's has factors for long and short texts
        raise OnepassError(
            f"{file}: transformers does not read its rotary scaling "
            f"({', '.join(metadata['factors']) or kind}) from a GGUF file; "
            "take the base's safetensors"
        )


def _scaling(config: Any, factors: torch.Tensor, file: Path) -> dict[str, Any]:
    """The linear or Llama 3 scaling that divides the rotary frequencies by `factors`."""
    largest = float(factors.max())
    if torch.allclose(factors, factors.new_tensor(largest)):
        return {"rope_type": "linear", "factor": largest}
    low, high = 1.0, 4.0  # of every Llama 3.1 to 3.3
    steps = torch.arange(len(factors), dtype=torch.float64) / len(factors)
    waves = 2 * torch.pi * float(config.rope_parameters["rope_theta"]) ** steps
    # From the wavelength original / high to original / low, 1 / f runs from 1 to 1 / largest,
    # linearly in original / wavelength. Without a wave in between, several originals mean the same.
    share = (1 / factors - 1 / largest) / (1 - 1 / largest)
    between = (share > 0.01) & (share < 0.99)
    if between.any():
        original = float((waves * (low + share * (high - low)))[between].median())
    else:
        shortest, longest = high * waves[share > 0.5].max(), low * waves[share < 0.5].min()
        original = min(max(8192.0, float(shortest)), float(longest))
    found = {
        "rope_type": "llama3",
        "factor": round(largest, 4),
        "low_freq_factor": low,
        "high_freq_factor": high,
        "original_max_position_embeddings": round(original),
    }
    scaled = type(config).from_dict(config.to_dict())
    scaled.rope_parameters = {**config.rope_parameters, **found}
    computed, _ = ROPE_INIT_FUNCTIONS["llama3"](scaled, torch.device("cpu"))
    expected = 2 * torch.pi / waves / factors
    if not torch.allclose(computed.double(), expected, rtol=1e-3, atol=0):
        raise OnepassError(
            f"{file}: its rotary factors are neither linear nor Llama 3's, so transformers cannot "
            "compute them; take the base's safetensors"
        )
    return found


def _damaged(file: Path, error: BaseException) -> OnepassError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return OnepassError(
        f"cannot read the GGUF file {file}: {reason}; it may be cut short, fetch it again"
    )
