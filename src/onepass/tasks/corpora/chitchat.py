"""Chitchat (Myers et al. 2020): conversations between two people, where every turn is a reply.

A row has "turns", a list such as ["A: Hello!", "B: Hi."]; the "prompt" that the two were given to
talk about is not used. As of persona-chat a conversation of n turns gives n - 1 examples, with ids
such as "row-12/3", and stays whole.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator

from onepass.core.errors import OnepassError
from onepass.tasks.corpora.reader import Reader
from onepass.tasks.corpora.row import Row, clean
from onepass.tasks.example import Example
from onepass.tasks.task import Task

LAYOUT = '"turns", a list of texts such as "A: Hello!" (and "prompt", which is not used)'

_SPEAKER = re.compile(r"\w+:\s*")


def read(rows: Iterable[Row], task: Task) -> Iterator[tuple[str, Example]]:
    for row in rows:
        if "turns" not in row.fields:
            raise row.wrong_layout("turns", LAYOUT)
        turns = [clean(turn, "turns", row.where) for turn in row.structure("turns", list)]
        for turn in turns:
            if not _SPEAKER.match(turn):
                raise OnepassError(f'{row.where}: {turn!r:.40} names no speaker, as "A: Hello!"')
        text = "\n".join(turns)
        meta = {"group": hashlib.sha256(text.encode()).hexdigest()[:16]}
        for number in range(2, len(turns) + 1):
            reply = _SPEAKER.sub("", turns[number - 1], count=1)
            if reply:
                before = "\n".join(turns[: number - 1])
                yield row.where, Example(f"{row.name}/{number}", before, (reply,), meta)


CHITCHAT = Reader(read, ("reply",), shuffled=True, apart=True)
