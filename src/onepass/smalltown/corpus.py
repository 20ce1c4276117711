"""Examples of any task and split, made from meanings.

Summaries and replies, plain or composed with anything, have a conversation as input. Auxiliary
tasks have a single English sentence: a summary or a reply, in either plain wording (a translation
also takes the other tones).

A target is the *first* wording of its meaning, language and tone (a translation's, the one that its
source has): what there is to learn is then a function of the input, which greedy decoding can get
right. The other wordings are further targets, just as good.

Beside train, validation and test there are two harder tests: "test-wordings" (conversations told in
wordings that no training data has) and "test-unseen" (two scenarios that no training data has).

`meta` of every example holds "meaning", "kind" and "tone": all that the verifier needs.
"""

import itertools
import random
from collections.abc import Iterator

from onepass.core.errors import OnepassError
from onepass.core.registry import unknown
from onepass.smalltown.meaning import Meaning, sample
from onepass.smalltown.render import conversation, texts
from onepass.smalltown.world import KINDS, TONES, wanted
from onepass.tasks.example import Example
from onepass.tasks.task import Task

# How many examples an unlimited request gets: more than any budget of the literature.
_DEFAULT_SIZE = {
    "train": 20_000,
    "validation": 1_000,
    "test": 1_000,
    "test-wordings": 1_000,
    "test-unseen": 1_000,
}


class Smalltown:
    """The embedded corpus. A larger limit starts with the very examples of a smaller one."""

    name = "smalltown"

    def examples(self, task: Task, split: str, limit: int | None = None) -> list[Example]:
        """As `Corpus.examples`, for the five splits that the module describes."""
        if split not in _DEFAULT_SIZE:
            raise unknown("split", split, list(_DEFAULT_SIZE))
        size = _DEFAULT_SIZE[split] if limit is None else limit
        return list(itertools.islice(self.stream(task, split), size))

    def stream(self, task: Task, split: str) -> Iterator[Example]:
        """An endless stream of examples."""
        unseen, asked = split == "test-wordings", wanted(task)
        if unseen and not asked.kind:
            raise OnepassError(
                f"{task.name} has no split test-wordings: only conversations have wordings that "
                "are kept for tests; use test or test-unseen"
            )
        # The conversations are those of the main task, whatever it is composed with: as in the
        # literature, compositional targets are made from the main task's data.
        seed = task.parts[0].name if asked.kind else task.name
        rng = random.Random(f"smalltown/{split}/{seed}/text")
        for number, meaning in enumerate(sample("test" if unseen else split, seed)):
            name = f"{split}-{number}"
            if asked.kind:
                yield _from_conversation(task, name, meaning, rng, unseen=unseen)
            else:
                yield _from_sentence(task, name, meaning, rng)


def _from_conversation(
    task: Task, name: str, meaning: Meaning, rng: random.Random, *, unseen: bool
) -> Example:
    asked = wanted(task)
    text = conversation(meaning, rng, unseen=unseen)
    targets = texts(meaning, asked.kind, asked.language, asked.tone)
    meta = {"meaning": meaning.to_json(), "kind": asked.kind, "tone": asked.tone}
    return Example(name, text, tuple(targets), meta)


def _from_sentence(task: Task, name: str, meaning: Meaning, rng: random.Random) -> Example:
    kind, language = rng.choice(KINDS), wanted(task).language
    tone = wanted(task).tone
    source_tone = "plain"
    if language != "en" and tone == "plain" and rng.random() < 0.4:
        # A translation keeps the tone of what it translates.
        tone = source_tone = rng.choice(TONES[1:])
    sources = texts(meaning, kind, "en", source_tone)
    place = rng.randrange(len(sources))
    targets = texts(meaning, kind, language, tone)
    if tone == source_tone:
        targets.insert(0, targets.pop(place))
    meta = {"meaning": meaning.to_json(), "kind": kind, "tone": tone}
    return Example(name, sources[place], tuple(targets), meta)
