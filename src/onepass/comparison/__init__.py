"""Recipes, the runs of their cells, and the report on them.

`data/table1.csv` holds the published figures (arXiv 2507.16083, table 1, averaged over models and
over languages or tones) that the report sets our ordering of the methods against.
"""

import onepass.smalltown.verified  # the default corpus and its metrics  # noqa: F401
