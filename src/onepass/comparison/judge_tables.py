"""What the judges of a folder of runs said, and how far that can be trusted, as tables."""

import math
from collections import Counter
from collections.abc import Sequence
from statistics import fmean

from onepass.comparison.judgements import Judged
from onepass.comparison.results import VERIFIED, Results, interval
from onepass.comparison.runs import Run
from onepass.comparison.table import Column, Table, Value
from onepass.comparison.tables import GROUP_TITLES
from onepass.evaluate.judge.agreement import Agreement, agreement, auc
from onepass.evaluate.metrics import METRICS
from onepass.evaluate.stats import spearman
from onepass.tasks.benchmark import TASK_GROUPS, task_group


def judge_tables(results: Results, judged: Sequence[Judged]) -> list[Table]:
    """For each judge its verdicts, and its report card: against the verifier, or else metrics."""
    found = []
    for each, metric in zip(judged, results.judges, strict=True):
        card = report_card(results, each, metric) or metrics_card(results, each, metric)
        found += [verdicts(results, each, metric), card]
    return [table for table in found if table is not None]


def verdicts(results: Results, judged: Judged, metric: str) -> Table:
    """Per method what a judge found, and how often it found nothing.

    `metric` is what its scores are called in the results.
    """
    groups = _groups(results)
    columns = [Column("method"), *(Column(group, GROUP_TITLES[group]) for group in groups)]
    columns += [Column("all"), Column("low"), Column("high")]
    columns += [Column("judged"), Column("unreadable"), Column("failed")]
    rows: list[list[Value]] = []
    for method in results.methods:
        runs = results.of(method)
        seen = Counter(row.verdict for run in runs for row in judged.of(run, results.split))
        if not seen:
            continue
        row: list[Value] = [method]
        for group in groups:
            of_group = [run for run in runs if _group(run) == group]
            found = interval(of_group, results.split, metric)
            row.append(None if found is None else found.mean)
        found = interval(runs, results.split, metric)
        row += [None] * 3 if found is None else [found.mean, found.low, found.high]
        rows.append([*row, sum(seen.values()), seen["unreadable"], seen["failed"]])
    note = (
        f"Percent of outputs that {judged.header.model} ({judged.header.date}, prompts of version "
        f"{judged.header.prompts}) finds right, of those it gave a readable answer about, with the "
        "95 % interval; then how many it was asked about, and how many answers could not be read "
        "or never came."
    )
    return Table(f"Judge {judged.name} ({results.split})", columns, rows, note)


def report_card(results: Results, judged: Judged, metric: str) -> Table | None:
    """The judge held against the verifier, output by output; None where nothing can be verified."""
    columns = [Column("tasks"), Column("outputs")]
    columns += [Column("both_right", "both say right"), Column("judge_only", "judge only")]
    columns += [Column("verifier_only", "verifier only"), Column("both_wrong", "both say wrong")]
    columns += [Column("agreement", "agreement, %"), Column("kappa", "Cohen's kappa", digits=2)]
    pairs: dict[str, list[tuple[bool, bool]]] = {}
    for run in results.runs:
        result = run.splits[results.split]
        for said, truth in zip(result.values(metric), result.values(VERIFIED), strict=False):
            if said is not None and truth is not None:
                pairs.setdefault(_group(run), []).append((said == 1, truth == 1))
    rows = [
        _card_row(GROUP_TITLES[group], pairs[group]) for group in _groups(results) if group in pairs
    ]
    if not rows:
        return None
    rows.append(_card_row("all", [pair for found in pairs.values() for pair in found]))
    note = (
        "All methods and budgets. Kappa is agreement beyond that of chance: 1 is full, 0 none. "
        "It has no value where judge and verifier only ever say one and the same."
    )
    return Table(f"Report card of judge {judged.name}", columns, rows, note)


def metrics_card(results: Results, judged: Judged, metric: str) -> Table | None:
    """The judge held against the metrics, output by output; None where neither says anything."""
    columns = [Column("task"), Column("metric"), Column("outputs"), Column("yes", "yes, %")]
    columns += [Column("mean_yes", "mean where yes"), Column("mean_no", "mean where no")]
    columns += [Column("auc", "AUC", digits=2), Column("spearman", "Spearman", digits=2)]
    pairs: dict[tuple[str, str], list[tuple[bool, float]]] = {}
    for run in results.runs:
        result = run.splits[results.split]
        for name in (each for each in METRICS.names() if each in result.scores):
            for said, value in zip(result.values(metric), result.values(name), strict=False):
                if said is not None and value is not None:
                    pairs.setdefault((run.task, name), []).append((said == 1, 100 * value))
    rows: list[list[Value]] = []
    for (task, name), found in pairs.items():
        words, values = [yes for yes, _ in found], [value for _, value in found]
        of_yes, of_no = ([v for yes, v in found if yes == wanted] for wanted in (True, False))
        correlation = spearman(list(map(float, words)), values) if len(found) > 1 else math.nan
        rows.append([
            task, METRICS.get(name).title, len(found), 100 * fmean(words),
            fmean(of_yes) if of_yes else None, fmean(of_no) if of_no else None,
            auc(words, values), None if math.isnan(correlation) else correlation,
        ])  # fmt: skip
    if not rows:
        return None
    note = (
        "All methods and budgets; nothing here can be verified, so the judge is compared with each "
        "metric. AUC is how often, of an output it finds right and one it does not, the first has "
        "the better score: 1 is always, 0.5 chance. AUC and Spearman's rank correlation have no "
        "value where it only ever says one word, the latter also where all scores are equal."
    )
    return Table(f"Judge {judged.name} against the metrics", columns, rows, note)


def _card_row(title: str, pairs: Sequence[tuple[bool, bool]]) -> list[Value]:
    found: Agreement = agreement([said for said, _ in pairs], [truth for _, truth in pairs])
    return [
        title,
        found.count,
        found.yes_yes,
        found.yes_no,
        found.no_yes,
        found.no_no,
        100 * found.observed,
        found.kappa,
    ]


def _group(run: Run) -> str:
    return task_group(run.task) or "other"


def _groups(results: Results) -> list[str]:
    """The groups of tasks that have runs."""
    found = {_group(run) for run in results.runs}
    return [group for group in (*TASK_GROUPS, "other") if group in found]
