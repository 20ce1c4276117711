"""Rows of the public corpora made up for tests, and the layouts they come in on disk."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from onepass.tasks.book import parse_task

SUMMARIZE, REPLY, SPANISH = map(parse_task, ("summarize", "reply", "translate:es"))
CASUAL, WITTY = map(parse_task, ("tone:casual", "tone:witty"))
UPSTREAM = {"train": "train", "validation": "dev", "test": "test"}
"""The words for splits in the names of upstream files."""

Rows = list[dict[str, Any]]
Splits = dict[str, Rows]


def write_csv(path: Path, rows: Rows, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0], **options)
        writer.writeheader()
        writer.writerows(rows)


def write_tsv(path: Path, rows: Rows) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [list(rows[0]), *(row.values() for row in rows)]
    path.write_text("".join("\t".join(line) + "\n" for line in lines), encoding="utf-8")


def write_jsonl(path: Path, rows: Rows) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_json(path: Path, rows: Rows) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows), encoding="utf-8")


def write_parquet(path: Path, rows: Rows) -> None:
    datasets = pytest.importorskip("datasets")
    path.parent.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_list(rows).to_parquet(path)


HubLayout = Callable[[Path, Splits], None]


def plain_csv(folder: Path, data: Splits) -> None:
    for split, rows in data.items():
        write_csv(folder / f"{split}.csv", rows)


def data_parquet(folder: Path, data: Splits) -> None:
    for split, rows in data.items():
        write_parquet(folder / "data" / f"{split}-00000-of-00001.parquet", rows)


def two_shards(folder: Path, data: Splits) -> None:
    for split, rows in data.items():
        for number, part in enumerate((rows[:2], rows[2:])):
            write_parquet(folder / f"data/{split}-0000{number}-of-00002.parquet", part)


def converted_parquet(folder: Path, data: Splits) -> None:
    """As in the hub's refs/convert/parquet."""
    for split, rows in data.items():
        write_parquet(folder / "plain_text" / split / "0000.parquet", rows)


def data_jsonl(folder: Path, data: Splits) -> None:
    for split, rows in data.items():
        write_jsonl(folder / "data" / f"{split}.jsonl", rows)


def data_json(folder: Path, data: Splits) -> None:
    for split, rows in data.items():
        write_json(folder / "data" / f"{split}.json", rows)


def with_configs(folder: Path, data: Splits) -> None:
    """Its card says which file is which split; that of another configuration is not read."""
    card = "---\nlicense: mit\nconfigs:\n- config_name: default\n  data_files:\n"
    for number, (split, rows) in enumerate(data.items()):
        write_csv(folder / f"part{number}.csv", rows)
        card += f"  - split: {split}\n    path: part{number}.csv\n"
    write_csv(folder / "train-of-something-else.csv", [{"a": "1"}])
    (folder / "README.md").write_text(f"{card}---\n# A card\n", encoding="utf-8")


def cloned(folder: Path, data: Splits) -> None:
    """A clone has more than data."""
    data_parquet(folder, data)
    (folder / ".git").mkdir()
    (folder / ".git" / "train.csv").write_text("no data")
    (folder / ".gitattributes").write_text("*.parquet filter=lfs\n")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# A card\n", encoding="utf-8")


def dialogsum_rows() -> tuple[Splits, Splits]:
    """Upstream's rows and the hub's of the same conversations."""
    up: Splits = {}
    hub: Splits = {}
    for split, word in UPSTREAM.items():
        up[split], hub[split] = [], []
        for n in range(4):
            text = f'#Person1#: Is it {n} o\'clock?\n#Person2#: Not before {word}, "dear".'
            row = {"fname": f"{word}_{n}", "dialogue": text}
            if split == "test":
                references = {f"summary{k}": f"They tell time, {n}-{k}." for k in (1, 2, 3)}
                hub[split] += [
                    {"id": f"test_{n}_{k}", "dialogue": text, "summary": summary, "topic": "time"}
                    for k, summary in enumerate(references.values(), start=1)
                ]
            else:
                references = {"summary": f"They tell {word} time {n}."}
                topic = {"topic": "time"}
                hub[split].append({"id": f"{word}_{n}", "dialogue": text, **references, **topic})
            up[split].append({**row, **references})
    return up, hub


CONVERSATION = "Best Generated Conversation"


def chats(count: int, mark: str = "") -> Rows:
    """Conversations of 2, 3, 4, ... turns."""
    return [
        {
            "user 1 personas": "I sail.",
            "user 2 personas": "I mend clocks.",
            CONVERSATION: "\n".join(
                f"User {1 + turn % 2}: {mark} {n}, {turn}." for turn in range(n + 2)
            ),
        }
        for n in range(count)
    ]
