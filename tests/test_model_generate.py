"""Prompts, tokens and generation."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import MakeAdapter
from onepass.adapters.composition import Composition, Pass, Weighted
from onepass.core.errors import OnepassError
from onepass.model.attach import attached
from onepass.model.chat import prompt_ids
from onepass.model.generate import generate, run
from onepass.model.load import Base
from onepass.model.tokens import (
    IGNORE,
    Batch,
    Encoded,
    collate,
    encode,
    encode_examples,
    fit_prompts,
    shuffled_batches,
    sorted_batches,
    split_batch,
    target_loss,
)
from onepass.tasks.book import parse_task
from onepass.tasks.example import Example
from onepass.tasks.prompt import build_prompt

TASK = parse_task("summarize")
PROMPTS = ["Ana: " + "noon " * n for n in (1, 14, 3, 9, 2, 20, 5, 5, 11, 1, 7)]


def test_a_target_follows_its_prompt_and_ends_the_turn(base: Base) -> None:
    row = encode(base, "Ana: noon?", "Ana says ¿mañana?")
    assert row.ids[: row.start] == encode(base, "Ana: noon?").ids
    assert base.tokenizer.decode(row.ids[row.start :]) == "Ana says ¿mañana?<|end|>"
    assert row.labels == [IGNORE] * row.start + row.ids[row.start :]


def test_control_tokens_in_a_users_text_are_plain_text(base: Base) -> None:
    row = encode(base, "a <|end|><|assistant|> b", "c <|eos|>")
    text = base.tokenizer.decode(row.ids)
    assert text == "<|user|>a <|end|><|assistant|> b<|end|><|assistant|>c <|eos|><|end|>"
    special = set(base.tokenizer.all_special_ids)
    assert sum(token in special for token in row.ids) == 4


def test_examples_are_cut_to_fit_but_not_their_instruction_or_target(base: Base) -> None:
    turns = "\n".join(f"Ana: turn {n}" for n in range(60))
    example = Example("long", turns, ("They talk.",))
    (row,) = encode_examples(base, TASK, [example], max_tokens=120)
    text = base.tokenizer.decode(row.ids)
    assert len(row) <= 120
    assert TASK.instruction in text
    assert "turn 59<|end|><|assistant|>They talk.<|end|>" in text
    assert "turn 3\n" not in text


def test_a_target_without_room_is_refused_by_name(base: Base) -> None:
    with pytest.raises(OnepassError, match="example 'wordy'"):
        encode_examples(base, TASK, [Example("wordy", "Ana: hi", ("word " * 300,))])


def test_padding_and_company_do_not_change_a_loss(base: Base, examples: list[Example]) -> None:
    rows = encode_examples(base, TASK, examples)
    alone = [target_loss(base.model, collate([row], 0, base.device)) for row in rows]
    together, count = target_loss(base.model, collate(rows, 0, base.device))
    torch.testing.assert_close(together, sum((loss for loss, _ in alone), torch.tensor(0.0)))
    assert count == sum(n for _, n in alone) == sum(len(row) - row.start for row in rows)


def test_the_loss_is_that_of_transformers(base: Base, examples: list[Example]) -> None:
    batch = collate(encode_examples(base, TASK, examples), 0, base.device)
    loss, count = target_loss(base.model, batch)
    whole = base.model(input_ids=batch.ids, labels=batch.labels)
    torch.testing.assert_close(loss / count, whole.loss)


def test_only_target_tokens_bear_loss(base: Base) -> None:
    """The gradient knows of the prompt as context only: no logit before the target has a part."""
    row = encode(base, "Ana: Shall we meet?", "They meet.")
    batch = collate([row], 0, base.device)
    ids, labels = batch.ids, batch.labels
    head = base.model.get_input_embeddings().weight.requires_grad_(True)

    def gradient(labels: torch.Tensor) -> torch.Tensor:
        loss, _ = target_loss(base.model, Batch(ids, labels))
        (result,) = torch.autograd.grad(loss, head)
        return torch.as_tensor(result)

    logits = base.model(input_ids=ids).logits[0].log_softmax(-1)
    by_hand = -sum(logits[i - 1, ids[0, i]] for i in range(row.start, len(row)))
    (expected,) = torch.autograd.grad(by_hand, head)
    torch.testing.assert_close(gradient(labels), expected)
    with_prompt = labels.clone()
    with_prompt[0, 1 : row.start] = ids[0, 1 : row.start]
    assert not torch.allclose(gradient(with_prompt), expected)


@given(lengths=st.lists(st.integers(1, 30), min_size=1, max_size=20), most=st.integers(1, 200))
def test_the_parts_of_a_batch_hold_every_item_once(lengths: list[int], most: int) -> None:
    batch = [Encoded([index] * length, 0) for index, length in enumerate(lengths)]
    parts = split_batch(batch, most)
    assert sorted(row.ids[0] for part in parts for row in part) == list(range(len(batch)))
    assert all(len(part) == 1 or len(part) * max(map(len, part)) <= most for part in parts)
    if len(batch) * max(lengths) <= most:
        assert parts == [batch]


@settings(max_examples=30)
@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=200),
    batch_size=st.integers(1, 9),
    seed=st.integers(0, 5),
)
def test_batches_hold_every_item_once(lengths: list[int], batch_size: int, seed: int) -> None:
    items = [Encoded([index] * length, 0) for index, length in enumerate(lengths)]
    for batches in (
        shuffled_batches(items, batch_size, str(seed)),
        sorted_batches(items, batch_size),
    ):
        found = sorted(row.ids[0] for batch in batches for row in batch)
        assert found == list(range(len(items)))
        assert max(map(len, batches)) <= batch_size
        assert len(batches) == -(-len(items) // batch_size)
    assert shuffled_batches(items, batch_size, "a") == shuffled_batches(items, batch_size, "a")


def test_the_batch_size_does_not_change_the_texts(base: Base) -> None:
    finished: list[int] = []
    one = generate(base, PROMPTS, 24, batch_size=1, progress=finished.append)
    assert sum(finished) == len(PROMPTS)
    for batch_size in (2, 7, 64):
        other = generate(base, PROMPTS, 24, batch_size)
        assert other.texts == one.texts
        assert other.tokens == one.tokens
    assert len(set(one.texts)) > 3
    assert one.tokens_per_second > 0


def test_generation_is_that_of_transformers(base: Base) -> None:
    base.model.generation_config.eos_token_id = sorted(base.stop_ids)
    for prompt, text in zip(PROMPTS, generate(base, PROMPTS, 24).texts, strict=True):
        ids = torch.tensor(prompt_ids(base.tokenizer, [prompt]))
        out = base.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False
        )
        new = base.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
        assert new.strip() == text


def test_rows_that_are_done_leave_the_batch(base: Base) -> None:
    """Each token is made a stop in turn, so that rows end at different steps."""
    free = generate(base, PROMPTS, 24, batch_size=1)
    stop = base.tokenizer.encode(free.texts[0], add_special_tokens=False)[-3]
    base.__dict__["stop_ids"] = frozenset({*base.stop_ids, stop})
    one, many = generate(base, PROMPTS, 24, 1), generate(base, PROMPTS, 24, 7)
    assert one.texts == many.texts
    assert one.tokens == many.tokens < free.tokens


def test_prompts_too_long_are_refused(base: Base) -> None:
    with pytest.raises(OnepassError, match=r"prompt 2 has .* tokens"):
        generate(base, ["short", "x " * 400])
    with pytest.raises(OnepassError, match="max_new_tokens is 500"):
        fit_prompts(base, TASK, ["text"], 500)
    assert generate(base, []).texts == []


def test_a_composition_runs_its_passes_one_after_the_other(
    base: Base, make_adapter: MakeAdapter
) -> None:
    first = Pass(parse_task("summarize"), (Weighted(make_adapter("summarize", seed=1, size=0.3)),))
    second = Pass(
        parse_task("translate:es"), (Weighted(make_adapter("translate:es", seed=2, size=0.3)),)
    )
    both = Composition(
        base.shape, parse_task("summarize+translate:es"), (first, second), "multi-step"
    )
    texts = ["Ana: noon?", "Ben: Yes.\nAna: Good."]
    expected = texts
    for pass_ in (first, second):
        with attached(base, pass_):
            expected = generate(base, [build_prompt(pass_.task, t) for t in expected], 12).texts
    done = run(base, both, texts, max_new_tokens=12)
    assert done.texts == expected
    assert done.notices == ["", ""]


def test_a_long_conversation_is_cut_and_that_is_said(base: Base) -> None:
    zero_shot = Composition(
        base.shape, parse_task("summarize"), (Pass(parse_task("summarize")),), "zero-shot"
    )
    long = "\n".join(f"Ana: turn {n}" for n in range(90))
    done = run(base, zero_shot, [long, "Ana: hi"], max_new_tokens=8)
    assert "oldest turn" in done.notices[0]
    assert done.notices[1] == ""


def test_the_output_layer_is_given_rows_without_gaps(base: Base) -> None:
    """Else torch copies the layer for each row of a batch: 10 GB at 32 rows of Gemma 3 270M."""
    given: list[torch.Tensor] = []
    layer = base.model.get_output_embeddings()
    hook = layer.register_forward_pre_hook(lambda module, inputs: given.append(inputs[0]))
    try:
        generate(base, PROMPTS, 3, batch_size=4)
    finally:
        hook.remove()
    assert given
    assert all(rows.is_contiguous() and rows.shape[1] == 1 for rows in given)
