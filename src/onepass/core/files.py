"""Files that are whole or absent: written to a temporary name, synced, renamed.

Also the one reader of JSON and JSON lines, whose errors name the file and the line.
"""

import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from onepass.core.errors import OnepassError

_UMASK = os.umask(0o077)  # asked for at import, while there are no other threads
os.umask(_UMASK)
_STANDARD = {"/dev/stdout": 1, "/dev/stderr": 2}


def _mode(target: Path, usual: int) -> int:
    """Permissions for the (private) temporary that becomes `target`: those of the old one, if any,
    else `usual` less the umask.
    """
    return target.stat().st_mode & 0o777 if target.exists() else usual & ~_UMASK


def _sync(path: Path) -> None:
    if os.name == "nt" and path.is_dir():
        return  # Windows cannot open a folder
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def is_stream(path: Path) -> bool:
    """Whether `path` is a device, a pipe or a standard stream: written to, never replaced."""
    return str(path) in _STANDARD or (path.exists() and not path.is_file() and not path.is_dir())


def linked(path: Path) -> Path:
    """Where the link `path` leads, or else `path`: the name that may be replaced."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


@contextmanager
def atomic_file(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is synced and takes the name `path`.

    On any failure the temporary file is removed and `path` stays as it was. A replaced file keeps
    its permissions; a link keeps pointing at the (replaced) file. A device or a pipe is yielded
    itself; /dev/stdout and /dev/stderr get everything at the end, after what was printed before.
    An `OSError` (no permission, disk full) becomes an `OnepassError` naming `path`.
    """
    path = Path(path)
    try:
        if str(path) in _STANDARD:
            # Opening these by name would truncate a file that the shell opened for appending.
            with tempfile.TemporaryDirectory() as folder:
                yield (temporary := Path(folder, "out"))
                sys.stdout.flush()
                with temporary.open("rb") as file, open(os.dup(_STANDARD[str(path)]), "wb") as out:
                    shutil.copyfileobj(file, out)
            return
        if is_stream(path):
            yield path
            return
        target = linked(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            _sync(temporary)
            temporary.chmod(_mode(target, 0o666))
            temporary.replace(target)
            _sync(target.parent)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise OnepassError(f"cannot write {path}: {error.strerror or error}") from error


@contextmanager
def atomic_folder(path: Path | str) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success it replaces the folder `path`.

    Failures, permissions and links are treated as by `atomic_file`.
    """
    path = Path(path)
    try:
        target = linked(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        try:
            yield temporary
            for part in sorted(temporary.rglob("*")):
                if part.is_file():  # safetensors creates private ones
                    part.chmod(part.stat().st_mode | 0o666 & ~_UMASK)
                _sync(part)
            temporary.chmod(_mode(target, 0o777))
            _exchange(target, temporary)
            _sync(target.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise OnepassError(f"cannot write {path}: {error.strerror or error}") from error


def _exchange(target: Path, new: Path) -> None:
    """Rename `new` to `target`; an old folder of that name comes back if this is interrupted."""
    away = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent))
    old = away / target.name
    try:
        if target.exists():
            target.replace(old)
        new.replace(target)
    except BaseException:
        if old.exists() and not target.exists():
            old.replace(target)  # if even that fails, `old` must not be removed
        shutil.rmtree(away)
        raise
    shutil.rmtree(away)


def write_text(path: Path | str, text: str) -> None:
    """Write UTF-8; what it cannot encode, as in odd file names, becomes a question mark."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="replace")


def write_json(path: Path | str, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True) + "\n")


def read_text(path: Path | str) -> str:
    """The text of a UTF-8 file; an `OnepassError` if it is missing or is not UTF-8."""
    path = Path(path)
    try:
        return path.read_text(encoding="utf-8-sig")  # with or without a byte-order mark
    except UnicodeDecodeError as error:
        raise OnepassError(
            f"{path} is not UTF-8 (byte {error.start}: {error.reason}); convert it to UTF-8"
        ) from error
    except OSError as error:
        raise OnepassError(f"cannot read {path}: {error.strerror or error}") from error


def inside(manifest: Path, place: str) -> Path:
    """The path that an entry of a manifest names, relative to the manifest's folder.

    An `OnepassError` if it is no path, or leaves that folder (through a link, too).
    """
    try:
        path = (manifest.parent / place).resolve()
        path.exists()  # raises if the name is too long
    except (OSError, ValueError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OnepassError(f"{manifest}: {place[:60]!r} is no path to a file ({reason})") from error
    if not path.is_relative_to(manifest.parent.resolve()):
        raise OnepassError(
            f"{manifest}: {place!r} points outside its folder; it may only name files of its own"
        )
    return path


def sha256(path: Path) -> str:
    """The checksum of a file, in hexadecimal digits."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise OnepassError(f"cannot read {path}: {error.strerror or error}") from error


def known_sha256(path: Path) -> str:
    """As `sha256`, computed once unless the file changes: for files of gigabytes."""
    state = path.stat()
    return _known_sha256(path, state.st_size, state.st_mtime_ns)


@cache
def _known_sha256(path: Path, size: int, changed: int) -> str:
    return sha256(path)


def read_json(path: Path | str) -> Any:
    """The value in a JSON file; an `OnepassError` naming the line that is wrong."""
    return _parsed(read_text(path), path)


def read_jsonl(path: Path | str) -> list[tuple[int, dict[str, Any]]]:
    """The objects of a JSON-lines file and their line numbers (from 1), blank lines skipped."""
    rows: list[tuple[int, dict[str, Any]]] = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        row = _parsed(line, path, number)
        if not isinstance(row, dict):
            raise OnepassError(f"{path}, line {number}: expected an object, found {line[:40]!r}")
        rows.append((number, row))
    if not rows:
        raise OnepassError(f"{path} holds no examples; expected one JSON object per line")
    return rows


_HALF = re.compile(r"\\u[dD][89a-fA-F]")  # half of a surrogate pair, or a pair


def _parsed(text: str, path: Path | str, line: int | None = None) -> Any:
    """The JSON value that is the whole of `text`: a file, or one line of it."""
    try:
        value = json.loads(text)
        if _HALF.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:  # no file, terminal or tokenizer takes it
        found = ascii(error.object[max(0, error.start - 20) : error.end])
        where = f"{path}, line {line}" if line else path
        raise OnepassError(f"{where}: half a character at the end of {found}") from error
    except (ValueError, RecursionError) as error:  # ValueError: also a number of 5,000 digits
        line = line or getattr(error, "lineno", 1)
        raise OnepassError(
            f"{path}, line {line}: not JSON ({getattr(error, 'msg', error)})"
        ) from error
    return value


def to_jsonl(rows: Iterable[dict[str, Any]]) -> str:
    """Rows as JSON lines."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def write_jsonl(path: Path | str, rows: Iterable[dict[str, Any]]) -> None:
    write_text(path, to_jsonl(rows))
