"""What each metric promises, against brute force and by its extremes."""

import sys
from collections import Counter
from types import ModuleType, SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from onepass.core.errors import OnepassError
from onepass.evaluate.metrics import METRICS
from onepass.evaluate.score import score
from onepass.tasks.benchmark import COMPOSITIONAL_TASKS, SINGLE_TASKS
from onepass.tasks.book import Tasks, parse_task
from onepass.tasks.example import Example

SPANISH = parse_task("summarize+translate:es")
BY_DEFAULT = [name for name in METRICS if METRICS.get(name).by_default]
FORMALITY = ["formality", "formality_decided"]
OVERLAP = ["rouge1", "rouge2", "rougeL", "weighted_rouge", "chrf"]
ASCII = ["the", "tea", "is", "at", "nine", "No."]
WORDS = ["Ana", "läuft", "été", "mañana", "no", "two", "Straße"]

texts = st.lists(st.sampled_from(WORDS), max_size=8).map(" ".join)
full_texts = st.lists(st.sampled_from(WORDS), min_size=1, max_size=8).map(" ".join)


def one(name: str, prediction: str, *targets: str) -> float:
    (value,) = METRICS.get(name).score([prediction], [Example("1", "x", targets)], SPANISH)
    assert value is not None
    return value


def f_score(matches: int, predicted: int, wanted: int) -> float:
    return 2 * matches / (predicted + wanted) if predicted and wanted else 0.0


def brute_rouge_n(n: int, prediction: str, target: str) -> float:
    grams = [
        Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
        for words in (prediction.lower().split(), target.lower().split())
    ]
    return f_score((grams[0] & grams[1]).total(), grams[0].total(), grams[1].total())


def brute_rouge_l(prediction: str, target: str) -> float:
    a, b = prediction.lower().split(), target.lower().split()

    def longest(i: int, j: int) -> int:
        if i == len(a) or j == len(b):
            return 0
        if a[i] == b[j]:
            return 1 + longest(i + 1, j + 1)
        return max(longest(i + 1, j), longest(i, j + 1))

    return f_score(longest(0, 0), len(a), len(b))


@given(texts, full_texts)
def test_rouge_is_what_its_definition_says(prediction: str, target: str) -> None:
    r1, r2, r3 = (brute_rouge_n(n, prediction, target) for n in (1, 2, 3))
    assert one("rouge1", prediction, target) == pytest.approx(r1)
    assert one("rouge2", prediction, target) == pytest.approx(r2)
    assert one("rougeL", prediction, target) == pytest.approx(brute_rouge_l(prediction, target))
    assert one("weighted_rouge", prediction, target) == pytest.approx(r1 / 6 + r2 / 3 + r3 / 2)


@pytest.mark.parametrize("name", OVERLAP)
@given(prediction=texts, targets=st.lists(full_texts, min_size=1, max_size=3))
def test_scores_are_shares_and_the_best_target_counts(
    name: str, prediction: str, targets: list[str]
) -> None:
    value = one(name, prediction, *targets)
    assert 0 <= value <= 1 + 1e-9
    assert value == pytest.approx(max(one(name, prediction, target) for target in targets))


@pytest.mark.parametrize("name", ["rouge1", "rouge2", "rougeL", "weighted_rouge"])
@given(prediction=texts, targets=st.lists(full_texts, min_size=1, max_size=3))
def test_the_mean_is_over_the_targets(name: str, prediction: str, targets: list[str]) -> None:
    each = [one(name, prediction, target) for target in targets]
    assert one(f"{name}_mean", prediction, *targets) == pytest.approx(sum(each) / len(each))


@pytest.mark.parametrize("kind", ["rouge1", "rouge2", "rougeL"])
@given(
    prediction=st.lists(st.sampled_from(ASCII), max_size=8).map(" ".join),
    targets=st.lists(
        st.lists(st.sampled_from(ASCII), min_size=1, max_size=8).map(" ".join),
        min_size=1,
        max_size=3,
    ),
)
def test_rouge_is_that_of_rouge_score(kind: str, prediction: str, targets: list[str]) -> None:
    scorer = RougeScorer([kind])  # its own tokenizer knows the letters of ASCII only
    best = scorer.score_multi(targets, prediction)[kind].fmeasure
    assert one(kind, prediction, *targets) == pytest.approx(best)
    each = [scorer.score(target, prediction)[kind].fmeasure for target in targets]
    assert one(f"{kind}_mean", prediction, *targets) == pytest.approx(sum(each) / len(each))


@pytest.mark.parametrize("name", OVERLAP)
def test_the_target_itself_scores_one_and_nothing_scores_zero(name: str) -> None:
    assert one(name, "Ana läuft mañana heim", "Ana läuft mañana heim") == pytest.approx(1)
    assert one(name, "", "Ana läuft mañana heim") == 0


def test_accents_count_but_not_how_they_are_encoded() -> None:
    assert one("rouge1", "ano", "año") == 0
    assert one("rouge1", "an\u0303o", "a\u00f1o") == 1


def test_every_task_reports_a_metric_that_exists() -> None:
    for name in (*SINGLE_TASKS, *COMPOSITIONAL_TASKS):
        METRICS.get(parse_task(name).metric)


@pytest.mark.parametrize(
    ("task", "text"),
    [
        ("summarize", "The two of them will meet at the market on Monday."),
        ("summarize+translate:es", "Los dos se verán en el mercado el lunes por la mañana."),
        ("summarize+translate:fr", "Ils se retrouvent tous les deux au marché lundi matin."),
        ("summarize+translate:de", "Die beiden treffen sich am Montag auf dem Markt."),
    ],
)
def test_a_text_is_in_its_own_language_and_in_no_other(task: str, text: str) -> None:
    for other in ("summarize", *(f"summarize+translate:{code}" for code in ("es", "fr", "de"))):
        values = METRICS.get("language").score([text], [], parse_task(other))
        assert list(values) == [float(other == task)]


def test_no_letters_are_in_no_language() -> None:
    assert list(METRICS.get("language").score(["", " 12:30 "], [], parse_task("reply"))) == [0, 0]


@pytest.fixture
def fake_verifier(monkeypatch: pytest.MonkeyPatch) -> None:
    def verify(text: str, meta: dict[str, str], task: object) -> SimpleNamespace:
        assert task is SPANISH
        facts, language = meta["meaning"] in text, text.endswith("!")
        return SimpleNamespace(
            facts=facts, language=language, tone=True, verified=facts and language, why=""
        )

    module = ModuleType("onepass.smalltown.read")
    module.verify = verify  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "onepass.smalltown.read", module)


@pytest.mark.usefixtures("fake_verifier")
def test_verdicts_become_scores_where_there_is_a_meaning() -> None:
    examples = [
        Example("1", "x", ("y",), {"meaning": "a"}),
        Example("2", "x", ("y",), {"meaning": "b"}),
        Example("3", "x", ("y",)),
    ]
    scores = score(["a!", "b", "c"], examples, SPANISH)
    assert list(scores) == [name for name in BY_DEFAULT if name not in FORMALITY]
    assert scores["verified"] == [1.0, 0.0, None]
    assert scores["facts"] == [1.0, 1.0, None]
    assert scores["right_language"] == [1.0, 0.0, None]
    assert scores["right_tone"] == [1.0, 1.0, None]


def test_metrics_that_apply_to_nothing_are_left_out() -> None:
    scores = score(["a"], [Example("1", "x", ("y",))], SPANISH)
    verifier = {"verified", "facts", "right_language", "right_tone"}
    assert set(BY_DEFAULT) - set(scores) == verifier | set(FORMALITY)
    assert "rougeL" in scores
    assert "rougeL_mean" not in scores
    assert list(score(["a"], [Example("1", "x", ("y",))], SPANISH, ["rougeL_mean"]))
    assert list(score(["a"], [Example("1", "x", ("y",))], SPANISH, ["chrf"])) == ["chrf"]


def test_what_cannot_be_scored_is_refused() -> None:
    with pytest.raises(OnepassError, match="did you mean 'rougeL'"):
        score([], [], SPANISH, ["rougel"])
    with pytest.raises(OnepassError, match="1 predictions for 0 examples"):
        score(["a"], [], SPANISH)


TONES = Tasks({"name": f"tone:{x}", "instruction": x, "role": "auxiliary", "phrase": x} for x in
              ("formal", "informal"))  # fmt: skip


class TestFormality:
    @pytest.mark.parametrize(
        ("language", "output", "formal"),
        [
            ("de", "Haben Sie Zeit?", 1.0),
            ("de", "Ob Sie denn Zeit haben?", None),  # of the phrase a word is missing: "Haben"
            ("de", "Hast du Zeit?", 0.0),
            ("de", "Haben Sie oder hast du Zeit?", 1.0),  # "Hast" is another word than "hast"
            ("de", "Haben Sie Zeit? Hast du?", None),
            ("de", "Haben sie Zeit?", None),
            ("de", "Gibt es Zeit?", None),
            ("es", "¡haben, SIE!", 1.0),
            ("es", "hastdu", None),
        ],
    )
    def test_a_phrase_of_the_one_and_none_of_the_other(
        self, language: str, output: str, formal: float | None
    ) -> None:
        meta = {"register": {"formal": ["Haben Sie"], "informal": ["Hast du"]}}
        example = Example("1", "Do you have time?", ("?",), meta)
        for tone, wanted in (
            ("formal", formal),
            ("informal", None if formal is None else 1 - formal),
        ):
            task = TONES.parse(f"translate:{language}+tone:{tone}")
            found = {n: METRICS.get(n).score([output], [example], task) for n in FORMALITY}
            decided = float(wanted is not None)
            assert found == {"formality": [wanted], "formality_decided": [decided]}

    def test_it_applies_where_a_register_is_asked_for_and_marked(self) -> None:
        marked = Example("1", "x", ("y",), {"register": {"formal": ["vous"], "informal": []}})
        plain = Example("2", "x", ("y",))
        task = TONES.parse("translate:fr+tone:formal")
        found = score(["vous", "vous"], [marked, plain], task)
        assert (found["formality"], found["formality_decided"]) == ([1.0, None], [1.0, None])
        for examples, other in (([marked], parse_task("translate:fr")), ([plain], task)):
            assert "formality" not in score(["vous"], examples, other)
            assert "formality_decided" not in score(["vous"], examples, other)
