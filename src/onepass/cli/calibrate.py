"""`onepass calibrate`: a composition for a compositional task, from adapters and examples of it."""

from pathlib import Path
from typing import Annotated, Any

import typer

from onepass.cli import options as o
from onepass.cli.inputs import load_adapters, read_splits, torch_dtype
from onepass.cli.outputs import check_writable, resumable
from onepass.cli.show import describe_cost, note
from onepass.core.errors import OnepassError
from onepass.core.registry import unknown
from onepass.tasks.book import parse_task
from onepass.tasks.corpus import load_corpus
from onepass.tasks.task import slug

METHOD_OF = {
    ("lc++", None): "lc++",
    ("lc", None): "lc",
    ("lc", "output"): "lc",
    ("lc", "column"): "lc-column",
}
"""The method that a --kind and a --form name."""


def calibrate(
    task: o.TaskName,
    model: o.Model = "tiny",
    adapters: Annotated[
        list[Path] | None,
        typer.Option(
            help="PEFT adapters, one for each part of the task, in its order; "
            "for the base tiny by default the embedded ones."
        ),
    ] = None,
    data: Annotated[
        str,
        typer.Option(
            "--data",
            "--corpus",
            help="smalltown, or a file or folder of input and target. See docs/data.md.",
            rich_help_panel=o.DATA,
        ),
    ] = "smalltown",
    columns: o.Columns = None,
    kind: Annotated[str, typer.Option(help="lc (biases) or lc++ (low-rank pairs).")] = "lc++",
    form: Annotated[
        str | None,
        typer.Option(
            help="Of lc: output, an ordinary bias; or column, which any LoRA runtime can run."
        ),
    ] = None,
    rank: Annotated[int | None, typer.Option(min=1, help="Of lc++.", show_default="4")] = None,
    out: o.Out = None,
    examples: o.Examples = None,
    validation: o.Validation = 500,
    test: o.Test = 0,
    learning_rate: Annotated[
        float | None,
        typer.Option(help="By default 5e-3 for lc++, 2e-2 for lc.", rich_help_panel=o.TRAINING),
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
      onepass calibrate summarize+translate:es --kind lc --examples 2000 --test 100
      onepass calibrate summarize+tone:witty --model MODEL_FOLDER
          --adapters SUMMARIZE_ADAPTER WITTY_ADAPTER --data examples.jsonl
      onepass calibrate reply+translate:de --base-quantization q4_0
    """
    wanted = parse_task(task)
    if kind not in ("lc", "lc++"):
        raise unknown("calibration kind", kind, ["lc", "lc++"])
    if (kind, form) not in METHOD_OF:
        raise OnepassError(f"{kind} has no form {form!r}; lc is output or column, lc++ takes none")
    if kind == "lc" and rank is not None:
        raise OnepassError("--rank says nothing about --kind lc, whose biases have none")
    method = METHOD_OF[kind, form]
    out = out or Path("runs", "compositions", f"{slug(wanted.name)}-{method}")
    check_writable(out)
    source = load_corpus(data, o.parse_columns(columns))

    from dataclasses import replace

    from onepass import __version__
    from onepass.adapters.composition import (
        COMPOSITION_FILES,
        cost,
        load_composition,
        save_composition,
    )
    from onepass.adapters.storage import check_replaceable
    from onepass.cli.held_out import print_scores
    from onepass.methods import METHODS, Setting
    from onepass.model.load import check_loadable, load_base
    from onepass.model.training.options import TrainOptions

    check_replaceable(out, COMPOSITION_FILES)
    saved_as = torch_dtype(save_as)
    check_loadable(model, device, dtype, quantization)
    options: dict[str, Any] = {
        "epochs": epochs, "max_steps": steps, "batch_size": batch_size,
        "accumulation": accumulation, "weight_decay": weight_decay, "eval_every": eval_every,
        "patience": patience, "max_tokens": max_tokens, "dtype": precision,
    }  # fmt: skip
    if learning_rate is not None:
        options["learning_rate"] = learning_rate
    TrainOptions(**options, seed=seed)  # what is wrong with one should show before the work
    if rank is not None:
        options["rank"] = rank
    parts = load_adapters(wanted, model, adapters or [])
    training, held_out, tested = read_splits(
        source, wanted, train=examples, validation=validation, test=test
    )
    base = load_base(model, device, dtype, quantization)
    with resumable(out) as state:
        setting = Setting(
            base, wanted, parts, training, held_out, options, seed, state, progress=True
        )
        composition = METHODS.get(method).build(setting)
        made = {
            "data": source.name, "base_quantization": quantization, "onepass": __version__,
        }  # fmt: skip
        composition = replace(composition, card={**composition.card, **made})
        save_composition(composition, out, saved_as)
    saved = load_composition(out)
    loss = composition.card["training"]["validation_loss"]
    validated = "" if loss is None else f"; validation loss {loss:.4f} nats per token"
    note(f"{out}: {describe_cost(cost(saved))}{validated}")
    where = "" if model == "tiny" else f" --model {model}"
    note(f"run it: onepass generate {out}{where} --input FILE")
    if tested:
        print_scores(base, saved, wanted, tested)
