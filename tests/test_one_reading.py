"""One reading: what the bare base keeps of a text serves every activated task, exactly."""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import peft
import pytest
import torch
from torch import Tensor

from activated_kit import (
    BOTH,
    TEXTS,
    acting_after,
    activated,
    active,
    composed,
    effects_of,
    greedy,
    pair_on,
    pass_on,
)
from base_kit import tiny_model
from conftest import MakeAdapter
from onepass.adapters.adapter import Adapter, load_adapter, save_adapter
from onepass.adapters.calibration import Kind
from onepass.adapters.composition import (
    Composition,
    Pass,
    Weighted,
    load_composition,
    save_composition,
)
from onepass.adapters.merging import MERGES, merge
from onepass.core.errors import OnepassError, OnepassWarning
from onepass.methods import METHODS, Setting
from onepass.model.activation import activation_of
from onepass.model.attach import altered
from onepass.model.chat import prompt_ids
from onepass.model.generate import run
from onepass.model.load import Base
from onepass.model.reading import Readings
from onepass.model.tokens import Encoded, collate, encode_examples, read_ahead, target_loss
from onepass.model.training.adapter import train_adapter
from onepass.model.training.calibration import train_calibration
from onepass.model.training.objective import fingerprint
from onepass.model.training.options import TrainOptions
from onepass.tasks.book import parse_task
from onepass.tasks.example import Example
from onepass.tasks.task import Task, combine
from test_model_attach import random_calibration

QUICK = TrainOptions(
    max_steps=4, batch_size=4, learning_rate=1e-2, eval_every=2, precision="float32"
)


# ---------------------------------------------------------------- tasks
def test_an_activated_task_puts_the_text_first_and_the_same_before_every_invocation(
    base: Base,
) -> None:
    tasks = [active(name) for name in ("summarize", "translate:es", BOTH, "reply+tone:witty")]
    for text in TEXTS:
        begun = set()
        for task in tasks:
            (ids,) = prompt_ids(base.tokenizer, [task.message(text)], task.system)
            start = activation_of(base.tokenizer, task).start(ids)
            assert base.tokenizer.decode(ids[start:]).startswith(f"[{task.instruction}]")
            assert base.tokenizer.decode(ids[:start]).endswith(f"{text}\n\n")
            begun.add(tuple(ids[:start]))
        assert len(begun) == 1


def test_a_combination_of_activated_tasks_is_one() -> None:
    made = active("summarize") + active("translate:es")
    assert (made.prompt, made.activate) == (active(BOTH).prompt, "[")
    assert made.instruction == parse_task(BOTH).instruction
    assert active(BOTH).activated() == active(BOTH)
    assert [part.activate for part in active(BOTH).parts] == ["[", "["]
    with pytest.raises(OnepassError, match=r"summarize act from .* translate:es on the whole"):
        combine([active("summarize"), parse_task("translate:es")])


@pytest.mark.parametrize(
    ("task", "wrong"),
    [
        (Task("t", "Do it.", prompt="{text}\n\n{instruction}", activate="["), "nowhere after"),
        (Task("t", "Do it.", prompt="[{instruction}]\n\n{text}", activate="["), "nowhere after"),
        (
            Task("t", "Go to the harbour.", prompt="{text}\n\n{instruction}", activate="arbour"),
            "joins it",
        ),
    ],
)
def test_an_invocation_that_cannot_be_found_is_refused(base: Base, task: Task, wrong: str) -> None:
    with pytest.raises(OnepassError, match=wrong):
        activation_of(base.tokenizer, task)


def test_an_invocation_that_occurs_twice_is_refused() -> None:
    with pytest.raises(OnepassError, match="several times"):
        Task("t", "Say [ok].", prompt="{text}\n\n[{instruction}]", activate="[")


def test_an_invocation_of_the_chat_template_is_found(base: Base) -> None:
    """As those of IBM's Granite adapters: where the answer begins."""
    task = Task("t", "Do it.", prompt="{text}", activate="<|assistant|>")
    found = activation_of(base.tokenizer, task)
    assert base.tokenizer.decode(found.invocation) == "<|assistant|>"
    assert found.tail == found.invocation


def test_activated_and_ordinary_do_not_mix(base: Base, make_adapter: MakeAdapter) -> None:
    one, two = activated(make_adapter("summarize"), base), make_adapter("translate:es")
    both = (Weighted(one), Weighted(two))
    with pytest.raises(OnepassError, match=r"activated adapters \(summarize\).*\(translate:es\)"):
        composed(base, Pass(active(BOTH), both))
    with pytest.raises(OnepassError, match="activated adapters"):
        merge([one, two])
    with pytest.raises(OnepassError, match="act on the whole prompt"):
        composed(base, Pass(active(BOTH), (Weighted(two),)))
    with pytest.raises(OnepassError, match="does not say from which"):
        composed(base, Pass(parse_task(BOTH), (Weighted(one),)))


def test_adapters_trained_to_act_from_other_words_are_warned_of(base: Base) -> None:
    """PEFT and llama.cpp would have such an adapter do nothing at all."""
    task = Task("t", "Do it.", prompt="{text}", activate="<|assistant|>")
    alone = Pass(task, (Weighted(pair_on(base)[0]),))
    with pytest.warns(OnepassWarning, match=r"trained to act from '\[' on, and acts from '<\|ass"):
        run(base, composed(base, alone), TEXTS, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(base, composed(base, pass_on(base)), TEXTS, 2)


# ---------------------------------------------------------------- what is computed
@pytest.mark.parametrize("form", ["none", "output", "column", "lowrank"])
def test_the_loss_and_its_gradient_are_those_of_the_whole(
    base: Base, examples: list[Example], form: str
) -> None:
    """With the text read beforehand as with everything in one forward pass."""
    pass_ = pass_on(base, form)
    rows = encode_examples(base, pass_.task, examples[:5])
    tensors = (
        [t for parts in pass_.calibration.tensors.values() for t in parts.values()]
        if (pass_.calibration)
        else [lora.up for weighted in pass_.adapters for lora in weighted.adapter.modules.values()]
    )
    for tensor in tensors:
        tensor.requires_grad_(True)
    short = read_ahead(base, rows)
    with altered(base, effects_of(base, pass_)):
        loss, count = target_loss(base.model, collate(short, base.pad_id, base.device))
        found = torch.autograd.grad(loss, tensors, allow_unused=True)
    whole = collate(rows, base.pad_id, base.device)
    with acting_after(base, pass_, [row.bare for row in rows]):
        expected, same = target_loss(base.model, whole)
        wanted = torch.autograd.grad(expected, tensors, allow_unused=True)
    assert count == same
    assert whole.ids.shape[1] > collate(short, base.pad_id, base.device).ids.shape[1] + 20
    torch.testing.assert_close(loss, expected)
    for one, other in zip(found, wanted, strict=True):
        assert (one is None) == (other is None)
        if isinstance(one, Tensor) and isinstance(other, Tensor):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    for tensor in tensors:
        tensor.requires_grad_(False)


@pytest.mark.parametrize("family", ["gemma3-text", "mistral", "qwen3"])
def test_in_bfloat16_the_loss_is_that_of_the_whole(
    family: str, base: Base, examples: list[Example]
) -> None:
    """As a training computes it by autocast: in 8 bits of mantissa, layer after layer."""
    model = tiny_model(family, vocab_size=len(base.tokenizer))
    other = Base(model, base.tokenizer, family, model.device)
    pass_ = Pass(active(BOTH), (), random_calibration(other, "lowrank"))
    rows = encode_examples(other, pass_.task, examples[:4])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        short = read_ahead(other, rows, torch.bfloat16)
        with altered(other, effects_of(other, pass_)):
            loss, count = target_loss(model, collate(short, 0, other.device))
        with acting_after(other, pass_, [row.bare for row in rows]):
            expected, _ = target_loss(model, collate(rows, 0, other.device))
    assert short[0].read is not None
    assert short[0].read.kept.dtype == torch.bfloat16
    assert float(loss) / count == pytest.approx(float(expected) / count, abs=0.02)


@pytest.mark.parametrize("form", ["none", "output", "lowrank"])
def test_answers_are_those_of_whole_forward_passes(base: Base, form: str) -> None:
    pass_ = pass_on(base, form)
    expected = [greedy(base, pass_, text, 12) for text in TEXTS]
    texts = base.tokenizer.batch_decode(expected, skip_special_tokens=True)
    for size in (1, 2, 64):
        done = run(base, composed(base, pass_), TEXTS, 12, batch_size=size)
        assert done.texts == [text.strip() for text in texts]


def test_the_second_pass_reads_what_the_first_gave(base: Base) -> None:
    one, two = pass_on(base, task="summarize"), pass_on(base, task="translate:es")
    between = run(base, composed(base, one), TEXTS, 8).texts
    assert run(base, composed(base, one, two), TEXTS, 8).texts == (
        run(base, composed(base, two), between, 8).texts
    )


@pytest.mark.parametrize("family", ["gemma3-text", "mistral", "qwen3"])
def test_texts_longer_than_a_sliding_window(family: str, base: Base) -> None:
    """Gemma's and Mistral's windows are of 16 tokens here, the texts of 60."""
    model = tiny_model(family, vocab_size=len(base.tokenizer))
    other = Base(model, base.tokenizer, family, model.device)
    torch.manual_seed(5)
    calibration = random_calibration(other, "lowrank")
    pass_ = Pass(active(BOTH), (), calibration)
    texts = [" ".join(TEXTS), TEXTS[0], f"{TEXTS[2]}\n{TEXTS[2]}\n{TEXTS[0]}"]
    composition = Composition(other.shape, pass_.task, (pass_,), "test")
    found = run(other, composition, texts, 10, batch_size=3).texts
    for text, answer in zip(texts, found, strict=True):
        ids = greedy(other, pass_, text, 10)
        assert answer == other.tokenizer.decode(ids, skip_special_tokens=True).strip()


def test_layers_that_keep_no_keys_are_refused(base: Base) -> None:
    model = tiny_model("lfm2", vocab_size=len(base.tokenizer))
    with pytest.raises(OnepassError, match="layers of conv, whose state"):
        Readings(model, "lfm2").read([[1, 2, 3]])


# ---------------------------------------------------------------- training
def test_training_is_that_of_whole_forward_passes(
    base: Base, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A joint expert trained from readings, against one with every text run through each step."""
    task = active(BOTH)
    made = train_adapter(base, task, examples, examples[:3], 2, options=QUICK, progress=False)
    assert made.invocation == activation_of(base.tokenizer, task).invocation
    assert made.card["task"]["activate"] == "["
    pass_ = Pass(task, (Weighted(made),))
    rows = encode_examples(base, task, examples[:3])
    with acting_after(base, pass_, [row.bare for row in rows]):
        loss, count = target_loss(base.model, collate(rows, base.pad_id, base.device))
    assert float(loss) / count == pytest.approx(made.card["validation_loss"], rel=1e-4)
    plain = train_adapter(base, parse_task(BOTH), examples, rank=2, options=QUICK, progress=False)
    assert plain.invocation == ()


@pytest.mark.parametrize("kind", ["lc", "lc++", "core", "lc-gain"])
def test_a_calibration_of_activated_parts(base: Base, examples: list[Example], kind: Kind) -> None:
    pass_ = Pass(active(BOTH), tuple(Weighted(each, 0.5) for each in pair_on(base)))
    made = train_calibration(
        base, [pass_], [examples], [examples[:3]], kind=kind, options=QUICK, progress=False
    )
    whole = replace(pass_, calibration=made)
    rows = encode_examples(base, pass_.task, examples[:3])
    with acting_after(base, whole, [row.bare for row in rows]):
        loss, count = target_loss(base.model, collate(rows, base.pad_id, base.device))
    assert made.history is not None
    assert float(loss) / count == pytest.approx(made.history.best_loss, rel=1e-4)


@pytest.mark.parametrize("kind", ["adapter", "calibration"])
def test_training_does_not_depend_on_what_is_kept(
    base: Base, examples: list[Example], kind: str
) -> None:
    """Texts forgotten are read again, in the middle of a step, by the bare base."""

    def trained(limit: int | None) -> list[Tensor]:
        alone = Base(base.model, base.tokenizer, base.name, base.device)
        alone.__dict__["readings"] = Readings(base.model, base.name, limit)
        task = active(BOTH)
        if kind == "adapter":
            made = train_adapter(
                alone, task, examples, examples[:3], 2, None, QUICK, progress=False
            )
            return [lora.up for lora in made.modules.values()]
        pass_ = Pass(task, tuple(Weighted(each, 0.5) for each in pair_on(base)))
        learnt = train_calibration(
            alone, [pass_], [examples], [examples[:3]], options=QUICK, progress=False
        )
        return [parts["up"] for parts in learnt.tensors.values()]

    for one, other in zip(trained(0), trained(None), strict=True):
        assert torch.equal(one, other)
        assert one.abs().max() > 0


def test_a_killed_training_goes_on_as_if_it_had_not_been(
    base: Base, examples: list[Example], tmp_path: Path
) -> None:
    task = active(BOTH)
    train = partial(
        train_adapter, base, task, examples, examples[:3], 2, options=QUICK, progress=False
    )
    whole = train()

    def killed(step: int, loss: float) -> None:
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(state_dir=tmp_path, on_step=killed)
    again = train(state_dir=tmp_path)
    for path, lora in whole.modules.items():
        assert torch.equal(lora.up, again.modules[path].up), path
        assert torch.equal(lora.down, again.modules[path].down), path


def test_a_training_goes_on_only_with_the_same_tokens_left_to_the_base(
    base: Base, examples: list[Example]
) -> None:
    """One prompt, read by adapters everywhere, from the bracket on, or from the word on."""
    prompt = "{text}\n\n[ {instruction}"
    tasks = [Task("t", "Do it.", prompt=prompt, activate=mark) for mark in ("", "[", " it.")]
    rows = [encode_examples(base, task, examples) for task in tasks]
    assert rows[0][0].ids == rows[1][0].ids == rows[2][0].ids
    assert len({fingerprint(some) for some in rows}) == 3


def test_longrope_reads_no_text_whose_row_passes_the_turn(base: Base) -> None:
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 60,
            "short_factor": [1.0] * 4, "long_factor": [1.0, 3.0, 8.0, 16.0]}  # fmt: skip
    model = tiny_model(
        "phi3", vocab_size=len(base.tokenizer), max_position_embeddings=256, rope_parameters=rope,
        original_max_position_embeddings=60,
    )  # fmt: skip
    other = Base(model, base.tokenizer, "longrope", model.device)
    ids = list(range(5, 45))
    assert read_ahead(other, [Encoded(ids, 35, 30)])[0].read is not None
    with pytest.raises(OnepassError, match="other angles from 60"):
        read_ahead(other, [Encoded([*ids, *ids], 75, 30)])
    with pytest.raises(OnepassError, match="other angles from 60"):
        other.readings.read([ids, ids * 2])


# ---------------------------------------------------------------- merges and methods
def plain(adapters: Sequence[Adapter]) -> list[Adapter]:
    return [replace(each, invocation=()) for each in adapters]


@pytest.mark.parametrize("name", MERGES.names())
def test_a_merge_of_activated_adapters_is_the_same_merge(base: Base, name: str) -> None:
    pair = pair_on(base)
    made, ordinary = merge(pair, name), merge(plain(pair), name)
    assert made.invocation == pair[0].invocation
    assert ordinary.invocation == ()
    for path, lora in ordinary.modules.items():
        assert torch.equal(made.modules[path].up, lora.up)


@pytest.mark.parametrize("name", METHODS.names())
def test_every_method_takes_activated_adapters(
    base: Base, examples: list[Example], name: str
) -> None:
    method = METHODS.get(name)
    parts = dict(zip(("summarize", "translate:es"), pair_on(base), strict=True))
    wanted = {"max_steps": 2, "batch_size": 4, "budget": 3}
    trained = ("max_steps", "batch_size") if method.learns else ()
    options = {k: v for k, v in wanted.items() if k in (*method.options, *trained)}
    setting = Setting(base, parse_task(BOTH), parts, examples, examples[:2], options)
    if method.shared:
        setting = replace(setting, together=[setting])
    made = method.build(setting)
    assert all(pass_.task.activate == "[" for pass_ in made.passes)
    assert len(run(base, made, TEXTS, 4).texts) == 3


# ---------------------------------------------------------------- files
def test_saved_and_loaded_they_are_activated(base: Base, tmp_path: Path) -> None:
    pair = pair_on(base)
    save_adapter(pair[0], tmp_path / "one")
    assert load_adapter(tmp_path / "one").invocation == pair[0].invocation
    save_composition(composed(base, pass_on(base)), tmp_path / "both")
    composition = load_composition(tmp_path / "both")
    assert composition.passes[0].task.activate == "["
    assert [w.adapter.invocation for w in composition.passes[0].adapters] == (
        [each.invocation for each in pair]
    )
    expected = run(base, composed(base, pass_on(base)), TEXTS, 6).texts
    assert run(base, composition, TEXTS, 6).texts == expected


def test_adapters_of_pefts_own_are_read(base: Base, tmp_path: Path) -> None:
    """PEFT computes the same logits from its invocation on, and so do we."""
    task = active("summarize")
    found = activation_of(base.tokenizer, task)
    config = peft.LoraConfig(
        r=4, target_modules=["q_proj", "v_proj", "up_proj"], task_type="CAUSAL_LM",
        alora_invocation_tokens=list(found.invocation),
    )  # fmt: skip
    model = peft.get_peft_model(base.model, config)
    try:
        torch.manual_seed(7)
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.data = torch.randn(weight.shape)
        model.save_pretrained(tmp_path / "alora")
        (ids,) = prompt_ids(base.tokenizer, [task.message(TEXTS[1])])
        with torch.no_grad():
            wanted = model(input_ids=torch.tensor([ids])).logits[0]
    finally:
        model.unload()
    adapter = load_adapter(tmp_path / "alora")
    assert adapter.invocation == found.invocation
    with torch.no_grad():
        with acting_after(base, Pass(task, (Weighted(adapter),)), [found.start(ids)]):
            ours = base.model(input_ids=torch.tensor([ids])).logits[0]
        bare = base.model(input_ids=torch.tensor([ids])).logits[0]
    torch.testing.assert_close(ours, wanted, atol=1e-4, rtol=1e-4)
    assert torch.equal(ours[: found.start(ids)], bare[: found.start(ids)])
    assert not torch.allclose(ours[-1], bare[-1], atol=1e-2)
