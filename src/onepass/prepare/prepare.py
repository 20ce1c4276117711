"""Preparing compositional sets: what is read is labelled part by part, filtered and written.

A folder of a preparation holds one file per split, with the lines of all tasks, so that it can be
named as the corpus of all of them:

    train.jsonl, validation.jsonl, test.jsonl    as `read_examples` reads them
    README.md                                    the dataset card
    .cache/labels.sqlite                         every label ever made for it
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from onepass.core.errors import OnepassError
from onepass.core.files import atomic_file, write_text
from onepass.core.registry import unknown
from onepass.core.text import whole
from onepass.model.progress import progress_bar
from onepass.prepare.card import card_text
from onepass.prepare.filters import problem
from onepass.prepare.labeller import FAILED, Identity, Label, Labeller, Options
from onepass.prepare.labellers import LABELLERS
from onepass.prepare.sets import Prepared, Set
from onepass.prepare.sources import Source, read_sources
from onepass.prepare.store import Store, today
from onepass.tasks.benchmark import COMPOSITIONAL_TASKS
from onepass.tasks.book import parse_task
from onepass.tasks.corpus import SPLITS, example_rows
from onepass.tasks.example import Example
from onepass.tasks.task import Task

CACHE = Path(".cache", "labels.sqlite")
CARD = "README.md"


@dataclass(frozen=True)
class Plan:
    """What is to be prepared.

    tasks: None for all of the benchmark that the corpora have main-task examples for.
    labellers: the name of one for each kind of part: "translate" for those with a language, "tone"
        for all others.
    from_conversations: the main task's texts are made by multi-step too, not read from the corpus.
    allow_missing: write without the labels that an endpoint failed to make.
    """

    corpora: Sequence[str]
    tasks: Sequence[Task] | None = None
    labellers: Mapping[str, str] = field(default_factory=dict)
    splits: Sequence[str] = SPLITS
    limit: int | None = None
    from_conversations: bool = False
    allow_missing: bool = False


def prepare(
    plan: Plan, options: Options, out: Path, command: str = "", progress: bool = False
) -> Prepared:
    """Write the folder `out`; nothing is labelled twice, in a later call either.

    Raises `OnepassError` for what cannot be done, and if an endpoint has failed to make some
    labels; those that were made are kept, and the same plan goes on from there.
    """
    tasks = list(plan.tasks or map(parse_task, COMPOSITIONAL_TASKS))
    _check(tasks, plan)
    _check_own(out, plan.splits)
    # If the tasks are named, check their labellers before reading the corpora.
    workers = _workers(tasks, plan, options) if plan.tasks else None
    mains = list(dict.fromkeys(task.main for task in tasks if task.main))
    sources = read_sources(
        plan.corpora, mains, plan.splits, plan.limit, labelled=not plan.from_conversations
    )
    served = {source.main for source in sources}
    for task in tasks:
        if plan.tasks and task.parts[0].name not in served:
            raise OnepassError(
                f"{', '.join(plan.corpora)} has no examples of {task.parts[0]}, needed by {task};"
                " name a corpus that has, beside it"
            )
    tasks = [task for task in tasks if task.parts[0].name in served]
    labellers, identities = workers or _workers(tasks, plan, options)
    _sweep(out)
    with closing(Store(out / CACHE)) as store:
        queue = _Queue(labellers, identities, store, plan.allow_missing, progress)
        outcomes = {
            task.name: queue.run(_chain(task, plan), _texts(task, sources, plan)) for task in tasks
        }
    if queue.failed and not plan.allow_missing:
        first = next(iter(queue.failed.values()))
        raise OnepassError(
            f"{len(queue.failed)} labels failed, the first because: {first}. The others are kept "
            f"in {out / CACHE}: the same command asks for these only, and with --allow-missing it "
            "writes the sets without them"
        )
    sets = []
    for split in plan.splits:
        rows = []
        for task in tasks:
            (source,) = (s for s in sources if (s.main, s.split) == (task.parts[0].name, split))
            steps = [identities[part.name] for part in _chain(task, plan)]
            examples, one = _examples(task, source, outcomes[task.name], steps, plan)
            rows.append(example_rows(examples, task))
            sets.append(one)
        _write_lines(out / f"{split}.jsonl", (row for some in rows for row in some))
    dates = {date for some in outcomes.values() for each in some.values() for date in each.dates}
    dates = dates - {""} or {today()}  # what failed has none
    prepared = Prepared(sets, queue.made, identities, (min(dates), max(dates)))
    write_text(out / CARD, card_text(prepared, command))
    return prepared


def _check(tasks: Sequence[Task], plan: Plan) -> None:
    for task in tasks:
        if task.main is None or not task.auxiliaries:
            raise OnepassError(
                f"task {task.name!r} is not compositional; give one such as summarize+translate:es"
            )
    for what, names in (("task", [t.name for t in tasks]), ("split", plan.splits)):
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise OnepassError(f"the {what} {twice[0]!r} is named twice")
    for name in plan.splits:
        if name not in SPLITS:
            raise unknown("split", name, list(SPLITS))
    for name in plan.labellers.values():
        LABELLERS.get(name)


def _chain(task: Task, plan: Plan) -> tuple[Task, ...]:
    """The single tasks that are done one after the other."""
    return task.parts if plan.from_conversations else task.auxiliaries


def _workers(
    tasks: Sequence[Task], plan: Plan, options: Options
) -> tuple[dict[str, Labeller], dict[str, Identity]]:
    """The labeller and the identity of each single task that these need."""
    parts = dict.fromkeys(part for task in tasks for part in _chain(task, plan))
    makers = {part: _labeller(part, plan) for part in parts}
    made = {name: LABELLERS.get(name)(options) for name in dict.fromkeys(makers.values())}
    labellers = {part.name: made[name] for part, name in makers.items()}
    return labellers, {part.name: labellers[part.name].identity(part) for part in parts}


def _labeller(part: Task, plan: Plan) -> str:
    """The name of the labeller of a single task."""
    kind = "translate" if part.language else "tone"
    if part.role == "main":
        return "multi-step"
    if kind not in plan.labellers:
        raise OnepassError(
            f"{part.name} needs a labeller: give --{kind}-with NAME, one of {', '.join(LABELLERS)}"
        )
    return plan.labellers[kind]


def _texts(task: Task, sources: Sequence[Source], plan: Plan) -> list[str]:
    """All texts that the task's first step starts from, each once."""
    examples = (
        e for source in sources if source.main == task.parts[0].name for e in source.examples
    )
    return list(dict.fromkeys(text for e in examples for text in _starts(e, plan)))


def _starts(example: Example, plan: Plan) -> tuple[str, ...]:
    return (example.input,) if plan.from_conversations else example.targets


@dataclass(frozen=True)
class Outcome:
    """The result of a chain: a text, or a problem; the date of each step."""

    text: str
    problem: str = ""
    dates: tuple[str, ...] = ()


@dataclass
class _Queue:
    """Labels texts: from the store, else by the labeller. `made`: how many new labels were kept."""

    labellers: Mapping[str, Labeller]
    identities: Mapping[str, Identity]
    store: Store
    allow_missing: bool
    progress: bool
    made: int = 0
    failed: dict[tuple[str, str], str] = field(default_factory=dict)

    def run(self, chain: Sequence[Task], texts: Sequence[str]) -> dict[str, Outcome]:
        """The outcome for each text; a filtered label goes no step further."""
        outcomes = {text: Outcome(text) for text in texts}
        language = "en"
        for part in chain:
            language = part.language or language
            alive = {text: each for text, each in outcomes.items() if not each.problem}
            labels = self.labels(part, list(dict.fromkeys(each.text for each in alive.values())))
            for text, each in alive.items():
                label = labels[each.text]
                wrong = label.problem or problem(each.text, label.text, language)
                outcomes[text] = Outcome(label.text, wrong, (*each.dates, label.date))
        return outcomes

    def labels(self, part: Task, texts: Sequence[str]) -> dict[str, Label]:
        """The labels of a single task; those that failed are noted in `failed`."""
        identity, found = self.identities[part.name], {}
        keys = {text: identity.key(text) for text in texts}
        for text, key in keys.items():
            label = self.store.find(key)
            if label is not None:
                found[text] = label
        missing = sorted(keys.keys() - found.keys(), key=lambda text: (-len(text), text))
        if not missing:
            return found
        stored = len(found)
        with progress_bar(part.name, len(missing), self.progress) as update:

            def keep(labels: Mapping[str, Label]) -> None:
                dated = {text: _storable(label) for text, label in labels.items()}
                lasting = {t: label for t, label in dated.items() if label.problem != FAILED}
                self.store.add({keys[text]: label for text, label in lasting.items()})
                found.update(dated)
                self.made += len(lasting)
                update(len(found) - stored, "")

            try:
                self.labellers[part.name].label(part, missing, keep)
            except OnepassError as error:
                if not self.allow_missing or not self.made:
                    count = sum(label.problem != FAILED for label in found.values())
                    raise OnepassError(
                        f"{part.name}: {count} of {len(keys)} labels are made, and kept in "
                        f"{self.store.path} for when the same command goes on. {error}"
                    ) from error
                rest = Label(problem=FAILED, detail=str(error))
                found.update({text: rest for text in missing if text not in found})
        for text, label in found.items():
            if label.problem == FAILED:
                self.failed[part.name, text] = label.detail
        return found


def _storable(label: Label) -> Label:
    """Dated, and encodable in UTF-8."""
    return replace(label, text=whole(label.text), date=today())


def _examples(
    task: Task,
    source: Source,
    outcomes: Mapping[str, Outcome],
    steps: Sequence[Identity],
    plan: Plan,
) -> tuple[list[Example], Set]:
    """The examples of a compositional task in a split, and the counts of what was left out."""
    made, counts = [], Counter({"duplicated": source.duplicated})
    labels = 0
    for example in source.examples:
        found = [outcomes[text] for text in _starts(example, plan)]
        counts.update(each.problem for each in found if each.problem)
        kept = [each for each in found if not each.problem]
        if not kept:
            continue
        labels += len(kept)
        dates = [max(column) for column in zip(*(each.dates for each in kept), strict=True)]
        meta = {**example.meta, "provenance": _provenance(steps, dates)}
        meta.pop("tone", None)  # of smalltown's main task; its verifier now goes by the task
        targets = tuple(each.text for each in kept)
        made.append(Example(example.id, example.input, targets, meta))
    total = len(source.examples) + source.duplicated
    return made, Set(task, source.split, source.corpus, total, len(made), labels, counts)


def _provenance(steps: Sequence[Identity], dates: Sequence[str]) -> list[dict[str, str]]:
    """Who made a row's targets and when, a step after the other."""
    found = []
    for step, date in zip(steps, dates, strict=True):
        prompt = {} if step.prompt_hash is None else {"prompt": step.prompt_hash}
        found.append({"labeller": step.labeller, "model": step.model, **prompt, "date": date})
    return found


def _write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for row in rows:  # one at a time: a set may be as large as the memory
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _check_own(out: Path, splits: Sequence[str]) -> None:
    """Refuse a folder that holds anything but a preparation of these splits."""
    if out.exists() and not out.is_dir():
        raise OnepassError(f"cannot write {out}: a file of that name exists; choose another")
    names = sorted(path.name for path in out.iterdir()) if out.exists() else []
    if names and not (out / CACHE).is_file():
        raise OnepassError(f"{out} holds {names[0]}, which no preparation made; choose another")
    for name in names:
        if name.endswith(".jsonl") and not name.startswith(".") and name[:-6] not in splits:
            raise OnepassError(
                f"{out} holds {name}, which this preparation would leave as it is; name the split "
                f"{name[:-6]} too, or delete the file"
            )


def _sweep(out: Path) -> None:
    """Remove what a killed preparation was writing."""
    for name in (CARD, "*.jsonl"):
        for path in out.glob(f".{name}.*"):
            path.unlink()
