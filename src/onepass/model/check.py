"""The one check of a base, however it was come by: called when it is loaded or wrapped."""

import warnings
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from onepass.core.errors import OnepassError, OnepassWarning
from onepass.model.chat import end_id, prompt_ids, prompt_text
from onepass.model.frozen import frozen

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_PROBE = "Summarize the conversation.\n\nAna: Shall we meet at 5:30?\nBen: Yes, at the harbour!"


def check_model(model: "PreTrainedModel", tokenizer: Any, name: str) -> None:
    """Refuse a base that holds an adapter, bad numbers, a template or token ids it cannot use.

    Warns of one without a chat template. Costs a look at each weight and one forward pass of a
    short prompt.

    Raises:
        OnepassError: it names the base, and what is wrong with it.
    """
    _check_alone(model, name)
    _check_weights(model, name)
    _check_template(tokenizer, name)
    _check_tokens(model, tokenizer, name)
    _check_logits(model, tokenizer, name)


def _check_alone(model: "PreTrainedModel", name: str) -> None:
    if any(
        hasattr(module, "lora_A") or hasattr(module, "base_layer") for module in model.modules()
    ):
        raise OnepassError(
            f"the base {name} holds an adapter; give the model alone "
            "(`model.unload()` of a PeftModel), and the adapter apart"
        )


def _check_weights(model: "PreTrainedModel", name: str) -> None:
    for path, weight in model.named_parameters():
        if not all(torch.isfinite(end) for end in torch.aminmax(weight.detach())):
            raise OnepassError(f"the base {name} holds NaN or infinity in {path}; fetch it again")


def _check_template(tokenizer: Any, name: str) -> None:
    template = tokenizer.chat_template
    if not template:
        warnings.warn(
            f"the base {name} has no chat template: an answer follows its prompt and a blank line",
            OnepassWarning,
            stacklevel=1,  # this line whoever loads it, so that Python shows it once
        )
    if isinstance(template, dict) and "default" not in template:
        raise OnepassError(
            f"the base {name} has chat templates named {', '.join(sorted(template))} and none "
            "named default; set tokenizer.chat_template to the one to use"
        )
    if _PROBE not in prompt_text(tokenizer, _PROBE):
        raise OnepassError(
            f"the chat template of base {name} leaves out the user message; "
            "it may be a template for images, replace it by the one of the text model"
        )


def _check_tokens(model: "PreTrainedModel", tokenizer: Any, name: str) -> None:
    """Tokens beyond the embedding are harmless as long as no text and no prompt has them."""
    rows = model.get_input_embeddings().weight.shape[0]
    used = {end_id(tokenizer), *prompt_ids(tokenizer, [_PROBE])[0]}
    special = set(tokenizer.all_special_ids)
    added = tokenizer.added_tokens_decoder
    special |= {number for number, token in added.items() if token.special}
    beyond = {
        number: token
        for token, number in tokenizer.get_vocab().items()
        if number >= rows and (number in used or number not in special)
    }
    if beyond:
        first = min(beyond)
        raise OnepassError(
            f"the base {name} embeds {rows} tokens, but its tokenizer gives {beyond[first]!r} the "
            f"id {first}{f' and {len(beyond) - 1} more' if len(beyond) > 1 else ''}; "
            "take the tokenizer that belongs to the model, or resize its embedding"
        )


def _check_logits(model: "PreTrainedModel", tokenizer: Any, name: str) -> None:
    ids = torch.tensor(prompt_ids(tokenizer, [_PROBE]), device=model.device)
    with frozen(model), torch.inference_mode():
        finite = torch.isfinite(model(input_ids=ids, use_cache=False).logits).all()
    if not finite:
        raise not_finite(name, model.dtype, "its weights do not fit its config")


def check_range(model: "PreTrainedModel", tokenizer: Any, name: str, dtype: torch.dtype) -> None:
    """Refuse to store in `dtype` a model whose numbers, on a short prompt, are too large for it.

    Raises:
        OnepassError: a weight, or what a layer computes, is beyond the range of `dtype`.
    """
    reached = {
        path: float(max(map(abs, torch.aminmax(weight.detach()))))
        for path, weight in model.named_parameters()
    }

    def keep(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            found = output[0] if isinstance(output, tuple) else output
            if isinstance(found, torch.Tensor) and found.is_floating_point():
                reached[path] = float(found.abs().max())

        return hook

    ids = torch.tensor(prompt_ids(tokenizer, [_PROBE]), device=model.device)
    with ExitStack() as stack:
        for path, module in model.named_modules():
            stack.callback(module.register_forward_hook(keep(path)).remove)
        stack.enter_context(frozen(model))
        stack.enter_context(torch.inference_mode())
        model(input_ids=ids, use_cache=False)
    limit = torch.finfo(dtype).max
    for path, value in reached.items():
        if not value <= limit:
            raise OnepassError(
                f"{path} of the base {name} reaches {value:,.0f} on a short prompt, and "
                f"{_short(dtype)} ends at {limit:,.0f}; save it in bfloat16 (--save-as) instead"
            )


def not_finite(name: str, dtype: torch.dtype, otherwise: str) -> OnepassError:
    """The error for a base that computes NaN or infinity; `otherwise`: why, if not for float16."""
    advice = "load it in bfloat16 or float32" if dtype == torch.float16 else otherwise
    return OnepassError(f"the base {name} computes NaN or infinity in {_short(dtype)}; {advice}")


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
