"""What stands around a user message, in token ids, for runtimes that read no chat template."""

from itertools import chain
from typing import Any

from onepass.core.errors import OnepassError
from onepass.export.manifest import SAMPLE, Prompt, Sample
from onepass.model.chat import prompt_ids, prompt_text, text_ids
from onepass.model.load import Base

_MARK = "onepassMESSAGEonepass"
_SAMPLES = (
    "Summarize the conversation.\n\nAna: Tea at 5:30?\nBen: Yes, 1234 times!",
    "¿Qué tal?  Zoë — naïve\t\tcafé 東京 🙂",
    "<|im_end|> <|eot_id|> <|end|> is text here",
    "Ben:  two  spaces, a tab\there\n\n\nAna: three line ends; it's 3.14 €! don't?\r\n- one",
)


def prompt_frame(base: Base, normalization: Any = None, system: str = "") -> Prompt:
    """The frame of a user message to this base, after a `system` message if there is one.

    It is checked on samples against the base's chat template.

    Raises:
        OnepassError: the template does more to a message than put something around it.
    """
    tokenizer = base.tokenizer
    head, mark, tail = prompt_text(tokenizer, _MARK, system).partition(_MARK)
    added = list(tokenizer.added_tokens_decoder.values())
    # Gemma has line ends among them, which belong to the text.
    control = [t.content for t in added if t.special or not t.content.isspace()]
    begin = max((head.rfind(t) + len(t) for t in control if t in head), default=0)
    end = min((tail.find(t) for t in control if t in tail), default=len(tail))
    frame = Prompt(
        before=_ids(tokenizer, head[:begin]),
        text_before=head[begin:],
        text_after=tail[:end],
        after=_ids(tokenizer, tail[end:]),
        stop=sorted(base.stop_ids),
        control=[t.content for t in added if t.special] if tokenizer.chat_template else [],
        normalization=normalization,
    )
    for sample in _SAMPLES:
        middle = chain.from_iterable(text_ids(tokenizer, frame.pieces(sample)))
        (wanted,) = prompt_ids(tokenizer, [sample], system)
        if not mark or [*frame.before, *middle, *frame.after] != wanted:
            raise OnepassError(
                f"the chat template of {base.name} does more to a message than put text around "
                f"it (seen with {sample[:30]!r}); a device set cannot say that, export it as merged"
            )
    return frame


def samples(base: Base) -> list[Sample]:
    """User messages with their ids, for an engine's tokenizer to match."""
    messages = [*_SAMPLES, SAMPLE]
    ids = prompt_ids(base.tokenizer, messages)
    return [Sample(message=m, ids=each) for m, each in zip(messages, ids, strict=True)]


def _ids(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"] if text else []
    return ids
