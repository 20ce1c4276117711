"""What the tiny base is pretrained on: general town text and generic instructions.

Everything is rendered from *training* meanings with training wordings. No document is a
compositional task: a conversation is only ever answered in English and in the plain tone (except
single facts, which are phrases), and texts in other languages and tones stand alone, are written
from a list of facts, or are reworded in their own language. The real tasks' instructions are
deliberately rare, so that the base knows their form and an adapter has something to learn.

`MIX` is the data statement: kinds of documents and their shares in percent.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from onepass.smalltown.meaning import Meaning, sample, values_of
from onepass.smalltown.render import conversation, texts
from onepass.smalltown.world import (
    KIND_OF,
    KINDS,
    LANGUAGES,
    TONES,
    language,
    town,
    wanted,
)
from onepass.tasks.benchmark import SINGLE_TASKS
from onepass.tasks.book import parse_task
from onepass.tasks.prompt import build_prompt

LANGUAGE_NAMES = {"en": "English", "es": "Spanish", "fr": "French", "de": "German"}


@dataclass(frozen=True, slots=True)
class Document:
    """A text, or (with a `prompt`) one exchange of a user and an assistant."""

    text: str
    prompt: str = ""


_SYLLABLES = (
    "ba", "co", "de", "fi", "gu", "ha", "jo", "ka", "li", "mo", "nu", "pe", "qui", "ra", "so", "ta",
    "ve", "wi", "xo", "zu", "bran", "fel", "gri", "stu", "plo",
)  # fmt: skip


def _phrase(rng: random.Random, code: str, kind: str, value: str) -> str:
    return rng.choice(list(language(code).forms[kind][value].values()))


def _some_value(rng: random.Random) -> tuple[str, str]:
    kind = rng.choice([*town().values, "name", "name", "name"])
    return kind, rng.choice(values_of(kind))


def _any_text(meaning: Meaning, rng: random.Random) -> tuple[str, str, str]:
    """A text of a random language and tone, with the two."""
    code, tone = rng.choice(LANGUAGES), rng.choice(TONES)
    return rng.choice(texts(meaning, rng.choice(KINDS), code, tone)), code, tone


def _chat(meaning: Meaning, rng: random.Random) -> Document:
    return Document(conversation(meaning, rng))


def _sentences(meaning: Meaning, rng: random.Random) -> Document:
    return Document(_any_text(meaning, rng)[0])


def _copy_of(text: str, rng: random.Random) -> Document:
    asked = rng.choice(["Repeat the text.", "Copy this text.", "Say this again."])
    return Document(text, f"{asked}\n\n{text}")


def _repeat(meaning: Meaning, rng: random.Random) -> Document:
    """Copying of random words: the skill that keeps names and numbers from being swapped."""
    words = []
    for _ in range(rng.randint(3, 12)):
        if rng.random() < 0.25:
            words.append("".join(rng.choices(_SYLLABLES, k=rng.randint(1, 3))))
        else:
            words.append(_phrase(rng, rng.choice(LANGUAGES), *_some_value(rng)))
    return _copy_of(" ".join(words), rng)


def _repeat_sentence(meaning: Meaning, rng: random.Random) -> Document:
    return _copy_of(_any_text(meaning, rng)[0], rng)


def _dictionary(meaning: Meaning, rng: random.Random) -> Document:
    """Phrases (never sentences) in another language."""
    code = rng.choice(LANGUAGES[1:])
    source, target = [], []
    for _ in range(rng.randint(2, 6)):
        kind, value = _some_value(rng)
        source.append(_phrase(rng, "en", kind, value))
        target.append(next(iter(language(code).forms[kind][value].values())))
    prompt = f"Give these words in {LANGUAGE_NAMES[code]}.\n\n{'; '.join(source)}"
    return Document("; ".join(target), prompt)


def _facts(meaning: Meaning, rng: random.Random, code: str) -> str:
    """The facts of a meaning as a list: "lend no; Ben; Tina; the drill; because of work"."""
    types = town().scenarios[meaning.scenario].slots
    phrases = [_phrase(rng, code, types[slot], value) for slot, value in meaning.slots.items()]
    return "; ".join([f"{meaning.scenario} {meaning.outcome}".strip(), *phrases])


def _write(meaning: Meaning, rng: random.Random) -> Document:
    """A sentence from a list of facts, in a language and a tone."""
    kind, code, tone = rng.choice(KINDS), rng.choice(LANGUAGES), rng.choice(TONES)
    manner = "" if tone == "plain" else f" {tone}"
    what = {"summary": "note", "reply": "message"}[kind]
    prompt = f"Write a{manner} {what} in {LANGUAGE_NAMES[code]} from these facts."
    listed = _facts(meaning, rng, rng.choice(["en", code]))
    return Document(rng.choice(texts(meaning, kind, code, tone)), f"{prompt}\n\n{listed}")


def _reword(meaning: Meaning, rng: random.Random) -> Document:
    """The other plain wording, in the same language."""
    kind, code = rng.choice(KINDS), rng.choice(LANGUAGES)
    both = texts(meaning, kind, code, "plain")
    first, second = rng.sample(both, 2)
    return Document(second, f"Say this in another way.\n\n{first}")


def _list_facts(meaning: Meaning, rng: random.Random) -> Document:
    """The facts of a conversation or of a text, as a list in English."""
    if rng.random() < 0.6:
        source = conversation(meaning, rng)
    else:
        source = texts(meaning, "summary", rng.choice(LANGUAGES), rng.choice(TONES))[0]
    return Document(_facts(meaning, random.Random(0), "en"), f"List the facts.\n\n{source}")


_QUESTIONS = {
    "day": "Which day is it?", "time": "At what time?", "place": "Which place?",
    "item": "Which thing?", "errand": "Help with what?",
    "event": "Which event?", "dish": "Which food?", "pet": "Which animal?", "city": "Which town?",
    "transport": "How do they travel?", "price": "How many euros?", "reason": "For what reason?",
    "appointment": "Which date is it about?",
}  # fmt: skip


def _question(meaning: Meaning, rng: random.Random) -> Document:
    """One fact of a conversation, as a phrase in any language."""
    types = town().scenarios[meaning.scenario].slots
    kinds = list(types.values())
    slot = rng.choice(
        [s for s in meaning.slots if types[s] in _QUESTIONS and kinds.count(types[s]) == 1]
    )
    code = rng.choice(["en", "en", *LANGUAGES])
    answer = next(iter(language(code).forms[types[slot]][meaning.slots[slot]].values()))
    prompt = f"{_QUESTIONS[types[slot]]} Answer in {LANGUAGE_NAMES[code]}."
    return Document(answer, f"{prompt}\n\n{conversation(meaning, rng)}")


def _which_language(meaning: Meaning, rng: random.Random) -> Document:
    text, code, tone = _any_text(meaning, rng)
    if rng.random() < 0.5:
        return Document(LANGUAGE_NAMES[code], f"Which language is this?\n\n{text}")
    return Document(tone, f"Which tone is this?\n\n{text}")


def _single_task(meaning: Meaning, rng: random.Random) -> Document:
    """The deliberately weak share of the nine single tasks, in their own instructions."""
    task = parse_task(rng.choice(["summarize", "reply", *SINGLE_TASKS]))
    kind = KIND_OF.get(task.name) or rng.choice(KINDS)
    english = rng.choice(texts(meaning, kind, "en", "plain"))
    source = conversation(meaning, rng) if task.main else english
    asked = wanted(task)
    target = texts(meaning, kind, asked.language, asked.tone)[0]
    return Document(target, build_prompt(task, source))


MIX: dict[Callable[[Meaning, random.Random], Document], int] = {
    _chat: 8,
    _sentences: 14,
    _repeat: 14,
    _repeat_sentence: 5,
    _dictionary: 9,
    _write: 20,
    _reword: 5,
    _list_facts: 11,
    _question: 6,
    _which_language: 2,
    _single_task: 6,
}


def documents(seed: str) -> Iterator[Document]:
    """An endless stream of pretraining documents, the same for the same seed."""
    rng = random.Random(f"smalltown/pretrain/{seed}")
    for meaning in sample("train", f"pretrain/{seed}"):
        (make,) = rng.choices(list(MIX), weights=list(MIX.values()))
        yield make(meaning, rng)
