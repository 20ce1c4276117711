"""Tables of scores."""

from collections.abc import Mapping
from typing import Any

import onepass.smalltown.verified  # its metrics  # noqa: F401
from onepass.cli.show import SCORE_HEADER, note, print_table, score_row
from onepass.evaluate.metrics import METRICS
from onepass.evaluate.stats import Interval


def print_card_scores(card: Mapping[str, Any]) -> None:
    """Print the scores on test examples that a card holds, if it holds any."""
    if "test" in card:
        print_score_table({name: Interval(**found) for name, found in card["test"].items()})


def print_score_table(intervals: Mapping[str, Interval]) -> None:
    """Print each metric in percent, with its 95 % bootstrap interval."""
    rows = [score_row(METRICS.get(name).title, found) for name, found in intervals.items()]
    if not rows:
        note("none of these metrics applies to these examples")
        return
    print_table(SCORE_HEADER, rows, numbers=True)
