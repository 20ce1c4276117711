"""The report on a folder of runs as one HTML page, which opens from disk and asks nobody anything.

Text of models and files is escaped by the template, or embedded as JSON that the page's script puts
in as text nodes. A Content-Security-Policy allows this style and this script by their hashes, and
no request at all.
"""

import base64
import hashlib
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

import onepass
from onepass.comparison import tables
from onepass.comparison.html import plots
from onepass.comparison.html.embedded import Embedded, embed
from onepass.comparison.report import Report, make_report
from onepass.comparison.results import Results
from onepass.comparison.runs import RECIPE
from onepass.comparison.table import Table, Value
from onepass.comparison.winners import winners
from onepass.core.files import read_text, write_text

# Control characters are errors in HTML, and halves of characters are in no UTF-8: their pictures.
_VISIBLE = {
    **{code: 0x2400 + code for code in range(0x20) if chr(code) not in "\t\n"},
    **dict.fromkeys(range(0x7F, 0xA0), 0xFFFD),
    **dict.fromkeys(range(0xD800, 0xE000), 0xFFFD),
}


def write_page(
    folder: Path | str,
    out: Path | str,
    reference: Path | str | None = None,
    other: Path | str | None = None,
    corpus: str | None = None,
) -> Embedded:
    """Write the page on a folder of runs into the file `out`; returns what it has of the examples.

    reference, other: as of `make_report`, whose errors this raises. corpus: where the recipe's
    corpus is now. Without predictions or corpus the examples are left out, and the page says why.
    """
    return write_report_page(make_report(folder, reference, other), folder, out, corpus)


def write_report_page(
    report: Report, folder: Path | str, out: Path | str, corpus: str | None = None
) -> Embedded:
    """The same of a report that is made already, on the runs in `folder`."""
    folder = Path(folder)
    examples = embed(folder, report.results, corpus)
    write_text(out, page(report, report.results, examples, read_text(folder / RECIPE)))
    return examples


def page(report: Report, results: Results, examples: Embedded, recipe: str = "") -> str:
    """The page; `recipe` is the text of the recipe."""
    style, script = _part("page.css"), _part("page.js")
    best = winners(results)
    ranking = sorted(plots.points_of(report.overview), key=lambda point: -point.mean)
    low = min((point.low for point in ranking), default=0.0)
    high = max((point.high for point in ranking), default=100.0)
    heat = heat_map(results)
    values = [value for row in heat.rows for value in row if isinstance(value, float)]
    metric = results.headline_title
    unit = f"{metric}, %"
    drawn = [plots.storage_plot(ranking, unit), plots.passes_plot(ranking, unit)]
    if report.curves is not None:
        drawn += plots.curve_plots(report.curves)
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, finalize=_visible, keep_trailing_newline=True
    )
    return environment.from_string(_part("page.html")).render(
        report=report,
        headline=_headline(best, metric),
        winners=best,
        ranking=ranking,
        metric=metric,
        span=(low, high),
        share=lambda value: round(100 * _share(value, low, high), 1),
        tables=[table for table in report.shown() if table is not report.costs],
        drawn=drawn if ranking else [],
        heat=heat,
        level=lambda value: round(10 * _share(value, min(values), max(values))),
        measured=tables.measured(results),
        examples=examples,
        environment=environment_of(results),
        recipe=recipe,
        version=onepass.__version__,
        plots=plots,
        rows=_rows,
        style=style,
        script=script,
        hashes={"style": _hash(style), "script": _hash(script)},
    )


def heat_map(results: Results) -> Table:
    """The headline of the first split by method (rows, at their largest budget) and task."""
    table = tables.by_task(results)
    found = [value for row in table.rows for value in row if isinstance(value, float)]
    note = f"Percent {results.headline_title} on {results.split}"
    if found:
        note += f"; from the lowest, {min(found):.1f}, to the highest, {max(found):.1f}"
    return replace(table, title="Task by method", note=f"{note}.")


def environment_of(results: Results) -> dict[str, str]:
    """What the runs were made with; where they differ, all values."""
    found: dict[str, list[str]] = {}
    for run in results.runs:
        for name, value in run.environment.items():
            if value and value not in found.setdefault(name, []):
                found[name].append(value)
    shown = {}
    for name, values in found.items():
        first, last = min(values), max(values)
        few = ", ".join(values) if len(values) <= 4 else f"{first} to {last}"
        shown[name.replace("_", " ")] = few
    return shown


def _headline(best: Table, metric: str) -> str:
    """The winner at the largest budget, in a sentence."""
    if not best.rows:
        return "No method has a score yet."
    budget, name, mean, low, high, near, *_ = best.texts()[-1]
    given = f" with {budget} training examples" if best.rows[-1][0] else ""
    others = "" if near == "none" else f" No clear difference from it: {near}."
    return (
        f"{name} is best{given}: {mean} % {metric} (95 % interval {low} to {high}), over all "
        f"tasks.{others}"
    )


def _share(value: float, low: float, high: float) -> float:
    return (value - low) / (high - low) if high > low else 0.5


def _rows(table: Table) -> list[list[tuple[Value, str]]]:
    """The rows as pairs of the value and its text."""
    return [
        list(zip(row, texts, strict=True))
        for row, texts in zip(table.rows, table.texts(), strict=True)
    ]


def _visible(value: Any) -> Any:
    return value.translate(_VISIBLE) if type(value) is str else value


def _part(name: str) -> str:
    return (files("onepass.comparison.html") / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"
