"""Synthetic-Persona-Chat (Jandaghi et al. 2023, arXiv 2312.10007): every turn is a reply.

A conversation of n turns gives n - 1 examples: the turns before the k-th, and the k-th, for k from
2 to n. Their id is the conversation's with the turn: "validation-12/3". What the examples of a
conversation share as `meta["group"]` keeps it whole when one file is split.

Turns without a word are no reply to learn. Lines that name no speaker belong to the turn before
them, unless they are stage directions: "(Later)", "[At the gym]", "* * *".
"""

import hashlib
import re
from collections.abc import Iterable, Iterator
from itertools import pairwise

from onepass.tasks.corpora.reader import Reader
from onepass.tasks.corpora.row import Row
from onepass.tasks.example import Example
from onepass.tasks.task import Task

COLUMN = "Best Generated Conversation"
LAYOUT = f'"{COLUMN}" (and "user 1 personas", "user 2 personas", which are not used)'

_TURN = re.compile(r"^[\s*]*User [12]:\**\s*")  # some carry markup: "*User 1:* Hi"
_STAGE_DIRECTION = ("(", "[", "*")


def read(rows: Iterable[Row], task: Task) -> Iterator[tuple[str, Example]]:
    for row in rows:
        text = row.text(COLUMN, LAYOUT)
        lines = [line for line in text.split("\n") if line.strip()]
        turns = [index for index, line in enumerate(lines) if _TURN.match(line)]
        meta = {"group": hashlib.sha256(text.encode()).hexdigest()[:16]}
        for number, (start, end) in enumerate(pairwise([*turns, len(lines)]), start=1):
            said = [_TURN.sub("", lines[start])]
            said += [x for x in lines[start + 1 : end] if not x.startswith(_STAGE_DIRECTION)]
            reply = "\n".join(said).strip(" *\n")
            if number > 1 and reply:
                before = "\n".join(lines[:start])
                yield row.where, Example(f"{row.name}/{number}", before, (reply,), meta)


PERSONA_CHAT = Reader(read, ("reply",), shuffled=True)
