"""The Python library: what `import onepass` offers, on a micro base."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import onepass as op
from conftest import MakeAdapter
from onepass.adapters.composition import cost, pass_delta
from onepass.adapters.lowrank import relative_error
from onepass.core.files import write_jsonl
from onepass.model.attach import folded
from onepass.model.load import Base
from onepass.tasks.example import Example

DOCS = Path(__file__).parents[1] / "docs" / "python.md"
TASK = "summarize+translate:es"
ROWS = [(f"Ana: Tea at {n}?\nBen: Yes.", f"Té a las {n}.") for n in range(8)]
QUICK: dict[str, Any] = {"max_steps": 2, "batch_size": 4, "progress": False}


@pytest.fixture
def parts(make_adapter: MakeAdapter) -> list[Any]:
    return [make_adapter("summarize"), make_adapter("translate:es", seed=1)]


def test_names_are_there_without_loading_anything_heavy() -> None:
    code = (
        "import sys, onepass as op; assert 'torch' not in sys.modules; names = dir(op)\n"
        "wanted = 'Base Task load_base load_adapter train merge inspect calibrate compose load '\n"
        "wanted += 'generate score bench describe OnepassError'\n"
        "assert set(wanted.split()) <= set(names), names\n"
        "assert all(getattr(op, name) is not None for name in names)\n"
        "assert all(getattr(op, name).__doc__ for name in wanted.split())\n"
        "assert all(callable(getattr(op, name)) for name in wanted.split())\n"  # no module of it
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'calibrat'"):
        op.calibrat  # noqa: B018


def test_the_script_of_the_docs_runs(
    base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = DOCS.read_text(encoding="utf-8")
    (script,) = re.findall(r"<!-- test: own_adapters -->\n```python\n(.*?)```", page, re.DOTALL)
    lines = [line for line in script.splitlines() if line.strip()]
    assert len(lines) <= 25
    monkeypatch.chdir(tmp_path)
    exec(
        compile(script, "docs/python.md", "exec"),
        {"model": base.model, "tokenizer": base.tokenizer},
    )
    assert "Scores(chrf" in capsys.readouterr().out
    assert (tmp_path / "one-adapter" / "adapter_model.safetensors").is_file()


def test_every_object_prints_as_one_short_line(base: Base, parts: list[Any]) -> None:
    composed = op.compose("linear", TASK, parts, base=base)
    shown: list[Any] = [composed, op.merge(parts, "linear"), op.inspect(parts), base, composed.task]
    shown += [op.score(["a"], [("x", "a")], "summarize")]
    for each in shown:
        assert len(repr(each)) < 300, repr(each)
        assert "\n" not in repr(each)
    for each in (shown[0], shown[1], shown[2], shown[5]):
        assert "<" in each._repr_html_()
    evil = op.merge([op.merge(parts)], "linear")
    object.__setattr__(evil, "name", "<script>")
    assert "<script>" not in evil._repr_html_()


def test_all_kinds_of_rows_give_the_same_composition(base: Base, parts: list[Any]) -> None:
    import datasets

    dicts = [{"input": text, "target": target} for text, target in ROWS]
    frame = pytest.importorskip("pandas").DataFrame(dicts)
    made = [
        op.calibrate(TASK, parts, rows, base=base, **QUICK)
        for rows in (ROWS, dicts, datasets.Dataset.from_list(dicts), frame)
    ]
    first, *others = [pass_delta(each.passes[0], base.shape) for each in made]
    for other in others:
        assert max(relative_error(other[m], first[m]) for m in first) < 1e-6


def test_every_method_that_serves_one_task_composes(base: Base, parts: list[Any]) -> None:
    for method in ("zero-shot", "ties", "lm-cocktail", "multi-step", "lc", "joint-expert"):
        options = QUICK if method in ("lc", "joint-expert") else {"progress": False}
        composed = op.compose(method, TASK, parts, ROWS, base=base, **options)
        assert composed.method == method
        assert composed.cost == cost(composed)
        assert isinstance(op.generate(composed, "Ana: Hi.", base=base, max_new_tokens=2), str)
    with pytest.raises(op.OnepassError, match="several tasks at once"):
        op.compose("shared-lc", TASK, parts, ROWS, base=base)
    with pytest.raises(op.OnepassError, match="did you mean 'lc\\+\\+'"):
        op.compose("lc+", TASK, parts, ROWS, base=base)
    with pytest.raises(op.OnepassError, match="unknown option of lc 'rnk'"):
        op.compose("lc", TASK, parts, ROWS, base=base, rnk=4)


def test_attached_equals_folded_and_leaves_the_model_alone(base: Base, parts: list[Any]) -> None:
    composed = op.calibrate(TASK, parts, ROWS, base=base, **QUICK)
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.inference_mode():
        before = base.model(ids).logits
        with folded(base, composed.passes[0]):
            expected = base.model(ids).logits
        with composed.attached(base.model) as model:
            found = model(ids).logits
        assert torch.equal(base.model(ids).logits, before)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(found, before)
    steps = op.compose("multi-step", TASK, parts, base=base)
    with pytest.raises(op.OnepassError, match="2 passes"), steps.attached(base.model):
        pass


def test_an_adapter_and_a_merge_are_run_and_scored_as_they_are(
    base: Base, parts: list[Any], tmp_path: Path
) -> None:
    rows = [Example(str(n), text, (target,)) for n, (text, target) in enumerate(ROWS)]
    trained = op.train("summarize", rows, base=base, rank=2, out=tmp_path / "own", **QUICK)
    assert trained.history is not None
    assert trained.history.steps == 2
    texts = [text for text, _ in ROWS[:2]]
    found = op.generate(
        tmp_path / "own", texts, base=base, max_new_tokens=4
    )  # its card has the task
    assert found == op.generate(trained, texts, base=base, max_new_tokens=4)
    assert op.generate(trained, [{"say": text} for text in texts], columns={"input": "say"},
                       base=base, max_new_tokens=4) == found  # fmt: skip
    merged = op.merge(parts, "ties")
    with pytest.raises(op.OnepassError, match="does not say what task"):
        op.generate(merged, texts, base=base)
    assert len(op.generate(merged, texts, base=base, task=TASK, max_new_tokens=4)) == 2
    scores = op.score(dict(zip("01", found, strict=True)), rows, "summarize", split="all")
    assert 0 <= scores["rougeL"] <= 1
    with pytest.raises(op.OnepassError, match="'9' is of none of the 8 examples"):
        op.score({"9": "x"}, rows, "summarize")


def test_a_task_states_its_longest_answer(base: Base) -> None:
    short = op.Task("short", "Say it.", max_new_tokens=3)
    composed = op.compose("zero-shot", short, None, base=base)
    tokens = base.tokenizer(composed.generate("Ana: Hi.", base=base))["input_ids"]
    assert len(tokens) <= 3


def test_bad_input_is_refused_before_the_work(base: Base, parts: list[Any], tmp_path: Path) -> None:
    saved = op.compose("linear", TASK, parts, base=base).save(tmp_path / "saved")
    merged = op.merge(parts).save(tmp_path / "merged")
    for call, message in (
        (lambda: op.train("summarise", ROWS, base=base), "did you mean 'summarize'"),
        (lambda: op.train("summarize", ROWS, base=base, learningrate=1), "'learning_rate'"),
        (lambda: op.train("summarize", ROWS, base=base, validation=5), "the validation examples"),
        (lambda: op.train("summarize", ROWS, base=base, test=5), "test is 5, but rows in memory"),
        (lambda: op.train("summarize", [], base=base), "no examples"),
        (lambda: op.train(op.Task("t", "Do.", metric="chrff"), ROWS, base=base), "'t'.* 'chrf'"),
        (lambda: op.calibrate(TASK, parts[:1], ROWS, base=base), "1 adapters, but .* has 2 parts"),
        (lambda: op.calibrate(TASK, {"sumarize": parts[0]}, ROWS, base=base), "'summarize'"),
        (lambda: op.calibrate(TASK, parts, ROWS, base=base, kind="lc", rank=2), "biases have none"),
        (lambda: op.calibrate(TASK, None, ROWS, base=base), "only the base tiny has embedded"),
        (lambda: op.load(tmp_path), "no composition"),
        (lambda: op.load_adapter(tmp_path), "adapter_config.json"),
        (lambda: op.load(merged), "no composition: .* holds an adapter"),
        (lambda: op.load(saved).attached("tiny").__enter__(), "transformers model, found 'tiny'"),
        (lambda: op.inspect(saved), "saved is a composition, not an adapter"),
        (lambda: op.compose("linear", TASK, parts, base=base).export("onnx", tmp_path), "'onnx'"),
    ):
        with pytest.raises(op.OnepassError, match=message):
            call()


def test_the_notebook_runs(tmp_path: Path) -> None:
    """Its cells, one after the other in one process, as a kernel would run them."""
    cells = json.loads((DOCS.parent / "compose.ipynb").read_text(encoding="utf-8"))["cells"]
    code = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path, capture_output=True, text=True, encoding="utf-8", check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    scores = dict(re.findall(r"^(\S+) Scores\(rougeL ([\d.]+) %", done.stdout, re.MULTILINE))
    assert float(scores["lc++"]) > 2 * float(scores["linear"])
    assert float(scores["lc++"]) > 50


def test_a_corpus_without_a_validation_split_is_trained_on_without_one(
    base: Base, tmp_path: Path
) -> None:
    for split in ("train", "test"):
        rows = [{"input": text, "target": target} for text, target in ROWS]
        write_jsonl(tmp_path / "rows" / f"{split}.jsonl", rows)
    adapter = op.train("summarize", tmp_path / "rows", base=base, rank=2, test=3, **QUICK)
    assert (adapter.card["examples"], adapter.card["validation_examples"]) == (8, 0)
    assert adapter.card["test"]["rougeL"]["count"] == 3
    with pytest.raises(op.OnepassError, match="no split 'validation'"):
        op.train("summarize", tmp_path / "rows", base=base, validation=2, **QUICK)
