"""The dataset card of a preparation, in the hub's format; the text is in card.md."""

import re
from importlib.resources import files

from huggingface_hub import DatasetCard, DatasetCardData

from onepass import __version__
from onepass.prepare.filters import FILTERS
from onepass.prepare.labeller import FAILED
from onepass.prepare.sets import HEADER, Prepared
from onepass.tasks.corpora.facts import Facts, facts_of
from onepass.tasks.corpus import CORPORA

_CATEGORIES = {"summarize": "summarization", "reply": "text-generation"}
_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"))


def card_text(prepared: Prepared, command: str) -> str:
    """The card; the same preparation gives the same text."""
    tasks = list(dict.fromkeys(each.task for each in prepared.sets))
    rows = sum(each.rows for each in prepared.sets)
    languages = {"en", *(task.language for task in tasks if task.language)}
    corpora = {each.corpus: _facts(each.corpus) for each in prepared.sets}
    # No `configs`: the names of the files tell their splits, to the hub and to onepass.
    data = DatasetCardData(
        language=sorted(languages),
        license=sorted({_licence_id(facts) for facts in corpora.values()}),
        task_categories=sorted(
            {_CATEGORIES.get(task.parts[0].name, "text-generation") for task in tasks}
        ),
        size_categories=[next((name for most, name in _SIZES if rows < most), "n>1M")],
        annotations_creators=["machine-generated"],
        multilinguality=["translation" if len(languages) > 1 else "monolingual"],
        tags=["onepass", *(task.name for task in tasks)],
    )
    first, last = prepared.dates
    identities = prepared.identities
    lines = [HEADER, ["---", *["---:"] * (len(HEADER) - 1)], *(each.row for each in prepared.sets)]
    card = DatasetCard.from_template(
        data,
        template_str=files("onepass.prepare").joinpath("card.md").read_text(encoding="utf-8"),
        pretty_name="Several tasks at once: " + ", ".join(sorted({t.parts[0].name for t in tasks})),
        corpora=corpora,
        table="\n".join(f"| {' | '.join(line)} |" for line in lines),
        reasons={
            "duplicated": "the same input twice, in a split or in two (test before validation "
            "before train)",
            **{name: _unwrapped(reason.__doc__) for name, reason in FILTERS.items()},
            FAILED: "the server gave no answer",
        },
        when=first if first == last else f"{first} to {last}",
        version=__version__,
        command=command,
        identities=identities,
        prompts={i.prompt_hash: i.prompt for i in identities.values() if i.prompt_hash},
    )
    return str(card.content).rstrip() + "\n"


def _unwrapped(text: str | None) -> str:
    return " ".join((text or "").split())


def _facts(corpus: str) -> Facts | None:
    """What is known of a corpus; None for the user's own files."""
    kind = corpus.partition(":")[0]
    return facts_of(kind) if kind in CORPORA else None


def _licence_id(facts: Facts | None) -> str:
    """The hub's name of a corpus's licence, which holds for what is made of it too."""
    found = facts and re.match(r"apache-2\.0|mit\b|cc by[a-z-]* \d\.\d", facts.licence.lower())
    return found.group().replace(" ", "-") if found else "other"
