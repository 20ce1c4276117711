"""Compositions: what they compute, cost, hold on disk, and refuse."""

import errno
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from adapter_kit import (
    dense_sum,
    random_adapter,
    random_calibration,
    same_numbers,
    same_tensor,
    small_base,
)
from onepass.adapters import storage
from onepass.adapters.adapter import Adapter, adapter_bytes, projection
from onepass.adapters.calibration import Calibration, Form
from onepass.adapters.composition import (
    BaseShape,
    Composition,
    Pass,
    Weighted,
    check_base,
    cost,
    load_composition,
    pass_bias,
    pass_delta,
    save_composition,
)
from onepass.adapters.lora import projection_type, within_layer
from onepass.core.errors import OnepassError
from onepass.tasks.book import parse_task

FORMS: list[Form] = ["output", "column", "lowrank"]
TASK = "summarize+translate:es"


def calibrated(form: Form | None = "lowrank", **options: Any) -> Pass:
    adapters = (Weighted(random_adapter(0), 0.5), Weighted(random_adapter(1, rank=2), 0.5))
    return Pass(parse_task(TASK), adapters, random_calibration(form) if form else None, **options)


def composed(*passes: Pass) -> Composition:
    return Composition(
        small_base(), parse_task(TASK), passes or (calibrated(),), "lc++", {"seed": 1}
    )


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_composition(composed(), tmp_path / "c")
    return tmp_path / "c"


def change_manifest(folder: Path, change: Any) -> None:
    manifest = json.loads((folder / "composition.json").read_text())
    change(manifest)
    (folder / "composition.json").write_text(json.dumps(manifest))


# ------------------------------------------------------------------ what a pass computes


@pytest.mark.parametrize("form", FORMS)
def test_a_pass_computes_what_the_definitions_say(form: Form) -> None:
    pass_ = calibrated(form)
    assert pass_.calibration is not None
    deltas, biases = pass_delta(pass_), pass_bias(pass_)
    for module, (_, in_) in small_base().modules.items():
        x = torch.randn(5, in_, dtype=torch.float64)
        loras = [w.adapter.modules[module] for w in pass_.adapters]
        parts = pass_.calibration.tensors[projection(module)]
        expected = x @ dense_sum(loras, [0.5, 0.5]).T
        if form == "output":
            expected = expected + parts["bias"]
        elif form == "column":
            expected = expected + x.sum(1, keepdim=True) * parts["bias"]
        else:
            expected = expected + x @ (parts["up"].double() @ parts["down"].double()).T
        found = x @ deltas[module].delta().double().T
        if module in biases:
            found = found + biases[module]
        assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert bool(biases) == (form == "output")


def test_a_pass_without_adapters_computes_nothing() -> None:
    assert pass_delta(Pass(parse_task(TASK))) == {}
    assert pass_bias(Pass(parse_task(TASK))) == {}


def test_adapters_of_different_modules_add_up_where_they_meet() -> None:
    whole = random_adapter(0)
    first = Adapter("first", dict(list(whole.modules.items())[:4]))
    last = Adapter("last", dict(list(whole.modules.items())[2:]))
    deltas = pass_delta(Pass(parse_task(TASK), (Weighted(first), Weighted(last))))
    for i, (module, lora) in enumerate(whole.modules.items()):
        times = 2 if i in (2, 3) else 1
        assert torch.allclose(deltas[module].delta(), times * lora.delta(), atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_a_calibration_alone_acts_on_the_whole_base(form: Form) -> None:
    pass_ = Pass(parse_task(TASK), calibration=random_calibration(form))
    with pytest.raises(OnepassError, match="give the base's shape"):
        _ = pass_delta(pass_) or pass_bias(pass_)
    found = {**pass_delta(pass_, small_base()), **pass_bias(pass_, small_base())}
    assert found.keys() == small_base().modules.keys()


@pytest.mark.parametrize("form", FORMS)
def test_calibrations_can_be_trained_through_a_pass(form: Form) -> None:
    calibration = random_calibration(form)
    for parts in calibration.tensors.values():
        for tensor in parts.values():
            tensor.requires_grad_()
    pass_ = Pass(parse_task(TASK), (Weighted(random_adapter(0)),), calibration)
    changes = [lora.delta() for lora in pass_delta(pass_).values()]
    changes += pass_bias(pass_).values()
    torch.autograd.backward([change.square().sum() for change in changes if change.requires_grad])
    for parts in calibration.tensors.values():
        for tensor in parts.values():
            assert tensor.grad is not None
            assert tensor.grad.abs().sum() > 0


PLACES = ("self_attn.out_proj", "conv.out_proj", "mlp.experts.0.up_proj", "mlp.up_proj", "out_proj")


@given(
    st.dictionaries(
        st.tuples(st.integers(0, 3), st.sampled_from(PLACES)),
        st.sampled_from([(4, 4), (8, 4), (4, 8)]),
        min_size=1,
    )
)
def test_each_module_is_of_the_one_type_of_its_place_and_shape(
    layers: dict[tuple[int, str], tuple[int, int]],
) -> None:
    base = BaseShape("any", {f"layers.{i}.{place}": s for (i, place), s in layers.items()})
    types = base.projections()
    found: dict[str, set[tuple[str, tuple[int, int]]]] = {}
    for module, shape in base.modules.items():
        name = projection_type(module, shape, types)
        assert name is not None
        assert types[name] == shape
        found.setdefault(name, set()).add((within_layer(module), shape))
    assert found.keys() == types.keys()
    assert all(len(kinds) == 1 for kinds in found.values())


def test_a_type_of_a_file_from_before_places_told_types_apart_is_of_all_places() -> None:
    modules = {f"layers.{i}.{place}.out_proj": (3, 4) for i, place in enumerate(("conv", "attn"))}
    base = BaseShape("org/small", modules)
    old = Calibration("lc", "column", {"out_proj": {"bias": torch.arange(3.0)}})
    task = parse_task("summarize")
    composition = Composition(base, task, (Pass(task, (), old),), "lc-column")
    assert pass_delta(composition.passes[0], base).keys() == modules.keys()
    with pytest.raises(OnepassError, match=r"out_proj is \(5, 4\)"):
        Composition(BaseShape("x", modules | {"layers.2.conv.out_proj": (5, 4)}), task,
                    composition.passes, "lc-column")  # fmt: skip
    stray = Calibration("lc", "column", {"q_proj": {"bias": torch.arange(3.0)}})
    with pytest.raises(OnepassError, match=r"of q_proj: base org/small has conv.out_proj, attn"):
        Composition(base, task, (Pass(task, (), stray),), "lc-column")


# ------------------------------------------------------------------ on disk


def assert_same(one: Composition, other: Composition) -> None:
    assert (one.base, one.task, one.method, one.card) == (
        other.base,
        other.task,
        other.method,
        other.card,
    )
    assert len(one.passes) == len(other.passes)
    for a, b in zip(one.passes, other.passes, strict=True):
        assert (a.task, a.shots) == (b.task, b.shots)
        assert [(w.weight, w.stored, w.adapter.name, w.adapter.card) for w in a.adapters] == [
            (w.weight, w.stored, w.adapter.name, w.adapter.card) for w in b.adapters
        ]
        for v, w in zip(a.adapters, b.adapters, strict=True):
            assert same_numbers(v.adapter, w.adapter)
        assert (a.calibration is None) == (b.calibration is None)
        if a.calibration and b.calibration:
            assert (a.calibration.kind, a.calibration.form) == (
                b.calibration.kind,
                b.calibration.form,
            )
            for kind, parts in a.calibration.tensors.items():
                for part, tensor in parts.items():
                    assert same_tensor(tensor, b.calibration.tensors[kind][part])


passes = st.lists(
    st.builds(
        lambda task, adapters, form, shots: Pass(
            task,
            tuple(Weighted(random_adapter(s), w, stored) for s, w, stored in adapters),
            random_calibration(form) if form else None,
            tuple(shots),
        ),
        task=st.sampled_from(["reply", "tone:witty", TASK]).map(parse_task),
        adapters=st.lists(
            st.tuples(st.integers(0, 3), st.floats(-9, 9), st.booleans()), max_size=3
        ),
        form=st.sampled_from([None, *FORMS]),
        shots=st.lists(st.tuples(st.text(max_size=8), st.text(max_size=8)), max_size=2),
    ),
    min_size=1,
    max_size=3,
)


@given(passes=passes, dtype=st.sampled_from([None, torch.bfloat16]))
@settings(max_examples=25)
def test_saved_and_loaded_is_identical_and_costs_what_is_on_disk(
    passes: list[Pass], dtype: torch.dtype | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("compositions")
    composition = composed(*passes)
    save_composition(composition, folder / "one", dtype)
    loaded = load_composition(folder / "one")
    if dtype is None:
        assert_same(loaded, composition)
    save_composition(loaded, folder / "two")
    assert_same(load_composition(folder / "two"), loaded)

    assert cost(composition, dtype) == cost(loaded)
    extra = sum(path.stat().st_size for path in (folder / "one").glob("calibration-*"))
    manifest = json.loads((folder / "one" / "composition.json").read_text())
    weighted = [w for p in manifest["passes"] for w in p["adapters"]]
    extra += sum(
        adapter_bytes(folder / "one" / place)
        for place in {w["folder"] for w in weighted if w["stored"]}
    )
    assert cost(loaded).extra_bytes == extra


def test_what_passes_share_is_stored_and_counted_once(tmp_path: Path) -> None:
    calibration, expert = random_calibration("lowrank"), random_adapter(0)
    pass_ = Pass(parse_task(TASK), (Weighted(expert, stored=True),), calibration)
    composition = composed(pass_, pass_)
    save_composition(composition, tmp_path / "c")
    loaded = load_composition(tmp_path / "c")
    first, second = loaded.passes
    assert first.calibration is second.calibration
    assert first.adapters[0].adapter is second.adapters[0].adapter
    assert len(list((tmp_path / "c").rglob("*.safetensors"))) == 2
    assert cost(loaded) == cost(composition)
    assert cost(loaded).passes == 2
    expected = calibration.parameter_count + expert.parameter_count
    assert cost(loaded).extra_parameters == expected


def test_task_adapters_cost_nothing_extra() -> None:
    found = cost(composed(calibrated(form=None)))
    assert (found.passes, found.extra_parameters, found.extra_bytes) == (1, 0, 0)


def test_saving_over_a_composition_replaces_it_and_nothing_else(saved: Path) -> None:
    save_composition(composed(calibrated(form=None)), saved)
    assert load_composition(saved).passes[0].calibration is None
    (saved / "notes.txt").write_text("mine")
    with pytest.raises(OnepassError, match=r"holds notes\.txt, which saving here would delete"):
        save_composition(composed(), saved)
    (saved / "notes.txt").unlink()
    (saved / "composition.json").unlink()
    with pytest.raises(OnepassError, match="holds adapters, which saving here would delete"):
        save_composition(composed(), saved)


def test_a_full_disk_leaves_what_was_there(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Path] = []

    def full(tensors: Any, filename: Path, metadata: Any) -> None:
        if len(written) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(filename)
        save_file(tensors, filename, metadata)

    monkeypatch.setattr(storage, "save_file", full)
    with pytest.raises(OnepassError, match=r"cannot write .*c: No space left"):
        save_composition(
            Composition(small_base(), parse_task(TASK), (calibrated(),), "other"), saved
        )
    assert [path.name for path in saved.parent.iterdir()] == ["c"]
    assert_same(load_composition(saved), composed())


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OnepassError, match=r"cannot write .*file/c"):
        save_composition(composed(), tmp_path / "file" / "c")
    with pytest.raises(OnepassError, match=r"cannot write .*file"):
        save_composition(composed(), tmp_path / "file")
    assert (tmp_path / "file").read_text() == "in the way"


# ------------------------------------------------------------------ bad folders


@pytest.mark.parametrize("place", ["../outside", "/outside", "adapters/../../outside", "link"])
@pytest.mark.parametrize("what", ["adapters", "calibration"])
def test_a_manifest_may_not_reach_outside_its_folder(saved: Path, place: str, what: str) -> None:
    outside = saved.parent / "outside"
    source = saved / ("adapters/0" if what == "adapters" else "calibration-0.safetensors")
    shutil.move(source, outside)
    (saved / "link").symlink_to(outside)
    place = str(outside) if place == "/outside" else place

    def change(manifest: dict[str, Any]) -> None:
        pass_ = manifest["passes"][0]
        if what == "adapters":
            pass_["adapters"][0]["folder"] = place
        else:
            pass_["calibration"] = place

    change_manifest(saved, change)
    with pytest.raises(OnepassError, match="points outside its folder"):
        load_composition(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.pop("task"), "field task: Field required"),
        (lambda m: m.update(passes=[]), "has no passes"),
        (lambda m: m.update(format="onepass composition 9"), "field format"),
        (lambda m: m.update(surprise=1), "field surprise"),
        (lambda m: m["passes"][0]["adapters"][0].update(weight="much"), r"adapters\.0\.weight"),
        (lambda m: m["passes"][0]["adapters"][0].update(weight=float("nan")), "finite number"),
        (lambda m: m["passes"][0]["adapters"][0].update(folder="adapters/7"), "is not a folder"),
        (lambda m: m["passes"][0].update(calibration="calibration-7.safetensors"), "not exist"),
        (lambda m: m["base"].update(name="org/other"), "trained on base org/small, not"),
        (lambda m: m["base"]["modules"].popitem(), "which base org/small does not have"),
    ],
)
def test_a_damaged_manifest_is_refused(saved: Path, change: Any, message: str) -> None:
    change_manifest(saved, change)
    with pytest.raises(OnepassError, match=message):
        load_composition(saved)


def test_damaged_files_are_refused(saved: Path) -> None:
    with pytest.raises(OnepassError, match=r"has no composition\.json"):
        load_composition(saved / "adapters")
    calibration = saved / "calibration-0.safetensors"
    calibration.write_bytes(calibration.read_bytes()[:-1])
    with pytest.raises(OnepassError, match=r"calibration-0\.safetensors is corrupt"):
        load_composition(saved)
    (saved / "composition.json").write_text("{")
    with pytest.raises(OnepassError, match=r"composition\.json, line 1: not JSON"):
        load_composition(saved)


# ------------------------------------------------------------------ what does not fit


def test_another_base_is_refused_by_name_or_by_shape() -> None:
    composition = composed()
    check_base(composition, small_base())
    check_base(composition, small_base(name="some/folder/small"))
    with pytest.raises(OnepassError, match=r"made for base org/small, but .* is org/other"):
        check_base(composition, small_base(name="org/other"))
    with pytest.raises(OnepassError, match=r"model\.layers\.2.* is absent, but .* \(8, 8\)"):
        check_base(composition, small_base(layers=3))
    wide = {m: (out + 1, in_) for m, (out, in_) in small_base().modules.items()}
    with pytest.raises(OnepassError, match=r"q_proj is \(8, 8\), but .* \(9, 8\)"):
        check_base(composition, BaseShape("org/small", wide))


def test_parts_for_another_base_are_refused() -> None:
    def with_parts(adapter: Adapter, calibration: Calibration | None = None) -> None:
        composed(Pass(parse_task(TASK), (Weighted(adapter),), calibration))

    with pytest.raises(OnepassError, match="was trained on base org/other, not on org/small"):
        with_parts(random_adapter(0, base=small_base(name="org/other")))
    with pytest.raises(OnepassError, match="which base org/small does not have"):
        with_parts(random_adapter(0, base=small_base(layers=3)))
    wide = BaseShape("small", {m: (9, i) for m, (_, i) in small_base().modules.items()})
    with pytest.raises(OnepassError, match=r"q_proj is \(9, 8\).*\(8, 8\)"):
        with_parts(random_adapter(0, base=wide))
    for form in FORMS:
        with pytest.raises(OnepassError, match=r"calibration of q_proj: .* does not fit"):
            with_parts(random_adapter(0), random_calibration(form, base=wide))
    with pytest.raises(OnepassError, match="calibration of lm_head: base org/small has q_proj"):
        with_parts(
            random_adapter(0), Calibration("lc", "output", {"lm_head": {"bias": torch.ones(2)}})
        )
    with pytest.raises(OnepassError, match="weight nan is not finite"):
        Weighted(random_adapter(0), float("nan"))
    with pytest.raises(OnepassError, match="has no passes"):
        Composition(small_base(), parse_task(TASK), (), "none")


def test_a_pass_without_instruction_stays_one(tmp_path: Path) -> None:
    base = small_base()
    passes = (Pass(parse_task("summarize").bare()), Pass(parse_task("translate:es")))
    save_composition(
        Composition(base, parse_task("summarize+translate:es"), passes, "multi-step"), tmp_path
    )
    assert [p.task for p in load_composition(tmp_path).passes] == [p.task for p in passes]


def test_a_composition_of_format_1_names_its_tasks(tmp_path: Path) -> None:
    task = parse_task("summarize")
    save_composition(Composition(small_base(), task, (Pass(task), Pass(task)), "x"), tmp_path)
    manifest = json.loads((tmp_path / "composition.json").read_text())
    manifest |= {"format": "onepass composition 1", "task": "summarize"}
    manifest["passes"][0] |= {"task": "summarize"}
    manifest["passes"][1] |= {"task": "summarize", "instructed": False}
    (tmp_path / "composition.json").write_text(json.dumps(manifest))
    found = load_composition(tmp_path)
    assert [found.task, *(pass_.task for pass_ in found.passes)] == [task, task, task.bare()]
