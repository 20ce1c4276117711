"""`onepass train`: an adapter for one task."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from onepass.cli import options as o
from onepass.cli.inputs import read_splits, torch_dtype
from onepass.cli.outputs import check_writable, resumable
from onepass.cli.show import note
from onepass.tasks.book import parse_task
from onepass.tasks.corpus import load_corpus
from onepass.tasks.task import slug


def train(
    task: o.TaskName,
    model: o.Model = "tiny",
    out: o.Out = None,
    rank: Annotated[int, typer.Option(min=1, help="Of the LoRA, on every projection.")] = 32,
    alpha: Annotated[float | None, typer.Option(help="LoRA's; by default 2 x rank.")] = None,
    corpus: o.CorpusName = "smalltown",
    columns: o.Columns = None,
    examples: o.Examples = None,
    validation: o.Validation = 500,
    test: o.Test = 0,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            help="By default 2e-4 for a base 2048 wide, more for narrower ones.",
            rich_help_panel=o.TRAINING,
        ),
    ] = None,
    epochs: o.Epochs = 3.0,
    steps: o.Steps = None,
    batch_size: o.BatchSize = 16,
    accumulation: o.Accumulation = 1,
    weight_decay: o.WeightDecay = 0.0,
    eval_every: o.EvalEvery = 200,
    patience: o.Patience = 3,
    max_tokens: o.MaxTokens = None,
    precision: o.Precision = "auto",
    seed: o.Seed = 0,
    device: o.Device = "auto",
    dtype: o.Dtype = "auto",
    quantization: o.Quantization = "none",
    save_as: o.SaveAs = "float16",
) -> None:
    """Train an adapter for one task.

    A LoRA in PEFT's format with a card of how it was made. Stops early when the validation loss
    no longer falls, and keeps the best. Interrupted, the same command goes on where it stopped.

    \b
    Examples:
      onepass train summarize
      onepass train translate:es --examples 5000 --rank 16 --test 200
      onepass train summarize --model MODEL_FOLDER --corpus dialogsum:FOLDER
      onepass train reply --model MODEL_FOLDER --corpus replies.csv --out reply
          --columns input=chat target=answer
    """
    wanted = parse_task(task)
    out = out or Path("runs", "adapters", slug(wanted.name))
    check_writable(out)
    source = load_corpus(corpus, o.parse_columns(columns))

    from onepass import __version__
    from onepass.adapters.adapter import ADAPTER_FILES, adapter_bytes, save_adapter
    from onepass.adapters.composition import Composition, Pass, Weighted
    from onepass.adapters.storage import check_replaceable
    from onepass.cli.held_out import print_scores
    from onepass.model.load import check_loadable, load_base
    from onepass.model.training.adapter import checked_alpha, default_rate, train_adapter
    from onepass.model.training.options import TrainOptions

    check_replaceable(out, ADAPTER_FILES)
    saved_as = torch_dtype(save_as)
    checked_alpha(rank, alpha)
    check_loadable(model, device, dtype, quantization)
    options = TrainOptions(
        epochs=epochs, max_steps=steps, batch_size=batch_size, accumulation=accumulation,
        weight_decay=weight_decay, eval_every=eval_every, patience=patience,
        max_tokens=max_tokens, seed=seed,
        dtype=precision,  # type: ignore[arg-type]  # TrainOptions checks it
    )  # fmt: skip
    if learning_rate is not None:
        options = replace(options, learning_rate=learning_rate)
    training, held_out, tested = read_splits(
        source, wanted, train=examples, validation=validation, test=test
    )
    base = load_base(model, device, dtype, quantization)
    if learning_rate is None:
        options = replace(options, learning_rate=default_rate(base))
    with resumable(out) as state:
        adapter = train_adapter(
            base, wanted, training, held_out, rank, alpha, options, state_dir=state
        )
        made = {"corpus": source.name, "onepass": __version__}
        adapter = replace(adapter, card={**adapter.card, **made})
        save_adapter(adapter, out, saved_as)
    loss = adapter.card["validation_loss"]
    note(
        f"{out}: {adapter_bytes(out):,} bytes, {adapter.card['steps']} steps, "
        + ("not validated" if loss is None else f"validation loss {loss:.4f} nats per token")
    )
    if tested:
        pass_ = Pass(wanted, (Weighted(adapter),))
        alone = Composition(base.shape, wanted, (pass_,), "adapter")
        print_scores(base, alone, wanted, tested)
