"""Whether a device set is whole, fits together, and computes what PyTorch computed."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from onepass.core.errors import OnepassError
from onepass.core.files import inside
from onepass.device.engine import Engine
from onepass.device.plain import fused_name, largest
from onepass.export.gguf.compact import expanded
from onepass.export.gguf.header import Header, mapped, read_header
from onepass.export.manifest import MANIFEST, Manifest, Vector, read_set

_FLOOR = -10.0  # what an engine says less of than of its likeliest tokens counts as this
_ASKED = 64  # likeliest tokens to ask an engine for


@dataclass(frozen=True)
class Checked:
    """A composition's test vector on the engine: tokens compared, and the largest difference.

    The difference is in natural log-probability, and `tolerance` how large it may be.
    """

    composition: str
    tokens: int
    difference: float
    tolerance: float


def verify(folder: Path | str, threads: int | None = None) -> list[Checked]:
    """Check a set's files, their shapes, and each of its test vectors on the engine.

    Raises:
        OnepassError: a file is damaged or does not belong to the others, there is no test vector,
            or the engine's log-probabilities differ from PyTorch's by more than is allowed.
    """
    folder = Path(folder)
    manifest = read_set(folder)
    check_shapes(folder, manifest)
    if not manifest.vectors:
        raise OnepassError(f"{folder} holds no test vector; write it with `onepass pack`")
    fused = [entry.name for entry in manifest.compositions if entry.fused]
    with Engine(folder, exact=True, fused=fused, slots=1, threads=threads, check=False) as engine:
        checked = [_compare(engine, vector) for vector in manifest.vectors]
    for each in checked:
        if each.difference > each.tolerance:
            raise OnepassError(
                f"{folder}, composition {each.composition!r}: the engine's log-probabilities "
                f"differ by {each.difference:.3g} from PyTorch's, {each.tolerance:.3g} is allowed; "
                "write the set again, and report it if that does not help"
            )
    return checked


def _compare(engine: Engine, vector: Vector) -> Checked:
    entry = engine.manifest.composition(vector.composition)
    forms: list[Mapping[str, float]] = [entry.passes[0].scales]
    if entry.fused:
        forms.append({fused_name(entry.name): 1.0})
    worst = 0.0
    for place, expected in enumerate(vector.top):
        prompt = [*vector.prompt, *vector.tokens[:place]]
        for scales in forms:
            found = engine.log_probabilities(prompt, scales, top=_ASKED)
            for token, value in expected.items():
                worst = max(worst, abs(found.get(token, _FLOOR) - value))
    return Checked(vector.composition, len(vector.tokens), worst, vector.tolerance)


def check_shapes(folder: Path, manifest: Manifest) -> None:
    """Refuse a file that is not what the manifest says, or an adapter that does not fit the base.

    Reads the headers only.
    """
    base, compact = manifest.base, {file.path for file in manifest.adapters if file.compact}
    header = _header(inside(folder / MANIFEST, base.path), base.architecture, "model")
    blocks = header.fields.get(f"{base.architecture}.block_count")
    if base.blocks not in (0, blocks):
        raise OnepassError(
            f"{folder / MANIFEST}, field base.blocks: {base.blocks}, but {base.path} has {blocks}; "
            "write the set again"
        )
    shapes = {tensor.name: tensor.shape for tensor in header.tensors}
    for file in manifest.files():
        if file.path == base.path:
            continue
        path = inside(folder / MANIFEST, file.path)
        header = _header(path, base.architecture, "adapter")
        parts = [(tensor.name, tensor) for tensor in header.tensors]
        if file.path in compact:
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


def _header(path: Path, architecture: str, kind: str) -> Header:
    with mapped(path) as data:
        header = read_header(path, data)
    for field, value in (("general.architecture", architecture), ("general.type", kind)):
        if header.fields.get(field) != value:
            raise OnepassError(
                f"{path}: {field} is {header.fields.get(field)!r}, expected {value!r}"
            )
    return header
