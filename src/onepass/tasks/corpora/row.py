"""One row of a corpus, and how its cells are read and refused."""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from onepass.core.errors import OnepassError


class Row(NamedTuple):
    """A row: its `fields` by column, `where` it is for messages, and a `name` to use as an id.

    The name is "SPLIT-NUMBER", counted from 1 in its split, or "row-NUMBER" if there are no splits.
    """

    name: str
    where: str
    fields: Mapping[str, Any]

    @property
    def given(self) -> dict[str, Any]:
        """The fields that are not blank."""
        return {key: value for key, value in self.fields.items() if not is_blank(value)}

    @property
    def id(self) -> str:
        """The text or number in the column "id", or else the name."""
        value = self.fields.get("id")
        if is_blank(value):
            return self.name
        if not isinstance(value, str | int | float):
            raise OnepassError(
                f'{self.where}: "id" must be a text or a number, found {value!r:.40}'
            )
        return checked(str(value), "id", self.where)

    def text(self, key: str, layout: str) -> str:
        """The text in the column `key`; an `OnepassError` if it is missing, no text, or empty."""
        if key not in self.fields:
            raise self.wrong_layout(key, layout)
        return clean(self.fields[key], key, self.where)

    def structure(self, key: str, kind: type) -> Any:
        """The list or object in the column `key`; in a table it is written as JSON."""
        value = self.fields[key]
        if isinstance(value, str):
            with suppress(ValueError, RecursionError):  # what is no JSON is refused as it stands
                value = json.loads(value)
        if not isinstance(value, kind):
            name = "a list" if kind is list else "an object"
            raise OnepassError(f'{self.where}: "{key}" must be {name}, found {value!r:.40}')
        return value

    def wrong_layout(self, key: str, layout: str) -> OnepassError:
        """The error for a row without the column `key`; `layout`: the columns expected."""
        found = ", ".join(map(str, self.fields)) or "nothing"
        return OnepassError(f'{self.where}: no "{key}"; found {found}; expected {layout}')


def is_blank(value: object) -> bool:
    """Whether a cell counts as empty: null, NaN, an empty list, or a text of white space alone.

    A table has every column in every row, and CSV cannot tell an empty text from none.
    """
    if isinstance(value, str):
        return not value.strip()
    if isinstance(value, float):
        return value != value
    return value is None or value == [] or type(value).__name__ in ("NAType", "NaTType")  # pandas'


def clean(value: object, key: str, where: str) -> str:
    """`value` without space at its ends, its line ends as in Unix; `OnepassError` if no text.

    Everything else stays as it is in the file, NUL characters too: they are text like any other.
    """
    if not isinstance(value, str) or not value.strip():
        raise OnepassError(
            f'{where}: "{key}" must be a text that is not empty, found {value!r:.40}'
        )
    return checked(value, key, where).replace("\r\n", "\n").replace("\r", "\n").strip()


def checked(text: str, key: str, where: str) -> str:
    """The text; an `OnepassError` if it has half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise OnepassError(f'{where}: "{key}" has half a character: {error.reason}') from error
    return text


def named(label: str, records: Iterable[tuple[str, Mapping[str, Any]]]) -> Iterator[Row]:
    """Rows of (where, fields), named by `label` and their number."""
    for number, (where, fields) in enumerate(records, start=1):
        yield Row(f"{label}-{number}", where, fields)
