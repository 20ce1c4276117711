"""What a base keeps of a text it has read: the keys and values of every layer, to be read once.

Activated adapters leave the tokens before their invocation to the bare base, so all of them, and
every training of one, begin from the same keys and values (arXiv 2504.12397).
"""

import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil
import torch
from torch import Tensor

from onepass.core.errors import OnepassError
from onepass.model.frozen import frozen, is_bare

if TYPE_CHECKING:
    from transformers import DynamicCache, PreTrainedModel

_TOKENS = 4096  # that are read at a time, padding included
_SHARE = max(4, 2 * (os.cpu_count() or 1))
"""One part in so many of the memory that is free at the start may be kept: half of it, where each
core has a process."""
_ATTENTION = ("full_attention", "sliding_attention")


@dataclass(frozen=True, eq=False)
class Read:
    """Keys and values of the tokens of one text: (layers, 2, heads, tokens, width), on the CPU."""

    kept: Tensor

    def __len__(self) -> int:
        return int(self.kept.shape[3])


class Readings:
    """The texts that a base has read, by their token ids: those used last, as far as room is.

    limit: bytes to keep in memory; by default a quarter of what is free, or less on many cores.
    """

    def __init__(self, model: "PreTrainedModel", name: str, limit: int | None = None) -> None:
        self._model, self._name = model, name
        self._limit = psutil.virtual_memory().available // _SHARE if limit is None else limit
        self._known: dict[tuple[torch.dtype, tuple[int, ...]], Read] = {}
        self.tokens_read = 0
        """How many tokens have been run through the base so far."""

    def lacks(self, texts: Sequence[Sequence[int]], low: torch.dtype | None = None) -> bool:
        """Whether `read` would have to read any of the texts."""
        return any(key not in self._known for key in self._keys(texts, low))

    def read(self, texts: Sequence[Sequence[int]], low: torch.dtype | None = None) -> list[Read]:
        """What is kept of each text's ids; those not known are read now, without a gradient.

        low: the dtype that products are computed in by autocast, if they are.
        Raises:
            OnepassError: something is put on the base, or layers of it keep no keys and values.
        """
        keys = self._keys(texts, low)
        # Those used last are the last to be forgotten.
        found = {key: self._known.pop(key) for key in dict.fromkeys(keys) if key in self._known}
        new = sorted({key for key in keys if key not in found}, key=lambda key: -len(key[1]))
        if new:
            self._check()
            self.check_length(len(new[0][1]))
        for batch in _batches([ids for _, ids in new]):
            reads = self._run(batch, low)
            found |= {(new[0][0], ids): read for ids, read in zip(batch, reads, strict=True)}
        self._known |= found
        used = sum(each.kept.nbytes for each in self._known.values())
        for key in list(self._known):
            if used <= self._limit:
                break
            used -= self._known.pop(key).kept.nbytes
        return [found[key] for key in keys]

    def check_length(self, longest: int) -> None:
        """Raise `OnepassError` if a text read cannot be used in a row of `longest` tokens."""
        turn = turn_of(self._model)
        if turn is not None and longest > turn:
            raise OnepassError(
                f"{self._name} turns positions by other angles from {turn} tokens on, so what it "
                f"has read cannot be used for {longest}; shorten the text, the answer or the "
                "target, or use ordinary adapters"
            )

    def _keys(
        self, texts: Sequence[Sequence[int]], low: torch.dtype | None
    ) -> list[tuple[torch.dtype, tuple[int, ...]]]:
        return [(low or self._model.dtype, tuple(ids)) for ids in texts]

    def _check(self) -> None:
        if not is_bare(self._model):
            raise OnepassError(
                f"the base {self._name} has a composition on it, and texts are read by the bare "
                "base; read them outside of `attached`"
            )
        config = self._model.config.get_text_config()
        kinds = set(getattr(config, "layer_types", None) or _ATTENTION)
        if other := sorted(kinds.difference(_ATTENTION)):
            raise OnepassError(
                f"the base {self._name} has layers of {', '.join(other)}, whose state after a text "
                "cannot be shared; use ordinary adapters"
            )

    @torch.no_grad()
    def _run(self, rows: Sequence[Sequence[int]], low: torch.dtype | None) -> list[Read]:
        """Keys and values of texts, read side by side: padded on the right, where none looks."""
        from transformers import DynamicCache

        device = self._model.get_input_embeddings().weight.device
        longest = max(map(len, rows))
        ids = torch.tensor([[*row, *[row[-1]] * (longest - len(row))] for row in rows])
        cache = DynamicCache()  # without the config: sliding layers keep all, for any later token
        lowered = torch.autocast(device.type, low) if low else nullcontext()
        with frozen(self._model), lowered:
            self._model(
                input_ids=ids.to(device),
                cache=cache,
                use_cache=True,
                logits_to_keep=torch.tensor([longest - 1], device=device),
            )
        self.tokens_read += ids.numel()
        if len(cache.layers) != self._model.config.get_text_config().num_hidden_layers or any(
            layer.keys is None or layer.keys.shape != layer.values.shape for layer in cache.layers
        ):
            raise OnepassError(
                f"the base {self._name} does not keep keys and values for each layer alone, so "
                "they cannot be shared; use ordinary adapters"
            )
        every = [torch.stack([layer.keys, layer.values], 1) for layer in cache.layers]
        # Under autocast some models norm keys in float32, which attention rounds when it uses them.
        every = [each.to("cpu", low or each.dtype) for each in every]
        return [
            Read(torch.stack([layer[place, :, :, : len(row)] for layer in every]))
            for place, row in enumerate(rows)
        ]


def turn_of(model: "PreTrainedModel") -> int | None:
    """The length beyond which LongRoPE (Phi-3) turns all positions by other angles, if it is used.

    The angles are those of the longest row of a batch, and what is in a cache has the old ones.
    """
    rope = getattr(model.config.get_text_config(), "rope_parameters", None) or {}
    long = rope.get("rope_type") == "longrope"
    return int(rope["original_max_position_embeddings"]) if long else None


def beginning(reads: Sequence[Read], model: "PreTrainedModel") -> "tuple[DynamicCache, Tensor]":
    """A new cache that begins with these texts, and its mask (texts, longest), 1 where a token is.

    They are padded on the left, so that what follows each stands next to it.
    """
    from transformers import DynamicCache

    device = model.get_input_embeddings().weight.device
    longest = max(map(len, reads))
    layers, pair, heads, _, width = reads[0].kept.shape
    whole = reads[0].kept.new_zeros(layers, pair, len(reads), heads, longest, width)
    mask = torch.zeros(len(reads), longest, dtype=torch.long)
    for row, each in enumerate(reads):
        whole[:, :, row, :, longest - len(each) :] = each.kept
        mask[row, longest - len(each) :] = 1
    cache = DynamicCache()
    places = getattr(model, "hf_device_map", None)
    for number, (keys, values) in enumerate(whole.to(device)):
        where = _device_of(model, number) if places else device
        cache.update(keys.to(where), values.to(where), number)
    return cache, mask.to(device)


def _device_of(model: "PreTrainedModel", layer: int) -> torch.device:
    """Where a balanced model has the layer of that number."""
    weight: Tensor = next(model.get_decoder().layers[layer].parameters())
    return weight.device


def _batches(rows: Sequence[tuple[int, ...]]) -> list[list[tuple[int, ...]]]:
    """Rows of falling length in batches of at most `_TOKENS`, padding included."""
    batches: list[list[tuple[int, ...]]] = []
    for row in rows:
        if batches and (len(batches[-1]) + 1) * len(batches[-1][0]) <= _TOKENS:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches
