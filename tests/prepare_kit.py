"""Preparing sets with a stub for a server: what its tests share."""

import re
import sqlite3
from pathlib import Path
from typing import Any

from cli_kit import rows_of, write_rows
from endpoint_kit import Stub
from onepass.prepare.prepare import CACHE

SPANISH, WITTY = "summarize+translate:es", "summarize+tone:witty"


def spanish(prompt: str, _times: int = 0) -> str:
    """What the stub makes of a text: different for every one, and Spanish to py3langid."""
    (text,) = re.findall(r"<text>\n(.*)\n</text>", prompt, re.DOTALL)
    return f"Esto es lo que se dice en la conversación, en español: {text}"


def write_dialogsum(folder: Path, train: int = 12, test: int = 4) -> Path:
    """Self-made conversations in DialogSum's layout, three summaries each in the test."""
    folder.mkdir(parents=True)
    rows = [
        {"fname": f"train_{n}", "dialogue": f"A: Tea at {n}?\nB: Yes.", "summary": f"Tea at {n}."}
        for n in range(train)
    ]
    write_rows(folder / "dialogsum.train.jsonl", rows)
    rows = [
        {
            "fname": f"test_{n}",
            "dialogue": f"A: Cake at {n}?\nB: Yes.",
            **{f"summary{k}": f"They have cake {k} at {n}." for k in (1, 2, 3)},
        }
        for n in range(test)
    ]
    write_rows(folder / "dialogsum.test.jsonl", rows)
    return folder


def asking(folder: Path, stub: Stub, *more: object) -> list[object]:
    """The arguments that prepare a Spanish set of `folder` by the stub."""
    corpus = folder / "dialogsum"
    if not corpus.exists():
        write_dialogsum(corpus)
    return [
        *("data", "prepare", "--out", folder / "sets", "--corpus", f"dialogsum:{corpus}"),
        *("--tasks", SPANISH, "--splits", "train", "test", "--translate-with", "endpoint"),
        *("--endpoint", stub.url, "--endpoint-model", "stub", "--retries", 0, *more),
    ]


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.is_file()}


def rows(folder: Path, split: str) -> list[dict[str, Any]]:
    return rows_of((folder / f"{split}.jsonl").read_text(encoding="utf-8"))


def kept(folder: Path) -> int:
    if not (folder / CACHE).exists():
        return 0
    with sqlite3.connect(folder / CACHE) as file:
        try:
            return int(file.execute("SELECT count(*) FROM labels").fetchone()[0])
        except sqlite3.OperationalError:  # it is just being made
            return 0
