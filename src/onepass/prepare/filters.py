"""Which labels are left out, and why.

A filter is a function of (source, label, language), true where the label must go; add it to
`FILTERS`, whose order is that in which they are asked: the first that is true is the one counted.
"""

from collections.abc import Callable

from onepass.evaluate.metrics.language import identify
from onepass.prepare.labeller import TOO_LONG

LONGEST_RATIO, ALWAYS_ALLOWED = 3.0, 200
JUDGED_LETTERS = 15


def empty(_source: str, label: str, _language: str) -> bool:
    """nothing but blanks and control characters"""
    return not any(letter.isprintable() and not letter.isspace() for letter in label)


def unchanged(source: str, label: str, _language: str) -> bool:
    """the same as its source, but for case and blanks"""
    return source.casefold().split() == label.casefold().split()


def too_long(source: str, label: str, _language: str) -> bool:
    """more than 3 times as long as its source and over 200 characters, cut off, or of a source \
that the model cannot read whole"""
    return len(label) > max(LONGEST_RATIO * len(source), ALWAYS_ALLOWED)


def wrong_language(_source: str, label: str, language: str) -> bool:
    """in another language by py3langid; labels of fewer than 15 letters are not judged"""
    # Of the English summaries and replies of DialogSum and Persona-Chat, 6 % of those under 15
    # letters are taken for another language, and none of the 937 longer ones; of smalltown's short
    # sentences full of names, 0.1 %.
    letters = sum(letter.isalpha() for letter in label)
    return letters >= JUDGED_LETTERS and identify(label, language) != language


Filter = Callable[[str, str, str], bool]

FILTERS: dict[str, Filter] = {
    "empty": empty,
    "unchanged": unchanged,
    TOO_LONG: too_long,
    "wrong language": wrong_language,
}
"""By the reason that is counted; the docstring is what the card says of it."""


def problem(source: str, label: str, language: str) -> str:
    """Why `label` (which should be in `language`) cannot be used; "" if it can."""
    return next((name for name, bad in FILTERS.items() if bad(source, label, language)), "")
