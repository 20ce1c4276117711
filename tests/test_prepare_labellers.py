"""The labellers: what they answer is what their models say, and what they cannot do is refused."""

import json
import shutil
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from cli_kit import onepass, rows_of, write_rows
from onepass.core.errors import OnepassError
from onepass.model.generate import generate
from onepass.model.load import load_base
from onepass.prepare.instruct import Instruct
from onepass.prepare.labeller import TOO_LONG, Label, Labeller, Options
from onepass.prepare.prompts import clean, fill, prompt_template
from onepass.prepare.seq2seq import Seq2Seq, Translator, load_translator
from onepass.tasks.benchmark import TONE_TASKS, TRANSLATIONS
from onepass.tasks.book import parse_task
from translators import save_marian, save_nllb

Capture = pytest.CaptureFixture[str]
TEXTS = [
    "Ana and Ben meet at noon.\nCleo brings the cake.",
    "They will have tea at the harbour.",
    "Ana meets Ben.",
    "🎉 مرحبا \x00",
]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("translators")
    return {
        "pair": save_marian(folder / "opus-mt-en-es"),
        "several": save_marian(folder / "opus-mt-en-roa", ("es", "fr")),
        "nllb": save_nllb(folder / "nllb"),
    }


def labels_of(made: Labeller, part: str, texts: list[str]) -> dict[str, Label]:
    found: dict[str, Label] = {}

    def keep(labels: Mapping[str, Label]) -> None:
        assert not found.keys() & labels.keys()
        found.update(labels)

    made.label(parse_task(part), texts, keep)
    assert list(found) == texts
    return found


def alone(translator: Translator, line: str, first: str | None, prefix: str = "") -> str:
    """The translation by transformers itself, one line at a time."""
    inputs = translator.tokenizer(prefix + line, return_tensors="pt")
    inputs.pop("token_type_ids", None)
    forced = None if first is None else translator.tokenizer.convert_tokens_to_ids(first)
    out = translator.model.generate(
        **inputs, num_beams=3, max_new_tokens=40, do_sample=False, forced_bos_token_id=forced
    )
    return str(translator.tokenizer.decode(out[0], skip_special_tokens=True)).strip()


@pytest.mark.parametrize(
    ("name", "part", "first", "prefix"),
    [
        ("pair", "translate:es", None, ""),
        ("several", "translate:fr", None, ">>fr<< "),
        ("nllb", "translate:es", "spa_Latn", ""),
        ("nllb", "translate:de", "deu_Latn", ""),
    ],
)
@pytest.mark.parametrize("batch_size", [1, 3])
def test_translations_are_those_of_the_model_line_by_line(
    models: dict[str, Path], name: str, part: str, first: str | None, prefix: str, batch_size: int
) -> None:
    named = "es" if name == "pair" else ""
    options = Options({named: str(models[name])}, beams=3, max_new_tokens=40, batch_size=batch_size)
    found = labels_of(Seq2Seq(options), part, TEXTS)
    translator = load_translator(str(models[name]), "cpu")
    for text in TEXTS:
        lines = [alone(translator, line, first, prefix) for line in text.split("\n")]
        assert found[text] == Label("\n".join(lines))
    assert any(label.text for label in found.values())


def test_languages_differ_with_one_model_for_all(models: dict[str, Path]) -> None:
    made = Seq2Seq(Options({"": str(models["nllb"])}, max_new_tokens=40))
    found = [tuple(labels_of(made, part, TEXTS).values()) for part in TRANSLATIONS]
    assert len(set(found)) == 3
    keys = {made.identity(parse_task(part)).key(text) for part in TRANSLATIONS for text in TEXTS}
    assert len(keys) == 3 * len(TEXTS)


def test_a_pair_of_languages_is_not_used_for_all(models: dict[str, Path]) -> None:
    made = Seq2Seq(Options({"": str(models["pair"])}, max_new_tokens=40))
    with pytest.raises(OnepassError, match=r"no token for fr.*--translator es=MODEL"):
        labels_of(made, "translate:fr", TEXTS)


def test_a_text_that_is_cut_or_not_read_whole_has_no_label(models: dict[str, Path]) -> None:
    made = Seq2Seq(Options({"es": str(models["pair"])}, max_new_tokens=40))
    long = "Ana meets Ben. " * 100
    found = labels_of(made, "translate:es", [long, "Ana meets Ben."])
    assert found[long] == Label(problem=TOO_LONG)
    assert found["Ana meets Ben."].text
    cut = labels_of(
        Seq2Seq(Options({"es": str(models["pair"])}, max_new_tokens=2)), "translate:es", TEXTS
    )
    assert set(cut.values()) == {Label(problem=TOO_LONG)}


def test_identities_tell_models_apart(models: dict[str, Path], tmp_path: Path) -> None:
    copy = tmp_path / "opus-mt-en-es"
    shutil.copytree(models["pair"], copy)

    def key(folder: Path, **options: int) -> str:
        made = Seq2Seq(Options({"es": str(folder)}, **options))  # type: ignore[arg-type]
        return made.identity(parse_task("translate:es")).key("Hello.")

    assert key(copy) == key(models["pair"])
    assert key(copy, beams=1) != key(models["pair"])
    save_marian(tmp_path / "other", positions=80)
    assert key(tmp_path / "other") != key(models["pair"])


def test_marian_for_translations_and_ours_for_tones_in_one_call(
    models: dict[str, Path], tmp_path: Path, capsys: Capture
) -> None:
    data = [
        {"input": f"Ana: Tea at {n}?\nBen: Yes.", "target": f"Ana and Ben meet at {n}."}
        for n in range(6)
    ]
    write_rows(tmp_path / "data.jsonl", data)
    done = onepass(
        capsys,
        *("data", "prepare", "--out", tmp_path / "sets", "--corpus", tmp_path / "data.jsonl"),
        *("--tasks", "summarize+translate:es", "summarize+tone:witty", "--device", "cpu"),
        *("--translate-with", "seq2seq", "--translator", f"es={models['pair']}"),
        *("--tone-with", "multi-step", "--max-new-tokens", 40, "--splits", "train"),
    ).succeeded()
    assert "summarize+translate:es train" in done.out
    card = (tmp_path / "sets" / "README.md").read_text(encoding="utf-8")
    assert "translate:es: seq2seq, opus-mt-en-es, to es" in card
    assert "tone:witty: multi-step, tiny, prompt" in card
    for row in rows_of((tmp_path / "sets" / "train.jsonl").read_text(encoding="utf-8")):
        (step,) = row["meta"]["provenance"]
        assert ("prompt" in step) == (step["labeller"] == "multi-step")


# ---------------------------------------------------------------- translators that cannot be used


def refused(folder: Path | str, *words: str) -> None:
    with pytest.raises(OnepassError) as told:
        load_translator(str(folder), "cpu")
    for word in words:
        assert word in str(told.value)


def test_a_pickle_is_refused_with_advice(models: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "pickled"
    shutil.copytree(models["pair"], folder)
    weights = folder / "model.safetensors"
    torch.save({}, folder / "pytorch_model.bin")
    weights.unlink()
    refused(folder, "pytorch_model.bin is a pickle", "save_pretrained(FOLDER)")
    made = Seq2Seq(Options({"es": str(folder)}))
    with pytest.raises(OnepassError, match="is a pickle"):  # before anything is read
        made.identity(parse_task("translate:es"))


def test_damaged_and_missing_translators(models: dict[str, Path], tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "no model folder")
    refused("no-one/nothing", "no-one/nothing")
    folder = tmp_path / "damaged"
    shutil.copytree(models["pair"], folder)
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    refused(folder, "cannot load the translator")
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    refused(folder, "cannot load the translator")


@pytest.mark.skipif(find_spec("sentencepiece") is not None, reason="sentencepiece is installed")
@pytest.mark.parametrize("named", [{}, {"tokenizer_class": "MarianTokenizer"}])
def test_what_marians_own_tokenizer_needs_is_told(
    named: dict[str, str], models: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "upstream"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(models["pair"] / name, folder / name)
    for name in ("source.spm", "target.spm"):
        (folder / name).write_bytes(b"")
    (folder / "vocab.json").write_text("{}")
    config = {"source_lang": "en", "target_lang": "es", **named}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    refused(folder, "needs sentencepiece", "pip install 'onepass[translate]'")


# ---------------------------------------------------------------- instructions


def test_an_instructed_model_is_asked_by_the_prompt(base_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "roomy"
    shutil.copytree(base_folder, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 1024}))
    made = Instruct(Options(instruct=str(folder), max_new_tokens=8, batch_size=2, device="cpu"))
    long = "Ana: Yes.\n" * 300
    found = labels_of(made, "tone:witty", [long, *TEXTS])
    assert found[long] == Label(problem=TOO_LONG)
    base = load_base(folder, "cpu")
    for text in TEXTS:
        (answer,) = generate(base, [fill(prompt_template(parse_task("tone:witty")), text)], 8).texts
        # Random weights hardly ever end in time; then nothing is kept.
        assert found[text] in (Label(clean(answer, text)), Label(problem=TOO_LONG))
    identity = made.identity(parse_task("tone:witty"))
    assert identity.prompt == prompt_template(parse_task("tone:witty"))
    with pytest.raises(OnepassError, match="no prompt for 'summarize'"):
        made.identity(parse_task("summarize"))


def test_prompts_are_all_different_and_hold_the_text_alone() -> None:
    prompts = {part: prompt_template(parse_task(part)) for part in (*TRANSLATIONS, *TONE_TASKS)}
    assert len(set(prompts.values())) == 7
    for prompt in prompts.values():
        assert prompt.count("{") == prompt.count("}") == 1
        assert "<text>\na {text} {b}\n</text>" in fill(prompt, "a {text} {b}")


@pytest.mark.parametrize(
    ("answer", "kept"),
    [
        ("Tea at noon?", "Tea at noon?"),
        ("  Sure! Here is the rewritten text:\n\nTea at noon?", "Tea at noon?"),
        ('"Tea at noon?"', "Tea at noon?"),
        ("«¿Té a las doce?»", "¿Té a las doce?"),
        ('"Tea", she said, "at noon?"', '"Tea", she said, "at noon?"'),
        ("<text>\nTea at noon?\n</text>", "Tea at noon?"),
        ("Sure, tea at noon: fine.", "Sure, tea at noon: fine."),
        ("Here we go:", "Here we go:"),
        ('"', '"'),
        ("", ""),
    ],
)
def test_what_models_put_around_an_answer_goes(answer: str, kept: str) -> None:
    assert clean(answer, "Tea at twelve?") == kept


def test_quotation_marks_of_the_source_stay() -> None:
    assert clean('"Tea?"', '"Tea?"') == '"Tea?"'
