"""Corpora of real text: layouts and splits, and that no split holds an input of another."""

import json
import re
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from cli_kit import onepass
from corpora_kit import Rows, chats, write_csv, write_jsonl, write_tsv
from onepass.comparison.recipe import load_recipe
from onepass.core.errors import OnepassError
from onepass.evaluate.score import score
from onepass.tasks.book import Tasks
from onepass.tasks.corpora.facts import checksum, data_files, facts_of
from onepass.tasks.corpus import SPLITS, Corpus, load_corpus
from onepass.tasks.example import Example
from onepass.tasks.task import Task

BOOK = Tasks(
    {"name": f"tone:{x}", "role": "auxiliary", "instruction": f"Be {x}.", "phrase": f"{x}ly"}
    for x in ("formal", "informal")
)
FORMALITY = ["formality", "formality_decided"]
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"

real = pytest.mark.skipif(not SHARED.is_dir(), reason="the real data are not on this machine")


def task(name: str) -> Task:
    return BOOK.parse(name)


def splits_of(corpus: Any, wanted: Task) -> dict[str, list[Example]]:
    return {split: corpus.examples(wanted, split) for split in corpus.splits()}


def inputs(examples: list[Example]) -> set[str]:
    return {e.input for e in examples}


def overlaps(splits: dict[str, list[Example]]) -> int:
    """How many inputs and groups are in two splits."""
    found = [
        {("input", e.input) for e in part} | {("group", e.meta.get("group", e.input)) for e in part}
        for part in splits.values()
    ]
    return sum(map(len, found)) - len(set().union(*found))


# Corpora as they come, in small. Every one holds some inputs twice, over its splits and in them.


def dialogsumx(folder: Path) -> None:
    def row(n: int) -> dict[str, Any]:
        languages = {f"summary_{x}": f"{x} {n}" for x in ("en", "fr")}
        return {"dialogue": f"#Person1#: Is it {n % 37}?", **languages}

    write_jsonl(folder / "train.jsonl", [row(n) for n in range(40)])
    write_jsonl(folder / "dev.jsonl", [row(n) for n in range(35, 48)])


def tatoeba(folder: Path) -> None:
    def row(n: int, *languages: str) -> dict[str, str]:
        return {"en": f'The "{n}".', **{x: f'{x} "{n}.' for x in languages}}

    all_three = ("es", "fr", "de")
    write_tsv(folder / "train.tsv", [row(n, *all_three) for n in (*range(30), *range(9))])
    write_tsv(folder / "test.tsv", [row(n, *all_three) for n in range(28, 36)])
    write_tsv(folder / "long_es.tsv", [row(n, "es") for n in range(34, 60)])


def ntrex(folder: Path) -> None:
    for x in ("es", "fr"):
        rows = [{"input": f"It is {n % 25}.", "target": f"{x} {n}."} for n in range(30)]
        write_jsonl(folder / f"{x}.jsonl", rows)


GERMAN = [  # English, formal, informal
    ("Are you tired?", "[F]Sind Sie[/F] müde?", "[F]Bist du[/F] müde?"),
    ("Take your coat.", "[F]Nehmen Sie Ihren[/F] Mantel.", "[F]Nimm deinen[/F] Mantel."),
    ("It rains.", "Es regnet.", "Es regnet."),
]


def cocoa_mt(folder: Path, domains: tuple[str, ...] = ("telephony", "topical_chat")) -> None:
    """Both splits have 30 rows of each domain; those of train without a register are ten."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, ending in (("train", ".de"), ("test", "")):
        for domain in domains:
            # Upstream's name of a source ends in .en or in the languages.
            name = f"formality-control.{split}.{domain}.en-de"
            rows = [GERMAN[n % 3] for n in range(30)]
            english = [
                f"{row[0]} {split[:2]} {n // 2 * (domain != 'x')}" for n, row in enumerate(rows)
            ]
            texts = {".en" if ending else "": english}
            for place, register in enumerate(("formal", "informal"), start=1):
                marked = [row[place] for row in rows]
                texts[f".{register}.annotated{ending}"] = marked
                texts[f".{register}{ending}"] = [re.sub(r"\[/?F\]", "", line) for line in marked]
            for end, lines in texts.items():
                (folder / f"{name}{end}").write_text("\n".join(lines) + "\n", encoding="utf-8")


def register(folder: Path) -> None:
    rows = [
        {"kind": "slang", "formal": f"I am {n // 2}.", "casual": f"I'm {n % 31}."}
        for n in range(40)
    ]
    write_tsv(folder / "casual_formal.tsv", rows)


def explore_instruct(folder: Path) -> None:
    rows = [
        {"tone": tone, "task": "t", "instruction": "i", "input": f"It is {n % 25}.", "output": tone}
        for n in range(30)
        for tone in ("witty", "other")
    ]
    write_jsonl(folder / "rewrites.jsonl", rows)


def chitchat(folder: Path) -> None:
    """Conversations that mostly begin alike."""
    rows = [
        {"prompt": "Talk.", "turns": ["A: Hello!", f"B: Hi {n % 7}.", "A: So.", f"B: {n}.", "A:"]}
        for n in range(30)
    ]
    write_jsonl(folder / "sample.jsonl", rows)


def persona_chat(folder: Path) -> None:
    """Official splits, without an input in two."""
    for split in ("train", "valid", "test"):
        write_csv(folder / f"Synthetic-Persona-Chat_{split}.csv", chats(5, split))


MADE = [
    (cocoa_mt, "translate:de+tone:formal"),
    (register, "tone:formal"),
    (register, "tone:casual"),
    (explore_instruct, "tone:witty"),
    (chitchat, "reply"),
    (dialogsumx, "summarize"),
    (dialogsumx, "summarize+translate:fr"),
    (tatoeba, "translate:es"),
    (tatoeba, "translate:fr"),
    (ntrex, "translate:es"),
    (persona_chat, "reply"),
]


@pytest.mark.parametrize(("make", "name"), MADE)
def test_no_input_and_no_group_is_in_two_splits(make: Any, name: str, tmp_path: Path) -> None:
    make(tmp_path)
    # A file alone is split here; in a folder it would be of the split that its name says.
    files = list(tmp_path.iterdir())
    place = files[0] if len(files) == 1 else tmp_path
    corpus = load_corpus(f"{make.__name__.replace('_', '-')}:{place}")
    splits = splits_of(corpus, task(name))
    assert set(splits) == set(SPLITS)
    assert all(splits.values())
    assert overlaps(splits) == 0
    # What is left out stands in a later split, so no input is lost.
    whole = corpus.examples(task(name), "all")
    assert {e.input for part in splits.values() for e in part} == {e.input for e in whole}
    for split, examples in splits.items():
        assert corpus.examples(task(name), split, 3) == examples[:3]


def test_a_folder_without_a_test_file_tests_on_its_dev_file(tmp_path: Path) -> None:
    dialogsumx(tmp_path)
    corpus = load_corpus(f"dialogsumx:{tmp_path}")
    splits = splits_of(corpus, task("summarize+translate:fr"))
    assert [e.target for e in splits["test"]] == [f"fr {n}" for n in range(35, 48)]
    assert {e.target for e in splits["train"]} < {f"fr {n}" for n in range(40)}
    assert 1 <= len(splits["validation"]) <= 3  # a tenth of 37 inputs, less those of test
    write_jsonl(tmp_path / "test.jsonl", [{"dialogue": "?", "summary_en": "e", "summary_fr": "f"}])
    whole = splits_of(load_corpus(f"dialogsumx:{tmp_path}"), task("summarize"))
    # 13 of the 37 inputs of train are in dev, and so are the three rows that repeat one.
    assert [len(whole[split]) for split in SPLITS] == [37 - 13, 13, 1]


def test_describing_a_corpus_says_where_its_splits_come_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dialogsumx(tmp_path)
    told = onepass(capsys, "data", "describe", f"dialogsumx:{tmp_path}").succeeded().out
    for line in (
        "train is 90 % of the train rows, by a hash of the input",
        "validation is 10 % of the train rows, by a hash of the input",
        "test is the validation rows",
    ):
        assert line in told.splitlines()
    write_jsonl(tmp_path / "test.jsonl", [{"dialogue": "?", "summary_en": "e"}])
    told = onepass(capsys, "data", "describe", f"dialogsumx:{tmp_path}").succeeded().out
    assert " is " not in "".join(line for line in told.splitlines() if line.startswith("train"))


def test_a_folder_of_train_rows_alone_gives_some_for_validation(tmp_path: Path) -> None:
    dialogsumx(tmp_path)
    (tmp_path / "dev.jsonl").unlink()
    corpus = load_corpus(f"dialogsumx:{tmp_path}")
    splits = splits_of(corpus, task("summarize"))
    assert {split: len(inputs(examples)) for split, examples in splits.items()} == {
        "train": 34,
        "validation": 3,
    }
    with pytest.raises(OnepassError, match="has no split 'test'; found train"):
        corpus.examples(task("summarize"), "test")


def test_a_language_that_a_corpus_does_not_have(tmp_path: Path) -> None:
    dialogsumx(tmp_path)
    with pytest.raises(OnepassError, match="no examples of 'summarize\\+translate:de'"):
        load_corpus(f"dialogsumx:{tmp_path}").examples(task("summarize+translate:de"), "train")
    write_jsonl(tmp_path / "train.jsonl", [{"dialogue": "Hi.", "summary": "A greeting."}])
    with pytest.raises(OnepassError, match='no "summary_en"; found dialogue, summary'):
        load_corpus(f"dialogsumx:{tmp_path}").examples(task("summarize"), "train")


def test_longer_pairs_belong_to_the_train_rows_of_their_language(tmp_path: Path) -> None:
    tatoeba(tmp_path)
    corpus = load_corpus(f"tatoeba:{tmp_path}")
    counts = {x: len(corpus.examples(task(f"translate:{x}"), "all")) for x in ("es", "fr")}
    assert counts == {"es": 39 + 8 + 26, "fr": 39 + 8}
    first = next(e for e in corpus.examples(task("translate:es"), "test") if e.id == "test-1")
    assert (first.input, first.target) == ('The "28".', 'es "28.')


def test_a_sentence_has_one_split_in_all_languages(tmp_path: Path) -> None:
    ntrex(tmp_path)
    corpus = load_corpus(f"ntrex:{tmp_path}")
    spanish, french = (splits_of(corpus, task(f"translate:{x}")) for x in ("es", "fr"))
    assert {x: inputs(found) for x, found in spanish.items()} == {
        x: inputs(found) for x, found in french.items()
    }
    alone = load_corpus(f"ntrex:{tmp_path / 'fr.jsonl'}")
    assert splits_of(alone, task("translate:fr")) == french
    write_jsonl(tmp_path / "xx.jsonl", [{"input": "a", "target": "b"}])
    with pytest.raises(OnepassError, match=r"xx.jsonl is of no language .* name it by one: es"):
        load_corpus(f"ntrex:{tmp_path}")


def test_what_is_to_be_evaluated_on_is_test_alone(tmp_path: Path) -> None:
    rows: Rows = [{"id": f"n{n}", "en": f"It is {n}.", "es": f"Es {n}."} for n in range(5)]
    write_tsv(tmp_path / "train.tsv", rows)
    for place in (tmp_path, tmp_path / "train.tsv"):
        corpus = load_corpus(f"pud:{place}")
        assert len(corpus.examples(task("translate:es"), "test")) == 5
        with pytest.raises(OnepassError, match="has no split 'train'; found test"):
            corpus.examples(task("translate:es"), "train")


# fmt: off
COUNTS = [
    *(("cocoa-mt", "cocoa_mt", f"translate:{x}+tone:{tone}", counts)
      for x, counts in {"es": [316, 35, 400], "fr": [317, 35, 400], "de": [340, 37, 400]}.items()
      for tone in ("formal", "informal")),
    ("register", "tatoeba_paraphrase/casual_formal.tsv", "tone:formal", [1520, 195, 199]),
    ("register", "tatoeba_paraphrase/casual_formal.tsv", "tone:informal", [1596, 205, 199]),
    ("explore-instruct", "explore_instruct/rewrites.jsonl", "tone:professional", [206, 25, 25]),
    ("explore-instruct", "explore_instruct/rewrites.jsonl", "tone:paraphrase", [410, 51, 51]),
    ("chitchat", "chitchat/sample.jsonl", "reply", [8846, 1135, 1131]),
    ("dialogsumx", "dialogsumx_fr", "summarize", [360, 40, 100]),
    ("dialogsumx", "dialogsumx_fr", "summarize+translate:fr", [360, 40, 100]),
    ("tatoeba", "tatoeba_multi", "translate:es", [14547, 1616, 500]),
    ("tatoeba", "tatoeba_multi", "translate:fr", [14547, 1616, 500]),
    ("tatoeba", "tatoeba_multi", "translate:de", [14547, 1616, 500]),
    ("ntrex", "ntrex", "translate:es", [1599, 199, 199]),
    ("ntrex", "ntrex", "translate:fr", [1599, 199, 199]),
    ("ntrex", "ntrex", "translate:de", [1599, 199, 199]),
    ("pud", "pud", "translate:de", [1000]),
]
# fmt: on


@real
@pytest.mark.parametrize(("kind", "folder", "name", "counts"), COUNTS)
def test_the_real_files(kind: str, folder: str, name: str, counts: list[int]) -> None:
    corpus = load_corpus(f"{kind}:{SHARED / folder}")
    splits = splits_of(corpus, task(name))
    assert [len(splits[split]) for split in SPLITS if split in splits] == counts
    assert overlaps(splits) == 0
    verdicts = {checksum(file, facts_of(kind)) for file in data_files(SHARED / folder)}
    assert verdicts == ({"matches"} if verdicts else set())


@real
@pytest.mark.parametrize("language", ["es", "fr", "de"])
def test_real_references_are_in_their_register(language: str) -> None:
    corpus = load_corpus(f"cocoa-mt:{SHARED / 'cocoa_mt'}")
    for tone in ("formal", "informal"):
        wanted = task(f"translate:{language}+tone:{tone}")
        examples = corpus.examples(wanted, "all")
        found = score([e.target for e in examples], examples, wanted, FORMALITY)
        assert {value for value in found["formality"] if value is not None} == {1.0}
        assert fmean(value or 0.0 for value in found["formality_decided"]) > 0.96


class TestCocoaMt:
    def test_both_registers_of_a_sentence(self, tmp_path: Path) -> None:
        cocoa_mt(tmp_path / "up" / "en-de")
        corpus = load_corpus(f"cocoa-mt:{tmp_path / 'up'}")
        formal, informal = (
            {e.id: e for e in corpus.examples(task(f"translate:de+tone:{x}"), "test")}
            for x in ("formal", "informal")
        )
        assert len(formal) == len(informal) == 60
        one, other = (found["test-telephony-2"] for found in (formal, informal))
        assert (one.target, other.target) == ("Nehmen Sie Ihren Mantel.", "Nimm deinen Mantel.")
        register = {"formal": ["Nehmen Sie Ihren"], "informal": ["Nimm deinen"]}
        assert one.meta == other.meta == {"domain": "telephony", "register": register}

    def test_what_teaches_no_register_is_left_out_of_train(self, tmp_path: Path) -> None:
        cocoa_mt(tmp_path)
        corpus = load_corpus(f"cocoa-mt:{tmp_path}")
        wanted = task("translate:de+tone:informal")
        targets = {s: [e.target for e in corpus.examples(wanted, s)] for s in SPLITS}
        assert "Es regnet." not in targets["train"] + targets["validation"]
        assert len(targets["train"]) + len(targets["validation"]) == 40
        assert targets["test"].count("Es regnet.") == 20

    def test_a_domain_more(self, tmp_path: Path) -> None:
        cocoa_mt(tmp_path)
        corpus, wanted = load_corpus(f"cocoa-mt:{tmp_path}"), task("translate:de+tone:formal")
        before = {e.id: e for e in corpus.examples(wanted, "test")}
        cocoa_mt(tmp_path, ("call_center",))
        after = {e.id: e for e in load_corpus(corpus.name).examples(wanted, "test")}
        assert len(after) == 90
        assert before.items() < after.items()

    def test_what_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "x.txt").write_text("?")
        with pytest.raises(OnepassError, match=r"has no files formality-control.SPLIT"):
            load_corpus(f"cocoa-mt:{tmp_path}")
        cocoa_mt(tmp_path)
        corpus, wanted = load_corpus(f"cocoa-mt:{tmp_path}"), task("translate:de+tone:formal")
        with pytest.raises(OnepassError, match="has targets for"):
            corpus.examples(task("translate:de"), "test")
        with pytest.raises(OnepassError, match="no examples of 'translate:es"):
            corpus.examples(task("translate:es+tone:formal"), "test")
        file = tmp_path / "formality-control.test.telephony.en-de.formal"
        file.write_text("Es regnet.\n")
        with pytest.raises(OnepassError, match=r"formal has 1 lines, but .*en-de has 30"):
            corpus.examples(wanted, "test")
        file.unlink()
        with pytest.raises(OnepassError, match="has no translations beside it; put"):
            corpus.examples(wanted, "test")


def test_a_pair_of_registers_has_one_split_both_ways(tmp_path: Path) -> None:
    register(tmp_path)
    corpus = load_corpus(f"register:{tmp_path / 'casual_formal.tsv'}")
    formal, casual = (splits_of(corpus, task(f"tone:{x}")) for x in ("formal", "casual"))
    for split in ("validation", "test"):
        pairs = {(e.target, e.input) for e in formal[split]}
        assert pairs <= {(e.input, e.target) for e in casual[split]}
    first = next(e for e in corpus.examples(task("tone:informal"), "all") if e.id == "row-1")
    assert (first.input, first.target) == ("I am 0.", "I'm 0.")


def test_a_rewriting_is_of_the_tone_that_its_row_names(tmp_path: Path) -> None:
    explore_instruct(tmp_path)
    corpus = load_corpus(f"explore-instruct:{tmp_path / 'rewrites.jsonl'}")
    assert {e.target for e in corpus.examples(task("tone:witty"), "all")} == {"witty"}
    with pytest.raises(OnepassError, match="no examples of 'tone:casual'"):
        corpus.examples(task("tone:casual"), "all")


def test_turns_of_a_list_are_replies(tmp_path: Path) -> None:
    chitchat(tmp_path)
    corpus = load_corpus(f"chitchat:{tmp_path / 'sample.jsonl'}")
    found = {e.id: e for e in corpus.examples(task("reply"), "all")}
    assert len(found) == 30 * 3  # a turn without a word is no reply
    assert (found["row-3/3"].input, found["row-3/3"].target) == ("A: Hello!\nB: Hi 2.", "So.")
    write_jsonl(tmp_path / "sample.jsonl", [{"turns": ["A: Hello!", "Hi."]}])
    with pytest.raises(OnepassError, match=r"'Hi.' names no speaker"):
        corpus.examples(task("reply"), "all")


class TestSeveralCorporaAreOne:
    def joined(self, folder: Path, *more: str) -> Corpus:
        tatoeba(folder / "tatoeba")
        ntrex(folder / "ntrex")
        return load_corpus([f"tatoeba:{folder / 'tatoeba'}", f"ntrex:{folder / 'ntrex'}", *more])

    def test_they_give_the_examples_of_all(self, tmp_path: Path) -> None:
        found = self.joined(tmp_path).examples(task("translate:es"), "all")
        each = [
            (word, example)
            for word in ("tatoeba", "ntrex")
            for example in load_corpus(f"{word}:{tmp_path / word}").examples(
                task("translate:es"), "all"
            )
        ]
        assert {e.id: e.targets for e in found} == {f"{w}/{e.id}": e.targets for w, e in each}

    def test_the_first_are_a_fair_sample(self, tmp_path: Path) -> None:
        corpus = self.joined(tmp_path)
        found = corpus.examples(task("translate:es"), "train")
        assert corpus.examples(task("translate:es"), "train", 20) == found[:20]
        share = [sum(e.id.startswith("ntrex/") for e in part) for part in (found[:20], found)]
        assert 0.3 < (share[0] / 20) / (share[1] / len(found)) < 3

    def test_what_one_tests_on_no_other_is_trained_on(self, tmp_path: Path) -> None:
        rows = [{"input": f'The "{n}".', "target": str(n)} for n in range(40)]
        write_jsonl(tmp_path / "mine" / "train.jsonl", rows)
        corpus = self.joined(tmp_path, str(tmp_path / "mine"))
        splits = {split: corpus.examples(task("translate:es"), split) for split in SPLITS}
        assert overlaps(splits) == 0
        # Of the rows of one's own those that Tatoeba validates and tests on are left out.
        mine = [e for e in splits["train"] if e.id.startswith("mine/")]
        held_out = [e for split in SPLITS[1:] for e in splits[split]]
        assert len(mine) == 40 - len(inputs(held_out) & {row["input"] for row in rows})
        assert not any(e.id.startswith("mine/") for e in held_out)

    def test_two_of_one_kind_have_different_ids(self, tmp_path: Path) -> None:
        for part in ("a", "b"):
            ntrex(tmp_path / part)
        corpus = load_corpus([f"ntrex:{tmp_path / part}" for part in ("a", "b")])
        found = corpus.examples(task("translate:fr"), "all")
        assert {e.id.partition("/")[0] for e in found} == {"ntrex", "ntrex-2"}

    def test_what_none_of_them_has_is_an_error(self, tmp_path: Path) -> None:
        write_tsv(tmp_path / "pud.tsv", [{"id": "1", "en": "a", "es": "b"}])
        corpus = load_corpus([f"pud:{tmp_path / 'pud.tsv'}"] * 2)
        with pytest.raises(OnepassError, match="has no split 'train'"):
            corpus.examples(task("translate:es"), "train")
        with pytest.raises(OnepassError, match="has targets for 'translate:es'"):
            self.joined(tmp_path).examples(task("summarize"), "train")

    def test_a_recipe_and_the_command_line_name_them(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        corpus = self.joined(tmp_path)
        (tmp_path / "r.yaml").write_text(
            "name: r\nbase: tiny\ntasks: [summarize+translate:es]\n"
            "corpus: {summarize: smalltown, translate: ['tatoeba:tatoeba', 'ntrex:ntrex']}\n"
        )
        named = load_recipe(tmp_path / "r.yaml").corpus_of("translate:es")
        assert named == tuple(f"{x}:{tmp_path / x}" for x in ("tatoeba", "ntrex"))
        command = ("data", "export", "translate:es", "--split", "test", "--corpus", *named)
        lines = onepass(capsys, *command).succeeded().out.splitlines()
        wanted = corpus.examples(task("translate:es"), "test")
        assert [json.loads(line)["id"] for line in lines] == [e.id for e in wanted]
