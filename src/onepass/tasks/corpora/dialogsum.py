"""DialogSum (Chen et al. 2021, arXiv 2105.06762): English conversations with summaries.

Upstream a row is a conversation, with "summary", or "summary1" to "summary3" in the test split. On
the hub a test conversation has three rows, one for each summary: they become one example, with the
id that it has upstream.
"""

import re
from collections.abc import Iterable, Iterator

from onepass.tasks.corpora import layouts
from onepass.tasks.corpora.reader import Reader
from onepass.tasks.corpora.row import Row
from onepass.tasks.example import Example
from onepass.tasks.task import Task

LAYOUT = '"dialogue" and "summary" (or "summary1", "summary2", ...)'
_OF_DIALOGSUM = re.compile(r"dialogue|summary\d*")


def read(rows: Iterable[Row], task: Task) -> Iterator[tuple[str, Example]]:
    found: dict[tuple[str, str], tuple[str, Example]] = {}
    for row in rows:
        for key in ("dialogue", "summary"):
            if not any(name.startswith(key) for name in row.fields):
                raise row.wrong_layout(key, LAYOUT)
        fields = {key: value for key, value in row.fields.items() if _OF_DIALOGSUM.fullmatch(key)}
        given = str(row.given.get("fname") or row.given.get("id") or "")
        fields["id"] = re.sub(r"^(test_\d+)_\d+$", r"\1", given)
        ((where, example),) = layouts.read([row._replace(fields=fields)], task)
        conversation = fields["id"], example.input
        if conversation in found:
            where, first = found[conversation]
            example = Example(first.id, first.input, first.targets + example.targets)
        found[conversation] = where, example
    for where, example in found.values():
        yield where, Example(example.id, example.input, tuple(dict.fromkeys(example.targets)))


DIALOGSUM = Reader(read, ("summarize",))
