"""The data sets of the paper's program by their names, and where they are below its folder data/.

Its README names dialogsum, dialogsum_es and tedtalks_es. The other languages follow from these; the
tones (dialogsum_witty) and the names of the reply and tone sets are inferred.
"""

from dataclasses import dataclass
from pathlib import Path

from onepass.core.registry import unknown
from onepass.tasks.benchmark import SINGLE_TASKS
from onepass.tasks.corpora.facts import facts_of
from onepass.tasks.corpora.files import ENDINGS, records
from onepass.tasks.corpora.source import named_files

STEMS = {
    "dialogsum": ("summarize", "dialogsum"),
    "persona_chat": ("reply", "persona-chat"),
    "synthetic_persona_chat": ("reply", "persona-chat"),
    "tedtalks": ("translate", "ted"),
    "sound_natural": ("tone", "tone"),
    "tone": ("tone", "tone"),
}
"""What the name of a data set begins with: its task or kind of task, and its corpus here."""
SUFFIXES = {part.partition(":")[2]: part for part in SINGLE_TASKS if ":" in part}
"""What it may end with ("es", "witty"), with the auxiliary task that is."""


_SHARED = {"translate": "ted", "tone": "tones"}


@dataclass(frozen=True)
class DataSet:
    """A data set by its name in the paper's program.

    places: where it may be below data/: in a place of its own, in one for all languages or tones,
    or, of a pair of tasks, among what `onepass data prepare` made. corpus: the public one, of a
    pair that of its main task.
    """

    name: str
    task: str
    places: tuple[str, ...]
    corpus: str

    @property
    def kind(self) -> str:
        """The corpus whose layout its rows may have; "" if they are rows of one's own."""
        return "" if "+" in self.task else self.corpus


def data_sets() -> dict[str, DataSet]:
    """The data sets that have a name here: dialogsum, dialogsum_es, tedtalks_es, ..."""
    found = []
    for stem, (kind, corpus) in STEMS.items():
        if kind in SINGLE_TASKS:
            found.append(DataSet(stem, kind, (stem,), corpus))
        for suffix, part in SUFFIXES.items():
            name = f"{stem}_{suffix}"
            if kind in SINGLE_TASKS:
                found.append(DataSet(name, f"{kind}+{part}", (name, "paper", ""), corpus))
            elif part.startswith(f"{kind}:"):
                found.append(DataSet(name, part, (name, stem, _SHARED[kind]), corpus))
    return {each.name: each for each in found}


def data_set(name: str) -> DataSet:
    """The data set called `name`; an `OnepassError` if there is none."""
    known = data_sets()
    if name not in known:
        raise unknown("data set", name, list(known))
    return known[name]


def corpus_of(asked: DataSet, data: Path) -> tuple[str, str]:
    """The corpus of a data set, and what is to be done if there is none ("" if there is)."""
    for name in asked.places:
        files = [data / f"{name}{ending}" for ending in ENDINGS] if name else []
        for place in (data / name, *files):
            if place.is_file() or (place.is_dir() and (name or _has_splits(place))):
                return _in_layout(place, asked.kind), ""
    if asked.kind and facts_of(asked.kind).hub:
        return asked.kind, ""
    where, tone = data / asked.name, asked.task.rpartition(":")[2]
    missing = f"no data for {asked.name}: {where} should hold train.jsonl, validation.jsonl, "
    if asked.kind:
        return str(
            where
        ), f"{missing}test.jsonl, with the columns text and {tone}; see docs/data.md"
    command = f"onepass data prepare --corpus {asked.corpus} --tasks {asked.task} --out {where}"
    return str(where), (
        f"{missing}test.jsonl, with the columns input and target; write them, or make them with "
        f"`{command}` and a labeller (docs/prepare.md)"
    )


def _has_splits(folder: Path) -> bool:
    return any(file.parent == folder for file in named_files(folder))


def _in_layout(place: Path, kind: str) -> str:
    """The corpus at a place: in the public layout `kind`, unless its rows have an "input"."""
    files = named_files(place) if place.is_dir() else [place]
    first = next(records(files[0], quoted=kind != "ted"))[1] if files else {}
    if not kind and any(name.startswith("summary_") for name in first):
        kind = "dialogsumx"
    return f"{kind}:{place}" if kind and "input" not in first else str(place)
