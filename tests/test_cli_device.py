"""`onepass pack`, `run`, and `export --format gguf`, as a user types them."""

import os
import shutil
from pathlib import Path

import pytest
import torch

from cli_kit import Terminal, onepass, packed, random_composition, rows_of, write_rows
from conftest import MakeAdapter
from device_kit import CHAT, engine_or_skip
from onepass.adapters.calibration import calibration_bytes
from onepass.adapters.composition import save_composition
from onepass.export.gguf.base import write_base
from onepass.model.load import Base
from onepass.serve import Answer, Engine

engine_or_skip()

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def composed(tmp_path: Path, base: Base, make_adapter: MakeAdapter) -> Path:
    save_composition(random_composition(base, make_adapter, "lowrank"), tmp_path / "both")
    return tmp_path / "both"


@pytest.fixture
def device(composed: Path, base_folder: Path, tmp_path: Path, capsys: Capture) -> Path:
    return packed(capsys, composed, base_folder, tmp_path / "device")


@pytest.fixture
def chat(tmp_path: Path) -> Path:
    (tmp_path / "chat.txt").write_text(CHAT, encoding="utf-8")
    return tmp_path / "chat.txt"


def test_pack_tells_what_each_file_and_one_more_combination_costs(
    composed: Path, base: Base, base_folder: Path, make_adapter: MakeAdapter, tmp_path: Path,
    capsys: Capture,
) -> None:  # fmt: skip
    done = onepass(
        capsys, "pack", composed, "--out", tmp_path / "device", "--model", base_folder,
    ).succeeded()  # fmt: skip
    rows = [line.split("\t") for line in done.out.splitlines()]
    assert [row[:2] for row in rows] == [
        ["file", "what"],
        ["base-q4_0.gguf", "base, q4_0"],
        ["adapters/a.gguf", "task, rank 4"],
        ["adapters/b.gguf", "task, rank 4"],
        ["adapters/calibration-both.gguf", "calibration, rank 2"],
    ]
    for place, _, size in rows[1:]:
        assert (tmp_path / "device" / place).stat().st_size == int(size.replace(",", ""))
    assert f"both: adds {rows[-1][2]} bytes" in done.err
    # What the two layers share is stored once, so it costs what the calibration's own file does.
    calibration = random_composition(base, make_adapter, "lowrank").passes[0].calibration
    assert calibration is not None
    numbers = calibration_bytes(calibration, torch.float16)
    assert int(rows[-1][2].replace(",", "")) == pytest.approx(numbers, abs=600)
    plain = onepass(
        capsys, "pack", composed, "--out", tmp_path / "plain", "--model", base_folder, "--plain"
    ).succeeded()
    assert plain.out.splitlines()[:4] == done.out.splitlines()[:4]
    assert int(plain.out.splitlines()[4].split("\t")[2].replace(",", "")) > 1.5 * numbers


def test_what_a_set_takes_counts_every_file(
    composed: Path, base_folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "out"
    done = onepass(
        capsys, "pack", composed, "--out", out, "--model", base_folder, "--fused"
    ).succeeded()
    total = sum(path.stat().st_size for path in out.rglob("*.gguf"))
    (adds,) = [path.stat().st_size for path in out.rglob("calibration-*.gguf")]
    assert f"{out}: {total:,} bytes on the device" in done.err
    assert f"both: adds {adds:,} bytes ({100 * adds / total:.2f} % of the set)" in done.err


def test_what_was_packed_is_verified_and_what_is_damaged_is_not(
    device: Path, capsys: Capture
) -> None:
    done = onepass(capsys, "pack", "verify", device).succeeded()
    assert done.out.startswith("both\t")
    assert "allowed" in done.out
    with (device / "base-f32.gguf").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\xff")
    onepass(capsys, "pack", "verify", device).refused("base-f32.gguf", "SHA-256")


def test_a_composition_may_be_in_a_folder_called_verify(
    composed: Path, base_folder: Path, tmp_path: Path, capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    shutil.copytree(composed, tmp_path / "verify")
    monkeypatch.chdir(tmp_path)
    done = onepass(capsys, "pack", "./verify", "--out", "device", "--model", base_folder)
    assert "verify: adds" in done.succeeded().err
    onepass(capsys, "pack", "verify", "device").succeeded()


def test_pack_is_told_where_and_of_one_base(
    composed: Path, device: Path, base_folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    onepass(capsys, "pack", composed).refused("--out DIR")
    onepass(capsys, "pack", "verify").refused("takes one folder, found 0")
    onepass(capsys, "pack", composed, composed, "--out", tmp_path / "x").refused("called 'both'")
    onepass(capsys, "pack", composed, "--out", tmp_path / "x", "--adapter-type", "q4_0").refused(
        "adapter type 'q4_0'", "q8_0"
    )
    export = ("export", composed, "--out", tmp_path / "x")
    onepass(capsys, *export, "--format", "gguf", "--save-as", "float16").refused(
        "--save-as", "--adapter-type"
    )
    onepass(capsys, *export, "--base-type", "f16").refused("--base-type", "peft", "--save-as")
    own = ("--out", composed, "--model", base_folder)
    onepass(capsys, "pack", composed, *own).refused("would delete")
    onepass(capsys, "export", composed, device, "--out", tmp_path / "x").refused(
        "peft holds one composition, found 2"
    )
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("option", [("--fused",), ("--plain",), ("--adapter-type", "f16")])
def test_a_merged_set_refuses_what_is_about_adapters(
    option: tuple[str, ...], tmp_path: Path, capsys: Capture
) -> None:
    options = ("c", "--out", tmp_path / "x", "--merged", *option)
    onepass(capsys, "pack", *options).refused(f"{option[0]} says nothing about --merged")
    if option[0] == "--adapter-type":
        export = ("export", "--format", "gguf", *options)
        onepass(capsys, *export).refused("--adapter-type says nothing about --merged")


def test_run_writes_what_generate_writes(
    composed: Path, device: Path, base_folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    rows = [{"id": str(n), "input": f"Ana: Tea at {n}?\nBen: Yes."} for n in range(3)]
    texts = write_rows(tmp_path / "texts.jsonl", rows)
    options = ("--input", texts, "--max-new-tokens", "8")
    expected = onepass(capsys, "generate", composed, "--model", base_folder, *options).succeeded()
    done = onepass(capsys, "run", device, *options, "--threads", "1").succeeded()
    assert rows_of(done.out) == rows_of(expected.out)
    assert "tokens/s" in done.err
    out = tmp_path / "out.jsonl"
    onepass(capsys, "run", device, *options, "--out", out).succeeded()
    assert out.read_text(encoding="utf-8") == expected.out


def test_modes_stand_side_by_side_with_what_they_took(
    device: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = write_rows(tmp_path / "texts.jsonl", [{"id": n, "input": f"{CHAT} {n}"} for n in "ab"])
    modes = ("zero-shot", "main", "multi-step", "composed")
    ask, answers = Engine.run, []

    def recorded(self: Engine, *args: object) -> Answer:
        answers.append(ask(self, *args))  # type: ignore[arg-type]
        return answers[-1]

    monkeypatch.setattr(Engine, "run", recorded)
    done = onepass(
        capsys, "run", device, "--input", texts, "--max-new-tokens", "4", "--mode", *modes
    ).succeeded()  # fmt: skip
    header, *rows = [line.split("\t") for line in done.out.splitlines()[:5]]
    columns = ["seconds per text", "prompt tokens", "tokens", "tokens/s"]
    assert header == ["composition, mode", *columns]
    assert len(answers) == 1 + 2 * len(modes)  # the first warms the engine up for no one
    assert answers[0].tokens == 1
    assert [answer.cached_tokens for answer in answers] == [0] * len(answers)
    for number, (mode, row) in enumerate(zip(modes, rows, strict=True)):
        pair = answers[1 + 2 * number : 3 + 2 * number]
        seconds, tokens = sum(a.seconds for a in pair), sum(a.tokens for a in pair)
        asked = sum(a.prompt_tokens for a in pair)
        figures = f"{seconds / 2:.3f}", str(asked), str(tokens), f"{tokens / seconds:.0f}"
        assert row == [f"both, {mode}", *figures]
        assert f"both, {mode}\t{pair[1].text}" in done.out.partition("\nb\n")[2]
    reads = dict(zip(modes, (int(row[2]) for row in rows), strict=True))
    assert reads["multi-step"] > reads["main"] > len(f"{CHAT} a") / 4
    assert done.err.count("peak memory") == 1


def test_answers_in_several_modes_are_rows_that_tell_which(
    device: Path, chat: Path, tmp_path: Path, capsys: Capture
) -> None:
    rows = [{"id": str(n), "input": f"Ana: Tea at {n}?\nBen: Yes."} for n in range(3)]
    texts, out = write_rows(tmp_path / "texts.jsonl", rows), tmp_path / "out.jsonl"
    options = ("run", device, "--max-new-tokens", "6", "--input")
    ways = ("--mode", "main", "composed", "main")
    done = onepass(capsys, *options, texts, *ways, "--out", out).succeeded()
    alone = {
        mode: rows_of(onepass(capsys, *options, texts, "--mode", mode).succeeded().out)
        for mode in ("main", "composed")
    }
    assert rows_of(out.read_text(encoding="utf-8")) == [
        {"id": row["id"], "composition": "both", "mode": mode, "prediction": row["prediction"]}
        for mode, found in alone.items()
        for row in found
    ]
    assert not done.out
    assert "both, main\t" in done.err
    printed = onepass(capsys, *options, texts, *ways, "--format", "jsonl").succeeded()
    assert printed.out == out.read_text(encoding="utf-8")
    onepass(capsys, *options, chat, *ways, "--out", out).succeeded()
    assert [row["id"] for row in rows_of(out.read_text(encoding="utf-8"))] == ["chat.txt"] * 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--mode", "mian"), ("'mian'", "main", "multi-step")),
        (("-c", "bath"), ("'bath'", "both")),
        (
            ("--mode", "main", "composed", "--format", "lines", "--out", "x/y"),
            ("--format lines", "--out x/y", "--format jsonl"),
        ),
        (("--threads", "1000000"), ("threads 1000000", f"{os.cpu_count()}, this machine's cores")),
        (("--context", "60"), ("max_new_tokens is 128", "the context is 60")),
        (("--max-new-tokens", "5000"), ("max_new_tokens is 5000", "the context is 192")),
        *((("--context", n), (f"context {n}", "1 to 192")) for n in ("999", "-1")),
    ],
)
def test_options_that_make_no_sense_are_refused(
    device: Path, chat: Path, capsys: Capture, options: tuple[str, ...], words: tuple[str, ...]
) -> None:
    onepass(capsys, "run", device, "--input", chat, *options).refused(*words)
    assert not Path("x").exists()


def test_run_names_a_folder_that_is_no_set(tmp_path: Path, chat: Path, capsys: Capture) -> None:
    onepass(capsys, "run", tmp_path / "nosuch").refused("nosuch", "no device set")
    onepass(capsys, "run", tmp_path, "--input", chat).refused("no device set", "onepass pack")


def test_without_the_extra_it_says_what_to_install(
    composed: Path, device: Path, base_folder: Path, chat: Path, tmp_path: Path, capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    options = ("--out", tmp_path / "x", "--model", base_folder)
    monkeypatch.setitem(__import__("sys").modules, "xllamacpp", None)
    onepass(capsys, "run", device, "--input", chat).refused("xllamacpp", "onepass[device]")
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    onepass(capsys, "pack", composed, *options).refused("gguf", "onepass[device]")
    assert not (tmp_path / "x").exists()


def test_gguf_export_holds_the_fused_adapter_too(
    composed: Path, base_folder: Path, tmp_path: Path, chat: Path, capsys: Capture
) -> None:
    out = tmp_path / "out"
    onepass(
        capsys, "export", composed, "--out", out, "--format", "gguf", "--model", base_folder,
        "--base-type", "f32",
    ).succeeded()  # fmt: skip
    assert (out / "fused" / "both.gguf").is_file()
    options = ("run", out, "--input", chat, "--max-new-tokens", "6")
    apart = onepass(capsys, *options, "--parts").succeeded()
    assert onepass(capsys, *options).succeeded().out == apart.out


def test_a_merged_set_holds_one_composition_and_does_it(
    composed: Path, device: Path, base_folder: Path, tmp_path: Path, chat: Path, capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    out, other = tmp_path / "out", tmp_path / "other"
    shutil.copytree(composed, other)
    pack = ("--model", base_folder, "--base-type", "f32", "--merged", "--out", out)
    onepass(capsys, "pack", composed, other, *pack).refused("one composition", "several")
    onepass(capsys, "pack", composed, *pack).succeeded()
    onepass(capsys, "pack", "verify", out).succeeded()
    assert sorted(path.name for path in out.iterdir()) == ["base-f32.gguf", "manifest.json"]
    apart, merged = (
        onepass(capsys, "run", each, "--input", chat, "--max-new-tokens", "6").succeeded().out
        for each in (device, out)
    )
    assert merged == apart
    words = "mode {} needs the adapters apart; the set's base is the whole composition"
    modes = ("zero-shot", "main", "multi-step")
    monkeypatch.setattr("sys.stdin", Terminal("".join(f"/mode {mode}\n" for mode in modes)))
    done = onepass(capsys, "run", out).succeeded()
    monkeypatch.setattr("onepass.serve.Engine", None)  # before anything is loaded
    for mode in modes:
        assert f"{words.format(mode)}\nboth (composed)\n" in done.err
        options = ("--input", chat, "--mode", mode)
        onepass(capsys, "run", out, *options).refused(words.format(mode))


# ---------------------------------------------------------------- a GGUF file of one's own
@pytest.fixture
def own(base: Base, tmp_path: Path) -> Path:
    (tmp_path / "models").mkdir()
    write_base(base, tmp_path / "models" / "micro.gguf", "q8_0")
    return tmp_path / "models" / "micro.gguf"


def test_ones_own_file_is_packed_verified_and_run(
    own: Path, composed: Path, base_folder: Path, chat: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "device"
    done = onepass(
        capsys, "pack", composed, "--model", base_folder, "--base", own, "--out", out
    ).succeeded()
    assert done.out.splitlines()[1].split("\t")[:2] == ["base-micro.gguf", "base, q8_0"]
    assert "the licence of micro.gguf is not stated" in done.err
    assert "both was calibrated on other numbers than micro.gguf holds" in done.err
    assert (out / "base-micro.gguf").read_bytes() == own.read_bytes()
    assert "both\t8 tokens" in onepass(capsys, "pack", "verify", out).succeeded().out
    assert onepass(capsys, "run", out, "--input", chat).succeeded().out.strip()


def test_a_linked_file_may_move(
    own: Path, composed: Path, base_folder: Path, chat: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "device"
    options = ("--model", base_folder, "--base", own, "--link", "--out", out)
    done = onepass(capsys, "pack", composed, *options).succeeded()
    assert done.out.splitlines()[1].split("\t")[1] == "base, q8_0, not in the set"
    assert "licence" not in done.err
    assert not list(out.glob("*.gguf"))
    held = own.stat().st_size + sum(path.stat().st_size for path in out.rglob("*.gguf"))
    assert f"{out}: {held:,} bytes on the device" in done.err
    first = onepass(capsys, "run", out, "--input", chat).succeeded().out
    moved = own.rename(own.with_name("moved.gguf"))
    onepass(capsys, "run", out, "--input", chat).refused("micro.gguf is missing", "--base")
    onepass(capsys, "pack", "verify", out).refused("micro.gguf is missing", "--base")
    again = onepass(capsys, "run", out, "--input", chat, "--base", moved).succeeded()
    assert again.out == first
    onepass(capsys, "pack", "verify", out, "--base", moved).succeeded()


def test_the_file_stands_in_for_a_base_that_is_gone(
    own: Path, composed: Path, base_folder: Path, tmp_path: Path, capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    manifest = (composed / "composition.json").read_text(encoding="utf-8")
    gone = manifest.replace(str(base_folder), "/gone/micro")
    assert gone != manifest
    (composed / "composition.json").write_text(gone, encoding="utf-8")
    for config in composed.rglob("adapter_config.json"):
        text = config.read_text(encoding="utf-8").replace(str(base_folder), "/gone/micro")
        config.write_text(text, encoding="utf-8")
    onepass(capsys, "pack", composed, "--out", tmp_path / "device").refused("/gone/micro")
    onepass(
        capsys, "pack", composed, "--out", tmp_path / "device", "--base", own
    ).succeeded()  # fmt: skip
    onepass(capsys, "pack", "verify", tmp_path / "device").succeeded()


def test_options_of_ones_own_file_that_contradict_are_refused(
    own: Path, composed: Path, base_folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    start = ("pack", composed, "--model", base_folder, "--out", tmp_path / "device")
    onepass(capsys, *start, "--base", own, "--base-type", "q4_0").refused("leave out one")
    onepass(capsys, *start, "--link").refused("can only refer to a GGUF file")
    onepass(capsys, *start, "--base", own, "--merged").refused("is taken as it is")
    onepass(capsys, *start, "--base", base_folder).refused("there is no file", "GGUF file")
    onepass(
        capsys, "export", composed, "--out", tmp_path / "peft", "--base", own
    ).refused("--base says nothing about --format peft")  # fmt: skip
    done = onepass(
        capsys, "export", composed, "--model", base_folder, "--out", tmp_path / "gguf",
        "--format", "gguf", "--base", own, "--link",
    ).succeeded()  # fmt: skip
    assert "fused/both.gguf" in done.out
