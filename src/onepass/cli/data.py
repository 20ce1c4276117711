"""`onepass data`: what examples there are, and what they are.

A sub-command is a row here and the function `data_NAME` in `onepass/cli/data_NAME.py`.
"""

from onepass.cli.app import Entry, build_group

SUBCOMMANDS = (
    Entry("export", "Commands", "Export the examples of a task and split as JSON lines."),
    Entry("prepare", "Commands", "Make compositional sets of main-task targets."),
    Entry("describe", "Commands", "Tell what a corpus is, and check the files at a path."),
)


def _data() -> None:
    """Export examples as JSON lines; tell what a corpus is."""


data = build_group(_data, SUBCOMMANDS)
