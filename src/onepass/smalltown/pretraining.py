"""Pretraining a tiny base from scratch on a stream of documents.

Data-parallel over processes of one thread each, which on a small machine is several times faster
than one process of several threads: each process draws its own documents, and the gradients are
averaged (gloo). Hidden matrices are trained by Muon (Jordan et al. 2024,
https://kellerjordan.github.io/posts/muon), which needs about half the tokens of AdamW here; the
embedding and the norms by AdamW.

A document with a prompt bears full loss on its answer and `PROMPT_WEIGHT` on its prompt, so that
what is asked for is learned rather than what is asked.
"""

import json
import math
import os
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, multiprocessing
from transformers import LlamaConfig, LlamaForCausalLM

from onepass.core.errors import OnepassError
from onepass.core.files import atomic_folder, write_json, write_text
from onepass.model.chat import prompt_ids, text_ids
from onepass.smalltown.tokenizer import train_tokenizer

PROMPT_WEIGHT = 0.2
_BUFFER = 3000  # documents that are sorted by length together


class Document(Protocol):
    """A text, or (with a `prompt`) one exchange of a user and an assistant."""

    @property
    def text(self) -> str: ...
    @property
    def prompt(self) -> str: ...


Documents = Callable[[str], Iterator[Document]]
"""From a seed to an endless stream of documents."""


@dataclass(frozen=True)
class PretrainOptions:
    """The shape of the base, and how long and how it is trained."""

    vocab_size: int = 2048
    hidden: int = 128
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    mlp: int = 384
    context: int = 1024
    tokens: int = 36_000_000
    """Tokens to train on, all processes together, padding not counted."""
    batch_tokens: int = 6144
    """Tokens per step and process, padding counted."""
    matrix_lr: float = 0.02
    embedding_lr: float = 4e-3
    warmup_steps: int = 100
    decay: float = 0.5
    """The share of training, at its end, over which the learning rates fall to 0."""
    bfloat16: bool = True
    """Whether the forward pass is in bfloat16: a third faster where the processor has it."""
    seed: int = 0
    processes: int = 2


Encoded = tuple[list[int], int]
"""Token ids, and how many of them are prompt."""


def _encode(tokenizer: Any, documents: list[Document]) -> list[Encoded]:
    begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    texts = text_ids(tokenizer, [document.text for document in documents])
    asked = [document.prompt for document in documents if document.prompt]
    prompts = iter(prompt_ids(tokenizer, asked))
    rows = []
    for document, text in zip(documents, texts, strict=True):
        before = next(prompts) if document.prompt else [begin]
        rows.append(([*before, *text, end], len(before) if document.prompt else 1))
    return rows


def _batches(
    tokenizer: Any, documents: Documents, options: PretrainOptions, rank: int
) -> Iterator[list[Encoded]]:
    """Endless batches of documents of similar length."""
    number = 0
    while True:
        seed = f"{options.seed}/{rank}/{number}"
        stream = documents(seed)
        rows = _encode(tokenizer, [next(stream) for _ in range(_BUFFER)])
        rows = sorted((r for r in rows if len(r[0]) <= options.context), key=lambda r: len(r[0]))
        batches, batch = [], list[Encoded]()
        for row in rows:
            if (len(batch) + 1) * len(row[0]) > options.batch_tokens:
                batches.append(batch)
                batch = []
            batch.append(row)
        # The rest of a buffer is left out: a batch of a few documents would be noise.
        random.Random(seed).shuffle(batches)
        yield from batches
        number += 1


def _loss(model: LlamaForCausalLM, batch: list[Encoded], pad: int) -> Tensor:
    """The weighted mean cross-entropy (nats per token) of a batch."""
    longest = max(len(ids) for ids, _ in batch)
    ids = torch.full((len(batch), longest), pad)
    weights = torch.zeros(len(batch), longest)
    for i, (row, start) in enumerate(batch):
        ids[i, : len(row)] = torch.tensor(row)
        weights[i, 1:start] = PROMPT_WEIGHT
        weights[i, start : len(row)] = 1.0
    hidden = model.model(ids, use_cache=False).last_hidden_state[:, :-1]
    bears = weights[:, 1:] > 0
    logits = hidden[bears] @ model.lm_head.weight.T
    losses = F.cross_entropy(logits.float(), ids[:, 1:][bears], reduction="none")
    wanted = weights[:, 1:][bears]
    return (losses * wanted).sum() / wanted.sum()


def _schedule(done: float, step: int, options: PretrainOptions) -> float:
    """The share of the peak learning rate: linear rise, a plateau, a linear fall to 0."""
    rise = min(1.0, (step + 1) / options.warmup_steps)
    return rise * min(1.0, (1.0 - done) / options.decay)


def _average_gradients(model: LlamaForCausalLM, world: int) -> None:
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= world
    start = 0
    for gradient in gradients:
        gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient))
        start += gradient.numel()


def _new_model(options: PretrainOptions, tokenizer: Any) -> LlamaForCausalLM:
    torch.manual_seed(options.seed)
    config = LlamaConfig(
        vocab_size=options.vocab_size,
        hidden_size=options.hidden,
        intermediate_size=options.mlp,
        num_hidden_layers=options.layers,
        num_attention_heads=options.heads,
        num_key_value_heads=options.kv_heads,
        max_position_embeddings=options.context,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def _worker(
    rank: int, tokenizer: Any, documents: Documents, options: PretrainOptions, folder: str
) -> None:
    torch.set_num_threads(1)
    world = options.processes
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world
    )
    model = _new_model(options, tokenizer)
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "layers" in n]
    chosen = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in chosen]
    optimizers = [
        (torch.optim.Muon(matrices, lr=1.0, weight_decay=0.01), options.matrix_lr),
        (
            torch.optim.AdamW(others, lr=1.0, betas=(0.9, 0.95), weight_decay=0.0),
            options.embedding_lr,
        ),
    ]
    batches = _batches(tokenizer, documents, options, rank)
    pad = tokenizer.pad_token_id
    seen, step, began, running = 0, 0, time.perf_counter(), math.nan
    log: list[str] = []
    while seen < options.tokens:
        batch = next(batches)
        with torch.autocast("cpu", torch.bfloat16, enabled=options.bfloat16):
            loss = _loss(model, batch, pad)
        loss.backward()  # type: ignore[no-untyped-call]
        _average_gradients(model, world)
        share = _schedule(seen / options.tokens, step, options)
        for optimizer, peak in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = share * peak
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        counted = torch.tensor([sum(len(ids) for ids, _ in batch), loss.item()])
        dist.all_reduce(counted)
        seen, step = seen + int(counted[0]), step + 1
        mean = float(counted[1]) / world
        running = mean if math.isnan(running) else 0.98 * running + 0.02 * mean
        if not math.isfinite(mean):
            raise OnepassError(f"the loss became {mean} at step {step}; lower the learning rates")
        if rank == 0 and (step % 50 == 0 or seen >= options.tokens):
            seconds = time.perf_counter() - began
            row = {"step": step, "tokens": seen, "loss": round(running, 4)}
            row |= {"tokens_per_second": round(seen / seconds), "seconds": round(seconds)}
            log.append(json.dumps(row))
            write_text(Path(folder, "log.jsonl"), "\n".join(log) + "\n")
            print(log[-1], flush=True)
        if rank == 0 and step % 1000 == 0:
            _save(model, tokenizer, Path(folder, "checkpoint"))
    if rank == 0:
        _save(model, tokenizer, Path(folder, "final"))
    dist.destroy_process_group()


def _save(model: LlamaForCausalLM, tokenizer: Any, folder: Path) -> None:
    with atomic_folder(folder) as temporary:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)


def pretrain(documents: Documents, options: PretrainOptions, folder: Path | str) -> Path:
    """Train a tokenizer and a base into `folder`; the base is `folder/final` in hub layout.

    Beside it: `log.jsonl` (loss in nats per token) and `options.json`.
    """
    folder = Path(folder).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rendezvous").unlink(missing_ok=True)
    stream = documents(f"{options.seed}/tokenizer")
    corpus = [next(stream) for _ in range(20_000)]
    tokenizer = train_tokenizer(
        (text for d in corpus for text in (d.prompt, d.text)), options.vocab_size, options.context
    )
    write_json(folder / "options.json", asdict(options))
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    multiprocessing.spawn(  # type: ignore[attr-defined, no-untyped-call]
        _worker, (tokenizer, documents, options, str(folder)), nprocs=options.processes
    )
    return folder / "final"
