"""Whether a set's files are what its manifest says and fit together, as their headers tell it."""

from collections.abc import Iterator
from pathlib import Path

from onepass.core.errors import OnepassError
from onepass.core.files import inside
from onepass.core.optional import optional
from onepass.export.gguf.compact import expanded
from onepass.export.gguf.file import FILE_TYPES
from onepass.export.gguf.header import Header, mapped, read_header, type_name
from onepass.export.manifest import MANIFEST, AdapterFile, Manifest
from onepass.model.blocks import BLOCK
from onepass.serve.plain import largest


def check_adapters(folder: Path, manifest: Manifest) -> dict[str, Header]:
    """Refuse an adapter's file that is damaged, no adapter, or the file of another name.

    The headers by the files' places in the folder, those of fused compositions included.
    """
    headers = {}
    for place, name in _named(manifest):
        path = inside(folder / MANIFEST, place)
        header = headers[place] = _header(path, manifest.base.architecture, "adapter")
        found = header.fields.get("general.name")
        if found != name:
            raise OnepassError(
                f"{path} holds {found!r}, but {MANIFEST} says {name!r}; write the set again"
            )
    return headers


def check_shapes(folder: Path, manifest: Manifest) -> set[str]:
    """Refuse a file that is not what the manifest says, or an adapter that does not fit the base.

    The types of the adapters' tensors, as in `manifest.BASE_TYPES`.
    """
    headers = check_adapters(folder, manifest)
    base, compact = manifest.base, {file.path for file in manifest.adapters if file.compact}
    header = _header(inside(folder / MANIFEST, base.path), base.architecture, "model")
    _check_base(folder, manifest, header)
    for adapter in manifest.adapters:
        _check_rank(folder, adapter, headers[adapter.path])
    shapes = {tensor.name: tensor.shape for tensor in header.tensors}
    for place, header in headers.items():
        path = inside(folder / MANIFEST, place)
        parts = [(tensor.name, tensor) for tensor in header.tensors]
        if place in compact:
            parts = expanded(path, header, base.blocks, largest(base))
        for name, tensor in parts:
            target, _, factor = name.rpartition(".")
            shape = shapes.get(target)
            side = 0 if factor == "lora_a" else 1
            if not shape or len(tensor.shape) != 2 or tensor.shape[side] != shape[side]:
                raise OnepassError(
                    f"{path}: {name} is {tensor.shape[::-1]}, but {target} of {base.path} is "
                    f"{shape[::-1] if shape else 'absent'}; it was made for another base"
                )
    return {type_ for header in headers.values() for type_ in _types(header)}


def _named(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Where each adapter's file is, and what it is called there."""
    for adapter in manifest.adapters:
        yield adapter.path, adapter.name
    for entry in manifest.compositions:
        if entry.fused:
            yield entry.fused.path, entry.name


def _check_base(folder: Path, manifest: Manifest, header: Header) -> None:
    base, architecture = manifest.base, manifest.base.architecture
    kinds = optional("gguf", "device").LlamaFileType
    for field, said, key, expected in (
        ("blocks", base.blocks, f"{architecture}.block_count", base.blocks),
        ("vocabulary", base.vocabulary, f"{architecture}.vocab_size", base.vocabulary),
        ("context", base.context, f"{architecture}.context_length", base.context),
        ("type", base.type, "general.file_type", kinds[FILE_TYPES[base.type]]),
    ):
        found = header.fields.get(key)
        if said != 0 and found != expected:  # sets of format 1 say 0 blocks
            raise OnepassError(
                f"{folder / MANIFEST}, field base.{field}: {said}, but {key} of {base.path} is "
                f"{found}; write the set again"
            )


def _check_rank(folder: Path, adapter: AdapterFile, header: Header) -> None:
    ranks = [t.shape[1] for t in header.tensors if t.name.endswith("lora_a") and len(t.shape) == 2]
    found = max(ranks, default=0)
    # In 8 bits it may be filled up with zeros, see `export.gguf.adapter`.
    filled = -(-adapter.rank // BLOCK) * BLOCK if "q8_0" in _types(header) else adapter.rank
    if found not in (adapter.rank, filled):
        raise OnepassError(
            f"{folder / MANIFEST}, adapter {adapter.name!r}, field rank: {adapter.rank}, but "
            f"{adapter.path} has {found}; write the set again"
        )


def _types(header: Header) -> set[str]:
    return {type_name(tensor).lower() for tensor in header.tensors}


def _header(path: Path, architecture: str, kind: str) -> Header:
    with mapped(path) as data:
        header = read_header(path, data)
    for field, value in (("general.architecture", architecture), ("general.type", kind)):
        if header.fields.get(field) != value:
            raise OnepassError(
                f"{path}: {field} is {header.fields.get(field)!r}, expected {value!r}"
            )
    return header
