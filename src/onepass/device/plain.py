"""The files of a set as llama.cpp reads them: compact ones are expanded while it loads them."""

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from onepass.core.errors import OnepassError
from onepass.core.files import inside
from onepass.export.gguf.compact import expand
from onepass.export.manifest import MANIFEST, BaseFile, Manifest

_SMALL = 1 << 28  # bytes that an expanded file may have on any base


def largest(base: BaseFile) -> int:
    """How many bytes an adapter of this base may have: as many as the base itself, or few."""
    return max(base.bytes, _SMALL)


@contextmanager
def plain_files(folder: Path, manifest: Manifest, places: Iterable[str]) -> Iterator[list[str]]:
    """The paths of these files of a set; those of compact ones last as long as the block.

    That is enough, because llama.cpp reads an adapter whole when it loads it.
    Raises:
        OnepassError: a compact file is damaged, or there is no room to expand it.
    """
    compact = {file.path for file in manifest.adapters if file.compact}
    paths = {place: inside(folder / MANIFEST, place) for place in places}
    if compact.isdisjoint(paths):
        yield [str(path) for path in paths.values()]
        return
    with _temporary_folder() as temporary:
        for number, place in enumerate(sorted(compact & paths.keys())):
            target = temporary / f"{number}-{paths[place].name}"
            try:
                expand(paths[place], target, manifest.base.blocks, largest(manifest.base))
            except OSError as error:
                raise _no_room(temporary, error) from error
            paths[place] = target
        yield [str(path) for path in paths.values()]


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
        f"cannot expand the set's compact adapters in {folder}: {error.strerror or error}; "
        "make room there, or name another folder in the variable TMPDIR"
    )
