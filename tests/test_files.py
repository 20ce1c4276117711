"""Files that are whole or absent, wherever a path leads; text that is no JSON."""

import errno
import os
import re
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cli_kit import listing
from onepass.api.outputs import check_writable
from onepass.core.errors import OnepassError
from onepass.core.files import (
    atomic_file,
    atomic_folder,
    inside,
    read_json,
    read_jsonl,
    write_json,
    write_text,
)


def write_folder(path: Path, text: str) -> None:
    with atomic_folder(path) as temporary:
        (temporary / "file").write_text(text)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_pipe_is_written_to_and_stays(tmp_path: Path) -> None:
    pipe, found = tmp_path / "pipe", list[str]()
    os.mkfifo(pipe)
    check_writable(pipe, folder=False)  # without a reader
    thread = threading.Thread(target=lambda: found.append(pipe.read_text()), daemon=True)
    thread.start()
    write_text(pipe, "the answer\n")
    thread.join(10)
    assert found == ["the answer\n"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert list(tmp_path.iterdir()) == [pipe]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_link_stays_and_its_target_is_replaced(kind: str, tmp_path: Path) -> None:
    write, place = (write_text, "") if kind == "file" else (write_folder, "/file")
    for name, target in (("link", "far"), ("second", "link"), ("dangling", "new/far")):
        (tmp_path / name).symlink_to(target)
    for name, target in (("link", "far"), ("second", "far"), ("dangling", "new/far")):
        check_writable(tmp_path / name, folder=kind == "folder")
        write(tmp_path / name, name)
        assert (tmp_path / name).is_symlink()
        assert not (tmp_path / target).is_symlink()
        assert Path(f"{tmp_path}/{target}{place}").read_text() == name
    assert {path.name for path in tmp_path.iterdir()} == {
        "link",
        "second",
        "dangling",
        "far",
        "new",
    }


def test_a_failure_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    (tmp_path / "link").symlink_to("file")

    def fail_halfway(path: Path) -> None:
        with atomic_file(path) as temporary:
            temporary.write_text("half")
            raise OSError("disk full")

    for name in ("file", "link"):
        with pytest.raises(OnepassError, match=rf"cannot write .*{name}: disk full"):
            fail_halfway(tmp_path / name)
    assert listing(tmp_path) == {"file": b"old", "link": b"old"}


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("adapters/\0", "null"),
        ("adapters/\ud800", "surrogates"),
        ("adapters/" + "a" * 5000, "too long"),
        ("circle/a", "loop|levels"),
    ],
)
def test_a_manifest_entry_that_is_no_path(place: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(OnepassError, match=f"(?i)manifest.json: .* no path .*({reason})") as raised:
        inside(tmp_path / "manifest.json", place)
    assert len(str(raised.value)) < 400


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param("[" * 100_000, "not JSON .*recursion", id="lists"),
        pytest.param("1" * 5000, "not JSON .*digits", id="digits"),
        pytest.param(r'{"a": [1, {"b": "x\ud800"}]}', r"half a character .*x\ud800", id="half"),
        pytest.param(r'{"a": {"\udc00": 1}}', r"half a character .*\udc00", id="key"),
        pytest.param(r'{"a": "\ude00\ud83d"}', r"half a character .*\ude00", id="swapped"),
    ],
)
def test_json_that_cannot_be_used(text: str, reason: str, tmp_path: Path) -> None:
    read: list[Callable[[Path], Any]] = [read_json, read_jsonl]
    path = tmp_path / "a.json"
    for reader, content, where in zip(read, (text, "{}\n" + text), ("", ", line 2"), strict=True):
        path.write_text(content)
        with pytest.raises(OnepassError, match=rf"a\.json{where}.*{reason}".replace(r"\u", r"\\u")):
            reader(path)


def test_text_comes_back_however_it_is_escaped(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(r'{"a": "\ud83d\ude00", "b": "\\ud800"}')
    assert read_json(path) == {"a": "\U0001f600", "b": r"\ud800"}
    write_json(path, {"data": os.fsdecode(b"caf\xe9.jsonl")})
    assert read_json(path) == {"data": "caf?.jsonl"}


@pytest.mark.parametrize("mode", [None, 0o700, 0o750, 0o777])
def test_permissions_stay_and_new_files_have_the_usual_ones(
    mode: int | None, tmp_path: Path
) -> None:
    file, folder = tmp_path / "file", tmp_path / "folder"
    if mode is not None:
        file.touch()
        folder.mkdir()
        for path in (file, folder):
            path.chmod(mode)
    (tmp_path / "usual").touch()
    (tmp_path / "usual folder").mkdir()
    write_text(file, "new")
    write_folder(folder, "new")
    assert mode_of(file) == (mode or mode_of(tmp_path / "usual"))
    assert mode_of(folder) == (mode or mode_of(tmp_path / "usual folder"))
    assert mode_of(folder / "file") == mode_of(tmp_path / "usual")


@pytest.mark.parametrize("failure", [OSError(errno.EIO, "I/O error"), KeyboardInterrupt()])
@pytest.mark.parametrize(("step", "done"), [(1, False), (1, True), (2, False), (2, True)])
def test_a_folder_is_the_old_or_the_new_one_whichever_renaming_fails(
    failure: BaseException, step: int, done: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """done: the interruption comes just after the renaming."""
    write_folder(tmp_path / "set", "old")
    calls = []
    rename = Path.replace

    def stop(path: Path, target: Path) -> Path:
        calls.append(path)
        if len(calls) != step:
            return rename(path, target)
        if done:
            rename(path, target)
        raise failure

    monkeypatch.setattr(Path, "replace", stop)
    message = re.compile(r"cannot write .*set: I/O error|^$")
    with pytest.raises((OnepassError, KeyboardInterrupt), match=message):
        write_folder(tmp_path / "set", "new")
    assert listing(tmp_path) == {"set/file": b"new" if (step, done) == (2, True) else b"old"}
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_a_folder_that_cannot_be_put_back_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folder(tmp_path / "set", "old")
    rename = Path.replace

    def stop(path: Path, target: Path) -> Path:
        if target == tmp_path / "set":
            raise OSError(errno.EIO, "I/O error")
        return rename(path, target)

    monkeypatch.setattr(Path, "replace", stop)
    with pytest.raises(OnepassError, match=r"cannot write .*set: I/O error"):
        write_folder(tmp_path / "set", "new")
    (kept,) = tmp_path.rglob("file")
    assert kept.read_text() == "old"
