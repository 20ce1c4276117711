"""From a judge's answer to its verdict: yes, no, or not to be read.

Three places may hold a verdict: the beginning ("No, the date is missing."), the last line after a
reasoning, and what is called the answer ("The answer is yes"). All that are found must agree.
An answer that says neither, or both, is unreadable, and counts neither for nor against an output.
"""

import re
from typing import Literal

Verdict = Literal["yes", "no", "unreadable"]

_YES, _NO = ("yes", "ja", "oui", "sí", "si"), ("no", "nein", "non")
_WORD = rf"({'|'.join((*_YES, *_NO))})"
_THOUGHT = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL | re.IGNORECASE)
_MARKUP = re.compile(r"[*_`#>\"'“”‘’«»„(){}\[\]\\|]+")
# After a verdict the sentence ends, or goes on with a reason: "No doubt" is none.
_ENDS = r"(?=\s*(?:[.,;:!\-–—]|$)|\s+(?:because|since|as|it|the|this|they|both|all)\b)"
_OPENING = re.compile(rf"^{_WORD}{_ENDS}", re.IGNORECASE)
_ALONE = re.compile(rf"^(?:\W*|.*:\s*|.*\bboxed\s+(?:text\s+)?){_WORD}\W*$", re.IGNORECASE)
_CALLED = re.compile(
    r"\b(?:answer|verdict|judge?ment|decision|conclusion|output right)\s*(?:is|would be|[:=?-])\s*"
    rf"(?:a\s+)?{_WORD}{_ENDS}",
    re.IGNORECASE,
)
# "Yes or no", "Yes/No": the question said again.
_BOTH = re.compile(rf"{_WORD}\s*(?:/|,?\s*\bor\b|,?\s*\band\b)\s*{_WORD}", re.IGNORECASE)


def read_verdict(answer: str) -> Verdict:
    """The verdict in a judge's answer, in any of a few languages, markup aside."""
    plain = _BOTH.sub("…", _MARKUP.sub(" ", _THOUGHT.sub("", answer)))
    lines = [" ".join(line.split()) for line in plain.splitlines()]
    lines = [line for line in lines if re.search(r"\w", line) or "…" in line]
    if not lines:
        return "unreadable"
    found = [
        _OPENING.search(lines[0].lstrip(" .:-–—")),
        _ALONE.search(lines[-1]),
        *([last] if (last := _last(_CALLED, " ".join(lines))) else []),
    ]
    said = {"yes" if match[1].lower() in _YES else "no" for match in found if match}
    if said == {"yes"}:
        return "yes"
    return "no" if said == {"no"} else "unreadable"


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    return next(reversed(list(pattern.finditer(text))), None)
