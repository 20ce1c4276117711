"""Whether a device set is whole, fits together, and computes what PyTorch computed."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onepass.core.errors import OnepassError
from onepass.core.files import inside
from onepass.core.optional import optional
from onepass.device.engine import Engine
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
    with Engine(folder, exact=True, slots=1, threads=threads, check=False) as engine:
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
    scales = engine.manifest.composition(vector.composition).passes[0].scales
    worst = 0.0
    for place, expected in enumerate(vector.top):
        prompt = [*vector.prompt, *vector.tokens[:place]]
        found = engine.log_probabilities(prompt, scales, top=_ASKED)
        for token, value in expected.items():
            worst = max(worst, abs(found.get(token, _FLOOR) - value))
    return Checked(vector.composition, len(vector.tokens), worst, vector.tolerance)


def check_shapes(folder: Path, manifest: Manifest) -> None:
    """Refuse a file that is not what the manifest says, or an adapter that does not fit the base.

    Reads the headers only.
    """
    path = inside(folder / MANIFEST, manifest.base.path)
    base = _shapes(path, manifest.base.architecture, "model")
    for file in manifest.files():
        if file.path == manifest.base.path:
            continue
        path = inside(folder / MANIFEST, file.path)
        for name, (columns, rows) in _shapes(path, manifest.base.architecture, "adapter").items():
            target, _, factor = name.rpartition(".")
            shape = base.get(target)
            fits = shape and (shape[0] == columns if factor == "lora_a" else shape[1] == rows)
            if not fits:
                raise OnepassError(
                    f"{path}: {name} is {(rows, columns)}, but {target} of {manifest.base.path} is "
                    f"{shape[::-1] if shape else 'absent'}; it was made for another base"
                )


def _shapes(path: Path, architecture: str, kind: str) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor of a GGUF, in GGUF's order: columns, then rows."""
    gguf = optional("gguf", "device")
    try:
        reader = gguf.GGUFReader(path)
        facts = dict(_facts(reader, "general.architecture", "general.type"))
        shapes = {t.name: tuple(int(size) for size in t.shape) for t in reader.tensors}
    except (ValueError, IndexError, OSError, OverflowError, MemoryError) as error:
        raise OnepassError(f"{path} is no GGUF file, or is cut short ({error})") from error
    expected = {"general.architecture": architecture, "general.type": kind}
    for field, value in expected.items():
        if facts.get(field) != value:
            raise OnepassError(f"{path}: {field} is {facts.get(field)!r}, expected {value!r}")
    return shapes


def _facts(reader: Any, *fields: str) -> Iterator[tuple[str, Any]]:
    for name in fields:
        field = reader.get_field(name)
        if field is not None:
            yield name, field.contents()
