"""`onepass data describe`: what a corpus is, and whether the files at hand are that."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from onepass.cli.show import print_table
from onepass.tasks.book import parse_task
from onepass.tasks.corpora.facts import Facts, checksum, data_files, facts_of, sizes
from onepass.tasks.corpora.kind import Rows, unique
from onepass.tasks.corpus import CORPORA, HUB, load_corpus


def data_describe(
    corpus: Annotated[
        str,
        typer.Argument(
            metavar="CORPUS", help="dialogsum, persona-chat, ted, tone or smalltown; or NAME:PATH."
        ),
    ],
) -> None:
    """Tell licence, citation and sizes of a corpus, and check the files at a path.

    Of a path it tells which data files there are, whether each is upstream's by its sha256
    (matches, differs or unknown), and for each split how many rows there are and should be, and how
    many examples they make. A row that cannot be read, or an id that stands twice, is named.
    Nothing is downloaded, unless you give NAME:hub:OWNER/NAME.

    \b
    Examples:
      onepass data describe dialogsum
      onepass data describe dialogsum:DIALOGSUM_FOLDER
      onepass data describe persona-chat:Synthetic-Persona-Chat_valid.csv
    """
    kind, _, place = corpus.partition(":")
    CORPORA.get(kind)
    facts, found = facts_of(kind), load_corpus(corpus) if place else None
    print_table(("fact", "value"), facts.told())
    if not isinstance(found, Rows):
        return
    if not place.startswith(HUB):
        files = data_files(Path(place))
        typer.echo()
        print_table(("file", "sha256"), [(str(file), checksum(file, facts)) for file in files])
    typer.echo()
    print_table(("split", "rows", "expected", "examples"), [*_splits(found, facts)])


def _splits(corpus: Rows, facts: Facts) -> list[tuple[str, str, str, str]]:
    source, read = corpus.source, corpus.kind.read
    table = []
    for split in source.splits() or ["all"]:
        rows = "all" if source.whole else split
        with Console(stderr=True).status(f"reading {split}"):
            count = sum(1 for _ in source.rows(rows))
            examples = [
                f"{len(unique(read(source.rows(rows), parse_task(task)))):,} of {task}"
                for task in facts.tasks
            ]
        known = (facts.rows or {}).get(split, [])
        verdict = "as expected" if count in known else f"differs: {sizes(known)} expected"
        table.append((split, f"{count:,}", verdict if known else "unknown", ", ".join(examples)))
    return table
