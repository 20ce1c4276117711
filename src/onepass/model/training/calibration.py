"""Training LC, LC++ and other calibrations (docs/calibration.md) on top of a frozen merge.

`initial_parameters` makes P1, P2 or p, one set per projection type; `calibration_effect` applies
them in every layer. They start without effect; once trained they are part of a pass and fold into
its LoRA (`onepass.adapters.passes.pass_delta`). Several passes can share one calibration, each on
its own merge: the shared variants of arXiv 2507.16083.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from onepass.adapters.activation import check_activation
from onepass.adapters.adapter import Adapter
from onepass.adapters.calibration import FORMS, OF_FACTORS, Calibration, Form, Kind
from onepass.adapters.factors import Factors, added_up, factor_shapes
from onepass.adapters.lora import projection_types
from onepass.adapters.passes import Pass, pass_factors, reach
from onepass.adapters.shape import check_adapter
from onepass.core.errors import OnepassError
from onepass.core.registry import unknown
from onepass.model.attach import Effect, add_lowrank, altered, merged
from onepass.model.frozen import frozen
from onepass.model.load import Base
from onepass.model.tokens import (
    Encoded,
    encode_examples,
    mixed_batches,
    read_ahead,
    sorted_batches,
)
from onepass.model.training.fit import OnStep, fit
from onepass.model.training.objective import (
    batch_parts,
    fingerprint,
    low_dtype,
    low_weights,
    rows_loss,
)
from onepass.model.training.options import TrainOptions
from onepass.tasks.example import Example

Trained = dict[str, dict[str, nn.Parameter]]
"""A calibration's tensors while they train: by projection type, by name."""
Batch = tuple[int, list[Encoded]]
"""A batch for the pass of that number."""


def train_calibration(
    base: Base,
    passes: Sequence[Pass],
    examples: Sequence[Sequence[Example]],
    validation: Sequence[Sequence[Example]] = (),
    *,
    kind: Kind = "lc++",
    form: Form | None = None,
    rank: int = 4,
    options: TrainOptions | None = None,
    state_dir: Path | str | None = None,
    progress: bool = True,
    on_step: OnStep | None = None,
) -> Calibration:
    """A calibration of `kind`, shared by `passes`, trained on `examples[i]` for `passes[i]`.

    The base and each pass's merged adapters stay frozen. `form` defaults to "output" for lc;
    `rank` is for lc++ only. A core fits passes whose adapters have the same ranks. The result is
    float32, on the CPU.
    State, resuming and errors are those of `fit`; the base is always left as it was.
    """
    options = options or TrainOptions()
    if kind not in FORMS:
        raise unknown("calibration kind", kind, list(FORMS))
    form = form or FORMS[kind][0]
    validation = validation or [[] for _ in passes]
    _check(base, passes, examples, validation, form)
    rows, held_out = (
        [
            encode_examples(base, p.task, some, p.shots, options.max_tokens)
            for p, some in zip(passes, data, strict=True)
        ]
        for data in (examples, validation)
    )
    trained = initial_parameters(base, passes, kind, form, rank, options.seed)
    low = low_dtype(base, options)
    merges = _Merges(base, passes, form, trained, low)
    parts = batch_parts(base)

    def loss_on_merge(batch: Batch) -> tuple[Tensor, int]:
        rows = read_ahead(base, batch[1], low, merges.bare)
        merges.use(batch[0])
        return rows_loss(base, rows)

    def in_order() -> list[Batch]:
        return [
            (i, batch)
            for i, some in enumerate(held_out)
            for batch in sorted_batches(some, options.batch_size)
        ]

    with frozen(base.model), low_weights(base, options), merges:
        history = fit(
            {f"{proj}.{name}": p for proj, parts in trained.items() for name, p in parts.items()},
            loss_on_merge,
            lambda epoch: mixed_batches(rows, options.batch_size, f"{options.seed}/{epoch}"),
            in_order(),
            options,
            state_dir,
            progress,
            on_step,
            {
                "trains": kind, "form": form, "rank": rank, "base": base.identity,
                "tasks": [pass_.task.name for pass_ in passes],
                "adapters": [
                    [[w.adapter.name, w.weight, _size(w.adapter)] for w in pass_.adapters]
                    for pass_ in passes
                ],
                "data": fingerprint(*rows, *held_out),
            },
            title=f"{kind} {passes[0].task.name if len(passes) == 1 else f'{len(passes)} tasks'}",
            parts=lambda batch: [(batch[0], part) for part in parts(batch[1])],
        )  # fmt: skip
    return Calibration(
        kind,
        form,
        {
            proj: {name: p.detach().to("cpu", copy=True) for name, p in parts.items()}
            for proj, parts in trained.items()
        },
        history,
    )


def _size(adapter: Adapter) -> float:
    """A number that differs between adapters of one name, for a saved state to compare."""
    return sum(
        float(lora.up.double().square().sum() * lora.down.double().square().sum())
        for lora in adapter.modules.values()
    )


class _Merges:
    """The base with the calibration and the merge of one pass at a time.

    Changing the pass folds the weights again: about 1 % of a training step at real sizes, and
    memory for one merge, however many passes there are. dtype: of the merged weights.
    """

    def __init__(
        self,
        base: Base,
        passes: Sequence[Pass],
        form: Form,
        trained: Trained,
        dtype: torch.dtype | None,
    ) -> None:
        self._base, self._passes, self._dtype = base, passes, dtype
        self._form: Form = form
        self._trained = trained
        self._current: int | None = None
        self._stack = ExitStack()

    def use(self, number: int) -> None:
        if number == self._current:
            return
        self._leave()
        self._stack.enter_context(
            calibrated(self._base, self._passes[number], self._form, self._trained, self._dtype)
        )
        self._current = number

    @contextmanager
    def bare(self) -> Iterator[None]:
        """The bare base, which it stays: `use` puts a merge on it again."""
        self._leave()
        yield

    def _leave(self) -> None:
        self._current = None
        self._stack.close()

    def __enter__(self) -> None: ...

    def __exit__(self, *error: object) -> None:
        self._leave()


@contextmanager
def calibrated(
    base: Base, pass_: Pass, form: Form, trained: Trained, dtype: torch.dtype | None = None
) -> Iterator[None]:
    """The base with the pass merged in, and the calibration that trains on what it reaches.

    dtype: of the merged weights.
    """
    types = projection_types(reach(pass_, base.shape), trained)
    factors: dict[str, Factors] = {}
    if form in OF_FACTORS:
        for module, each in pass_factors(pass_, types).items():
            factors[module] = each.to(base.model.get_submodule(module).weight.device)
    effects = {
        module: calibration_effect(form, trained[type_], factors.get(module))
        for module, type_ in types.items()
    }
    with merged(base, pass_, dtype), altered(base, effects):
        yield


def initial_parameters(
    base: Base, passes: Sequence[Pass], kind: Kind, form: Form, rank: int, seed: int
) -> Trained:
    """Parameters without effect: 0, but P1 ("down") of LC++, which is uniform in ±1/√in."""
    if rank < 1:
        raise OnepassError(f"rank is {rank}; it must be at least 1")
    shapes = base.shape.projections()
    types = [projection_types(reach(pass_, base.shape), shapes) for pass_ in passes]
    reached = {type_ for each in types for type_ in each.values()}
    of_factors = _shapes_of_factors(form, passes, types) if form in ("core", "weights") else {}
    random_ = torch.Generator().manual_seed(seed)
    tensors: dict[str, dict[str, Tensor]] = {}
    for proj, (out, in_) in shapes.items():
        if proj not in reached:
            continue
        if kind == "lc++":
            down = torch.empty(rank, in_).uniform_(-1, 1, generator=random_) / in_**0.5
            tensors[proj] = {"down": down, "up": torch.zeros(out, rank)}
        elif of_factors:
            tensors[proj] = {form: torch.zeros(of_factors[proj])}
        else:
            names = ("gain", "bias") if kind == "lc-gain" else ("bias",)
            tensors[proj] = {name: torch.zeros(out) for name in names}
    Calibration(kind, form, tensors)  # refuses a kind or form there is not
    return {
        proj: {name: nn.Parameter(t.to(base.device)) for name, t in parts.items()}
        for proj, parts in tensors.items()
    }


def _shapes_of_factors(
    form: Form, passes: Sequence[Pass], types: Sequence[dict[str, str]]
) -> dict[str, tuple[int, ...]]:
    """The shape of a core, or of cat's weights, by projection type; one for all passes."""
    shapes: dict[str, tuple[int, ...]] = {}
    for pass_, of_modules in zip(passes, types, strict=True):
        adapters = [weighted.adapter for weighted in pass_.adapters]
        for type_, shape in factor_shapes(form, adapters, of_modules).items():
            if shapes.setdefault(type_, shape) != shape:
                raise OnepassError(
                    f"the {form} of {type_} would be {shapes[type_]} for {passes[0].task}, and "
                    f"{shape} for {pass_.task}; calibrate them apart, or with lc++"
                )
    return shapes


def calibration_effect(
    form: Form, parts: dict[str, nn.Parameter], factors: Factors | None = None
) -> Effect:
    """From y of the merge to y + p, y + p Σx, y + P2 P1 x, ..., by `form`: as training computes it.

    factors: those of the adapters in the module, for the forms that act on them.
    """
    if form == "output":
        bias = parts["bias"]
        return lambda y, x: y + bias.to(y)
    if form == "column":
        bias = parts["bias"]
        return lambda y, x: torch.addcmul(y, x.sum(-1, keepdim=True).to(y.dtype), bias.to(y))
    if form == "lowrank":
        return lambda y, x: add_lowrank(y, x, parts["down"], parts["up"])
    assert factors is not None
    down = factors.down

    def effect(y: Tensor, x: Tensor) -> Tensor:
        y = add_lowrank(y, x, down, added_up(form, parts, factors))
        return y + parts["bias"].to(y) if "bias" in parts else y

    return effect


def _check(
    base: Base,
    passes: Sequence[Pass],
    examples: Sequence[Sequence[Example]],
    validation: Sequence[Sequence[Example]],
    form: Form,
) -> None:
    if not passes or not len(passes) == len(examples) == len(validation):
        raise OnepassError(
            f"{len(passes)} passes to calibrate, with examples for {len(examples)} and validation "
            f"for {len(validation)} of them; give one set of each per pass"
        )
    for pass_, some in zip(passes, examples, strict=True):
        if pass_.calibration is not None:
            raise OnepassError(f"the pass for {pass_.task} is calibrated already")
        adapters = [weighted.adapter for weighted in pass_.adapters]
        check_activation(pass_.task.name, pass_.task.activate, adapters)
        if form in OF_FACTORS and not adapters:
            raise OnepassError(f"a calibration of {form} acts on adapters; {pass_.task} has none")
        if not some:
            raise OnepassError(f"there are no examples of {pass_.task} to calibrate on")
        for adapter in adapters:
            check_adapter(adapter, base.shape)
