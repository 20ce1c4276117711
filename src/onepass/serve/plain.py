"""A set's adapters as llama.cpp reads them: compact ones expanded, compositions fused if so wished.

What is made for it lasts as long as llama.cpp loads, which reads an adapter whole.
"""

import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from onepass.core.errors import OnepassError
from onepass.core.files import inside
from onepass.export.gguf.compact import expand
from onepass.export.gguf.fuse import fuse
from onepass.export.manifest import MANIFEST, CompositionEntry, Manifest
from onepass.serve.activated import Activated


def fused_name(composition: str) -> str:
    """What a composition as one adapter is called; no adapter of a set is called so."""
    return f"fused/{composition}"


@contextmanager
def plain_files(
    folder: Path,
    manifest: Manifest,
    fused: Collection[str] = (),
    activated: Sequence[Activated] = (),
) -> Iterator[dict[str, Path]]:
    """The path by name: of each ordinary adapter, of compositions `fused` into one, of `activated`.

    The set's own fused file is taken where there is one. An ordinary composition that is one
    adapter already, or takes several passes, is left out.
    Raises:
        OnepassError: a file is damaged, there is no such composition, or no room for what is made.
    """
    within = folder / MANIFEST
    paths = {adapter.name: inside(within, adapter.path) for adapter in manifest.adapters}
    ordinary = [adapter.name for adapter in manifest.adapters if not adapter.invocation]
    compact = [adapter.name for adapter in manifest.adapters if adapter.compact]
    asked = [manifest.composition(name) for name in dict.fromkeys(fused)]
    entries = [entry for entry in asked if not entry.activated]
    stored = {entry.name: inside(within, entry.fused.path) for entry in entries if entry.fused}
    to_fuse = [entry for entry in entries if entry.name not in stored and _several(entry)]
    if not (compact or to_fuse or activated):
        yield paths | {fused_name(name): path for name, path in stored.items()}
        return
    with _temporary_folder() as temporary:
        try:
            for number, name in enumerate(compact):
                target = temporary / f"{number}.gguf"
                expand(paths[name], target, manifest.base.blocks)
                paths[name] = target
            for number, entry in enumerate(to_fuse):
                target = temporary / f"fused-{number}.gguf"
                sources = [(paths[name], scale) for name, scale in entry.passes[0].scales.items()]
                fuse(sources, target, manifest.base.architecture, entry.name)
                stored[entry.name] = target
            begun = {}
            whole = {
                _used(entry.passes[0].scales): inside(within, entry.fused.path)
                for entry in manifest.compositions
                if entry.fused and entry.activated
            }
            for number, each in enumerate(activated):
                begun[each.name] = temporary / f"activated-{number}.gguf"
                one = whole.get(_used(each.scales))
                sources = [(paths[name], scale) for name, scale in each.scales.items()]
                _write_activated(each, [(one, 1.0)] if one else sources, begun[each.name], manifest)
        except OSError as error:
            raise _no_room(temporary, error) from error
        plain = {name: paths[name] for name in ordinary}
        yield plain | {fused_name(name): path for name, path in stored.items()} | begun


def _write_activated(
    adapter: Activated, sources: list[tuple[Path, float]], target: Path, manifest: Manifest
) -> None:
    if len(sources) == 1 and sources[0][1] == 1.0:
        # Only the invocation differs, so that every number keeps its rounding.
        expand(sources[0][0], target, manifest.base.blocks, adapter.invocation)
    else:
        fuse(sources, target, manifest.base.architecture, adapter.name, adapter.invocation)


def _used(scales: Mapping[str, float]) -> frozenset[tuple[str, float]]:
    return frozenset((name, scale) for name, scale in scales.items() if scale)


def _several(entry: CompositionEntry) -> bool:
    """Whether the composition is one pass of several adapters."""
    return len(entry.passes) == 1 and sum(map(bool, entry.passes[0].scales.values())) > 1


@contextmanager
def _temporary_folder() -> Iterator[Path]:
    try:
        folder = tempfile.TemporaryDirectory(prefix="onepass-", ignore_cleanup_errors=True)
    except OSError as error:
        raise _no_room(tempfile.tempdir or "the temporary folder", error) from error
    with folder as name:
        yield Path(name)


def _no_room(folder: Path | str, error: OSError) -> OnepassError:
    return OnepassError(
        f"cannot write adapters for llama.cpp in {folder}: {error.strerror or error}; "
        "make room there, or name another folder in the variable TMPDIR"
    )
