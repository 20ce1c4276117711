"""The error for a name that there is not."""

import pytest

from onepass.core.registry import FEW, unknown

MODES = ["zero-shot", "main", "multi-step", "composed"]


@pytest.mark.parametrize(
    ("name", "known", "message"),
    [
        ("mian", MODES, "did you mean 'main'? known: zero-shot, main, multi-step, composed"),
        ("xyz", MODES, "known: zero-shot, main, multi-step, composed"),
        ("bath", ["both"], "did you mean 'both'?"),
        ("both", [], "known: none"),
        ("name1", [f"name{n}" for n in range(2, 3 + FEW)], "did you mean 'name"),
    ],
)
def test_few_names_are_all_told_and_of_many_the_near_ones(
    name: str, known: list[str], message: str
) -> None:
    said = str(unknown("mode", name, known)).removeprefix(f"unknown mode {name!r}: ")
    assert said.startswith(message)
    assert ("known" in said) == ("known" in message)
