"""The shape of a base model, all that adapters need to know of it; and what fits which."""

from collections.abc import Iterator
from dataclasses import dataclass

from onepass.adapters.adapter import Adapter, projection, same_base
from onepass.adapters.calibration import Calibration
from onepass.core.errors import OnepassError


@dataclass(frozen=True)
class BaseShape:
    """A base's name and the (out, in) of each linear layer that adapters may change.

    modules: by Hugging Face path, such as "model.layers.0.self_attn.q_proj".
    """

    name: str
    modules: dict[str, tuple[int, int]]

    def projections(self) -> dict[str, tuple[int, int]]:
        """(out, in) per projection type, in order of appearance.

        Raises:
            OnepassError: a projection's shape differs between layers, so that no calibration can
                be shared by them.
        """
        shapes: dict[str, tuple[int, int]] = {}
        for module, shape in self.modules.items():
            known = shapes.setdefault(projection(module), shape)
            if known != shape:
                raise OnepassError(
                    f"base {self.name}: {module} is {shape}, but other layers' "
                    f"{projection(module)} is {known} (out, in); "
                    "a calibration shared over layers needs equal shapes"
                )
        return shapes


def check_adapter(adapter: Adapter, base: BaseShape) -> None:
    """Refuse an adapter for another base: by name, where it says one, or by shape."""
    if adapter.base is not None and not same_base(adapter.base, base.name):
        raise OnepassError(
            f"adapter {adapter.name!r} was trained on base {adapter.base}, not on {base.name}; "
            "load that base, or, if the two are one model under two names, change "
            "base_model_name_or_path in its adapter_config.json"
        )
    for module, lora in adapter.modules.items():
        shape = base.modules.get(module)
        if shape is None:
            raise OnepassError(
                f"adapter {adapter.name!r} changes {module}, which is none of the "
                f"{len(base.modules)} layers that can be changed in base {base.name}"
            )
        if shape != lora.shape:
            raise OnepassError(
                f"adapter {adapter.name!r}: {module} is {lora.shape} (out, in), but in base "
                f"{base.name} it is {shape}; it was trained on another base"
            )


def check_calibration(calibration: Calibration, base: BaseShape) -> None:
    """Refuse a calibration whose projections or shapes are not those of the base."""
    shapes = base.projections()
    for name, parts in calibration.tensors.items():
        if name not in shapes:
            raise OnepassError(
                f"calibration of {name}: base {base.name} has {', '.join(shapes) or 'none'}"
            )
        out, in_ = shapes[name]
        found = {part: tuple(tensor.shape) for part, tensor in parts.items()}
        fits = (
            found["bias"] == (out,)
            if calibration.kind == "lc"
            else (found["up"][0], found["down"][1]) == (out, in_)
        )
        if not fits:
            raise OnepassError(
                f"calibration of {name}: {found} does not fit base {base.name}, "
                f"whose {name} is {(out, in_)} (out, in)"
            )


def check_same(made_for: BaseShape, found: BaseShape) -> None:
    """Refuse the base `found` where something was made for another: by name, then by shape."""
    if not same_base(made_for.name, found.name):
        raise OnepassError(
            f"made for base {made_for.name}, but the base given is {found.name}; "
            "load that base, or make the composition again for this one"
        )
    for module, ours, theirs in _differences(made_for, found):
        raise OnepassError(
            f"made for base {made_for.name} whose {module} is {ours or 'absent'}, but in the base "
            f"given it is {theirs or 'absent'} (out, in); load the very base it was made for"
        )


def _differences(
    one: BaseShape, other: BaseShape
) -> Iterator[tuple[str, tuple[int, int] | None, tuple[int, int] | None]]:
    for module in dict.fromkeys([*one.modules, *other.modules]):
        ours, theirs = one.modules.get(module), other.modules.get(module)
        if ours != theirs:
            yield module, ours, theirs
