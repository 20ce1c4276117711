"""The examples that the page embeds, as JSON for its script."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from statistics import fmean
from typing import Any

from onepass.comparison.examples import ExampleRow, read_example_rows
from onepass.comparison.results import VERIFIED, Results
from onepass.core.errors import OnepassError

EXAMPLES = 300
"""Examples on a page, at most."""
SIZE = 8_000_000
"""Characters of their JSON, at most."""
TEXT = 4_000
"""Characters of one text, at most; of longer ones the page has the beginning."""

# "</script>" would end the element that holds the JSON, and "<!--" begin a comment; U+2028 and
# U+2029 end lines of a script; halves of characters are in no UTF-8.
_ESCAPED = {
    **{code: f"\\u{code:04x}" for code in (*map(ord, "<>&"), 0x2028, 0x2029)},
    **dict.fromkeys(range(0xD800, 0xE000), "\ufffd"),
}


@dataclass(frozen=True)
class Embedded:
    """What the page has of the examples; without any, `count` is 0 and `note` says why.

    json: escaped for a <script> element. first, second: the methods to compare at first.
    """

    note: str
    count: int = 0
    json: str = "{}"
    tasks: Sequence[str] = ()
    metrics: Sequence[str] = ()
    methods: Sequence[str] = ()
    first: str = ""
    second: str = ""


def embed(folder: Path, results: Results, corpus: str | None = None) -> Embedded:
    """The examples of a folder of runs; corpus: where the recipe's corpus is now."""
    try:
        rows = read_example_rows(folder, results, corpus=corpus)
    except OnepassError as error:
        return Embedded(f"Examples are left out: {error}.")
    return embedded(rows, results.split)


def embedded(rows: Sequence[ExampleRow], split: str) -> Embedded:
    """The first examples of each task, in turn, up to `EXAMPLES` of them and `SIZE` characters."""
    if not rows:
        return Embedded("Examples are left out: there are none.")
    methods = list(dict.fromkeys(name for row in rows for name in row.answers))
    scores = [answer.scores for row in rows for answer in row.answers.values()]
    metrics = list(dict.fromkeys(name for each in scores for name in each))
    metrics.sort(key=lambda name: name != VERIFIED)
    seeds = {row.task: row.seed for row in reversed(rows)}
    first_seed = [row for row in rows if row.seed == seeds[row.task]]
    parts: list[str] = []
    size = 0
    for row in _in_turn(first_seed)[:EXAMPLES]:
        part = json.dumps(_example(row), ensure_ascii=False).translate(_ESCAPED)
        size += len(part)
        if size > SIZE:
            break
        parts.append(part)
    head = {
        "methods": methods,
        "binary": [m for m in metrics if {each.get(m) for each in scores} <= {0.0, 1.0, None}],
    }
    text = json.dumps(head, ensure_ascii=False).translate(_ESCAPED)
    best = sorted(methods, key=lambda name: -_mean(rows, name, metrics))
    return Embedded(
        _note(rows, first_seed, len(parts), split),
        len(parts),
        f'{text[:-1]}, "examples": [{", ".join(parts)}]}}',
        list(seeds),
        metrics,
        methods,
        best[0],
        best[min(1, len(best) - 1)],
    )


def _note(
    rows: Sequence[ExampleRow], first_seed: Sequence[ExampleRow], count: int, split: str
) -> str:
    found = [f"{count:,} of the {len(first_seed):,} examples of the split {split}"]
    if count < len(first_seed):
        found.append(
            f"the first of each task, for a page holds at most {EXAMPLES} examples and "
            f"{SIZE / 1e6:g} MB of them; the rest is left out"
        )
    if len(first_seed) < len(rows):
        found.append("outputs are those of the first seed")
    found.append(f"of texts longer than {TEXT:,} characters only the beginning is here")
    return "; ".join(found) + "."


def _in_turn(rows: Sequence[ExampleRow]) -> list[ExampleRow]:
    """The first row of each task, then the second of each, and so on."""
    tasks: dict[str, list[ExampleRow]] = {}
    for row in rows:
        tasks.setdefault(row.task, []).append(row)
    return [row for rank in zip_longest(*tasks.values()) for row in rank if row is not None]


def _example(row: ExampleRow) -> Mapping[str, Any]:
    return {
        "task": row.task,
        "id": _cut(row.id),
        "input": _cut(row.input),
        "targets": [_cut(text) for text in row.targets[:4]],
        "outputs": {
            name: {
                "text": _cut(answer.output),
                "scores": dict(answer.scores),
                "why": _cut(answer.reasons),
            }
            for name, answer in row.answers.items()
        },
    }


def _cut(text: str) -> str:
    if len(text) <= TEXT:
        return text
    return f"{text[:TEXT]} … ({len(text) - TEXT:,} more characters)"


def _mean(rows: Sequence[ExampleRow], method: str, metrics: Sequence[str]) -> float:
    """The mean of the first metric, in the rows that have it."""
    answers = [row.answers[method].scores for row in rows if method in row.answers]
    values = [value for each in answers if (value := each.get(metrics[0])) is not None]
    return fmean(values) if values else 0.0
