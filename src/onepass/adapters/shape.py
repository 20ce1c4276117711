"""The shape of a base model, and the checks that an adapter or a calibration fits it."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from onepass.adapters.calibration import Calibration
from onepass.adapters.lora import Adapter, projection, projection_type, sized, within_layer
from onepass.adapters.naming import compare_bases, rename_modules, warn_unknown
from onepass.core.errors import OnepassError
from onepass.core.registry import unknown


@dataclass(frozen=True)
class BaseShape:
    """A base's name, and the (out, in) of each linear layer that adapters may change.

    modules: by Hugging Face path, such as "model.layers.0.self_attn.q_proj".
    """

    name: str
    modules: dict[str, tuple[int, int]]

    def projections(self) -> dict[str, tuple[int, int]]:
        """(out, in) per projection type, in order of appearance: what a calibration is shared by.

        A type is called by the last part of its modules' paths, such as "q_proj". Modules of one
        name in different places of a layer are of different types, called by place (LFM2's
        "self_attn.out_proj" and "conv.out_proj"); so are modules of different shapes, called by
        both (Gemma 4's "self_attn.q_proj@2048x1536" and "self_attn.q_proj@4096x1536").
        """
        types = dict.fromkeys((within_layer(m), shape) for m, shape in self.modules.items())
        names = Counter(projection(place) for place, _ in types)
        places = Counter(place for place, _ in types)
        found: dict[str, tuple[int, int]] = {}
        for place, shape in types:
            name = projection(place)
            if names[name] > 1:
                name = place if places[place] == 1 else sized(place, shape)
            found[name] = shape
        return found

    def targets(self, names: Sequence[str] | None = None) -> list[str]:
        """The modules whose path is or ends with one of the `names`; None: all modules.

        Raises:
            OnepassError: a name fits no module, or there are no names.
        """
        if names is None:
            return list(self.modules)
        for name in names:
            if not any(f".{module}".endswith(f".{name}") for module in self.modules):
                known = dict.fromkeys(map(projection, self.modules))
                raise unknown(f"target module of base {self.name}", name, list(known))
        if not names:
            raise OnepassError("no target modules are given; name at least one, such as q_proj")
        endings = tuple(f".{name}" for name in names)
        return [module for module in self.modules if f".{module}".endswith(endings)]


def for_base(adapter: Adapter, base: BaseShape) -> Adapter:
    """The adapter with its modules under the names they have in the base, checked against it.

    An adapter trained on another class of the same model (multimodal, or without a head) has other
    prefixes before the same layers; see `naming.layer_name`.

    Raises:
        OnepassError: as `check_adapter`, or the adapter has one layer under two names.
    """
    found = _renamed(adapter, base.modules)
    check_adapter(found, base)
    # What is stored with it later names one base, on every machine.
    return replace(found, base=base.name) if found.base not in (None, base.name) else found


def aligned(adapters: Iterable[Adapter]) -> list[Adapter]:
    """Adapters with one name for one layer: the one in the first that has it."""
    known: dict[str, None] = {}
    found = []
    for adapter in adapters:
        found.append(_renamed(adapter, known))
        known |= dict.fromkeys(found[-1].modules)
    return found


def _renamed(adapter: Adapter, known: Iterable[str]) -> Adapter:
    names = rename_modules(adapter.modules, known, f"adapter {adapter.name!r}")
    if all(old == new for old, new in names.items()):
        return adapter
    return replace(adapter, modules={names[m]: lora for m, lora in adapter.modules.items()})


def check_adapter(adapter: Adapter, base: BaseShape) -> None:
    """Refuse an adapter for another base: by its name if both are known, and by its shapes."""
    verdict = compare_bases(adapter.base, base.name) if adapter.base else "same"
    if verdict == "different":
        raise OnepassError(
            f"adapter {adapter.name!r} was trained on base {adapter.base}, not on {base.name}; "
            "load that base, or, if the two are one model under two names, change "
            "base_model_name_or_path in its adapter_config.json"
        )
    foreign = [module for module in adapter.modules if module not in base.modules]
    if foreign:
        raise OnepassError(
            f"adapter {adapter.name!r} changes {some(foreign)}, which base {base.name} does not "
            f"have; the layers that can be changed there are {some(base.modules)}"
        )
    for module, lora in adapter.modules.items():
        shape = base.modules[module]
        if shape != lora.shape:
            raise OnepassError(
                f"adapter {adapter.name!r}: {module} is {lora.shape} (out, in), but in base "
                f"{base.name} it is {shape}; it was trained on another base"
            )
    if verdict == "unknown":
        warn_unknown(f"adapter {adapter.name!r}", str(adapter.base), base.name)


def some(modules: Iterable[str], count: int = 3) -> str:
    """The first few of a list of modules, and how many more there are."""
    names = list(modules)
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more


def check_calibration(calibration: Calibration, base: BaseShape) -> None:
    """Refuse a calibration whose projection types or shapes are not those of the base."""
    unknown_types = dict.fromkeys(calibration.tensors)
    for module, (out, in_) in base.modules.items():
        name = projection_type(module, (out, in_), calibration.tensors)
        if name is None:
            continue
        unknown_types.pop(name, None)
        found = {part: tuple(t.shape) for part, t in calibration.tensors[name].items()}
        if calibration.kind == "lc++":
            fits = (found["up"][0], found["down"][1]) == (out, in_)
        elif calibration.kind in ("lc", "lc-gain"):
            fits = all(shape == (out,) for shape in found.values())
        else:  # a matter of the adapters, see `factors.check_factors`
            fits = True
        if not fits:
            raise OnepassError(
                f"calibration of {name}: {found} does not fit base {base.name}, "
                f"whose {module} is {(out, in_)} (out, in)"
            )
    for name in unknown_types:
        raise OnepassError(
            f"calibration of {name}: base {base.name} has {', '.join(base.projections()) or 'none'}"
        )


def check_same(made_for: BaseShape, found: BaseShape) -> None:
    """Refuse the base `found` for what was made for another base: by name, then by shape."""
    verdict = compare_bases(made_for.name, found.name)
    if verdict == "different":
        raise OnepassError(
            f"made for base {made_for.name}, but the base given is {found.name}; "
            "load that base, or make the composition again for this one"
        )
    for module, ours, theirs in _differences(made_for, found):
        raise OnepassError(
            f"made for base {made_for.name} whose {module} is {ours or 'absent'}, but in the base "
            f"given it is {theirs or 'absent'} (out, in); load the base it was made for"
        )
    if verdict == "unknown":
        warn_unknown("the composition", made_for.name, found.name)


def _differences(
    one: BaseShape, other: BaseShape
) -> Iterator[tuple[str, tuple[int, int] | None, tuple[int, int] | None]]:
    for module in dict.fromkeys([*one.modules, *other.modules]):
        ours, theirs = one.modules.get(module), other.modules.get(module)
        if ours != theirs:
            yield module, ours, theirs
