"""Examples of any task and split, made from meanings.

Summaries and replies, plain or composed with anything, have a conversation as input. Auxiliary
tasks have a single English sentence: a summary or a reply in its *second* plain wording (a
translation also takes the other tones). The first wording is kept from them on purpose, so that a
pipeline of two adapters meets, as in life, text that its second adapter was not trained on.

`meta` of every example holds "meaning" and "kind" (all that the verifier needs) and "unseen":
"" or what about the input was in no training data ("wordings", "scenario").
"""

import itertools
import random
from collections.abc import Iterator

from onepass.core.registry import unknown
from onepass.tasks.example import Example
from onepass.tasks.smalltown.meaning import SPLITS, Meaning, sample
from onepass.tasks.smalltown.render import conversation, texts
from onepass.tasks.smalltown.world import KINDS
from onepass.tasks.task import TONES, Task

KIND_OF = {"summarize": "summary", "reply": "reply"}
"""What a main task makes, one of `KINDS`."""

# How many examples an unlimited request gets: more than any budget of the literature.
_DEFAULT_SIZE = {"train": 20_000, "validation": 1_000, "test": 1_000, "test-unseen": 1_000}


class Smalltown:
    """The embedded corpus. A larger limit starts with the very examples of a smaller one."""

    name = "smalltown"

    def examples(self, task: Task, split: str, limit: int | None = None) -> list[Example]:
        """As `Corpus.examples`; "test-unseen" holds the scenarios that no training data has."""
        if split not in SPLITS:
            raise unknown("split", split, list(SPLITS))
        size = _DEFAULT_SIZE[split] if limit is None else limit
        return list(itertools.islice(self.stream(task, split), size))

    def stream(self, task: Task, split: str) -> Iterator[Example]:
        """An endless stream of examples."""
        # The conversations are those of the main task, whatever it is composed with: as in the
        # literature, compositional targets are made from the main task's data.
        seed = task.main or task.name
        rng = random.Random(f"smalltown/{split}/{seed}/text")
        for number, meaning in enumerate(sample(split, seed)):
            make = _from_conversation if task.main else _from_sentence
            yield make(task, split, f"{split}-{number}", meaning, rng)


def _from_conversation(
    task: Task, split: str, name: str, meaning: Meaning, rng: random.Random
) -> Example:
    kind = KIND_OF[task.main or ""]
    unseen = split.startswith("test") and rng.random() < 0.5
    text = conversation(meaning, rng, unseen=unseen)
    targets = texts(meaning, kind, task.language, task.tone)
    rng.shuffle(targets)
    what = "scenario" if split == "test-unseen" else "wordings" if unseen else ""
    meta = {"meaning": meaning.to_json(), "kind": kind, "unseen": what}
    return Example(name, text, tuple(targets), meta)


def _from_sentence(
    task: Task, split: str, name: str, meaning: Meaning, rng: random.Random
) -> Example:
    kind = rng.choice(KINDS)
    tone = task.tone
    source_tone = "plain"
    if task.language != "en" and tone == "plain" and rng.random() < 0.4:
        # A translation keeps the tone of what it translates.
        tone = source_tone = rng.choice(TONES[1:])
    sources = texts(meaning, kind, "en", source_tone)
    if source_tone == "plain":
        sources = sources[-1:]
    text = rng.choice(sources)
    targets = texts(meaning, kind, task.language, tone)
    rng.shuffle(targets)
    what = "scenario" if split == "test-unseen" else ""
    meta = {"meaning": meaning.to_json(), "kind": kind, "unseen": what, "tone": tone}
    return Example(name, text, tuple(targets), meta)
