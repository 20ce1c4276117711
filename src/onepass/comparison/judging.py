"""Having a model judge the stored predictions of runs: a step of its own, which can be resumed."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from onepass.comparison.cells import matches
from onepass.comparison.examples import read_outputs
from onepass.comparison.judgements import (
    Header,
    Judgement,
    adding_answers,
    answers_path,
    judge_name,
    judgements_path,
    read_answers,
    read_judgements,
    save_judgements,
)
from onepass.comparison.materials import base_identity
from onepass.comparison.runs import Run, load_runs
from onepass.core.errors import OnepassError
from onepass.evaluate.judge.prompts import VERSION, judge_prompt
from onepass.evaluate.judge.read import read_verdict
from onepass.model.chat import prompt_ids
from onepass.model.generate import generate
from onepass.model.load import load_base
from onepass.serve.endpoint import Endpoint, Response, Spent, ask

OnResponse = Callable[[int, Response], None]

_BATCHES_AT_ONCE = 4  # of which a kill loses the answers


@dataclass(frozen=True)
class Judge:
    """A `model` that answers prompts.

    name: of its files. identity: changes when its answers may. ask: takes prompts, and a function
    to call with each answer as it comes.
    """

    name: str
    model: str
    identity: str
    ask: Callable[[Sequence[str], OnResponse], None]


@dataclass(frozen=True)
class Choice:
    """Which predictions are judged; empty or None: all.

    only: patterns METHOD or METHOD/TASK. splits: of the recipe. limit: the first so many of each
    split of each cell. corpus: where the corpus is now.
    """

    only: Sequence[str] = ()
    splits: Sequence[str] = ()
    limit: int | None = None
    corpus: str | None = None


@dataclass(frozen=True)
class Questions:
    """The questions to a judge about some runs; a prompt that outputs share is asked once.

    cells: the runs, each with its predictions as (split, id, key). prompts: by key.
    """

    folder: Path
    judge: Judge
    cells: list[tuple[Run, list[tuple[str, str, str]]]]
    prompts: dict[str, str]
    known: dict[str, str]

    @property
    def predictions(self) -> int:
        return sum(len(rows) for _, rows in self.cells)

    @property
    def open(self) -> dict[str, str]:
        """The prompts that have no answer yet."""
        return {key: prompt for key, prompt in self.prompts.items() if key not in self.known}


def endpoint_judge(
    endpoint: Endpoint, max_new_tokens: int, spent: Spent, name: str | None = None
) -> Judge:
    """A judge behind a server; `spent` grows with what it costs."""

    def answer(prompts: Sequence[str], on_response: OnResponse) -> None:
        ask(endpoint, prompts, max_new_tokens=max_new_tokens, on_response=on_response, spent=spent)

    return Judge(
        name or judge_name(endpoint.model),
        endpoint.model,
        f"{endpoint.model} {max_new_tokens}",
        answer,
    )


def local_judge(
    model: str,
    max_new_tokens: int,
    batch_size: int,
    name: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    quantization: str = "none",
) -> Judge:
    """A judge run here: a folder or a hub name; loaded only if there is something to ask.

    device, dtype, quantization: as of `load_base`. The last two make another judge of it.
    """

    def answer(prompts: Sequence[str], on_response: OnResponse) -> None:
        base = load_base(model, device, dtype, quantization)
        lengths = [len(ids) for ids in prompt_ids(base.tokenizer, prompts)]
        fitting = []
        for place in sorted(range(len(prompts)), key=lengths.__getitem__, reverse=True):
            if lengths[place] + max_new_tokens <= base.context:
                fitting.append(place)
                continue
            on_response(
                place, Response(None, f"too long: {lengths[place]} tokens of {base.context}")
            )
        step = _BATCHES_AT_ONCE * batch_size
        for start in range(0, len(fitting), step):
            chunk = fitting[start : start + step]
            done = generate(base, [prompts[place] for place in chunk], max_new_tokens, batch_size)
            for place, text in zip(chunk, done.texts, strict=True):
                on_response(place, Response(text))

    weights = [each for each in (dtype, quantization) if each not in ("auto", "none")]
    identity = " ".join([base_identity(model), str(max_new_tokens), *weights])
    shown = Path(model).resolve().name if Path(model).exists() else model
    shown = " ".join([shown, *weights])
    return Judge(name or judge_name(shown), shown, identity, answer)


def collect(folder: Path, judge: Judge, choice: Choice) -> Questions:
    """The questions to a judge about the predictions of a folder of runs.

    Raises `OnepassError` if no run is chosen, predictions are missing, or the corpus is not, or no
    longer, the one they were made on.
    """
    recipe, runs = load_runs(folder)
    for split in choice.splits:
        if split not in recipe.splits:
            raise OnepassError(
                f"{folder} has no predictions on the split {split!r}; "
                f"choose among {', '.join(recipe.splits)}"
            )
    only = choice.only
    chosen = [run for run in runs if not only or any(matches(run.cell, p) for p in only)]
    if not chosen:
        raise OnepassError(f"no run in {folder} is like {' or '.join(only)}")
    known = read_answers(answers_path(folder, judge.name))
    questions = Questions(folder, judge, [], {}, known)
    splits = choice.splits or recipe.splits[:1]
    for run in chosen:
        _check_name(judgements_path(folder, run.cell, judge.name), judge)
        rows = []
        for split, outputs in read_outputs(folder, run, recipe, splits, choice.corpus).items():
            for place, (example, output) in enumerate(outputs):
                prompt = judge_prompt(recipe.task(run.task), example.input, example.targets, output)
                key = _key(judge, prompt)
                # Beyond the limit, what has been judged before still counts, up to the first gap.
                if choice.limit is not None and place >= choice.limit and key not in known:
                    break
                rows.append((split, example.id, key))
                questions.prompts[key] = prompt
        questions.cells.append((run, rows))
    return questions


def ask_open(questions: Questions, progress: Callable[[int], None] = lambda count: None) -> int:
    """Ask the open questions and store the judgements of complete cells; how many have failed.

    Ctrl-C, a kill and an `OnepassError` keep every answer; run again, only the rest is asked.
    """
    judge, asked = questions.judge, list(questions.open.items())
    failed: dict[str, str] = {}

    def on_response(place: int, response: Response) -> None:
        key = asked[place][0]
        if response.text is None:
            failed[key] = response.error
        else:
            add(key, response.text)
            questions.known[key] = response.text
        progress(1)

    try:
        with adding_answers(answers_path(questions.folder, judge.name)) as add:
            if asked:
                judge.ask([prompt for _, prompt in asked], on_response)
    except BaseException as stopped:
        _store(questions, {})  # a cell with failures in it is not done with: it may be the server
        if isinstance(stopped, KeyboardInterrupt):
            raise KeyboardInterrupt("the answers are kept; the same command goes on") from None
        raise
    _store(questions, failed)
    return len(failed)


def _store(questions: Questions, failed: dict[str, str]) -> None:
    """Write the file of each cell whose predictions all have their answer or their failure."""
    known = questions.known
    header = Header(
        model=questions.judge.model, prompts=VERSION, date=datetime.now(UTC).date().isoformat()
    )
    for run, predictions in questions.cells:
        rows = []
        for split, id, key in predictions:
            if key in known:
                rows.append(Judgement(split, id, read_verdict(known[key]), known[key]))
            elif key in failed:
                rows.append(Judgement(split, id, "failed", failed[key]))
        if len(rows) == len(predictions):
            path = judgements_path(questions.folder, run.cell, questions.judge.name)
            save_judgements(path, header, rows)


def _check_name(path: Path, judge: Judge) -> None:
    """Keep two judges of one name from overwriting each other's judgements."""
    if not path.is_file():
        return
    header, _ = read_judgements(path)
    if header.model != judge.model:
        raise OnepassError(
            f"{path} holds the judgements of {header.model}; give {judge.model} another --name"
        )


def _key(judge: Judge, prompt: str) -> str:
    text = json.dumps([judge.identity, prompt])
    return hashlib.sha256(text.encode()).hexdigest()[:32]
