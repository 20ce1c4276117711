"""`onepass experiment`: the command lines of the paper's program, as they stand in its README."""

from dataclasses import fields
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onepass.cli import options as o
from onepass.cli.show import note, percent, print_table
from onepass.core.errors import OnepassError

if TYPE_CHECKING:
    from onepass.api.experiment import Experiment

RUN, JUDGE = "run_experiment.py", "llm_judge_eval.py"
STAGES = {"test": "test", "valid": "validation"}
THE_JUDGE = "meta-llama/Llama-3.1-70B-Instruct"
_MERGE, _STEPS, _DONE, _JUDGING = "Merging", "Several steps", "What is done", "The judge"
_OURS = "Not of the paper's program"
_OF_JUDGE = ("stage", "batch_size", "judge", "endpoint", "judge_model")


def experiment(
    ctx: typer.Context,
    experiment_name: Annotated[
        str, typer.Option("--experiment_name", help="Of the output, predictions and logs.")
    ],
    program: Annotated[
        str | None,
        typer.Argument(
            metavar="[PROGRAM]",
            help=f"{RUN} or {JUDGE}, as it stands after `python`; may be left out.",
            show_default=False,
        ),
    ] = None,
    model_name_or_path: Annotated[
        str, typer.Option("--model_name_or_path", help="The base, as for other commands.")
    ] = "",
    dataset: Annotated[
        str, typer.Option("--dataset", help="Of the main task, as dialogsum; of one task any.")
    ] = "",
    stored_model_name: Annotated[
        str | None,
        typer.Option("--stored_model_name", help="The LoRA: a folder in stored_models."),
    ] = None,
    tgt_lang: Annotated[
        str | None, typer.Option("--tgt_lang", help="Of a translation: es, fr or de.")
    ] = None,
    secondary_task: Annotated[
        str | None, typer.Option("--secondary_task", help="translation, or tone.")
    ] = None,
    secondary_task_dataset: Annotated[
        str | None,
        typer.Option("--secondary_task_dataset", help="Of both tasks at once, as dialogsum_es."),
    ] = None,
    zero_shot: Annotated[bool, typer.Option("--zero_shot", help="The base alone.")] = False,
    multi_task_train_targets: Annotated[
        bool,
        typer.Option(
            "--multi_task_train_targets", help="Train the LoRA on both tasks: a joint expert."
        ),
    ] = False,
    gradient_accumulation_steps: Annotated[
        int | None,
        typer.Option(
            "--gradient_accumulation_steps",
            metavar="N",
            min=1,
            help="Batches of 16 per step.",
            rich_help_panel=_DONE,
        ),
    ] = None,
    lora_merge_strategy: Annotated[
        str | None,
        typer.Option(
            "--lora_merge_strategy",
            help="peft_linear, learnable_calibration, learnable_calibration_pp, or another method; "
            "docs/paper.md has them all.",
            rich_help_panel=_MERGE,
        ),
    ] = None,
    lora_merge_modules: Annotated[
        list[str] | None,
        typer.Option(
            "--lora_merge_modules",
            metavar="A B",
            help="The LoRAs: two folders in stored_models.",
            rich_help_panel=_MERGE,
        ),
    ] = None,
    merge_datasets: Annotated[
        list[str] | None,
        typer.Option(
            "--merge_datasets",
            metavar="A",
            help="What a merge learns from: the secondary task's data set.",
            rich_help_panel=_MERGE,
        ),
    ] = None,
    num_examples_merge: Annotated[
        int | None,
        typer.Option(
            "--num_examples_merge",
            metavar="N",
            min=1,
            help="So many of them.",
            show_default="10000",
            rich_help_panel=_MERGE,
        ),
    ] = None,
    for_each_component: Annotated[
        bool,
        typer.Option(
            "--for_each_component",
            help="A calibration for each type of projection, as is always so here.",
            rich_help_panel=_MERGE,
        ),
    ] = False,
    multi_step_prompts: Annotated[
        bool,
        typer.Option(
            "--multi_step_prompts", help="One LoRA after the other.", rich_help_panel=_STEPS
        ),
    ] = False,
    prompt_style: Annotated[
        str | None,
        typer.Option(
            "--prompt_style",
            help="empty: the text alone, without an instruction.",
            show_default="instruction",
            rich_help_panel=_STEPS,
        ),
    ] = None,
    secondary_stored_model_name: Annotated[
        str | None,
        typer.Option(
            "--secondary_stored_model_name",
            help="The LoRA of the second step.",
            rich_help_panel=_STEPS,
        ),
    ] = None,
    do_train: Annotated[
        bool, typer.Option("--do_train", help="Train the LoRA.", rich_help_panel=_DONE)
    ] = False,
    do_valid: Annotated[
        bool, typer.Option("--do_valid", help="Test on validation data.", rich_help_panel=_DONE)
    ] = False,
    do_predict: Annotated[
        bool, typer.Option("--do_predict", help="Test on test data.", rich_help_panel=_DONE)
    ] = False,
    stage: Annotated[
        str | None,
        typer.Option(
            "--stage", help="Judge the predictions on test, or valid.", rich_help_panel=_JUDGING
        ),
    ] = None,
    batch_size: Annotated[
        int,
        typer.Option(
            "--batch_size", min=1, help="Outputs judged at a time.", rich_help_panel=_JUDGING
        ),
    ] = 8,
    judge: Annotated[
        str | None,
        typer.Option(
            help="The judge: a folder or hub name.",
            show_default=f"{THE_JUDGE}, 140 GB",
            rich_help_panel=_OURS,
        ),
    ] = None,
    endpoint: o.EndpointUrl = None,
    judge_model: Annotated[
        str | None,
        typer.Option(help="The server's name for the judge.", rich_help_panel=o.SERVER),
    ] = None,
    root: Annotated[
        Path,
        typer.Option(
            help="Where data, output, predictions, stored_models and logs are.",
            rich_help_panel=_OURS,
        ),
    ] = Path(),
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="FIELD=VALUE",
            help="Change a field of the recipe: device=cuda, test=100, options.lc++.max_steps=50.",
            rich_help_panel=_OURS,
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Processes, as of `onepass bench`.",
            show_default="0: here",
            rich_help_panel=_OURS,
        ),
    ] = 0,
    show_recipe: Annotated[
        bool,
        typer.Option(
            "--show-recipe", help="Print the recipe, and run nothing.", rich_help_panel=_OURS
        ),
    ] = False,
) -> None:
    """Run a command line of the paper's program, run_experiment.py or llm_judge_eval.py.

    In its README write `onepass experiment` for `python`. The flags become a recipe, which is run
    as by `onepass bench`: run again, it goes on, and what is done is not done again. Results are
    in output/NAME, predictions in predictions/NAME, what happened in logs/NAME.log, and what was
    trained in stored_models. With --stage it is the judge. See docs/paper.md.

    \b
    Examples:
      onepass experiment run_experiment.py --experiment_name sum
          --model_name_or_path tiny --dataset dialogsum
          --stored_model_name sum --do_train --do_predict
      onepass experiment llm_judge_eval.py --experiment_name sum
          --batch_size 2 --stage test --judge MODEL_FOLDER
    """
    given = o.given(ctx)
    if program not in (None, RUN, JUDGE):
        raise OnepassError(f"{program!r} is neither {RUN} nor {JUDGE}; give one, or leave it out")
    judging = stage is not None if program is None else program == JUDGE
    if judging:
        ours = (*_OF_JUDGE, "program", "experiment_name", "root")
        foreign = [name for name in given if name not in ours]
        o.refuse(ctx, foreign, f"is not for the judge ({JUDGE}), which --stage asks for")
        _judge(root / "output" / experiment_name, stage, batch_size, judge, endpoint, judge_model)
        return
    o.refuse(ctx, _OF_JUDGE, f"is for the judge ({JUDGE}), which --stage asks for")
    for name in ("model_name_or_path", "dataset"):
        if not ctx.params[name]:
            raise OnepassError(f"--{name} is missing")

    from onepass.api.experiment import Flags, translate

    values = {field.name: ctx.params[field.name] for field in fields(Flags)}
    for name in ("lora_merge_modules", "merge_datasets"):
        values[name] = tuple(values[name] or ())
    flags = Flags(**values)
    found = translate(flags, root, tuple(changes or ()))
    if show_recipe:
        typer.echo(found.text, nl=False)
        for what in found.missing:
            note(f"missing: {what}")
        return
    _run(found, f"onepass experiment {flags}", workers)


def _run(found: "Experiment", command: str, workers: int | None) -> None:
    from onepass.api.experiment import keep_results, open_experiment
    from onepass.cli.bench import follow

    bench = open_experiment(found)
    found.log.parent.mkdir(parents=True, exist_ok=True)
    with found.log.open("a", encoding="utf-8") as file:

        def log(line: str) -> None:
            file.write(f"{datetime.now():%Y-%m-%d %H:%M:%S} {line}\n")
            file.flush()

        log(command)
        if found.remark:
            note(found.remark)
            log(found.remark)
        if found.trains and found.trains.is_dir():
            note(f"{found.trains} is there already and is not trained again")
        try:
            follow(bench, workers, not found.tests, log)
        except OnepassError as error:
            log(f"error: {error}")
            raise
        for place in filter(None, (found.trains, found.composes if found.tests else None)):
            log(f"stored model: {place}")
        if not found.tests:
            return
        results = keep_results(found)
        for row in results:
            log(f"result: {row}")
    _show(found, results)


def _show(found: "Experiment", results: list[dict[str, object]]) -> None:
    names = list(dict.fromkeys(name for row in results for name in row))[6:]
    header = ("split", "examples tested", *(f"{name}, %" for name in names))
    rows = [
        [
            str(row["split"]), str(row["count"]),
            *(percent(float(str(row[name]))) if name in row else "-" for name in names),
        ]
        for row in results
    ]  # fmt: skip
    print_table(header, rows, numbers=True)
    note(f"done; more with: onepass report {found.folder}")


def _judge(
    folder: Path,
    stage: str | None,
    batch_size: int,
    judge: str | None,
    endpoint: str | None,
    judge_model: str | None,
) -> None:
    """Have `onepass judge` do it."""
    from onepass.cli.app import load_command
    from onepass.core.registry import unknown

    split = STAGES.get(stage or "test")
    if split is None:
        raise unknown("--stage", str(stage), list(STAGES))
    if not folder.is_dir():
        raise OnepassError(f"there is no {folder}; run the experiment first, with --do_predict")
    arguments = [str(folder), "--splits", split]
    if endpoint:
        arguments += ["--endpoint", endpoint, "--concurrency", str(batch_size)]
    if not (judge or endpoint):
        note(f"judge: {THE_JUDGE}; --judge or --endpoint names another")
    if judge or not endpoint:
        arguments += ["--judge", judge or THE_JUDGE, "--batch-size", str(batch_size)]
    if judge_model:
        arguments += ["--judge-model", judge_model]
    load_command("judge").main(arguments, standalone_mode=False)
