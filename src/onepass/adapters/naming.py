"""When two names are one: of bases, and of the layers inside them. Nothing here needs torch.

A base is named "tiny" (the embedded one), OWNER/NAME on the hub, or by the path of a folder or GGUF
file. Three answers are possible for two names:

same       They are equal; one is a link to the other; they are two GGUF files of equal content; one
           is a folder of the hub's cache (models--OWNER--NAME/snapshots/REVISION) and the other
           OWNER/NAME; or one is "tiny" and the other its folder.
different  Two hub names, two folders, or a hub name and a folder. Equal last names prove nothing: a
           model and its fine-tunes often share them.
unknown    One name could be short for the other, or of a copy of it: a folder .../OWNER/NAME
           beside OWNER/NAME, a name without an owner (as onepass once recorded folders), a GGUF
           file beside anything else, and any path that is not on this machine, as of an adapter
           trained on a cluster. Then the shapes of the layers decide, and `warn_unknown` says so.
"""

import os
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from onepass.core.errors import OnepassError, OnepassWarning
from onepass.core.files import known_sha256
from onepass.core.hub import cached_name, is_hub_name

TINY = Path(__file__).resolve().parents[1] / "assets" / "tiny"
"""The folder of the base called "tiny"."""

# What classes and wrappers put before the layers of one language model: `model.layers.0` of a text
# class is `model.language_model.layers.0` or `language_model.model.layers.0` of a multimodal one.
_BEFORE = (
    *("model", "module", "language_model", "text_model", "transformer"),
    *("gpt_neox", "backbone", "llm", "thinker"),
)
# What PEFT puts before a path, and wrappers (torch.compile, FSDP, checkpointing, PEFT) into it.
_PEFT = "base_model.model."
_WITHIN = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "base_layer")


def compare_bases(one: str, other: str) -> Literal["same", "different", "unknown"]:
    """Whether two names are of one base, as this module's docstring says."""
    (kind, name), (other_kind, other_name) = _known(one), _known(other)
    if name == other_name or (kind == other_kind == "file" and _equal(name, other_name)):
        return "same"
    if "absent" in (kind, other_kind) or (kind != other_kind and "file" in (kind, other_kind)):
        return "unknown"
    short, long = sorted((Path(name.casefold()).parts, Path(other_name.casefold()).parts), key=len)
    copied = kind != other_kind and long[-len(short) :] == short
    return "unknown" if copied else "different"


def _equal(one: str, other: str) -> bool:
    """Whether two files hold the same."""
    files = Path(one), Path(other)
    sizes = {file.stat().st_size for file in files}
    return len(sizes) == 1 and len({known_sha256(file) for file in files}) == 1


def _known(name: str) -> tuple[str, str]:
    """The kind of a name, and its one form that can be compared (hub names ignore upper case)."""
    path = Path(os.path.expanduser(name))
    real = Path(os.path.realpath(path))
    cached = cached_name(path) or cached_name(real)
    if name == "tiny" or real == TINY:
        return "tiny", "tiny"
    if cached:
        return "hub", cached.casefold()
    if path.exists():
        return "folder" if path.is_dir() else "file", str(real)
    if is_hub_name(name.rstrip("/")):
        return "hub" if "/" in name else "short", name.rstrip("/").casefold()
    return "absent", os.path.normpath(name)


def warn_unknown(what: str, recorded: str, given: str) -> None:
    """Report that names alone cannot say whether two bases are one; Python shows it once."""
    warnings.warn(
        f"{what} names the base {recorded}; the names do not show whether that is {given}, but the "
        "shapes of the layers fit, so it is used",
        OnepassWarning,
        stacklevel=1,  # this line whoever asks, as each line of code would show it anew
    )


def unwrapped(key: str) -> str:
    """A module's path in its model, from the path in what PEFT, FSDP or torch.compile made of it.

    PEFT's "base_model.model." stands there twice where an adapter was put on an adapter.
    """
    path = ".".join(part for part in key.split(".") if part not in _WITHIN)
    while path.startswith(_PEFT):
        path = path.removeprefix(_PEFT)
    return path


def layer_name(module: str) -> str:
    """A module's path in the language model alone, whatever the class of the model around it.

    "layers.0.self_attn.q_proj" for "model.language_model.layers.0.self_attn.q_proj".
    """
    parts = module.split(".")
    while len(parts) > 1 and parts[0] in _BEFORE:
        parts.pop(0)
    return ".".join(parts)


def rename_modules(modules: Iterable[str], known: Iterable[str], what: str) -> dict[str, str]:
    """For each of the `modules`, the name that the `known` modules have for the same layer.

    A name that is known, or whose layer is not, stays as it is.

    Raises:
        OnepassError: two modules of `what` are one layer.
    """
    names, places = {}, {name: name for name in known}
    by_layer: dict[str, set[str]] = {}
    for name in places:
        by_layer.setdefault(layer_name(name), set()).add(name)
    taken: dict[str, str] = {}
    for module in modules:
        found = by_layer.get(layer_name(module), set())
        names[module] = next(iter(found)) if module not in places and len(found) == 1 else module
        first = taken.setdefault(names[module], module)
        if first != module:
            raise OnepassError(
                f"{what} changes one layer under two names, {first} and {module}; it was merged "
                "from adapters of two classes of one model, so merge these again"
            )
    return names
