"""One record of a corpus file, and how its texts are read and refused."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from onepass.core.errors import OnepassError


class Row(NamedTuple):
    """A record: `fields` by column, `where` it stands for messages, and a `name` to use as an id.

    The name is "SPLIT-NUMBER", counted from 1 in its split, or "FILE-NUMBER" where there is none.
    """

    name: str
    where: str
    fields: Mapping[str, Any]

    def text(self, key: str, layout: str) -> str:
        """The text in the column `key`; an `OnepassError` if it is missing, no text, or empty."""
        if key not in self.fields:
            raise self.wrong_layout(key, layout)
        return clean(self.fields[key], key, self.where)

    def wrong_layout(self, key: str, layout: str) -> OnepassError:
        """The error for a row without the column `key`; `layout` tells the columns expected."""
        return OnepassError(
            f'{self.where}: no "{key}"; found {", ".join(map(str, self.fields)) or "nothing"}; '
            f"expected {layout}"
        )


def clean(value: object, key: str, where: str) -> str:
    """`value` without space at its ends, its line ends as in Unix; `OnepassError` if no text.

    Everything else stays as it is in the file, NUL characters too: they are text like any other.
    """
    if not isinstance(value, str) or not value.strip():
        raise OnepassError(
            f'{where}: "{key}" must be a text that is not empty, found {value!r:.40}'
        )
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise OnepassError(f'{where}: "{key}" has half a character: {error.reason}') from error
    return value.replace("\r\n", "\n").strip()


def named(label: str, records: Iterable[tuple[str, Mapping[str, Any]]]) -> Iterable[Row]:
    """Rows of (where, fields), named by `label` and their number."""
    for number, (where, fields) in enumerate(records, start=1):
        yield Row(f"{label}-{number}", where, fields)
