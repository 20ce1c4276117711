"""Folders of runs as the bench leaves them, with predictions whose truth is known."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import fmean

import yaml

from onepass.comparison.materials import inputs_identity
from onepass.comparison.runs import Run, RunCost, SplitResult, pack, save_run
from onepass.evaluate.score import score
from onepass.tasks.book import parse_task
from onepass.tasks.corpus import load_corpus

TASKS = ("summarize+translate:es", "reply+tone:witty")
COUNT = 6
METRICS = ["verified", "rougeL", "weighted_rouge"]

Right = Callable[[int], bool]
METHODS: Mapping[str, Right] = {
    "zero-shot": lambda place: False,
    "linear": lambda place: place == 0,
    "lc": lambda place: place < 4,
    "lc++": lambda place: True,
}
"""Which of its predictions a method gets right."""


def write_runs(
    folder: Path,
    methods: Mapping[str, Right] = METHODS,
    corpus: str = "smalltown",
    wrong: str = "Nobody said anything.",
) -> Path:
    """A folder of runs of both `TASKS` on the first `COUNT` test examples."""
    folder.mkdir()
    recipe = {
        "name": "town", "corpus": corpus, "tasks": list(TASKS), "methods": list(methods),
        "examples": [100], "test": COUNT,
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    for method, right in methods.items():
        for name in TASKS:
            task = parse_task(name)
            examples = load_corpus(corpus).examples(task, "test", COUNT)
            said = [e.target if right(place) else wrong for place, e in enumerate(examples)]
            scores = score(said, examples, task, METRICS)
            result = SplitResult(
                count=COUNT,
                inputs=inputs_identity(examples),
                means={m: fmean(v for v in vs if v is not None) for m, vs in scores.items()},
                scores={metric: pack(values) for metric, values in scores.items()},
                seconds=1.0,
                tokens=100,
                tokens_per_second=100.0,
                shortened_inputs=0,
            )
            run = Run(
                recipe="town",
                method=method,
                task=name,
                examples=100 if "lc" in method else 0,
                seed=0,
                fingerprint="",
                splits={"test": result},
                cost=RunCost(
                    passes=1, extra_parameters=0, extra_bytes=0, shared_by=1, adapter_parameters=1
                ),
                seconds={"build": 1.0, "generate": 1.0},
                card={},
                environment={},
            )
            rows = [
                {"split": "test", "id": example.id, "prediction": text}
                for example, text in zip(examples, said, strict=True)
            ]
            save_run(run, rows, folder)
    return folder


def material(prompt: str) -> list[str]:
    """The texts in a judge's prompt: the conversation, correct outputs, the output."""
    mark = re.findall(r"\bBEGIN (\w{16})\b", prompt)[0]
    return re.findall(rf"^BEGIN {mark}\n(.*?)\nEND {mark}$", prompt, re.M | re.S)


def wise(prompt: str, times: int) -> str:
    """A judge that knows the truth: what is a correct output is right."""
    _, *correct, output = material(prompt)
    return "Yes." if output in correct else "**No**, it is not."
