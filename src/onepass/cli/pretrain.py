"""`onepass pretrain`: the tiny base, from nothing."""

from pathlib import Path
from typing import Annotated

import typer

from onepass.api.outputs import check_writable
from onepass.cli.options import Seed, parse_count
from onepass.cli.show import note
from onepass.core.errors import OnepassError

SHAPE = "Shape of the base"


def pretrain(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write.")] = Path("runs/tiny"),
    tokens: Annotated[str, typer.Option(help="Tokens to train on, such as 500K or 36M.")] = "36M",
    processes: Annotated[int, typer.Option(min=1, help="Side by side, a thread each.")] = 2,
    vocab_size: Annotated[int, typer.Option(min=512, rich_help_panel=SHAPE)] = 2048,
    hidden: Annotated[int, typer.Option(min=8, rich_help_panel=SHAPE)] = 128,
    layers: Annotated[int, typer.Option(min=1, rich_help_panel=SHAPE)] = 4,
    heads: Annotated[int, typer.Option(min=1, rich_help_panel=SHAPE)] = 4,
    kv_heads: Annotated[int, typer.Option(min=1, rich_help_panel=SHAPE)] = 2,
    mlp: Annotated[int, typer.Option(min=8, rich_help_panel=SHAPE)] = 384,
    context: Annotated[int, typer.Option(min=64, rich_help_panel=SHAPE)] = 1024,
    seed: Seed = 0,
) -> None:
    """Train the embedded tiny base from scratch.

    On general text of the town and generic instructions, never on a compositional task nor on
    anything of validation or test. Prints its progress as JSON lines; the loss is in nats per
    token. The base is then the folder "final" in the one given.

    \b
    Examples:
      onepass pretrain
      onepass pretrain --out runs/try --tokens 500K --processes 1
    """
    check_writable(out)
    count = parse_count(tokens)
    if hidden % heads or heads % kv_heads or (hidden // heads) % 2:
        raise OnepassError(
            f"hidden {hidden}, heads {heads} and kv-heads {kv_heads} do not divide: hidden must be "
            "an even multiple of heads, and heads a multiple of kv-heads"
        )

    from onepass.adapters.storage import FolderFiles, check_replaceable
    from onepass.export.merged import CONFIG, FILES

    for name in ("final", "checkpoint"):
        check_replaceable(out / name, FolderFiles(CONFIG, FILES))

    from torch.multiprocessing.spawn import ProcessRaisedException

    from onepass.smalltown.pretrain import documents
    from onepass.smalltown.pretraining import PretrainOptions
    from onepass.smalltown.pretraining import pretrain as train

    options = PretrainOptions(
        vocab_size=vocab_size, hidden=hidden, layers=layers, heads=heads, kv_heads=kv_heads,
        mlp=mlp, context=context, tokens=count, seed=seed, processes=processes,
    )  # fmt: skip
    try:
        folder = train(documents, options, out)
    except ProcessRaisedException as error:
        # It carries the worker's traceback as text, its last line the error itself.
        kind, _, message = str(error).strip().rpartition("\n")[2].partition(": ")
        if kind.rpartition(".")[2] != OnepassError.__name__:
            raise
        raise OnepassError(message) from error
    note(f"the base is in {folder}; adapters for it: onepass train summarize --model {folder}")
