"""The documentation says of the merges what the register says."""

import re
from pathlib import Path

import pytest

from onepass.adapters.merging import MERGES

PAGE = Path(__file__).parents[1] / "docs" / "methods.md"
HEADINGS = ["Idea", "Formula", "Options", "Cost", "Where ours differs"]


def sections() -> dict[str, str]:
    parts = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    found = {name.strip(): body for name, _, body in (part.partition("\n") for part in parts)}
    assert found.pop("Pico, before any of them")
    return found


def test_there_is_a_section_for_each_merge_in_their_order() -> None:
    assert list(sections()) == list(MERGES)


@pytest.mark.parametrize("name", list(MERGES))
def test_a_section_has_the_template_and_the_true_options(name: str) -> None:
    body, merge = sections()[name], MERGES.get(name)
    assert re.findall(r"^- ([\w ]+):", body, re.MULTILINE) == HEADINGS
    told = dict(re.findall(r"`(\w+)` \(([\w.]+)[:;,)]", body))
    assert told == {option: str(default) for option, default in merge.options.items()}
    assert ("Weights 1 by default" in body) == (not merge.shares)
