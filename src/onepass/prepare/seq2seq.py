"""Translations by an encoder-decoder: Marian (OPUS-MT, one language pair each), NLLB, M2M100.

Decoded with a beam, line by line: such models know sentences, and would run lines together.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from onepass.core.errors import OnepassError
from onepass.core.hub import explain
from onepass.model.quiet import quiet
from onepass.prepare.labeller import (
    TOO_LONG,
    Identity,
    Keep,
    Label,
    Options,
    labeller,
    weights_hash,
)
from onepass.tasks.task import Task

CODES = {
    "en": ("eng_Latn", "__en__", "en_XX"),
    "es": ("spa_Latn", "__es__", "es_XX"),
    "fr": ("fra_Latn", "__fr__", "fr_XX"),
    "de": ("deu_Latn", "__de__", "de_DE"),
}
"""The tokens of NLLB, M2M100 and mBART for a language."""

_MARIAN_CODES = {
    "es": (">>spa<<", ">>es<<"),
    "fr": (">>fra<<", ">>fr<<"),
    "de": (">>deu<<", ">>de<<"),
}


@labeller("seq2seq")
class Seq2Seq:
    def __init__(self, options: Options) -> None:
        if not options.translators:
            raise OnepassError(
                "seq2seq needs translation models: give --translator es=MODEL fr=MODEL de=MODEL, "
                "or one for all languages (NLLB, M2M100) as --translator MODEL"
            )
        self.options = options
        self.loaded: dict[str, Translator] = {}

    def _model(self, part: Task) -> tuple[str, str]:
        """The language, and the model that translates into it."""
        language = part.language if part.role == "auxiliary" else None
        if language is None:
            raise OnepassError(
                f"seq2seq only translates, and {part} is no translation; "
                "choose instruct, endpoint or multi-step for it"
            )
        name = self.options.translators.get(language, self.options.translators.get(""))
        if name is None:
            raise OnepassError(f"{part} has no model; give --translator {language}=MODEL")
        return language, name

    def identity(self, part: Task) -> Identity:
        language, name = self._model(part)
        check_weights(name)
        settings = {
            "to": language,
            "weights": weights_hash(name),
            "beams": self.options.beams,
            "max_new_tokens": self.options.max_new_tokens,
        }
        return Identity("seq2seq", Path(name).name, None, settings)

    def label(self, part: Task, texts: Sequence[str], keep: Keep) -> None:
        language, name = self._model(part)
        if name not in self.loaded:
            self.loaded[name] = load_translator(name, self.options.device)
        translator, size = self.loaded[name], self.options.batch_size
        if language not in self.options.translators and not translator.takes(language):
            raise OnepassError(
                f"the translator {name} has no token for {language}, so it knows one pair of "
                "languages only; name that, as in --translator es=MODEL fr=MODEL de=MODEL"
            )
        for first in range(0, len(texts), size):
            batch = texts[first : first + size]
            keep(translate(translator, language, batch, self.options))


@dataclass(frozen=True)
class Translator:
    """A translation model with its tokenizer."""

    name: str
    model: Any
    tokenizer: Any

    @cached_property
    def longest(self) -> int:
        """The most tokens it reads."""
        positions = getattr(self.model.config, "max_position_embeddings", None)
        return min(int(positions or 1 << 20), int(self.tokenizer.model_max_length))

    @cached_property
    def vocabulary(self) -> dict[str, int]:
        vocabulary: dict[str, int] = self.tokenizer.get_vocab()
        return vocabulary

    def code(self, language: str) -> str | None:
        """The token for a language; None where the model knows one pair of languages only."""
        return next((code for code in CODES[language] if code in self.vocabulary), None)

    def prefix(self, language: str) -> str:
        """What stands before a text for a Marian that knows several languages; else nothing."""
        codes = _MARIAN_CODES[language]
        return next((f"{code} " for code in codes if code in self.vocabulary), "")

    def takes(self, language: str) -> bool:
        """Whether the target language can be chosen."""
        return bool(self.code(language) or self.prefix(language))


def translate(
    translator: Translator, language: str, texts: Sequence[str], options: Options
) -> dict[str, Label]:
    """The label of each text; one line too long makes its text too long."""
    lines = list(dict.fromkeys(line for text in texts for line in _lines(text)))
    done = _translate_lines(translator, language, lines, options)
    labels = {}
    for text in texts:
        parts = [done[line] if line.strip() else line for line in text.split("\n")]
        whole = [part for part in parts if part is not None]
        short = len(whole) == len(parts)
        labels[text] = Label("\n".join(whole)) if short else Label(problem=TOO_LONG)
    return labels


def _lines(text: str) -> list[str]:
    return [line for line in text.split("\n") if line.strip()]


@torch.inference_mode()
def _translate_lines(
    translator: Translator, language: str, lines: Sequence[str], options: Options
) -> dict[str, str | None]:
    """Line to translation; None where the one or the other is too long."""
    model, tokenizer = translator.model, translator.tokenizer
    extra: dict[str, Any] = {}
    code = translator.code(language)
    if code is not None:
        # NLLB's tokenizer takes the tokens themselves, M2M100's the bare language.
        english = str(translator.code("en"))
        tokenizer.src_lang = english.strip("_") if english.startswith("__") else english
        extra["forced_bos_token_id"] = translator.vocabulary[code]
    prefix = translator.prefix(language)
    with quiet():  # lines too long are left out below; transformers need not warn
        lengths = [len(ids) for ids in tokenizer([prefix + x for x in lines])["input_ids"]]
    fitting = [x for x, n in zip(lines, lengths, strict=True) if n <= translator.longest]
    done: dict[str, str | None] = dict.fromkeys(lines)
    if not fitting:
        return done
    inputs = tokenizer([prefix + line for line in fitting], return_tensors="pt", padding=True)
    limit = min(options.max_new_tokens, translator.longest - 1)
    with quiet():
        found = model.generate(
            **{name: inputs[name].to(model.device) for name in ("input_ids", "attention_mask")},
            max_new_tokens=limit,
            num_beams=options.beams,
            do_sample=False,
            **extra,
        )
    texts = tokenizer.batch_decode(
        found, skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    end = model.config.eos_token_id
    for line, ids, text in zip(fitting, found[:, 1:].tolist(), texts, strict=True):
        # At the limit Marian is made to end; what ends there has been cut all the same.
        if end in ids[: limit - 1]:
            done[line] = text.strip()
    return done


def check_weights(name: str) -> None:
    """Refuse a folder that holds no model, or one stored as a pickle only."""
    folder = Path(name).expanduser()
    if folder.exists() or name.startswith((".", "~", "/")) or name.count("/") > 1:
        if not (folder / "config.json").is_file():
            raise OnepassError(f"translator {name}: {folder} is no model folder (no config.json)")
        if not any(folder.glob("*.safetensors")):
            pickle = "pytorch_model.bin is a pickle, which can run code and is not read; "
            raise OnepassError(
                f"translator {name}: no safetensors weights in {folder}; "
                f"{pickle if (folder / 'pytorch_model.bin').exists() else ''}{_CONVERT}"
            )


_CONVERT = (
    "convert it once, where you trust its source, with transformers: "
    "AutoModelForSeq2SeqLM.from_pretrained(NAME).save_pretrained(FOLDER) and "
    "AutoTokenizer.from_pretrained(NAME).save_pretrained(FOLDER), then give FOLDER"
)


def load_translator(name: str, device: str = "auto") -> Translator:
    """The model in a local folder or under a hub name; only safetensors, and float32."""
    check_weights(name)
    where = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    source = str(Path(name).expanduser()) if Path(name).expanduser().is_dir() else name
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
            model, found = AutoModelForSeq2SeqLM.from_pretrained(
                source,
                dtype=torch.float32,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
        model.requires_grad_(False).eval().to(where)
    except Exception as error:  # the libraries below raise everything, bare Exception included
        raise OnepassError(
            f"cannot load the translator {name}: {_reason(source, error)}"
        ) from error
    if found["missing_keys"]:
        missing = sorted(found["missing_keys"])
        raise OnepassError(
            f"the translator {name} lacks {len(missing)} tensors, the first is {missing[0]}; "
            "its weight files are incomplete, fetch them again"
        )
    return Translator(name, model, tokenizer)


def _reason(source: str, error: Exception) -> str:
    told, whole = explain(source, error), str(error)
    # Without sentencepiece transformers denies that there is a tokenizer for Marian at all.
    lacking = "sentencepiece" in whole.lower() or "build an AutoTokenizer" in whole
    if lacking and find_spec("sentencepiece") is None:
        return (
            "its tokenizer needs sentencepiece, which is not installed: "
            "pip install 'onepass[translate]'"
        )
    if "safetensors" in whole:
        return f"{told}; if it is stored as a pickle, {_CONVERT}"
    return told
