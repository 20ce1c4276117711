"""What a device set is: `manifest.json` beside a base and its adapters, with their scales.

Plain data, readable without torch. A set is a folder:

    manifest.json              this description, with a checksum of every file
    base-q4_0.gguf             the base; or its user's own file, which may be elsewhere
    adapters/summarize.gguf    task adapters, shared by the compositions
    adapters/....gguf          calibrations: what one more composition adds
    fused/....gguf             per composition, one adapter that holds all of it

The order of `adapters` is the engine's: adapter 0 is the first. A pass is run by giving each
adapter its scale, and every other adapter 0.
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    NonNegativeInt,
    PositiveInt,
    model_validator,
)

from onepass.adapters.manifests import read_manifest
from onepass.core.errors import OnepassError
from onepass.core.files import inside, sha256
from onepass.core.registry import unknown
from onepass.export.types import BASE_TYPES, ROUNDED
from onepass.tasks.book import TaskField, parse_task
from onepass.tasks.task import Task

MANIFEST = "manifest.json"
SAMPLE = "Ana: Shall we have tea at five?\nBen: Five is too late for me.\nAna: At three, then?"
TOKENS = 8
"""What a test vector is made of: a short conversation, and at most so many tokens of an answer."""

Role = Literal["task", "stored", "calibration"]
TokenId = Annotated[int, Field(ge=0)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class File(_Strict):
    """A file of the set; `path` is relative to the manifest's folder, with forward slashes."""

    path: str
    bytes: NonNegativeInt
    sha256: str


class BaseFile(File):
    """The base. `merged`: a composition is summed into its weights, so it takes no adapters.

    type: one of `BASE_TYPES`, or whatever its user's own file is said to be, as in "q4_k_m".
    blocks: its layers; 0 in sets of format 1, which have no compact files.
    own: it is a file that its user gave, as it was. linked: it is not in the set; `path` is where
    it was. license: as the file states it, "" where it does not.
    """

    name: str
    architecture: str
    type: str
    vocabulary: PositiveInt
    context: PositiveInt
    blocks: NonNegativeInt = 0
    merged: bool = False
    own: bool = False
    linked: bool = False
    license: str = ""

    @model_validator(mode="after")
    def _of_a_known_type(self) -> Self:
        if not self.own and self.type not in BASE_TYPES:
            raise ValueError(f"type should be {'|'.join(BASE_TYPES)}, found {self.type!r}")
        return self


class AdapterFile(File):
    """A LoRA. role: a task's, one made for a composition alone, or a calibration.

    compact: what blocks share is stored once (see `export.gguf.compact`); to be expanded before
    llama.cpp reads it. invocation: of an activated one, the ids from which on it acts, as its file
    states them; none for one that acts on the whole prompt.
    """

    name: str
    role: Role
    rank: PositiveInt
    compact: bool = False
    invocation: list[TokenId] = []


class Prompt(_Strict):
    """How a user message becomes token ids: `before`, the ids of its text, `after`.

    The text is `text_before` + message + `text_after`, tokenised as plain text: a token of
    `control` that it spells is not obeyed, only tokenised apart from what is around it. stop: ids
    that end an answer. normalization: the Unicode form a text is put in first, as the base's own
    tokenizer does and llama.cpp does not.
    """

    before: list[TokenId]
    text_before: str
    text_after: str
    after: list[TokenId]
    stop: list[TokenId]
    control: list[str]
    normalization: Literal["NFC", "NFD", "NFKC", "NFKD"] | None

    def pieces(self, message: str) -> list[str]:
        """The plain texts whose ids, one after the other, are those of the message in its text."""
        text = f"{self.text_before}{message}{self.text_after}"
        longest_first = sorted(self.control, key=len, reverse=True)
        spelt = "|".join(map(re.escape, longest_first))
        return [piece for piece in re.split(f"({spelt})", text) if piece] if spelt else [text]


class Activation(_Strict):
    """Where in the prompts of an activated task its adapters begin to act.

    The prompts are those of a `system` message and a user message, `prompt`, with the text in the
    place of {text}. tail: the last ids of each, from where the adapters act, whatever the text.
    invocation: the first of these, which an adapter's file states.
    """

    system: str = ""
    prompt: str
    tail: list[TokenId] = Field(min_length=1)
    invocation: list[TokenId] = Field(min_length=1)

    @model_validator(mode="after")
    def _at_the_beginning(self) -> Self:
        if self.tail[: len(self.invocation)] != self.invocation:
            raise ValueError(
                f"the tail should begin with the invocation, found {self.tail} and "
                f"{self.invocation}"
            )
        return self

    def start(self, ids: list[int]) -> int:
        """Where the adapters begin to act in the ids of a prompt."""
        found = len(ids) - len(self.tail)
        if ids[max(found, 0) :] != self.tail:
            raise OnepassError(
                "the tokenizer joins the end of this text with what follows it, from which on the "
                "adapters act; end the text with a line end or a full stop"
            )
        return found


class PassEntry(_Strict):
    """One run over the text, put into the prompt of its `task`."""

    task: TaskField
    scales: dict[str, FiniteFloat]
    """By name of adapter; those not named are 0."""

    @property
    def activated(self) -> bool:
        """Whether the bare base reads the text, and adapters act from an invocation after it on."""
        return bool(self.task.activate) and any(self.scales.values())

    @model_validator(mode="before")
    @classmethod
    def _of_format_2(cls, data: Any) -> Any:
        """Older sets name the task and hold its instruction, "" for none."""
        if isinstance(data, dict) and {type(data.get(k)) for k in ("task", "instruction")} == {str}:
            task, asked = parse_task(data["task"]), data["instruction"]
            task = replace(task, instruction=asked) if asked else task.bare()
            data = {**data, "task": task}
            del data["instruction"]
        return data


class CompositionEntry(_Strict):
    """A composition. `parts`: the adapter of each of its single tasks, where it has one for each.

    marginal_bytes: what it adds to a device that holds the base and the task adapters.
    """

    name: str
    task: TaskField
    method: str
    passes: list[PassEntry] = Field(min_length=1)
    parts: dict[str, str]
    marginal_bytes: NonNegativeInt
    fused: File | None = None

    @property
    def activated(self) -> bool:
        """Whether the bare base reads its text, as it does for other activated compositions."""
        return self.passes[0].activated


class Sample(_Strict):
    """A user message, and its ids in the frame by the base's own tokenizer."""

    message: str
    ids: list[TokenId]


class Vector(_Strict):
    """What PyTorch says of one prompt, computed on the very weights of the base's file.

    tokens: the greedy answer; top: at each of them the likeliest tokens and their log-probability.
    tolerance: how far an engine's may be from these; at most `ROUNDED`.
    """

    composition: str
    prompt: list[TokenId] = Field(min_length=1)
    tokens: list[TokenId] = Field(min_length=1)
    top: list[dict[TokenId, FiniteFloat]]
    tolerance: Annotated[float, Field(gt=0.0, le=ROUNDED)]


class Manifest(_Strict):
    """See the module's text."""

    format: Literal[
        "onepass device 1", "onepass device 2", "onepass device 3", "onepass device 4",
        "onepass device 5",
    ] = "onepass device 5"  # fmt: skip
    onepass: str
    base: BaseFile
    adapters: list[AdapterFile]
    compositions: list[CompositionEntry] = Field(min_length=1)
    prompt: Prompt
    systems: dict[str, Prompt] = {}
    """By system message, how a user message after it becomes token ids."""
    activations: list[Activation] = []
    """Of each activated task that a composition runs, whole or as a part."""
    samples: list[Sample] = []
    vectors: list[Vector] = []

    def composition(self, name: str) -> CompositionEntry:
        """The composition called `name`; an `OnepassError` with near names if there is none."""
        for entry in self.compositions:
            if entry.name == name:
                return entry
        raise unknown("composition of this set", name, [entry.name for entry in self.compositions])

    def frame(self, system: str = "") -> Prompt:
        """What stands around a user message after a system message; `OnepassError` if unknown."""
        if not system:
            return self.prompt
        if system not in self.systems:
            raise OnepassError(f"the set has no frame for the system message {system!r:.60}")
        return self.systems[system]

    def activation(self, task: Task) -> Activation | None:
        """Where adapters act in a task's prompts; None for a task whose adapters act everywhere."""
        if not task.activate:
            return None
        for each in self.activations:
            if (each.system, each.prompt) == (task.system, task.message("{text}")):
                return each
        raise OnepassError(
            f"the set does not say where the adapters of task {task.name!r} begin to act; "
            "write it again"
        )

    def files(self) -> Iterator[File]:
        """Every file of the set."""
        yield self.base
        yield from self.adapters
        yield from (entry.fused for entry in self.compositions if entry.fused)


def base_path(folder: Path, base: BaseFile, given: Path | str | None = None) -> Path:
    """Where the set's base is: `given`; or for one that is linked, where it was, or a file of that
    name in the set's folder or beside it.
    """
    if given is not None:
        return Path(given)
    if not base.linked:
        return inside(folder / MANIFEST, base.path)
    name = Path(base.path).name
    places = [Path(base.path), folder / name, folder.absolute().parent / name]
    return next((place for place in places if place.is_file()), places[0])


def read_set(folder: Path | str, check: bool = True, base: Path | str | None = None) -> Manifest:
    """The manifest of the set in `folder`, which is then fit to be run.

    check: whether to compare every file's checksum too, which reads all of it. base: the base's
    file, where it is not in the set.
    Raises:
        OnepassError: there is no manifest, it is damaged or contradicts itself, or a file is
            missing, cut short, changed, or outside the folder.
    """
    folder = Path(folder)
    if not (folder / MANIFEST).is_file():
        raise OnepassError(
            f"{folder} is no device set: it has no {MANIFEST}; make one with `onepass pack`"
        )
    manifest = read_manifest(Manifest, folder / MANIFEST)
    _check_names(manifest, folder / MANIFEST)
    try:
        _check_sense(manifest)
    except OnepassError as error:
        raise OnepassError(f"{folder / MANIFEST}: {error}") from error
    for file in manifest.files():
        if file is not manifest.base:
            _check_file(inside(folder / MANIFEST, file.path), file, check)
    found = base_path(folder, manifest.base, base)
    if not found.is_file() and (manifest.base.linked or base is not None):
        raise OnepassError(
            f"{found} is missing, which {folder} has for its base without holding it; say where it "
            f"is with --base, or base=... (SHA-256 {manifest.base.sha256})"
        )
    _check_file(found, manifest.base, check)
    return manifest


def _check_names(manifest: Manifest, path: Path) -> None:
    adapters = [adapter.name for adapter in manifest.adapters]
    for kind, names in (
        ("adapter", adapters),
        ("composition", [entry.name for entry in manifest.compositions]),
        ("file", [file.path for file in manifest.files()]),
    ):
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise OnepassError(f"{path}: two {kind}s are called {twice[0]!r}")
    for entry in manifest.compositions:
        used = [name for pass_ in entry.passes for name in pass_.scales]
        for name in [*used, *entry.parts.values()]:
            if name not in adapters:
                raise OnepassError(
                    f"{path}: composition {entry.name!r} uses adapter {name!r}; "
                    f"the set has {', '.join(adapters) or 'none'}"
                )


def _check_sense(manifest: Manifest) -> None:
    if manifest.base.merged and (manifest.adapters or len(manifest.compositions) > 1):
        raise OnepassError(
            "the base is merged, so it is the only composition and takes no adapters; found "
            f"{len(manifest.compositions)} compositions and {len(manifest.adapters)} adapters"
        )
    for entry in manifest.compositions:
        if entry.fused and len(entry.passes) > 1:
            raise OnepassError(
                f"composition {entry.name!r} takes {len(entry.passes)} passes, which no single "
                f"adapter does; found {entry.fused.path}"
            )
        for pass_ in entry.passes:
            _check_activation(manifest, entry.name, pass_)
        for task in (entry.task, *entry.task.parts):
            manifest.activation(task)
        wanted = [part.name for part in entry.task.parts]
        if entry.parts and sorted(entry.parts) != sorted(wanted):
            raise OnepassError(
                f"composition {entry.name!r} has parts {', '.join(entry.parts)}; its task "
                f"{entry.task.name!r} has {', '.join(wanted)}"
            )
    for vector in manifest.vectors:
        manifest.composition(vector.composition)
        if len(vector.top) != len(vector.tokens):
            raise OnepassError(
                f"a test vector of composition {vector.composition!r} has {len(vector.tokens)} "
                f"tokens, but `top` has {len(vector.top)}; write the set again"
            )


def _check_activation(manifest: Manifest, composition: str, pass_: PassEntry) -> None:
    """Refuse a pass whose adapters act elsewhere than its task says."""
    manifest.activation(pass_.task)
    used = [adapter for adapter in manifest.adapters if pass_.scales.get(adapter.name)]
    for adapter in used:
        if bool(adapter.invocation) != pass_.activated:
            where = ["on the whole prompt", "from an invocation on"]
            raise OnepassError(
                f"composition {composition!r} runs adapter {adapter.name!r}, which acts "
                f"{where[bool(adapter.invocation)]}, for task {pass_.task.name!r}, whose adapters "
                f"act {where[pass_.activated]}"
            )


def _check_file(path: Path, file: File, checksum: bool) -> None:
    if not path.is_file():
        raise OnepassError(f"{path} is missing; copy the set again, whole")
    found = path.stat().st_size
    if found != file.bytes:
        raise OnepassError(
            f"{path} has {found:,} bytes, but {MANIFEST} says {file.bytes:,}; copy it again"
        )
    if checksum and sha256(path) != file.sha256:
        raise OnepassError(
            f"{path} is not the file that {MANIFEST} describes: its SHA-256 differs; copy it again"
        )


def describe(folder: Path, place: str) -> dict[str, str | int]:
    """The fields of `File` for a file that has just been written."""
    path = folder / place
    return {"path": place, "bytes": path.stat().st_size, "sha256": sha256(path)}
