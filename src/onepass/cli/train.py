"""`onepass train`: an adapter for one task."""

from pathlib import Path
from typing import Annotated

import typer

from onepass.cli import options as o
from onepass.cli.show import note


def train(
    task: o.TaskName,
    tasks: o.TasksFile = None,
    model: o.Model = "tiny",
    out: o.Out = None,
    rank: Annotated[int, typer.Option(min=1, help="Of the LoRA.")] = 32,
    alpha: Annotated[float | None, typer.Option(help="LoRA's; by default 2 x rank.")] = None,
    target_modules: Annotated[
        list[str] | None,
        typer.Option(
            help="Last names of the layers to adapt, such as q_proj v_proj; by default all linear "
            "layers of the blocks."
        ),
    ] = None,
    activated: Annotated[
        bool,
        typer.Option(
            "--activated",
            help="Act after the text only, so that one reading of it serves every task.",
        ),
    ] = False,
    corpus: o.CorpusNames = None,
    columns: o.Columns = None,
    examples: o.Examples = None,
    validation: o.Validation = None,
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
      onepass train summarize --activated
      onepass train title --tasks tasks.yaml --model MODEL_FOLDER
          --corpus titles.csv
          --columns input=text target=title
    """
    from onepass.adapters.shape import BaseShape
    from onepass.api.make import train as train_adapter
    from onepass.api.resolve import as_task
    from onepass.cli.held_out import print_card_scores
    from onepass.model.targets import describe_targets
    from onepass.tasks.task import slug

    wanted, renamed = as_task(task, tasks), o.parse_columns(columns)
    out = out or Path("runs", "adapters", slug(wanted.name))
    adapter = train_adapter(
        wanted, corpus or ["smalltown"], base=model, validation=validation, examples=examples,
        test=test, columns=renamed, rank=rank, alpha=alpha, target_modules=target_modules,
        activated=activated, out=out, save_as=save_as, device=device, dtype=dtype,
        quantization=quantization,
        learning_rate=learning_rate, epochs=epochs, max_steps=steps, batch_size=batch_size,
        accumulation=accumulation, weight_decay=weight_decay, eval_every=eval_every,
        patience=patience, max_tokens=max_tokens, precision=precision, seed=seed,
    )  # fmt: skip
    loss = adapter.card["validation_loss"]
    covered = BaseShape("", {module: lora.shape for module, lora in adapter.modules.items()})
    note(f"{out}: {adapter!r}")
    note(
        f"it changes {describe_targets(covered)}; {adapter.card['steps']} steps, "
        + ("not validated" if loss is None else f"validation loss {loss:.4f} nats per token")
    )
    print_card_scores(adapter.card)
