"""A table as plain data, and its renderings as CSV and markdown."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

Value = str | float | int | None


@dataclass(frozen=True)
class Column:
    """`name` heads it in CSV; `title` where people read it, with `digits` after the point.

    scored: its numbers are better the higher they are, so the best is emphasised.
    """

    name: str
    title: str = ""
    digits: int = 1
    scored: bool = False

    @property
    def heading(self) -> str:
        return self.title or self.name


@dataclass(frozen=True)
class Table:
    """`rows` hold a value for each column; None where there is none. `note` says how to read it."""

    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Value]]
    note: str = ""

    def texts(self) -> list[list[str]]:
        """The rows as people read them."""
        return [
            [_text(value, column) for value, column in zip(row, self.columns, strict=True)]
            for row in self.rows
        ]

    def best(self) -> set[tuple[int, int]]:
        """The places (row, column) of the best values of columns that are scored.

        None of a column whose values all look the same.
        """
        texts, found = self.texts(), set[tuple[int, int]]()
        for place, column in enumerate(self.columns):
            known = {
                row: float(value)
                for row, values in enumerate(self.rows)
                if isinstance(value := values[place], int | float)
            }
            if column.scored and len({texts[row][place] for row in known}) > 1:
                top = texts[max(known, key=known.__getitem__)][place]
                found |= {(row, place) for row in known if texts[row][place] == top}
        return found

    def sorted_by(self, order: Sequence[str]) -> "Table":
        """With its rows in the order of their first values in `order`."""
        places: Mapping[Value, int] = {name: place for place, name in enumerate(order)}
        return replace(self, rows=sorted(self.rows, key=lambda row: places.get(row[0], -1)))

    def with_columns(self, places: Sequence[int]) -> "Table":
        """With only the columns at these places."""
        return replace(
            self,
            columns=[self.columns[place] for place in places],
            rows=[[row[place] for place in places] for row in self.rows],
        )

    def is_number(self, place: int) -> bool:
        """Whether a column holds numbers, and should be aligned to the right."""
        return any(isinstance(row[place], int | float) for row in self.rows)


def _text(value: Value, column: Column) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:,.{column.digits}f}"
    return f"{value:,}" if isinstance(value, int) else value


def to_csv(table: Table) -> str:
    """Numbers with one more digit than people are shown; empty where there is no value."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(column.name for column in table.columns)
    for row in table.rows:
        writer.writerow(
            f"{value:.{column.digits + 1}f}" if isinstance(value, float) else value
            for value, column in zip(row, table.columns, strict=True)
        )
    return out.getvalue()


def to_markdown(table: Table) -> str:
    numbers = [table.is_number(place) for place in range(len(table.columns))]
    lines = [
        f"## {table.title}",
        "",
        _line([column.heading for column in table.columns]),
        _line(["---:" if number else "---" for number in numbers]),
        *(_line(row) for row in _emphasised(table)),
    ]
    if table.note:
        lines += ["", table.note]
    return "\n".join(lines) + "\n"


def _emphasised(table: Table) -> list[list[str]]:
    best = table.best()
    return [
        [f"**{text}**" if (row, place) in best else text for place, text in enumerate(texts)]
        for row, texts in enumerate(table.texts())
    ]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"
