"""The user's own GGUF file as the base of a device set: taken as it is, whatever its types.

Only adapters are written for it, so only its layers' names and the order of their rows must be
known. The names are the package gguf's. Some architectures store the rows of q and k in another
order, which the numbers show: dequantised, the rows are those of the base in one order or another.
They also show whether the file is that base at all.
"""

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from onepass.adapters.adapter import projection
from onepass.adapters.composition import Composition, pass_bias
from onepass.core.errors import OnepassError
from onepass.core.files import known_sha256
from onepass.export.gguf.architecture import ARCHITECTURES, Layout, head_counts, neighbours
from onepass.export.gguf.file import dequantized, header, read_gguf, unread_types
from onepass.export.manifest import BaseFile, describe
from onepass.export.single import WITHOUT_BIASES
from onepass.model.load import Base

FREE = frozenset({
    "apache-2.0", "mit", "bsd", "bsd-2-clause", "bsd-3-clause", "isc", "unlicense", "cc0-1.0",
    "cc-by-4.0", "cc-by-sa-4.0", "cdla-permissive-2.0",
})  # fmt: skip
"""Licences, by their names on the hub, that let a file be passed on."""
_ALIKE = 0.5
"""The least cosine between a layer's weights in the file and in the base. Two bits a weight give
0.9 and more, another model or another order of rows about 0."""
_SHOWN = 40  # characters of a word in a message
_NORMAL = 1  # the type of a word that is no control token, in `tokenizer.ggml.token_type`


@dataclass(frozen=True, eq=False)
class OwnFile:
    """A GGUF file at `path`, read by `reader`; `facts` are those of `file.header`."""

    path: Path
    reader: Any
    facts: dict[str, Any]

    @cached_property
    def sha256(self) -> str:
        return known_sha256(self.path)

    @cached_property
    def tensors(self) -> dict[str, Any]:
        return {tensor.name: tensor for tensor in self.reader.tensors}

    @cached_property
    def unread(self) -> list[str]:
        """The types whose numbers the package gguf cannot give; llama.cpp may run them."""
        return unread_types(self.reader)

    def is_file_of(self, base: Base) -> bool:
        """Whether the base was read from a file with this content."""
        return base.quantization == "none" and base.file_digest == self.sha256


def read_own(path: Path | str) -> OwnFile:
    """The file; an `OnepassError` if it is damaged, no language model, or a part of one."""
    path = Path(path).expanduser()
    if not path.is_file():
        raise OnepassError(f"there is no file {path}; name a GGUF file")
    reader = read_gguf(path)
    try:
        return OwnFile(path, reader, header(reader))
    except OnepassError as error:
        raise OnepassError(f"{path}: {error}") from error


def usable(
    own: Path | str, folder: Path, compositions: Mapping[str, Composition], base: Base,
    merged: bool, linked: bool,
) -> OwnFile:  # fmt: skip
    """The user's own file; an `OnepassError` if it cannot be the base as it is."""
    file = read_own(own)
    if linked and folder.resolve() in file.path.resolve().parents:
        raise OnepassError(
            f"{file.path} is in {folder}, which is written anew; move the file, or leave out --link"
        )
    for composition in compositions.values():
        if merged or any(pass_bias(pass_, base.shape) for pass_ in composition.passes):
            what = "a merged set changes the base" if merged else (
                f"the composition for {composition.task} has output biases, which no LoRA holds"
            )  # fmt: skip
            raise OnepassError(
                f"{what}, and {file.path.name} is taken as it is; "
                f"have the base converted (--base-type), or calibrate with {WITHOUT_BIASES}"
            )
    return file


def taken(
    file: OwnFile, base: Base, folder: Path, linked: bool, told: Callable[[str], None]
) -> BaseFile:
    """Copy the file into the set, or refer to it; tells what its user has to know."""
    window = getattr(base.model.config.get_text_config(), "sliding_window", None)
    field = f"{file.facts['architecture']}.attention.sliding_window"
    if window and window < file.facts["context"] and file.reader.get_field(field) is None:
        told(
            f"{base.name} attends to {window} tokens at a time, but llama.cpp, by "
            f"{file.path.name}, to all: longer texts come out differently"
        )
    stated = file.facts["license"]
    place = f"base-{file.path.name.removeprefix('base-')}"
    if stated.lower() not in FREE and not linked:
        told(
            f"the licence of {file.path.name} is {stated or 'not stated'}: passing on the set, "
            "which holds a copy, may be restricted (--link leaves it out)"
        )
    if linked:
        where: dict[str, str | int] = {
            "path": str(file.path.absolute()), "bytes": file.path.stat().st_size,
            "sha256": file.sha256,
        }  # fmt: skip
    else:
        told(place)
        shutil.copyfile(file.path, folder / place)
        where = describe(folder, place)
    return BaseFile(**where, name=file.path.name, own=True, linked=linked, **file.facts)  # type: ignore[arg-type]


def layout_in(file: OwnFile, base: Base, changed: Iterable[str]) -> Layout:
    """How the file stores the layers of the base, of which the `changed` ones must be there.

    Raises:
        OnepassError: the file is of another model, by its layers, numbers or words.
    """
    config = base.model.config.get_text_config()
    facts = file.facts
    if facts["blocks"] != config.num_hidden_layers:
        raise _another(
            file, base, f"it has {facts['blocks']} blocks, not {config.num_hidden_layers}"
        )
    plain = Layout(facts["architecture"], facts["blocks"], {})
    stored = _stored_layers(file, base, plain, set(changed))
    if not file.is_file_of(base):
        _check_words(file, base)
    return Layout(plain.architecture, plain.blocks, _order(file, base, stored))


def stored_numbers(file: OwnFile, base: Base, layout: Layout) -> Iterator[tuple[str, Tensor]]:
    """Each matrix of the base by its path, with the numbers that the file holds of it.

    Norms and biases are stored in 32 bits everywhere. Nothing for the base that was read from it.
    """
    if file.is_file_of(base):
        return
    for path, tensor in base.model.named_parameters():
        found = file.tensors.get(layout.find(path) or "")
        if tensor.ndim != 2 or found is None or _shape(found) != tuple(tensor.shape):
            continue
        heads = layout.heads.get(projection(path.removesuffix(".weight")))
        rows = torch.tensor(dequantized(found))
        rows = rows if heads is None else halves(rows, heads)
        yield path, rows.to(tensor.device, tensor.dtype)


def halves(rows: Tensor, heads: int) -> Tensor:
    """The inverse of `architecture.neighbours`."""
    pairs = rows.reshape(heads, rows.shape[0] // heads // 2, 2, *rows.shape[1:])
    return pairs.transpose(1, 2).reshape(rows.shape)


def _shape(tensor: Any) -> tuple[int, ...]:
    return tuple(map(int, tensor.shape[::-1]))


def _another(file: OwnFile, base: Base, why: str) -> OnepassError:
    return OnepassError(
        f"{file.path} is not the model that {base.name} is: {why}; give a GGUF file of that model"
    )


def _stored_layers(file: OwnFile, base: Base, layout: Layout, changed: set[str]) -> dict[str, Any]:
    """The file's tensor of each layer of the base, by its path; checks their shapes."""
    stored = {}
    for module, shape in base.shape.modules.items():
        title = layout.find(f"{module}.weight")
        found = file.tensors.get(title or "")
        if found is None:
            if module in changed:
                raise _another(
                    file, base,
                    f"its architecture {layout.architecture} has no tensor for {module}",
                )  # fmt: skip
        elif _shape(found) != shape:
            raise _another(file, base, f"{title} is {_shape(found)} (out, in), {module} {shape}")
        else:
            stored[module] = found
    return stored


def _order(file: OwnFile, base: Base, stored: dict[str, Any]) -> dict[str, int]:
    """The heads of the projections whose rows the file has as neighbours; see `Layout`."""
    heads = head_counts(base.model.config.get_text_config())
    if file.unread:  # then by what llama.cpp is known to want
        wanted = {each.name for each in ARCHITECTURES.values() if each.permuted} | {"smollm3"}
        return heads if file.facts["architecture"] in wanted else {}
    found: dict[str, int] = {}
    for module in {projection(each): each for each in reversed(stored)}.values():
        kind = projection(module)
        rows = torch.tensor(dequantized(stored[module]))
        ours = base.model.get_submodule(module).weight.detach().float().cpu()
        alike = _cosine(rows, ours)
        if kind in heads and _cosine(rows, neighbours(ours, heads[kind])) > alike:
            found[kind] = heads[kind]
            alike = _cosine(rows, neighbours(ours, heads[kind]))
        if not alike > _ALIKE:
            raise _another(
                file, base,
                f"the cosine between its {stored[module].name} and {module} is {alike:.2f}",
            )  # fmt: skip
    return found


def _cosine(one: Tensor, other: Tensor) -> float:
    return float(F.cosine_similarity(one.flatten(), other.flatten(), 0))


def _check_words(file: OwnFile, base: Base) -> None:
    """Refuse a file whose ordinary words are not those of the base's tokenizer."""
    words = file.reader.get_field("tokenizer.ggml.tokens").contents()
    kinds = file.reader.get_field("tokenizer.ggml.token_type")
    kinds = [_NORMAL] * len(words) if kinds is None else kinds.contents()
    count = min(len(words), len(base.tokenizer))
    ours = base.tokenizer.convert_ids_to_tokens(list(range(count)))
    differing = [
        number
        for number in range(count)
        if kinds[number] == _NORMAL and ours[number] != words[number]
    ]
    if differing:
        first = differing[0]
        raise OnepassError(
            f"{file.path} has another tokenizer than {base.name}: {len(differing):,} of {count:,} "
            f"words differ, the first is {first}, {words[first][:_SHOWN]!r} and not "
            f"{str(ours[first])[:_SHOWN]!r}; give a GGUF file of the same model"
        )
