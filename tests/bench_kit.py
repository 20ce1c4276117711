"""A small recipe that runs in a second, for the tests of bench and of its commands."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from onepass.adapters.adapter import Adapter, save_adapter
from onepass.comparison.recipe import Recipe, load_recipe

TASKS = ["summarize+translate:es", "reply+tone:witty"]


def write_corpus(folder: Path, train: int = 24) -> None:
    """JSON lines for each split, their inputs all different."""
    folder.mkdir()
    for split, count in (("train", train), ("validation", 4), ("test", 6)):
        rows = [
            {
                "id": f"{split}-{number}",
                "input": f"Ana: Meet at {number}?\nBen: Yes, at the {split}.",
                "target": f"Ana meets Ben at {number}.",
            }
            for number in range(count)
        ]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{split}.jsonl").write_text(lines, encoding="utf-8")


def write_recipe(
    folder: Path, base_folder: Path, make_adapter: Callable[..., Adapter], **changes: Any
) -> Path:
    """A recipe in `folder`, on the micro base with random adapters; `changes` are of its fields."""
    folder.mkdir(exist_ok=True, parents=True)
    if not (folder / "data").exists():
        write_corpus(folder / "data")
    singles = sorted({part for task in TASKS for part in task.split("+")})
    for seed, task in enumerate(singles):
        save_adapter(make_adapter(task, 2, seed, 0.2), folder / "adapters" / task.replace(":", "-"))
    recipe = {
        "name": "micro",
        "base": str(base_folder),
        "corpus": "data",
        "adapters": {task: f"adapters/{task.replace(':', '-')}" for task in singles},
        "tasks": TASKS,
        "methods": ["zero-shot", "linear", "lc"],
        "examples": [8],
        "validation": 4,
        "test": 6,
        "max_new_tokens": 6,
        "batch_size": 4,
        "options": {"lc": {"max_steps": 4, "batch_size": 4, "eval_every": 1}},
        **changes,
    }
    path = folder / "micro.yaml"
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return path


def small_recipe(*args: Any, **changes: Any) -> tuple[Recipe, str]:
    """The recipe that `write_recipe` writes, and its text."""
    path = write_recipe(*args, **changes)
    return load_recipe(path), path.read_text(encoding="utf-8")
