"""Whether a device set is whole, fits together, and computes what PyTorch computed."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onepass.core.errors import OnepassError
from onepass.core.files import inside
from onepass.core.optional import optional
from onepass.export.gguf.file import FILE_TYPES, INVOCATION, header, read_gguf, unread_types
from onepass.export.manifest import (
    MANIFEST,
    SAMPLE,
    TOKENS,
    Manifest,
    Vector,
    base_path,
    read_set,
)
from onepass.export.types import tolerance
from onepass.serve.engine import Engine

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


def verify(
    folder: Path | str, threads: int | None = None, base: Path | str | None = None
) -> list[Checked]:
    """Check a set's files, its prompts, and each of its test vectors on the engine.

    base: the base's file, if the set does not hold it and it is not where it was.

    Raises:
        OnepassError: a file is damaged or is not what the manifest says, a composition has no test
            vector, its prompt is not the vector's, or the engine's log-probabilities differ from
            PyTorch's by more than the types of the files allow.
    """
    folder = Path(folder)
    manifest = read_set(folder, base=base)
    readers = _check_headers(folder, manifest, base_path(folder, manifest.base, base))
    known = not unread_types(readers[manifest.base.path])
    names = {vector.composition for vector in manifest.vectors}
    for entry in manifest.compositions:
        if entry.name not in names and known:
            raise OnepassError(
                f"{folder}, composition {entry.name!r}: it has no test vector; write the set with "
                "`onepass pack`"
            )
    # In both forms that `onepass run` has.
    fused = [entry.name for entry in manifest.compositions]
    options: Any = {"exact": True, "fused": fused, "slots": 1, "threads": threads, "base": base}
    with Engine(folder, check=False, **options) as engine:
        _check_samples(engine, folder)
        checked = []
        for vector in manifest.vectors:
            try:
                _check_prompt(engine, vector)
                checked.append(_compare(engine, vector))
            except OnepassError as error:
                raise OnepassError(
                    f"{folder}, composition {vector.composition!r}: {error}"
                ) from error
    return checked


def _check_headers(folder: Path, manifest: Manifest, file: Path) -> dict[str, Any]:
    """Refuse files whose own headers say something else than the manifest: exchanged files, too.

    Returns the readers of the files, by their paths; `file` is that of the base.
    """
    base, kinds = manifest.base, optional("gguf", "device").LlamaFileType
    said: list[tuple[str, str, Any]] = []
    if not base.own:
        said += [
            (base.path, "general.architecture", base.architecture),
            (base.path, "general.file_type", int(kinds[FILE_TYPES[base.type]])),
            (base.path, f"{base.architecture}.vocab_size", base.vocabulary),
            (base.path, f"{base.architecture}.context_length", base.context),
        ]
        # Sets of format 1 say 0 blocks.
        if base.blocks:
            said.append((base.path, f"{base.architecture}.block_count", base.blocks))
    said += [(adapter.path, "general.name", adapter.name) for adapter in manifest.adapters]
    said += [(e.fused.path, "general.name", e.name) for e in manifest.compositions if e.fused]
    stated = [(adapter.path, adapter.invocation) for adapter in manifest.adapters]
    for entry in manifest.compositions:
        activation = manifest.activation(entry.passes[0].task) if entry.activated else None
        if entry.fused:
            stated.append((entry.fused.path, activation.invocation if activation else []))
    said += [(path, INVOCATION, ids or None) for path, ids in stated]
    places = {place for place, _, _ in said} - {base.path}
    readers = {place: read_gguf(inside(folder / MANIFEST, place)) for place in places}
    readers[base.path] = read_gguf(file)
    if base.own:
        for key, found in header(readers[base.path]).items():
            if found != getattr(base, key):
                raise OnepassError(
                    f"{folder / MANIFEST} says {getattr(base, key)!r} for the {key} of {file}, "
                    f"which has {found!r}; write the set again"
                )
    for place, key, expected in said:
        field = readers[place].get_field(key)
        found = None if field is None else field.contents()
        if found != expected:
            raise OnepassError(
                f"{folder / MANIFEST} says {expected!r} for {key} of {place}, which has {found!r}; "
                "write the set again"
            )
    types = {t.tensor_type.name.lower() for r in readers.values() for t in r.tensors}
    for vector in manifest.vectors:
        allowed = tolerance(base.type, types)
        if vector.tolerance > allowed:
            raise OnepassError(
                f"{folder / MANIFEST}: the test vector of {vector.composition!r} allows "
                f"{vector.tolerance}, files of these types {allowed}; write the set again"
            )
    return readers


def _check_samples(engine: Engine, folder: Path) -> None:
    """Refuse a base whose tokenizer, as llama.cpp reads it, is not the one of training."""
    for sample in engine.manifest.samples:
        found = engine.prompt_ids(sample.message)
        if found != sample.ids:
            place = next(
                (n for n, (a, b) in enumerate(zip(found, sample.ids, strict=False)) if a != b),
                min(len(found), len(sample.ids)),
            )
            raise OnepassError(
                f"{folder}: llama.cpp tokenises {sample.message[:40]!r} in another way than the "
                f"base's own tokenizer: {found[place : place + 3]} instead of "
                f"{sample.ids[place : place + 3]} from token {place}; take another GGUF file of it"
            )


def _check_prompt(engine: Engine, vector: Vector) -> None:
    """Refuse a vector whose prompt is not the one that the engine runs the composition with."""
    for number, pass_ in enumerate(engine.manifest.composition(vector.composition).passes):
        ids, _ = engine.fitted(pass_, SAMPLE, TOKENS)
        if number == 0 and ids != vector.prompt:
            raise OnepassError(
                "the prompt of its test vector is not what its task and the set's frame make of "
                "the sample conversation; write the set again"
            )


def _compare(engine: Engine, vector: Vector) -> Checked:
    entry = engine.manifest.composition(vector.composition)
    forms: list[Mapping[str, float]] = [engine.passes(entry.name)[0].scales]
    if not entry.activated and entry.passes[0].scales not in forms:
        forms.append(entry.passes[0].scales)  # as parts, too
    worst = 0.0
    if not all(vector.top):
        raise OnepassError("its test vector says nothing of a token; write the set again")
    for scales in forms:  # one after the other, for each has the last prompt in its cache
        for place, expected in enumerate(vector.top):
            prompt = [*vector.prompt, *vector.tokens[:place]]
            found = engine.log_probabilities(prompt, scales, top=_ASKED)
            for token, value in expected.items():
                worst = max(worst, abs(found.get(token, _FLOOR) - value))
    if worst > vector.tolerance:
        raise OnepassError(
            f"the engine's log-probabilities differ by {worst:.3g} from PyTorch's, "
            f"{vector.tolerance:.3g} is allowed; write the set again, and report it if that does "
            "not help"
        )
    return Checked(vector.composition, len(vector.tokens), worst, vector.tolerance)
