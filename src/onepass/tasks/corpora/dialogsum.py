"""DialogSum (Chen et al. 2021, arXiv 2105.06762): English conversations with summaries.

Upstream a row is a conversation, with "summary", or "summary1" to "summary3" in the test split. On
the hub a test conversation has three rows, one for each summary: they become one example, with the
id that it has upstream.
"""

import re
from collections.abc import Iterable, Iterator

from onepass.tasks.corpora.kind import Kind
from onepass.tasks.corpora.row import Row, clean
from onepass.tasks.example import Example
from onepass.tasks.task import Task

LAYOUT = '"dialogue" and "summary" (or "summary1", "summary2", ...)'


def read(rows: Iterable[Row], task: Task) -> Iterator[tuple[str, Example]]:
    first: dict[tuple[str, str], Row] = {}
    targets: dict[tuple[str, str], dict[str, None]] = {}
    for row in rows:
        text = row.text("dialogue", LAYOUT)
        keys = sorted(key for key in row.fields if re.fullmatch(r"summary\d*", key))
        if not keys:
            raise row.wrong_layout("summary", LAYOUT)
        given = str(row.fields.get("fname") or row.fields.get("id") or "")
        conversation = re.sub(r"^(test_\d+)_\d+$", r"\1", given), text
        first.setdefault(conversation, row)
        summaries = {clean(row.fields[key], key, row.where): None for key in keys}
        targets.setdefault(conversation, {}).update(summaries)
    for (id_, text), row in first.items():
        yield row.where, Example(id_ or row.name, text, tuple(targets[id_, text]))


DIALOGSUM = Kind(read, ("summarize",))
