"""`onepass calibrate`: a composition for a compositional task, from adapters and examples of it."""

from pathlib import Path
from typing import Annotated

import typer

from onepass.cli import options as o
from onepass.cli.show import describe_cost, note


def calibrate(
    task: o.TaskName,
    tasks: o.TasksFile = None,
    model: o.FoundModel = None,
    adapters: Annotated[
        list[str] | None,
        typer.Option(
            help="PEFT adapters, folders or hub names, one for each part of the task, in its "
            "order; for the base tiny by default the embedded ones."
        ),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data",
            "--corpus",
            help="Examples of the task: smalltown, a public corpus as NAME:PATH, or a file or "
            "folder of rows. Several are joined. See docs/data.md.",
            show_default="smalltown",
            rich_help_panel=o.DATA,
        ),
    ] = None,
    columns: o.Columns = None,
    kind: Annotated[
        str,
        typer.Option(
            help="lc (biases), lc++ (low-rank pairs), core (a matrix between the adapters' "
            "factors), lc-gain (gains and biases), or cat (a weight per adapter and layer)."
        ),
    ] = "lc++",
    form: Annotated[
        str | None,
        typer.Option(
            help="Of lc: output, an ordinary bias; or column, which any LoRA runtime can run."
        ),
    ] = None,
    rank: Annotated[int | None, typer.Option(min=1, help="Of lc++.", show_default="4")] = None,
    out: o.Out = None,
    examples: o.Examples = None,
    validation: o.Validation = None,
    test: o.Test = 0,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            help="By default 5e-3 for lc++ and core, 2e-2 for others.", rich_help_panel=o.TRAINING
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
    """Train the calibration of a compositional task: a composition.

    On the linear merge of the adapters, which stay as they are, a few parameters are trained that
    make one pass do all parts of the task at once. Interrupted, the same command goes on.

    With --base-quantization q8_0 or q4_0 they are trained on the very weights that a GGUF file of
    that type holds, and so make up for some of what the rounding costs.

    \b
    Examples:
      onepass calibrate summarize+translate:es
      onepass calibrate summarize+translate:es --kind lc --examples 2000
          --test 100
      onepass calibrate summarize+tone:witty
          --adapters SUMMARIZE_ADAPTER WITTY_ADAPTER
          --data examples.jsonl
      onepass calibrate title+translate:it --tasks tasks.yaml
          --adapters TITLE ITALIAN
          --data both.csv --columns input=text target=titolo
      onepass calibrate reply+translate:de --base-quantization q4_0
    """
    from onepass.api.make import calibrate as calibrate_adapters
    from onepass.api.make import calibration_method
    from onepass.api.resolve import as_task
    from onepass.api.use import load
    from onepass.cli.held_out import print_card_scores
    from onepass.tasks.task import slug

    wanted, renamed = as_task(task, tasks), o.parse_columns(columns)
    method = calibration_method(kind, form, rank)
    out = out or Path("runs", "compositions", f"{slug(wanted.name)}-{method}")
    calibrate_adapters(
        wanted, adapters, data or ["smalltown"], kind=kind, form=form, rank=rank,
        base="tiny" if model is None and not adapters else model,
        validation=validation, examples=examples, test=test, columns=renamed, seed=seed, out=out,
        save_as=save_as, device=device, dtype=dtype, quantization=quantization,
        learning_rate=learning_rate, epochs=epochs, max_steps=steps, batch_size=batch_size,
        accumulation=accumulation, weight_decay=weight_decay, eval_every=eval_every,
        patience=patience, max_tokens=max_tokens, precision=precision,
    )  # fmt: skip
    saved = load(out)
    loss = saved.card["training"]["validation_loss"]
    validated = "" if loss is None else f"; validation loss {loss:.4f} nats per token"
    note(f"{out}: {describe_cost(saved.cost)}{validated}")
    note(f"run it: onepass generate {out} --input FILE")
    print_card_scores(saved.card)
