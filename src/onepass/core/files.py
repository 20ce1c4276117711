"""Files that are whole or absent: written to a temporary name, synced, renamed.

Also the one reader of JSON lines, whose errors name the file and the line.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from onepass.core.errors import OnepassError


def _sync(path: Path) -> None:
    flags = os.O_RDONLY | (os.O_DIRECTORY if path.is_dir() else 0)
    handle = os.open(path, flags)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def atomic_file(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is synced and takes the name `path`.

    On any failure the temporary file goes and what stood at `path` stays as it was. An `OSError`
    (no permission, disk full) becomes an `OnepassError` naming `path`.
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        _sync(temporary)
        # mkstemp makes private files; the result should look like any file the user writes.
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
        _sync(path.parent)
    except OSError as error:
        raise OnepassError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        if temporary is not None:
            with suppress(FileNotFoundError):
                temporary.unlink()


@contextmanager
def atomic_folder(path: Path | str) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success it replaces the folder `path`."""
    path = Path(path)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        yield temporary
        mask = _umask()
        for part in sorted(temporary.rglob("*")):
            if part.is_file():  # safetensors makes private ones
                part.chmod(part.stat().st_mode | 0o666 & ~mask)
            _sync(part)
        temporary.chmod(0o777 & ~mask)
        if path.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{path.name}.old.", dir=path.parent))
            path.replace(old / path.name)
            temporary.replace(path)
            shutil.rmtree(old)
        else:
            temporary.replace(path)
        _sync(path.parent)
    except OSError as error:
        raise OnepassError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(path: Path | str, text: str) -> None:
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path | str, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True) + "\n")


def read_text(path: Path | str) -> str:
    """The text of a UTF-8 file; an `OnepassError` when it is missing or is not UTF-8."""
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
    """The path of an entry of a manifest, relative to the folder that this is in.

    Refused where it, or a link on its way, leaves that folder.
    """
    path = (manifest.parent / place).resolve()
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


def read_json(path: Path | str) -> Any:
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise OnepassError(f"{path}, line {error.lineno}: not JSON ({error.msg})") from error


def read_jsonl(path: Path | str) -> list[tuple[int, dict[str, Any]]]:
    """The objects of a JSON-lines file and their line numbers (from 1), blank lines skipped."""
    rows: list[tuple[int, dict[str, Any]]] = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise OnepassError(f"{path}, line {number}: not JSON ({error.msg})") from error
        if not isinstance(row, dict):
            raise OnepassError(f"{path}, line {number}: expected an object, found {line[:40]!r}")
        rows.append((number, row))
    if not rows:
        raise OnepassError(f"{path} holds no examples; expected one JSON object per line")
    return rows


def to_jsonl(rows: Iterable[dict[str, Any]]) -> str:
    """Rows as JSON lines."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def write_jsonl(path: Path | str, rows: Iterable[dict[str, Any]]) -> None:
    write_text(path, to_jsonl(rows))
