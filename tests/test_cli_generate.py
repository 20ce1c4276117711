"""`onepass data export`, `generate` and `score`: text in, text out, and what it is worth."""

import io
import json
from pathlib import Path

import pytest

from cli_kit import TASK, onepass, rows_of, save_random_composition, write_rows
from conftest import MakeAdapter
from onepass.adapters.composition import load_composition
from onepass.cli import generate
from onepass.model.generate import run
from onepass.model.load import Base
from onepass.tasks.book import parse_task
from onepass.tasks.corpus import load_corpus, read_examples
from onepass.tasks.data import Text

Capture = pytest.CaptureFixture[str]
TEXT = "Ana: Tea at five?\nBen: Yes, at the harbour."


@pytest.fixture
def composition(tmp_path: Path, base: Base, make_adapter: MakeAdapter) -> Path:
    return save_random_composition(tmp_path / "composition", base, make_adapter)


def test_generate_prints_what_the_composition_says(
    tmp_path: Path, base: Base, base_folder: Path, composition: Path, capsys: Capture
) -> None:
    file = tmp_path / "chat.txt"
    file.write_text(TEXT, encoding="utf-8")
    done = onepass(
        capsys, "generate", composition, "--model", base_folder, "--input", file,
        "--max-new-tokens", 12, "--device", "cpu",
    ).succeeded()  # fmt: skip
    assert done.out == f"{run(base, load_composition(composition), [TEXT], 12).texts[0]}\n"
    assert "tokens/s" in done.err
    assert "note" not in done.err


def test_json_lines_give_json_lines_with_the_same_ids(
    tmp_path: Path, base: Base, base_folder: Path, composition: Path, capsys: Capture
) -> None:
    texts = [TEXT, "Cleo: Où es-tu ?\nDan: À la gare.", "Eve: 你好"]
    rows = [{"id": f"chat {n}", "input": text, "more": n} for n, text in enumerate(texts)]
    del rows[2]["id"]
    file, out = write_rows(tmp_path / "chats.jsonl", rows), tmp_path / "out.jsonl"
    onepass(
        capsys, "generate", composition, "--model", base_folder, "--input", file, "--out", out,
        "--max-new-tokens", 12, "--batch-size", 2,
    ).succeeded()  # fmt: skip
    said = run(base, load_composition(composition), texts, 12).texts
    assert rows_of(out.read_text(encoding="utf-8")) == [
        {"id": name, "prediction": text}
        for name, text in zip(["chat 0", "chat 1", "row-3"], said, strict=True)
    ]


def test_rows_of_any_format_and_columns_give_json_lines(
    tmp_path: Path, base_folder: Path, composition: Path, capsys: Capture
) -> None:
    file = tmp_path / "chats.csv"
    file.write_text(f'key,chat\n7,"{TEXT}"\n', encoding="utf-8")
    command = ("generate", composition, "--model", base_folder, "--max-new-tokens", 4, "--input")
    columns = ("--columns", "input=chat", "id=key")
    (row,) = rows_of(onepass(capsys, *command, file, *columns).succeeded().out)
    assert row["id"] == "7"
    onepass(capsys, *command, file).refused('no "input"; found key, chat')
    (tmp_path / "a.txt").write_text("x")
    onepass(capsys, *command, tmp_path / "a.txt", *columns).refused("--columns is about rows")


def test_lines_give_a_line_each(
    tmp_path: Path, base_folder: Path, composition: Path, capsys: Capture
) -> None:
    file = tmp_path / "lines.txt"
    file.write_text("One.\n\nTwo.\u2028\nThree.\x85Four.\n", encoding="utf-8")
    done = onepass(
        capsys, "generate", composition, "--model", base_folder, "--input", file,
        "--format", "lines", "--max-new-tokens", 12,
    ).succeeded()  # fmt: skip
    assert len(done.out.splitlines()) == 3


def test_generate_reads_standard_input(
    tmp_path: Path, base_folder: Path, composition: Path, capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    piped = tmp_path / "piped"
    piped.write_text(TEXT, encoding="utf-8")
    monkeypatch.setattr(generate, "STDIN", piped)
    command = ("generate", composition, "--model", base_folder, "--max-new-tokens", 8)
    one = onepass(capsys, *command, "-i", "-").succeeded()
    assert one.out == onepass(capsys, *command, "-i", piped).succeeded().out


def test_a_long_conversation_loses_its_oldest_turns_and_that_is_told(
    tmp_path: Path, base_folder: Path, composition: Path, capsys: Capture
) -> None:
    file = tmp_path / "long.txt"
    file.write_text("\n".join(f"Ana: We meet at {n}." for n in range(60)), encoding="utf-8")
    done = onepass(
        capsys, "generate", composition, "--model", base_folder, "--input", file,
        "--max-new-tokens", 8,
    ).succeeded()  # fmt: skip
    assert "note: long.txt: the input is longer than the context: left out" in done.err
    assert "oldest turns" in done.err


def test_data_exports_what_every_corpus_reads(tmp_path: Path, capsys: Capture) -> None:
    task, out = parse_task(TASK), tmp_path / "data.jsonl"
    command = ("data", "export", TASK, "--split", "validation", "--limit", 5)
    onepass(capsys, *command, "--out", out).succeeded()
    assert read_examples(out, task) == load_corpus("smalltown").examples(task, "validation", 5)
    assert onepass(capsys, *command).succeeded().out == out.read_text(encoding="utf-8")


def test_data_reads_other_corpora(capsys: Capture) -> None:
    folder = Path(__file__).parent / "fixtures" / "dialogsum"
    done = onepass(
        capsys, "data", "export", "summarize", "--corpus", f"dialogsum:{folder}", "--split", "test"
    )
    rows = rows_of(done.succeeded().out)
    assert [row["id"] for row in rows] == ["test_0", "test_1"]
    assert all(len(row["targets"]) == 3 for row in rows)


def test_targets_score_full_marks_and_their_swap_none(tmp_path: Path, capsys: Capture) -> None:
    examples = load_corpus("smalltown").examples(parse_task(TASK), "test", 20)
    right = [{"id": e.id, "prediction": e.target} for e in examples]
    wrong = [{"id": e.id, "prediction": other.target}
             for e, other in zip(examples, examples[1:] + examples[:1], strict=True)]  # fmt: skip
    found = []
    for rows in (right, wrong):
        file = write_rows(tmp_path / "predictions.jsonl", rows)
        done = onepass(capsys, "score", file, "--task", TASK).succeeded()
        found.append(dict(line.split("\t", 1) for line in done.out.splitlines()))
    assert set(found[0]) > {"R-L", "chrF", "facts", "in language", "verified"}
    assert found[0]["verified"] == "100.0\t100.0 to 100.0\t20"
    assert found[1]["verified"] == "0.0\t0.0 to 0.0\t20"


def test_score_takes_predictions_of_any_file_in_any_order(tmp_path: Path, capsys: Capture) -> None:
    corpus = write_rows(
        tmp_path / "corpus.jsonl",
        [{"id": n, "input": f"text {n}", "target": f"the number {n}"} for n in range(6)],
    )
    predictions = write_rows(
        tmp_path / "predictions.jsonl",
        [{"id": str(n), "prediction": f"the number {n}"} for n in (4, 1)],
    )
    done = onepass(
        capsys, "score", predictions, "--task", "summarize", "--corpus", corpus, "--split", "all",
        "--metrics", "rougeL", "rouge1",
    ).succeeded()  # fmt: skip
    assert done.out.splitlines()[1:] == [
        "R-L\t100.0\t100.0 to 100.0\t2",
        "R-1\t100.0\t100.0 to 100.0\t2",
    ]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"id": "test-0"}, ("line 2", '"prediction"')),
        ({"prediction": "x"}, ("line 2", '"id"')),
        ({"id": "test-1", "prediction": "x"}, ("line 2", "second prediction", "test-1")),
        ({"id": "nobody", "prediction": "x"}, ("'nobody'", "--split")),
    ],
)
def test_predictions_that_cannot_be_scored_are_refused(
    row: dict[str, str], words: tuple[str, ...], tmp_path: Path, capsys: Capture
) -> None:
    file = write_rows(tmp_path / "p.jsonl", [{"id": "test-1", "prediction": "x"}, row])
    onepass(capsys, "score", file, "--task", TASK).refused("p.jsonl", *words)


def test_output_in_a_pipe_is_nothing_but_the_text(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stream = io.StringIO()
    monkeypatch.setattr("sys.stdout", stream)
    inputs = [Text("a", "x"), Text("b", "y")]
    outputs = ["uno\ndos", "tres"]
    generate.write_output("-", generate.Format.lines, inputs, outputs)
    assert stream.getvalue() == "uno dos\ntres\n"
    stream.truncate(0), stream.seek(0)
    generate.write_output("-", generate.Format.jsonl, inputs, outputs)
    assert [json.loads(line)["prediction"] for line in stream.getvalue().splitlines()] == outputs
