"""Prepared sets: what is written is good, and is a corpus."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import DatasetCard

from cli_kit import FAST, onepass, write_rows
from endpoint_kit import Stub, completion, serving
from onepass.comparison.materials import split_examples, train_examples
from onepass.comparison.recipe import load_recipe
from onepass.evaluate.score import score
from onepass.prepare import filters
from onepass.prepare.labeller import Options
from onepass.prepare.prepare import CARD, Plan, prepare
from onepass.prepare.sources import read_sources
from onepass.tasks.benchmark import COMPOSITIONAL_TASKS
from onepass.tasks.book import parse_task
from onepass.tasks.corpus import SPLITS, load_corpus
from prepare_kit import SPANISH, asking, rows, spanish

Capture = pytest.CaptureFixture[str]
OURS = {"translate": "multi-step", "tone": "multi-step"}


@pytest.fixture
def stub() -> Iterator[Stub]:
    with serving(spanish) as found:
        yield found


def test_every_reference_gives_a_target(tmp_path: Path, capsys: Capture, stub: Stub) -> None:
    onepass(capsys, *asking(tmp_path, stub)).succeeded()
    corpus = load_corpus(str(tmp_path / "sets"))
    source = load_corpus(f"dialogsum:{tmp_path / 'dialogsum'}")
    for split, count in (("train", 12), ("test", 4)):
        made = corpus.examples(parse_task(SPANISH), split)
        given = source.examples(parse_task("summarize"), split)
        assert len(made) == len(given) == count
        for one, other in zip(made, given, strict=True):
            assert (one.id, one.input) == (other.id, other.input)
            assert list(one.targets) == [spanish(f"<text>\n{t}\n</text>") for t in other.targets]
            (step,) = one.meta["provenance"]
            assert set(step) == {"labeller", "model", "prompt", "date"}
            assert (step["labeller"], step["model"]) == ("endpoint", "stub")


BAD = ["", "Tea at noon, with cake.", "They will have tea together at noon.", "té " * 200]


def test_what_is_written_passes_the_filters_and_the_rest_is_counted(
    tmp_path: Path, capsys: Capture
) -> None:
    """A server that now and then gives what no one can use."""

    def careless(prompt: str, _times: int) -> Any:
        number = int(re.findall(r"cake,? (\d+)", prompt)[0])
        good = [spanish(prompt)]
        return [*good, "\u200b\x00", prompt.split("<text>\n")[1], BAD[2], BAD[3], 400][number % 6]

    data = [{"input": f"A: Tea {n}?", "target": f"Tea at noon, cake {n}."} for n in range(30)]
    data += [{"input": "A:  Tea 3?", "target": "Something else, cake 0."}]
    write_rows(tmp_path / "all.jsonl", data)
    with serving(careless) as stub:
        args = asking(tmp_path, stub, "--allow-missing")
        args[args.index("--corpus") + 1] = tmp_path / "all.jsonl"
        done = onepass(capsys, *args).succeeded()
    header, *table = [line.split("\t") for line in done.out.splitlines()]
    total: dict[str, int] = dict.fromkeys(header[1:], 0)
    for line in table:
        for name, value in zip(header[1:], line[1:], strict=True):
            total[name] += int(value)
    assert total["examples"] == 28  # three of 31 are in validation, which was not asked for
    assert sum(total[r] for r in header[3:]) == total["examples"]
    for reason in ("empty", "unchanged", "too long", "wrong language", "failed"):
        assert total[reason] >= 2, reason
    sources = {row["input"]: row["target"] for row in data}
    written = [row for split in ("train", "test") for row in rows(tmp_path / "sets", split)]
    assert len(written) == total["rows"] == total["labels"]
    for row in written:
        assert not filters.problem(sources[row["input"]], row["target"], "es")
    card = DatasetCard.load(tmp_path / "sets" / CARD)
    for line in table:
        assert f"| {' | '.join(line)} |" in card.content


def test_a_label_that_was_cut_off_is_none(tmp_path: Path, capsys: Capture) -> None:
    """Even if it would pass the filters; with more tokens allowed it is asked for again."""

    def short(prompt: str, _times: int) -> Any:
        cut = re.search(r"Tea at \d\.", prompt)
        return (200, completion(spanish(prompt), finish_reason="length" if cut else "stop"))

    with serving(short) as stub:
        done = onepass(capsys, *asking(tmp_path, stub)).succeeded()
        header, line, _ = (row.split("\t") for row in done.out.splitlines())
        counts = dict(zip(header, line, strict=True))
        assert (counts["examples"], counts["rows"], counts["too long"]) == ("12", "2", "10")
        assert [row["id"] for row in rows(tmp_path / "sets", "train")] == ["train_10", "train_11"]
        asked = len(stub.asked)
        onepass(capsys, *asking(tmp_path, stub)).succeeded()
        assert len(stub.asked) == asked
        stub.reply = spanish
        onepass(capsys, *asking(tmp_path, stub, "--max-new-tokens", 300)).succeeded()
    assert len(rows(tmp_path / "sets", "train")) == 12


@pytest.mark.parametrize(
    ("label", "language", "reason"),
    [
        ("Ben y Ana toman té a las dos.", "es", ""),
        ("Ben and Ana have tea at two.", "es", "wrong language"),
        ("OK, Ben.", "es", ""),  # too short to tell its language
        ("  ana meets BEN\n", "en", "unchanged"),
        ("\x00 \u200e", "es", "empty"),
        ("👍", "es", ""),
        ("مرحبا بك يا صديقي العزيز", "es", "wrong language"),
        ("a" * 201, "es", "too long"),
    ],
)
def test_filters(label: str, language: str, reason: str) -> None:
    assert filters.problem("Ana meets Ben", label, language) == reason


def test_no_input_is_in_two_splits_and_none_twice(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for split, numbers in (("train", (1, 2, 2, 3)), ("validation", (3, 4)), ("test", (1, 4, 5))):
        lines = [
            {"id": f"{split}-{i}", "input": f"A: {n}", "target": "x"} for i, n in enumerate(numbers)
        ]
        write_rows(folder / f"{split}.jsonl", lines)
    found = {s.split: s for s in read_sources([str(folder)], [parse_task("summarize")], SPLITS)}
    assert list(found) == list(SPLITS)
    inputs = {split: [e.input for e in one.examples] for split, one in found.items()}
    assert inputs == {"train": ["A: 2"], "validation": ["A: 3"], "test": ["A: 1", "A: 4", "A: 5"]}
    assert [one.duplicated for one in found.values()] == [3, 1, 0]


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """All 14 sets of smalltown by our own pipeline: from its targets, and from conversations."""
    folder = tmp_path_factory.mktemp("town")
    for name, alone in (("targets", False), ("conversations", True)):
        plan = Plan(["smalltown"], None, OURS, SPLITS, limit=6, from_conversations=alone)
        prepare(plan, Options(device="cpu"), folder / name)
    return {name: folder / name for name in ("targets", "conversations")}


@pytest.mark.parametrize("start", ["targets", "conversations"])
def test_labels_of_our_own_pipeline_are_right(town: dict[str, Path], start: str) -> None:
    corpus, verdicts = load_corpus(str(town[start])), []
    for name in COMPOSITIONAL_TASKS:
        task = parse_task(name)
        examples = corpus.examples(task, "test")
        assert len(examples) >= 5  # a name or two may make a label look foreign
        assert [len(e.meta["provenance"]) for e in examples] == [
            2 if start != "targets" else 1
        ] * len(examples)
        verdicts += score([e.target for e in examples], examples, task, ["verified"])["verified"]
    assert sum(v or 0.0 for v in verdicts) >= 0.95 * len(verdicts)


def test_the_folder_is_the_corpus_of_a_recipe(town: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(f"name: r\ncorpus: {town['conversations']}\ntasks: all\ntest: 4\n")
    recipe = load_recipe(path)
    for task in recipe.tasks:
        assert len(train_examples(recipe, task, 5)) == 5
        assert len(split_examples(recipe, task, "test")) == 4


def test_one_can_calibrate_on_what_was_prepared(
    town: dict[str, Path], tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "composed"
    args = ("--data", town["conversations"], "--examples", 5, "--out", out, *FAST)
    onepass(capsys, "calibrate", SPANISH, *args).succeeded()
    assert (out / "composition.json").is_file()


def test_three_tasks_at_once_are_done_one_after_the_other(tmp_path: Path) -> None:
    task = parse_task("summarize+translate:es+tone:witty")
    plan = Plan(["smalltown"], [task], OURS, ["test"], limit=2)
    prepared = prepare(plan, Options(device="cpu"), tmp_path / "sets")
    assert list(prepared.identities) == ["translate:es", "tone:witty"]
    for row in rows(tmp_path / "sets", "test"):
        assert [step["labeller"] for step in row["meta"]["provenance"]] == ["multi-step"] * 2


def test_conversations_need_no_targets(tmp_path: Path, capsys: Capture) -> None:
    """Long ones, emoji, right-to-left text and NUL among them."""
    town = load_corpus("smalltown").examples(parse_task("summarize"), "test", 6)
    strange = [
        "Ana: 🎉👨‍👩‍👧 مرحبا\x00 שלום\nBen: \u202eyes\u202c",
        "Ana: Tea at noon?\n" + "Ben: Yes, Ana, at noon.\n" * 8500,
    ]
    assert len(strange[1]) > 200_000
    inputs = [*(e.input for e in town), *strange]
    write_rows(tmp_path / "test.jsonl", [{"input": text} for text in inputs])
    args = ("--from", "conversations", "--tasks", SPANISH, "--translate-with", "multi-step")
    command = ("data", "prepare", "--corpus", tmp_path / "test.jsonl", "--out", tmp_path / "sets")
    onepass(capsys, *command, *args, "--device", "cpu").succeeded()
    made = [row for split in SPLITS for row in rows(tmp_path / "sets", split)]
    assert {row["input"] for row in made} <= {text.strip() for text in inputs}
    assert len(made) >= 5
    onepass(capsys, *command, "--tasks", SPANISH, *args[4:]).refused("target")


def test_two_corpora_in_one_folder(tmp_path: Path, capsys: Capture, stub: Stub) -> None:
    args = asking(tmp_path, stub)
    persona = Path(__file__).parent / "fixtures" / "persona_chat.csv"
    place = args.index("--tasks")
    args[place : place + 2] = [f"persona-chat:{persona}", "--tasks", SPANISH, "reply+translate:es"]
    onepass(capsys, *args).succeeded()
    for task in (SPANISH, "reply+translate:es"):
        for split in ("train", "test"):
            assert load_corpus(str(tmp_path / "sets")).examples(parse_task(task), split)


def test_the_card_is_one_of_the_hub(tmp_path: Path, capsys: Capture, stub: Stub) -> None:
    onepass(capsys, *asking(tmp_path, stub)).succeeded()
    card = DatasetCard.load(tmp_path / "sets" / CARD)
    assert card.data.language == ["en", "es"]
    assert card.data.task_categories == ["summarization"]
    assert card.data.license == ["cc-by-nc-sa-4.0"]
    assert "Yulong Chen" in card.text
    assert f"--out {tmp_path / 'sets'}" in card.text
    assert "--tasks summarize+translate:es --splits train test" in card.text
    (row, *_) = rows(tmp_path / "sets", "train")
    (step,) = row["meta"]["provenance"]
    told = card.text.split(f"\n{step['prompt']}:\n")[1]
    assert "Translate the text between <text> and </text> into Spanish." in told
