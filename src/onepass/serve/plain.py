"""A set's adapters as llama.cpp reads them: compact ones expanded, compositions fused if so wished.

What is made for it lasts as long as llama.cpp loads, which reads an adapter whole.
"""

import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from onepass.core.errors import OnepassError
from onepass.core.files import inside
from onepass.export.gguf.compact import expand
from onepass.export.gguf.fuse import fuse
from onepass.export.manifest import MANIFEST, CompositionEntry, Manifest


def fused_name(composition: str) -> str:
    """What a composition as one adapter is called; no adapter of a set is called so."""
    return f"fused/{composition}"


@contextmanager
def plain_files(
    folder: Path, manifest: Manifest, fused: Collection[str] = ()
) -> Iterator[dict[str, Path]]:
    """The path of each of the set's adapters by name, then of compositions `fused` into one.

    The set's own fused file is taken where there is one. A composition that is one adapter already,
    or takes several passes, is left out.
    Raises:
        OnepassError: a file is damaged, there is no such composition, or no room for what is made.
    """
    within = folder / MANIFEST
    paths = {adapter.name: inside(within, adapter.path) for adapter in manifest.adapters}
    compact = [adapter.name for adapter in manifest.adapters if adapter.compact]
    entries = [manifest.composition(name) for name in dict.fromkeys(fused)]
    stored = {entry.name: inside(within, entry.fused.path) for entry in entries if entry.fused}
    to_fuse = [entry for entry in entries if entry.name not in stored and _several(entry)]
    if not compact and not to_fuse:
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
        except OSError as error:
            raise _no_room(temporary, error) from error
        yield paths | {fused_name(name): path for name, path in stored.items()}


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
