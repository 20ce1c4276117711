"""Examples one by one: where a method fails, and where two methods differ most."""

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from onepass.comparison.examples import Answer, ExampleRow, runs_of
from onepass.comparison.results import OWN, VERIFIED, Results, compare, metric_for
from onepass.core.errors import OnepassError
from onepass.core.text import shortened, visible
from onepass.evaluate.stats import Paired

LONGEST = 2000
"""Characters of a text that people are shown; CSV and JSON lines have all."""
_MARKDOWN = re.compile(r"([\\`*_\[\]#|~])")
_LINES = re.compile(r"\r?\n")


@dataclass(frozen=True)
class Listing:
    """Some examples with the answers of `methods` (one or two), under a `summary` of one line.

    parts: headings with their rows. metrics: by task, the one that they are sorted by.
    """

    methods: tuple[str, ...]
    summary: str
    parts: list[tuple[str, list[ExampleRow]]]
    metrics: Mapping[str, str]

    def rows(self) -> list[ExampleRow]:
        return [row for _, rows in self.parts for row in rows]

    def seeds(self) -> bool:
        """Whether the rows are of more than one seed."""
        return len({row.seed for row in self.rows()}) > 1


def errors(results: Results, rows: Sequence[ExampleRow], method: str, limit: int) -> Listing:
    """The `limit` examples on which a method's headline is lowest, the worst first.

    Where these are equal, the tasks' own metric decides.
    """
    runs = {run.task: run for run in runs_of(results, method)}

    def key(row: ExampleRow) -> tuple[float, float]:
        scores = row.answers[method].scores
        metrics = (metric_for(runs[row.task], name) for name in (results.headline, OWN))
        values = (scores.get(metric) for metric in metrics)
        first, second = (2.0 if value is None else value for value in values)
        return first, second

    scored = sorted((row for row in rows if method in row.answers), key=key)
    known = [value for value, _ in map(key, scored) if value <= 1]
    if results.headline == VERIFIED:
        found = f"{sum(value < 1 for value in known)} of {len(known)} outputs are not verified"
    else:
        mean = 100 * sum(known) / len(known) if known else 0.0
        found = f"mean {results.headline_title} {mean:.1f} % over {len(known)} outputs"
    shown = scored[:limit]
    summary = (
        f"{method} on {results.split}: {found}; the worst {len(shown)} of {len(scored)} follow."
    )
    metrics = {task: metric_for(run, results.headline) for task, run in runs.items()}
    return Listing((method,), summary, [("", shown)], metrics)


def differences(
    results: Results, rows: Sequence[ExampleRow], one: str, other: str, limit: int
) -> Listing:
    """Where one method's headline is most above the other's, and the other way round.

    `limit` examples each way. The summary counts all and has the paired test over conversations.

    Raises `OnepassError` if the two were not tested on the same conversations.
    """
    if one == other:
        raise OnepassError(f"--compare {one} {other}: name two different methods")
    ours, theirs = runs_of(results, one), runs_of(results, other)
    metrics = {run.task: metric_for(run, results.headline) for run in ours}
    found: list[tuple[float, ExampleRow]] = []
    for row in rows:
        if one in row.answers and other in row.answers:
            a, b = (row.answers[name].scores.get(metrics[row.task]) for name in (one, other))
            if a is not None and b is not None:
                found.append((a - b, row))
    tested = compare(ours, theirs, results.split, results.headline)
    if not found or tested is None:
        raise OnepassError(
            f"{one} and {other} have no scores of {results.headline_title} on the same "
            "conversations; compare methods that ran on the same tasks and seeds"
        )
    above = sorted((pair for pair in found if pair[0] > 0), key=lambda pair: -pair[0])
    below = sorted((pair for pair in found if pair[0] < 0), key=lambda pair: pair[0])
    right, wrong = ("right", "wrong") if results.headline == VERIFIED else ("better", "worse")
    parts = []
    for pairs, winner, loser in ((above, one, other), (below, other, one)):
        shown = [row for _, row in pairs[:limit]]
        title = f"{winner} {right}, {loser} {wrong}: {len(shown)} of {len(pairs)}"
        parts.append((title, shown))
    counts = (
        f"{one} {right} and {other} {wrong} on {len(above)}, the other way round on {len(below)}, "
        f"equal on {len(found) - len(above) - len(below)} of {len(found)} outputs"
    )
    summary = f"{counts}; {_test_text(tested[0], results.headline_title)}."
    return Listing((one, other), summary, parts, metrics)


def _test_text(test: Paired, title: str) -> str:
    return (
        f"{test.difference:+.1f} points of {title}, 95 % interval {test.low:+.1f} to "
        f"{test.high:+.1f}, p {test.p:.4f} (paired, by conversation)"
    )


def scores_text(answer: Answer, first: str) -> str:
    """Scores in percent, "verified 0, rougeL 34.5", that of the metric `first` before the others.

    Those that do not apply are left out.
    """
    names = dict.fromkeys((first, *answer.scores))
    known = ((name, answer.scores.get(name)) for name in names)
    return ", ".join(f"{name} {100 * value:.4g}" for name, value in known if value is not None)


def reasons_text(answer: Answer) -> str:
    """What the verifier finds wrong, one line each."""
    return answer.reasons.replace("; ", "\n") or "–"


def heading(row: ExampleRow, number: int, seeds: bool) -> str:
    seed = f", seed {row.seed}" if seeds else ""
    return visible(f"{number}. {row.task}, {row.id}{seed}")


def shown_text(text: str) -> str:
    """A text of a model or a corpus as people are shown it."""
    return visible(shortened(text, LONGEST))


def to_records(listing: Listing) -> list[dict[str, Any]]:
    """The rows as JSON objects: one method's answer in the row, or two by method."""
    found = []
    for row in listing.rows():
        record: dict[str, Any] = {
            "task": row.task, "seed": row.seed, "id": row.id, "input": row.input,
            "targets": list(row.targets),
        }  # fmt: skip
        answers = {
            name: {"output": a.output, "scores": dict(a.scores), "reasons": a.reasons}
            for name, a in row.answers.items()
        }
        own = answers[listing.methods[0]] if len(listing.methods) == 1 else {"answers": answers}
        found.append({**record, **own})
    return found


def listing_jsonl(listing: Listing) -> str:
    return "".join(f"{json.dumps(each, ensure_ascii=False)}\n" for each in to_records(listing))


def listing_csv(listing: Listing) -> str:
    """A line per example: its first target, and per method the output, reasons and each score.

    Of two methods the columns end in their names, "output_lc++".
    """
    rows, several = listing.rows(), len(listing.methods) > 1
    metrics = list(dict.fromkeys(m for row in rows for a in row.answers.values() for m in a.scores))
    ends = {name: f"_{name}" if several else "" for name in listing.methods}
    fields = ("output", "reasons", *metrics)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        ["task", "seed", "id", "input", "target"]
        + [f"{field}{end}" for end in ends.values() for field in fields]
    )
    for row in rows:
        cells: list[Any] = [row.task, row.seed, row.id, row.input, row.targets[0]]
        for name in ends:
            answer = row.answers[name]
            cells += [answer.output, answer.reasons, *(answer.scores.get(m) for m in metrics)]
        writer.writerow(cells)
    return out.getvalue()


def listing_markdown(listing: Listing) -> str:
    lines = [f"{escape(listing.summary, quote=False)}\n"]
    seeds, number = listing.seeds(), 0
    for title, rows in listing.parts:
        lines += [f"## {title}\n"] if title else []
        for row in rows:
            number += 1
            lines += [f"### {_cell(heading(row, number, seeds))}\n"]
            lines += [
                f"| | {' | '.join(listing.methods)} |",
                f"| --- {'| --- ' * len(listing.methods)}|",
            ]
            answers = [row.answers[name] for name in listing.methods]
            for label, texts in (
                ("input", [row.input]),
                ("target", [row.targets[0]]),
                ("output", [answer.output for answer in answers]),
                ("scores", [scores_text(a, listing.metrics[row.task]) for a in answers]),
                ("verifier", [reasons_text(answer) for answer in answers]),
            ):
                if label != "verifier" or any(answer.reasons for answer in answers):
                    lines.append(_markdown_row(label, texts, len(answers)))
            lines.append("")
    return "\n".join(lines)


def _markdown_row(label: str, texts: Sequence[str], width: int) -> str:
    """A row of `width` texts; one that both methods share stands in the first."""
    cells = [_cell(shown_text(text)) for text in texts] + [""] * (width - len(texts))
    return f"| {label} | {' | '.join(cells)} |"


def _cell(text: str) -> str:
    """A text that markdown shows as it is, in one line of a table."""
    return _LINES.sub("<br>", _MARKDOWN.sub(r"\\\1", escape(text, quote=False)))
