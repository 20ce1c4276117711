"""Preparing sets: a kill changes nothing, nothing is asked twice, what goes wrong is told."""

import multiprocessing
import os
import re
import shlex
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cli_kit import Done, onepass, write_rows
from endpoint_kit import Stub, serving
from onepass.cli import app
from onepass.core.errors import OnepassError
from onepass.prepare import filters, prompts
from onepass.prepare.labeller import Options
from onepass.prepare.labellers import LABELLERS
from onepass.prepare.prepare import CACHE, CARD
from onepass.prepare.sources import read_sources
from onepass.tasks.book import parse_task
from prepare_kit import SPANISH, WITTY, asking, contents, kept, rows, spanish, write_dialogsum

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def stub() -> Iterator[Stub]:
    with serving(spanish) as found:
        yield found


def killed(args: list[object], when: Callable[[], bool]) -> None:
    """Run the command in a process of its own, and kill it as soon as `when` holds."""

    def run() -> None:
        os.close(2)  # it has nothing to say
        app.main([str(arg) for arg in args])

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    deadline = time.monotonic() + 30
    while process.is_alive() and not when() and time.monotonic() < deadline:
        time.sleep(0.002)
    alive = process.is_alive()
    process.kill()
    process.join()
    assert alive, "it was done before it could be killed"


# ---------------------------------------------------------------- stopped, repeated


def test_killed_while_a_server_is_asked_goes_on_to_the_same(
    tmp_path: Path, capsys: Capture
) -> None:
    def slowly(prompt: str, times: int) -> str:
        time.sleep(0.01)
        return spanish(prompt)

    with serving(slowly) as stub:
        (tmp_path / "a").mkdir()
        onepass(capsys, *asking(tmp_path / "a", stub)).succeeded()
        whole, stub.asked = len(stub.asked), []
        (tmp_path / "b").mkdir()
        args = asking(tmp_path / "b", stub)
        killed(args, lambda: kept(tmp_path / "b" / "sets") >= 5)
        done = kept(tmp_path / "b" / "sets")
        assert 5 <= done < whole
        assert not (tmp_path / "b" / "sets" / "train.jsonl").exists()
        before = len(stub.asked)
        onepass(capsys, *args).succeeded()
        assert len(stub.asked) - before == whole - done  # no kept label is paid for again
    one, other = contents(tmp_path / "a" / "sets"), contents(tmp_path / "b" / "sets")
    one[CARD] = one[CARD].replace(bytes(tmp_path / "a"), bytes(tmp_path / "b"))
    assert one == other


def test_killed_while_our_models_work_goes_on_to_the_same(tmp_path: Path, capsys: Capture) -> None:
    def args(out: Path) -> list[object]:
        return [
            *("data", "prepare", "--out", out, "--tasks", SPANISH, WITTY),
            *("--limit", 8, "--batch-size", 2, "--from", "conversations", "--device", "cpu"),
            *("--translate-with", "multi-step", "--tone-with", "multi-step"),
        ]

    onepass(capsys, *args(tmp_path / "whole")).succeeded()
    for count in (2, 30):  # in the first part's labels, and in a later one's
        out = tmp_path / f"killed-{count}"
        killed(args(out), lambda out=out, count=count: kept(out) >= count)  # type: ignore[misc]
        (out / ".train.jsonl.left").write_text("of the killed one")
        onepass(capsys, *args(out)).succeeded()
        one, other = contents(tmp_path / "whole"), contents(out)
        one[CARD] = one[CARD].replace(bytes(tmp_path / "whole"), bytes(out))
        assert one == other


def test_only_new_labels_are_asked_for(tmp_path: Path, capsys: Capture, stub: Stub) -> None:
    onepass(capsys, *asking(tmp_path, stub, "--limit", 3)).succeeded()
    assert len(stub.asked) == 3 + 3 * 3
    onepass(capsys, *asking(tmp_path, stub)).succeeded()
    assert len(stub.asked) == len(set(stub.asked)) == 12 + 4 * 3
    before = contents(tmp_path / "sets")
    done = onepass(capsys, *asking(tmp_path, stub)).succeeded()
    assert "0 labels newly made" in done.err
    assert len(stub.asked) == 12 + 4 * 3
    assert contents(tmp_path / "sets") == before


def test_another_prompt_model_or_limit_is_another_label(tmp_path: Path) -> None:
    write_rows(tmp_path / "x.jsonl", [{"input": "A: Hi.", "target": "A says hi."}])
    found = set()
    with serving(spanish) as stub:
        from endpoint_kit import endpoint

        for options in (
            Options(endpoint=endpoint(stub)),
            Options(endpoint=endpoint(stub, model="other")),
            Options(endpoint=endpoint(stub), max_new_tokens=7),
        ):
            identity = LABELLERS.get("endpoint")(options)
            found |= {
                identity.identity(parse_task(part)).key("x")
                for part in ("translate:es", "tone:witty")
            }
    assert len(found) == 6


def test_the_same_text_is_labelled_once(tmp_path: Path, capsys: Capture, stub: Stub) -> None:
    data = [{"input": f"A: Tea at {n}?", "target": f"Tea {n % 3}."} for n in range(12)]
    corpus = write_rows(tmp_path / "x.jsonl", data)
    args = asking(tmp_path, stub)
    args[args.index("--corpus") + 1] = corpus
    onepass(capsys, *args).succeeded()
    assert len(stub.asked) == 3


# ---------------------------------------------------------------- what goes wrong


def test_a_server_that_dies_halfway(tmp_path: Path, capsys: Capture) -> None:
    asked: list[str] = []

    def dying(prompt: str, _times: int) -> Any:
        asked.append(prompt)
        return spanish(prompt) if len(asked) <= 8 else 500

    with serving(dying) as server:
        args = asking(tmp_path, server, "--concurrency", 1)
        onepass(capsys, *args).refused("8 of 24 labels are made", "goes on", "500")
        assert not list((tmp_path / "sets").glob("*.jsonl"))
        server.reply = spanish
        onepass(capsys, *args).succeeded()
        assert len(set(server.asked)) == 24
        assert all(server.asked.count(prompt) == 1 for prompt in server.asked[:8])


def test_a_few_failures_are_told_and_may_be_allowed(tmp_path: Path, capsys: Capture) -> None:
    def flawed(prompt: str, _times: int) -> Any:
        return 400 if "at 3." in prompt else spanish(prompt)

    with serving(flawed) as stub:
        onepass(capsys, *asking(tmp_path, stub)).refused(
            "4 labels failed", "400", "--allow-missing"
        )
        assert not list((tmp_path / "sets").glob("*.jsonl"))
        onepass(capsys, *asking(tmp_path, stub, "--allow-missing")).succeeded()
        assert (len(rows(tmp_path / "sets", "train")), len(rows(tmp_path / "sets", "test"))) == (
            11,
            3,
        )
        stub.reply = spanish
        onepass(capsys, *asking(tmp_path, stub)).succeeded()
        assert (len(rows(tmp_path / "sets", "train")), len(rows(tmp_path / "sets", "test"))) == (
            12,
            4,
        )


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--tasks", "summarise+translate:es"], ["unknown task 'summarise'", "summarize"]),
        (["--tasks", "summarize"], ["'summarize' is not compositional"]),
        (["--tasks", SPANISH, SPANISH], ["named twice"]),
        (["--tasks", "reply+translate:es"], ["'reply'"]),
        (["--tasks", WITTY], ["tone:witty needs a labeller", "--tone-with"]),
        (["--tasks", WITTY, "--tone-with", "seq2seq"], ["seq2seq needs translation models"]),
        (["--tone-with", "marian"], ["unknown labeller 'marian'", "seq2seq"]),
        (["--translate-with", "seq2seq"], ["--translator es=MODEL"]),
        (["--translate-with", "instruct"], ["--instruct-model"]),
        (["--translate-with", "multi-step", "--model", "x/y"], ["--adapters translate:es=FOLDER"]),
        (["--adapters", "spanish=x"], ["--adapters 'spanish=x'", "translate:es"]),
        (["--translator", "it=x"], ["--translator 'it=x'", "NAME is one of es, fr, de"]),
        (["--translator", "x", "y"], ["twice"]),
        (["--splits", "train", "dev"], ["unknown split 'dev'"]),
        (["--splits", "validation"], ["validation"]),
        (["--endpoint-model", ""], ["model"]),
    ],
)
def test_refusals(
    more: list[str], words: list[str], tmp_path: Path, capsys: Capture, stub: Stub
) -> None:
    args = asking(tmp_path, stub)
    if more[0] in ("--tasks", "--splits"):
        place = args.index(more[0])
        del args[place : place + (2 if more[0] == "--tasks" else 3)]
    onepass(capsys, *args, *more).refused(*words)
    assert not stub.asked
    assert not list((tmp_path / "sets").glob("*.jsonl"))


def test_a_folder_that_holds_something_else(tmp_path: Path, capsys: Capture, stub: Stub) -> None:
    out = tmp_path / "sets"
    out.mkdir()
    (out / "README.md").write_text("mine")
    onepass(capsys, *asking(tmp_path, stub)).refused("README.md", "no preparation made")
    assert (out / "README.md").read_text() == "mine"
    (out / "README.md").unlink()
    onepass(capsys, *asking(tmp_path, stub)).succeeded()
    args = asking(tmp_path, stub)
    args.remove("train")
    onepass(capsys, *args).refused("train.jsonl", "name the split")


def test_a_damaged_store_is_told(tmp_path: Path, capsys: Capture, stub: Stub) -> None:
    onepass(capsys, *asking(tmp_path, stub)).succeeded()
    for file in (tmp_path / "sets" / CACHE.parent).iterdir():
        file.write_bytes(b"nonsense" * 1000)
    onepass(capsys, *asking(tmp_path, stub)).refused(CACHE.name, "delete it")


def test_bad_sources(tmp_path: Path, capsys: Capture, stub: Stub) -> None:
    def told(row: dict[str, Any], *words: str) -> Done:
        write_rows(tmp_path / "train.jsonl", [{"id": "a", "input": "A: Hi.", "target": "x"}, row])
        args = asking(tmp_path, stub)
        args[args.index("--corpus") + 1] = tmp_path / "train.jsonl"
        return onepass(capsys, *args).refused(*words)

    told({"input": "A: Tea?", "target": ""}, "train.jsonl, line 2", '"target"')
    told({"id": "a", "input": "A: Tea?", "target": "x"}, "line 2", "the id 'a' is also")
    folder = write_dialogsum(tmp_path / "folder")
    with pytest.raises(OnepassError, match=r"both .* have examples of summarize"):
        read_sources([f"dialogsum:{folder}"] * 2, [parse_task("summarize")], ["train"])


# ---------------------------------------------------------------- the page

PAGE = Path(__file__).parents[1] / "docs" / "prepare.md"


def test_the_page_tells_the_truth() -> None:
    page = PAGE.read_text(encoding="utf-8")
    told = re.sub(r"^    ", "", page, flags=re.MULTILINE)
    for prompt in (prompts.TRANSLATE, prompts.REWRITE):
        assert prompt in told
    for tone, manner in prompts.MANNERS.items():
        assert f"- {tone.removeprefix('tone:')}: {manner}\n" in page
    for reason, why in filters.FILTERS.items():
        assert f"- *{reason}*: {' '.join(str(why.__doc__).split())}\n" in page
    for name in LABELLERS:
        assert f"| {name} | " in page
        assert f"### {name}\n" in page


def test_the_commands_of_the_page_can_be_pasted() -> None:
    commands = re.findall(r"^    onepass data (.*)$", PAGE.read_text("utf-8"), re.MULTILINE)
    assert len(commands) > 6
    parser = app.load_command("data-prepare")
    for command in commands:
        first, *args = shlex.split(command)
        assert first == "prepare"
        parser.make_context("prepare", args)  # refuses an unknown option
