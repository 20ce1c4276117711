"""`onepass data describe`: what is known of a corpus, and files held to it."""

import shutil
from pathlib import Path

import pytest

from cli_kit import onepass, write_rows
from onepass.tasks.corpora import facts
from onepass.tasks.corpus import CORPORA

Capture = pytest.CaptureFixture[str]
FIXTURES = Path(__file__).parent / "fixtures"
REAL = Path(__file__).parents[2] / "shared" / "data"


def table(out: str) -> list[list[str]]:
    return [line.split("\t") for line in out.splitlines() if line]


@pytest.mark.parametrize("name", list(CORPORA))
def test_the_facts_of_every_corpus(name: str, capsys: Capture) -> None:
    told = dict(table(onepass(capsys, "data", "describe", name).succeeded().out))
    known = facts.facts_of(name)
    assert told["title"] == known.title
    assert told["licence"] == known.licence
    assert told["citation"] == " ".join(known.citation.split())


def test_files_that_are_not_upstreams(capsys: Capture) -> None:
    folder = FIXTURES / "dialogsum"
    rows = table(onepass(capsys, "data", "describe", f"dialogsum:{folder}").succeeded().out)
    by_name = {Path(row[0]).name: row[1:] for row in rows if row[0] != "file"}
    (differs,) = by_name["dialogsum.dev.jsonl"]
    assert differs.startswith("differs: upstream's is 436721e0")
    assert by_name["dialogsum.train.jsonl"] == ["unknown: upstream's is not recorded"]
    assert by_name["train"] == ["8", "8 of summarize", "differs from 12,460"]
    assert by_name["test"] == ["2", "2 of summarize", "differs from 500 or 1,500"]


def test_one_file_and_a_folder_in_the_hubs_layout(tmp_path: Path, capsys: Capture) -> None:
    name = f"persona-chat:{FIXTURES / 'persona_chat.csv'}"
    assert ["all", "4", "7 of reply", ""] in table(onepass(capsys, "data", "describe", name).out)
    datasets = pytest.importorskip("datasets")
    file = tmp_path / "data" / "train-00000-of-00001.parquet"
    file.parent.mkdir()
    datasets.Dataset.from_list(
        [{"text": "a", "witty": "b"}, {"text": "c", "witty": None}]
    ).to_parquet(file)
    rows = table(onepass(capsys, "data", "describe", f"tone:{tmp_path}").succeeded().out)
    assert [str(file), "unknown: no upstream file of that name"] in rows
    (split,) = (row for row in rows if row[0] == "train")
    assert split[1] == "2"
    assert "1 of tone:witty" in split[2]
    assert "0 of tone:casual" in split[2]


def test_a_broken_row_is_named(tmp_path: Path, capsys: Capture) -> None:
    chat = {"id": "1", "summary": "x"}
    file = write_rows(tmp_path / "train.jsonl", [{**chat, "dialogue": t} for t in ("A", "B")])
    onepass(capsys, "data", "describe", f"dialogsum:{tmp_path}").refused(
        f"{file}, line 2: the id '1' is also that of {file}, line 1"
    )
    file = write_rows(tmp_path / "train.jsonl", [{"dialogue": "A: hi", "summary": ""}])
    onepass(capsys, "data", "describe", f"dialogsum:{tmp_path}").refused(
        f"{file}, line 1", '"summary" must be a text that is not empty'
    )


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("dialogsun", ("unknown corpus", "did you mean 'dialogsum'")),
        ("dialogsum:nowhere", ("there is no file or folder nowhere",)),
        ("smalltown:x", ("it takes no path",)),
    ],
)
def test_what_there_is_not(name: str, words: tuple[str, ...], capsys: Capture) -> None:
    onepass(capsys, "data", "describe", name).refused(*words)


def test_the_real_files_are_upstreams(tmp_path: Path, capsys: Capture) -> None:
    found = {
        "dialogsum": REAL / "dialogsum" / "dialogsum.dev.jsonl",
        "persona-chat": REAL / "synthetic-persona-chat" / "Synthetic-Persona-Chat_valid.csv",
    }
    if not all(file.exists() for file in found.values()):
        pytest.skip(f"the real data sets are not here: {REAL}")
    made = {"dialogsum": "500 of summarize", "persona-chat": "26,777 of reply"}
    for name, file in found.items():
        rows = table(onepass(capsys, "data", "describe", f"{name}:{file}").succeeded().out)
        assert [str(file), "matches"] in rows
        (split,) = (row for row in rows if row[0] == "validation")
        assert split[2:] == [made[name], "as expected"]
        # One byte less is told.
        shutil.copy(file, tmp_path)
        copy = tmp_path / file.name
        copy.write_bytes(copy.read_bytes().removesuffix(b"\n").removesuffix(b"\r"))
        rows = table(onepass(capsys, "data", "describe", f"{name}:{copy}").succeeded().out)
        assert dict(row[:2] for row in rows if len(row) > 1)[str(copy)].startswith("differs")
