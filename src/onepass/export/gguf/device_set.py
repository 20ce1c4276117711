"""The device set: one base, each adapter once, and a manifest that says how to scale them."""

import hashlib
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from onepass import __version__
from onepass.adapters.adapter import Adapter, projection
from onepass.adapters.composition import Composition, Pass, check_base, pass_bias, reach
from onepass.adapters.storage import FolderFiles, check_replaceable
from onepass.core.errors import OnepassError
from onepass.core.files import atomic_folder, write_json
from onepass.export.gguf.adapter import calibration_adapter, write_lora
from onepass.export.gguf.architecture import Layout, architecture_of, layout_of
from onepass.export.gguf.base import stored_state, write_base
from onepass.export.gguf.compact import compact, expand
from onepass.export.gguf.fuse import fuse
from onepass.export.gguf.own import layout_in, stored_numbers, taken, usable
from onepass.export.gguf.tokenizer import normalization, unicode_form
from onepass.export.manifest import (
    MANIFEST,
    Activation,
    AdapterFile,
    BaseFile,
    CompositionEntry,
    File,
    Manifest,
    PassEntry,
    Role,
    describe,
)
from onepass.export.prompt import prompt_frame, samples
from onepass.export.single import WITHOUT_BIASES, refuse_activated
from onepass.export.types import tolerance, type_of_adapters, types_of_set
from onepass.export.vector import make_vectors
from onepass.model.activation import activation_of, invocation_of
from onepass.model.attach import folded
from onepass.model.load import Base
from onepass.tasks.task import Task

OWN_FILES = FolderFiles(MANIFEST, ("base-*.gguf", "adapters", "fused"))
Told = Callable[[str], None]


def export_gguf(
    compositions: Mapping[str, Composition],
    base: Base,
    folder: Path | str,
    base_type: str = "f16",
    adapter_type: str | None = None,
    *,
    own: Path | str | None = None,
    linked: bool = False,
    fused: bool = True,
    merged: bool = False,
    vectors: bool = False,
    compactly: bool = False,
    told: Told = lambda what: None,
) -> Manifest:
    """Write a device set of named compositions of one base; whole or not at all.

    base_type, adapter_type: of the files, see `types.types_of_set`.
    own: a GGUF file of that base, which is then the set's base as it is; `base_type` is ignored.
        It is copied into the set, or, if `linked`, stays where it is.
    fused: also write each composition as one adapter, for runtimes that take only one.
    merged: write one base with the only composition summed in, and no adapters; always so where
        it has biases, which no adapter holds.
    vectors: also compute what PyTorch says of a prompt, for `pack verify`.
    compactly: store what blocks share once, as `Engine` reads it and plain llama.cpp does not.
    told: called with each file that is written next.
    Raises:
        OnepassError: a composition is for another base, shows examples in its prompt, or is not
            alone though it must be summed into the base; the base is not supported; a number does
            not fit the type; or the folder cannot be written.
    """
    folder = Path(folder)
    check_replaceable(folder, OWN_FILES)
    for composition in compositions.values():
        _check(composition, base, merged, alone=len(compositions) == 1)
    if own is None:
        base_type, adapter_type = types_of_set(base_type, adapter_type)
        layout, form = layout_of(base.model.config), normalization(base)
        to_fold = _to_fold(compositions, base, merged)
    else:
        file = usable(own, folder, compositions, base, merged, linked)
        layout = layout_in(file, base, _changed(compositions, base))
        form, to_fold = unicode_form(base), None
        base_type = file.facts["type"]
        adapter_type = type_of_adapters(base_type, adapter_type)
    prompt = prompt_frame(base, form)
    tasks = _tasks(compositions)
    systems = {task.system: prompt_frame(base, form, task.system) for task in tasks if task.system}
    activations = [_activation(base, task) for task in tasks if task.activate]
    if not base.tokenizer.chat_template:
        told(
            f"{base.name} has no chat template: a prompt is the instruction, an empty line, the "
            "text and an empty line"
        )
    with atomic_folder(folder) as temporary:
        with nullcontext() if to_fold is None else folded(base, to_fold):
            if own is None:
                base_file = _converted(base, temporary, base_type, to_fold is not None, told)
                numbers = partial(stored_state, base, base_type)
            else:
                base_file = taken(file, base, temporary, linked, told)
                numbers = partial(stored_numbers, file, base, layout)
            # What is in the base must not be put on it again.
            left = {
                name: each if to_fold is None else replace(each, passes=(_bare(to_fold),))
                for name, each in compositions.items()
            }
            allowed = tolerance(base_type, [adapter_type])
            known = vectors and (own is None or not file.unread)
            made = make_vectors(base, left, numbers, adapter_type, allowed) if known else []
        writer = _AdapterWriter(temporary, base, layout, adapter_type, compactly, told)
        entries = [writer.entry(name, each, fused) for name, each in left.items()]
        if to_fold is not None:
            cost = {"marginal_bytes": base_file.bytes}  # another one takes another base
            entries = [entry.model_copy(update=cost) for entry in entries]
        manifest = Manifest(
            onepass=__version__,
            base=base_file,
            adapters=list(writer.files.values()),
            compositions=entries,
            prompt=prompt,
            systems=dict(sorted(systems.items())),
            activations=activations,
            samples=samples(base) if vectors else [],
            vectors=made,
        )
        write_json(temporary / MANIFEST, manifest.model_dump())
    return manifest


def _converted(base: Base, folder: Path, base_type: str, merged: bool, told: Told) -> BaseFile:
    """Write the base anew, with what is folded into it."""
    place = f"base-{base_type}.gguf"
    told(place)
    write_base(base, folder / place, base_type)
    return BaseFile(
        **describe(folder, place),  # type: ignore[arg-type]
        name=base.name,
        architecture=architecture_of(base.model.config).name,
        type=base_type,
        vocabulary=base.model.config.vocab_size,
        context=base.context,
        blocks=base.model.config.num_hidden_layers,
        merged=merged,
    )


def _changed(compositions: Mapping[str, Composition], base: Base) -> set[str]:
    """The layers that some pass changes."""
    passes = [pass_ for each in compositions.values() for pass_ in each.passes]
    reached = [
        module
        for pass_ in passes
        if pass_.adapters or pass_.calibration
        for module in reach(pass_, base.shape)
    ]
    return set(reached)


def _check(composition: Composition, base: Base, merged: bool, alone: bool) -> None:
    check_base(composition, base.shape)
    if merged:
        refuse_activated(composition, "a base that it is summed into", "leave out --merged")
    if merged and not (alone and len(composition.passes) == 1):
        raise OnepassError(
            "a merged base holds one composition, of one pass; "
            f"found {'several' if not alone else f'one of {len(composition.passes)} passes'}: "
            "write a set for each, or leave out --merged"
        )
    for pass_ in composition.passes:
        if pass_.shots:
            raise OnepassError(
                f"the composition for {composition.task} shows {len(pass_.shots)} solved examples "
                "in its prompt, which a device set does not hold; calibrate a composition instead"
            )
        if pass_.task.activate and pass_bias(pass_, base.shape):
            refuse_activated(
                composition, "a base with its biases", f"calibrate with {WITHOUT_BIASES}"
            )
        if pass_bias(pass_, base.shape) and not (alone and len(composition.passes) == 1):
            raise OnepassError(
                f"the composition for {composition.task} has output biases, which no LoRA holds: "
                "they can be folded into a base of its own (export it alone), or calibrate "
                f"with {WITHOUT_BIASES}"
            )


def _to_fold(compositions: Mapping[str, Composition], base: Base, merged: bool) -> Pass | None:
    """The pass that is summed into the base, if there is one: with `merged`, or with biases."""
    allowed = architecture_of(base.model.config).biases
    for pass_ in (pass_ for composition in compositions.values() for pass_ in composition.passes):
        biased = pass_bias(pass_, base.shape)
        for module in biased:
            if projection(module) not in allowed:
                raise OnepassError(
                    f"{module} of {base.name} has no place for a bias in llama.cpp's "
                    f"{base.model.config.model_type}; calibrate with {WITHOUT_BIASES} instead"
                )
        if biased or merged:
            return pass_
    return None


def _tasks(compositions: Mapping[str, Composition]) -> list[Task]:
    """What may be run, each prompt once: the passes, the task, and its parts alone."""
    tasks = [
        task
        for each in compositions.values()
        for task in (each.task, *each.task.parts, *(pass_.task for pass_ in each.passes))
    ]
    asked = {(task.system, task.message("{text}"), task.activate): task for task in tasks}
    return list(asked.values())


def _activation(base: Base, task: Task) -> Activation:
    found = activation_of(base.tokenizer, task)
    return Activation(
        system=task.system,
        prompt=task.message("{text}"),
        tail=list(found.tail),
        invocation=list(found.invocation),
    )


def _bare(pass_: Pass) -> Pass:
    return replace(pass_, adapters=(), calibration=None)


@dataclass
class _AdapterWriter:
    """Writes the adapters of a set, each content once; `files` are those written, by digest."""

    folder: Path
    base: Base
    layout: Layout
    type: str
    compactly: bool
    told: Told
    files: dict[str, AdapterFile] = field(default_factory=dict)
    fused: list[str] = field(default_factory=list)
    counted: set[str] = field(default_factory=set)

    def entry(self, name: str, composition: Composition, fused: bool) -> CompositionEntry:
        """Write what a composition needs that is not here yet; its entry in the manifest."""
        passes = [self._pass(name, pass_) for pass_ in composition.passes]
        new = {
            file.name: file.bytes
            for file in self.files.values()
            if file.role != "task" and any(file.name in p.scales for p in passes)
        }
        marginal = sum(size for file, size in new.items() if file not in self.counted)
        self.counted |= set(new)
        return CompositionEntry(
            name=name,
            task=composition.task,
            method=composition.method,
            passes=passes,
            parts=self._parts(composition),
            marginal_bytes=marginal,
            fused=self._fused(name, passes) if fused else None,
        )

    def _pass(self, name: str, pass_: Pass) -> PassEntry:
        scales: dict[str, float] = {}
        for weighted in pass_.adapters:
            file = self._place(weighted.adapter, "stored" if weighted.stored else "task")
            scales[file.name] = scales.get(file.name, 0.0) + weighted.weight
        calibration = calibration_adapter(name, pass_, self.base.shape)
        if calibration is not None:
            invocation = invocation_of(self.base.tokenizer, pass_.task)
            calibration = replace(calibration, invocation=invocation)
            scales[self._place(calibration, "calibration").name] = 1.0
        return PassEntry(
            task=pass_.task,
            scales=scales,
        )

    def _place(self, adapter: Adapter, role: Role) -> AdapterFile:
        key = _digest(adapter)
        if key not in self.files:
            name = _free(file_name(adapter.name), [file.name for file in self.files.values()])
            place = f"adapters/{name}.gguf"
            self.told(place)
            (self.folder / "adapters").mkdir(exist_ok=True)
            write_lora(replace(adapter, name=name), self.layout, self.folder / place, self.type)
            compacted = self.compactly and compact(self.folder / place)
            self.files[key] = AdapterFile(
                **describe(self.folder, place),  # type: ignore[arg-type]
                name=name,
                role=role,
                rank=max(lora.rank for lora in adapter.modules.values()),
                compact=compacted,
                invocation=list(adapter.invocation),
            )
        return self.files[key]

    def _parts(self, composition: Composition) -> dict[str, str]:
        """The adapter of each single task, by the adapters' cards, else in the task's order."""
        wanted = [part.name for part in composition.task.parts]
        given = [w.adapter for p in composition.passes for w in p.adapters if not w.stored]
        given = list({_digest(adapter): adapter for adapter in given}.values())
        if len(given) != len(wanted) or any(_digest(a) not in self.files for a in given):
            return {}
        told = [adapter.task_name for adapter in given]
        tasks = told if sorted(map(str, told)) == sorted(wanted) else wanted
        names = {task: self.files[_digest(a)].name for task, a in zip(tasks, given, strict=True)}
        return {part: names[part] for part in wanted}

    def _fused(self, name: str, passes: Sequence[PassEntry]) -> File | None:
        """The whole pass as one adapter; None for several passes, or none with an adapter."""
        pass_, scales = passes[0], passes[0].scales
        if len(passes) > 1 or not any(scales.values()):
            return None
        free = _free(file_name(name), self.fused)
        self.fused.append(free)
        place = f"fused/{free}.gguf"
        self.told(place)
        (self.folder / "fused").mkdir(exist_ok=True)
        # Of the files, not of the composition: each adapter keeps the rounding it has by itself.
        sources = []
        with tempfile.TemporaryDirectory(dir=self.folder) as temporary:
            for number, file in enumerate(f for f in self.files.values() if f.name in scales):
                path = self.folder / file.path
                if file.compact:
                    path = Path(temporary, f"{number}.gguf")
                    expand(self.folder / file.path, path, self.layout.blocks)
                sources.append((path, scales[file.name]))
            invocation = invocation_of(self.base.tokenizer, pass_.task)
            fuse(sources, self.folder / place, self.layout.architecture, name, invocation)
        return File(**describe(self.folder, place))  # type: ignore[arg-type]


def _digest(adapter: Adapter) -> str:
    digest = hashlib.sha256(str(adapter.invocation).encode())
    for module in sorted(adapter.modules):
        lora = adapter.modules[module]
        digest.update(f"{module} {lora.shape} {lora.rank}".encode())
        for factor in (lora.down, lora.up):
            digest.update(factor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def file_name(name: str) -> str:
    """`name` for any file system: characters but letters, digits and ".+-_" become dashes."""
    return re.sub(r"[^\w.+-]+", "-", name).strip(".-") or "unnamed"


def _free(name: str, taken: Iterable[str]) -> str:
    """The name, numbered if it is taken, in capitals or not."""
    folded = {each.casefold() for each in taken}
    number, free = 1, name
    while free.casefold() in folded:
        number += 1
        free = f"{name}-{number}"
    return free
