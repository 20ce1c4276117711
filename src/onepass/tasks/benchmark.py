"""The benchmark's tasks (arXiv 2507.16083): nine single ones and the fourteen pairs of its table.

The lists never grow because somebody declares a task; see `onepass.tasks.book` for that.
"""

MAIN_TASKS = ("summarize", "reply")
TRANSLATIONS = ("translate:es", "translate:fr", "translate:de")
TONE_TASKS = ("tone:professional", "tone:casual", "tone:witty", "tone:paraphrase")

SINGLE_TASKS = MAIN_TASKS + TRANSLATIONS + TONE_TASKS
"""The nine tasks that have an adapter each."""

COMPOSITIONAL_TASKS = tuple(
    f"{main}+{auxiliary}"
    for main in MAIN_TASKS
    for family in (TRANSLATIONS, TONE_TASKS)
    for auxiliary in family
)
"""The fourteen pairs, in the order of the table."""

_GROUPS = {
    ("summarize", "translate"): "sum_translation",
    ("summarize", "tone"): "sum_tone",
    ("reply", "translate"): "reply_translation",
    ("reply", "tone"): "reply_tone",
}
TASK_GROUPS = tuple(_GROUPS.values())
"""The four column groups of the table."""


def task_group(name: str) -> str | None:
    """The column group of the table that holds a task; None if none does."""
    if name not in COMPOSITIONAL_TASKS:
        return None
    main, _, auxiliary = name.partition("+")
    return _GROUPS[main, auxiliary.partition(":")[0]]
