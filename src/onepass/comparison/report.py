"""The report on a folder of runs: tables, agreement with published figures, plots."""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from statistics import fmean

from onepass.comparison import tables
from onepass.comparison.against import against
from onepass.comparison.curves import draw_curves
from onepass.comparison.heat import draw_heat
from onepass.comparison.judge_tables import judge_tables
from onepass.comparison.judgements import Judged, load_judged, with_scores
from onepass.comparison.plotting import FORMATS
from onepass.comparison.results import Results, by_conversation
from onepass.comparison.runs import FAILURES, changed_code, load_runs
from onepass.comparison.storage import draw_storage
from onepass.comparison.table import Column, Table, Value, to_csv, to_markdown
from onepass.core.errors import OnepassError
from onepass.core.files import read_text, write_text
from onepass.core.registry import unknown
from onepass.evaluate.stats import spearman
from onepass.methods import METHODS
from onepass.tasks.benchmark import TASK_GROUPS, task_group

PUBLISHED = "data/table1.csv"
_COLUMN = "_judge"  # the end of the names of its columns with the judge's figures


@dataclass(frozen=True)
class Agreement:
    """Spearman's rank correlation of our ordering of methods with the published one."""

    correlation: float
    ours: Mapping[str, float]
    """Method to our mean, in percent."""
    published: Mapping[str, float]
    """Method to the mean of the four LLM-judge columns, in percent."""


@dataclass(frozen=True)
class Report:
    """All there is to say about a folder of runs; tables that do not apply are None."""

    results: Results
    """What it is made of."""
    title: str
    setting: str
    missing: str
    changed: str
    overview: Table
    groups: Table
    comparison: Table
    """Table 1 of the paper; its columns are those of `overview` and `groups`."""
    costs: Table
    tests: Table | None
    against: Table | None
    generalisation: Table | None
    judges: list[Table]
    agreement: Agreement | None
    families: Table | None
    headline: str
    order: list[str]
    """The methods, as tables for people have them."""
    per_task: Table
    by_task: Table
    curves: Table | None
    side_by_side: list[Table]

    def shown(self) -> list[Table]:
        """The tables for people, in their order; what is long is left to files."""
        found = [self.overview, self.groups, self.costs, self.tests, self.against]
        found += [self.generalisation, *self.judges]
        tables = [table for table in (*found, self.families) if table is not None]
        return [
            table.sorted_by(self.order) if table.columns[0].name == "method" else table
            for table in tables
        ]

    def agreement_text(self) -> str:
        if self.agreement is None:
            return "Agreement with the published ordering: too few methods in common"
        return (
            f"Spearman rank correlation between our ordering ({self.headline}) and that of the LLM "
            f"judge in table 1 of arXiv 2507.16083, over {len(self.agreement.ours)} methods: "
            f"{self.agreement.correlation:.2f}"
        )


def make_report(
    folder: Path | str,
    reference: Path | str | None = None,
    other: Path | str | None = None,
    ranked: bool = True,
) -> Report:
    """Read the runs of a folder.

    reference: a CSV like table 1 to take instead of that one. other: a folder of runs to compare
    with, method by method. ranked: tables for people have the best method first, by the headline;
    else, as those for programs, the recipe's order.
    """
    folder = Path(folder)
    results, judged = _read(folder)
    published = read_reference(reference)
    overview = tables.overview(results)
    return Report(
        results=results,
        title=results.recipe.name,
        setting=_setting(results),
        missing=_missing(results, folder),
        changed=changed_code(results.runs),
        overview=overview,
        groups=tables.groups(results),
        comparison=tables.comparison(results),
        costs=tables.costs(results),
        tests=tables.tests(results),
        against=None if other is None else _against(results, folder, Path(other)),
        generalisation=tables.generalisation(results),
        judges=judge_tables(results, judged),
        agreement=_agreement(results, published),
        families=_families(results, published),
        headline=results.headline,
        order=_ranked(overview) if ranked else results.methods,
        per_task=tables.per_task(results),
        by_task=tables.by_task(results),
        curves=tables.curves(results) if len(results.budgets) > 1 else None,
        side_by_side=tables.side_by_side(results),
    )


def _ranked(overview: Table) -> list[str]:
    """The methods of the table, the best first; of equal ones the cheaper to store."""

    def key(row: Sequence[Value]) -> tuple[float, float]:
        return -float(row[1] or 0), float(row[5] or 0)

    return [str(row[0]) for row in sorted(overview.rows, key=key)]


def read_results(folder: Path | str) -> Results:
    """The finished runs of a folder, with the verdicts of judges among their scores."""
    return _read(Path(folder))[0]


def _read(folder: Path) -> tuple[Results, list[Judged]]:
    recipe, runs = load_runs(folder)
    judged = load_judged(folder, runs)
    return Results(recipe, *with_scores(runs, judged)), judged


def _against(results: Results, folder: Path, other: Path) -> Table:
    found = against(results, _read(other)[0])
    if found is None:
        raise OnepassError(
            f"{folder} and {other} have no method in common that was tested on the same "
            "conversations; name runs of the same corpus, tasks and number of test examples"
        )
    return found


def _setting(results: Results) -> str:
    recipe, environment = results.recipe, results.runs[-1].environment
    budgets = ", ".join(f"{budget:,}" for budget in results.budgets) or "no"
    counts = {run.splits[results.split].count for run in results.runs}
    parts = [
        f"base {recipe.base}",
        f"corpus {recipe.corpus}",
        f"{len(results.tasks(results.runs))} tasks",
        f"{budgets} training examples",
        f"{'/'.join(map(str, sorted(counts)))} test examples per task",
        f"{len({run.seed for run in results.runs})} seed(s)",
        f"onepass {environment.get('onepass', '?')}",
        environment.get("processor", "?"),
    ]
    return "; ".join(parts)


def _missing(results: Results, folder: Path) -> str:
    """What the recipe asks for and there is no run of; "" if nothing."""
    wanted = sum(
        len(results.recipe.seeds)
        * len(results.recipe.tasks)
        * (len(results.recipe.examples) if METHODS.get(name).learns else 1)
        for name in results.recipe.methods
    )
    if len(results.runs) == wanted:
        return ""
    failed = len(list((folder / FAILURES).glob("*.txt")))
    why = f", {failed} jobs failed (see {FAILURES})" if failed else ""
    return f"Unfinished: {len(results.runs)} of {wanted} cells{why}."


Published = Mapping[str, Mapping[str, float]]
"""Method to its published figures in percent, one for each family of tasks."""


def read_reference(path: Path | str | None = None) -> Published:
    """The LLM-judge columns of each published method; default: those of the embedded table 1."""
    where = Path(path) if path else Path(str(files("onepass.comparison"))) / PUBLISHED
    rows = list(csv.DictReader(read_text(where).splitlines()))
    judged = [name for name in (rows[0] if rows else {}) if name.endswith(_COLUMN)]
    if not judged or "method" not in rows[0]:
        raise OnepassError(f'{where}: needs a column "method" and some that end in "{_COLUMN}"')
    found = {}
    for number, row in enumerate(rows, start=2):
        try:
            found[row["method"]] = {name.removesuffix(_COLUMN): float(row[name]) for name in judged}
        except (TypeError, ValueError) as error:
            raise OnepassError(f"{where}, line {number}: a judge's figure is no number") from error
    return found


def _agreement(
    results: Results, published: Published, metric: str = "", family: str = ""
) -> Agreement | None:
    """Our order by `metric` (default: the headline) on a family of tasks (default: all)."""
    ours, theirs = {}, {}
    for name in results.methods:
        figures = published.get(METHODS.get(name).reference or "", {})
        groups = [(run, task_group(run.task)) for run in results.of(name)]
        # Of tasks that are not the paper's, its figures say nothing.
        runs = [run for run, group in groups if group and family in ("", group)]
        found = by_conversation(runs, results.split, metric or results.headline)
        if found and (family in figures if family else figures):
            ours[name] = fmean(found.values())
            theirs[name] = figures[family] if family else fmean(figures.values())
    if len(ours) < 3:  # with two, the correlation is 1 or -1 whatever they are
        return None
    correlation = spearman(list(ours.values()), list(theirs.values()))
    return None if math.isnan(correlation) else Agreement(correlation, ours, theirs)


def _families(results: Results, published: Published) -> Table | None:
    """The same for each family of tasks, by the headline and by each judge; None without any."""
    metrics = [results.headline, *results.judges]
    rows: list[list[Value]] = []
    for family in (*TASK_GROUPS, ""):
        found = [_agreement(results, published, metric, family) for metric in metrics]
        if any(found):
            correlations = [each.correlation if each else None for each in found]
            methods = max(len(each.ours) for each in found if each)
            rows.append([family or "all", methods, *correlations])
    if not rows:
        return None
    columns = [Column("tasks"), Column("methods"), *(Column(m, digits=2) for m in metrics)]
    note = "Spearman's rank correlation of our ordering of methods with the published one."
    return Table("Agreement with the paper, by family of tasks", columns, rows, note)


def report_markdown(report: Report, plots: str = "png") -> str:
    """The report as one markdown text; its plots are files of the format `plots` beside it."""
    parts = [f"# {report.title}\n", f"{report.setting}.\n"]
    parts += [f"{remark}\n" for remark in (report.missing, report.changed) if remark]
    parts += [to_markdown(table) for table in report.shown()]
    parts.append(f"## Agreement with published figures\n\n{report.agreement_text()}.\n")
    if report.curves is not None:
        parts.append(to_markdown(report.curves))
        parts.append(f"![Quality against number of examples](curves.{plots})\n")
    parts += [
        f"## {title}\n\n![{title}]({name}.{plots})\n"
        for title, name in (("Quality against stored bytes", "storage"), ("Task by task", "tasks"))
    ]
    parts += [to_markdown(table) for table in report.side_by_side]
    return "\n".join(parts)


def write_report(report: Report, folder: Path | str, plots: str = "png") -> list[Path]:
    """Write report.md, table1.csv, table2.csv, per_task.csv, curves.csv if any, and the plots.

    plots: the format of these, one of `plotting.FORMATS`: storage, tasks, and curves if any.
    """
    if plots not in FORMATS:
        raise unknown("format of plots", plots, list(FORMATS))
    folder = Path(folder)
    texts = {
        "report.md": report_markdown(report, plots),
        "table1.csv": to_csv(report.comparison),
        "table2.csv": to_csv(report.costs),
        "per_task.csv": to_csv(report.per_task),
    }
    if report.curves is not None:
        texts["curves.csv"] = to_csv(report.curves)
    for name, text in texts.items():
        write_text(folder / name, text)
    drawn = [folder / f"storage.{plots}", folder / f"tasks.{plots}"]
    draw_storage(report.overview, drawn[0])
    draw_heat(report.by_task.sorted_by(report.order), drawn[1])
    if report.curves is not None:
        drawn.append(folder / f"curves.{plots}")
        draw_curves(report.curves, drawn[2])
    return [*(folder / name for name in texts), *drawn]
