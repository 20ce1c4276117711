"""Figures of adapters, against dense algebra and adapters made to meet in known ways."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from adapter_kit import random_adapter
from cli_kit import onepass
from onepass.adapters.adapter import Adapter, Lora, load_adapter, save_adapter
from onepass.adapters.inspect import by_layer, facts, hints, meet, pairs

PNG = b"\x89PNG"


def scaled(adapter: Adapter, factor: float, name: str) -> Adapter:
    modules = {m: Lora(x.down, x.up * factor) for m, x in adapter.modules.items()}
    return Adapter(name, modules, adapter.base)


def test_norms_are_those_of_the_dense_change() -> None:
    adapter = random_adapter(0, ranks={"model.layers.0.mlp.down_proj": 5})
    found = facts(adapter)
    assert found.ranks == (3, 5)
    assert found.projections == ("q_proj", "v_proj", "down_proj")
    for module, lora in adapter.modules.items():
        assert found.norms[module] == pytest.approx(float(lora.delta().norm()), rel=1e-5)
    whole = math.sqrt(sum(float(x.delta().norm()) ** 2 for x in adapter.modules.values()))
    assert found.total_norm == pytest.approx(whole, rel=1e-5)


def test_a_meeting_is_what_dense_algebra_says() -> None:
    one, other = random_adapter(0, 2), random_adapter(1, 3)
    for module, meeting in meet(one, other).items():
        a, b = one.modules[module].delta().double(), other.modules[module].delta().double()
        assert meeting.cosine == pytest.approx(float((a * b).sum() / (a.norm() * b.norm())))
        ua, ub = torch.linalg.svd(a)[0][:, :2], torch.linalg.svd(b)[0][:, :3]
        angles = torch.linalg.svdvals(ua.T @ ub)
        assert meeting.outputs == pytest.approx(float(angles.square().mean()), abs=1e-6)
        smaller = torch.minimum(a.abs(), b.abs())
        conflict = float(smaller[a * b < 0].sum() / smaller.sum())
        assert meeting.conflict == pytest.approx(conflict, abs=1e-5)


def test_an_adapter_meets_itself_entirely_and_its_opposite_too() -> None:
    adapter = random_adapter(0)
    for factor, cosine, conflict in ((2.0, 1.0, 0.0), (-1.0, -1.0, 1.0)):
        for meeting in meet(adapter, scaled(adapter, factor, "other")).values():
            assert meeting.cosine == pytest.approx(cosine)
            assert meeting.outputs == pytest.approx(1.0)
            assert meeting.inputs == pytest.approx(1.0)
            assert meeting.conflict == pytest.approx(conflict)


def test_hints_follow_the_figures() -> None:
    a, b = random_adapter(0, name="a"), random_adapter(1, name="b")

    def said(one: Adapter, other: Adapter) -> str:
        return " ".join(hints(facts(one), facts(other), meet(one, other)))

    assert "nearly orthogonal" in said(a, b)
    assert "largely agree" in said(a, scaled(a, 1.0, "b"))
    thin = random_adapter(0, rank=1, name="a")
    assert "same places" in said(thin, scaled(thin, 1.0, "b"))
    assert "opposite directions" in said(a, scaled(a, -1.0, "b"))
    assert "b is 3.0 times as strong as a" in said(a, scaled(a, 3.0, "b"))
    assert "b changes nothing" in said(a, scaled(a, 0.0, "b"))
    part = Adapter("q", {m: x for m, x in b.modules.items() if "q_proj" in m})
    rest = Adapter("r", {m: x for m, x in a.modules.items() if "q_proj" not in m})
    assert "different modules" in said(part, rest)


def test_every_two_are_a_pair_and_modules_have_their_place() -> None:
    adapters = [random_adapter(i) for i in range(3)]
    assert [(x.name, y.name) for x, y in pairs(adapters)] == [
        ("adapter-0", "adapter-1"), ("adapter-0", "adapter-2"), ("adapter-1", "adapter-2"),
    ]  # fmt: skip
    places = by_layer(meet(adapters[0], adapters[1]), "outputs")
    assert set(places) == {(str(i), p) for i in (0, 1) for p in ("q_proj", "v_proj", "down_proj")}


def test_the_command_prints_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in range(3):
        save_adapter(random_adapter(seed), tmp_path / f"a{seed}")
    folders = [tmp_path / f"a{seed}" for seed in range(3)]
    drawn = tmp_path / "maps" / "meeting.png"
    done = onepass(capsys, "inspect", *folders, "--heat-map", drawn, "--layers").succeeded()
    assert done.out.count("orthogonal") == 3
    assert "model.layers.1.mlp.down_proj" in done.out
    assert drawn.read_bytes()[:4] == PNG
    alone = onepass(capsys, "inspect", folders[0], "--heat-map", tmp_path / "no.png").succeeded()
    assert "no heat map" in alone.err
    assert not (tmp_path / "no.png").exists()
    save_adapter(replace(load_adapter(folders[0]), invocation=(7,)), tmp_path / "active")
    told = onepass(capsys, "inspect", folders[0], tmp_path / "active").succeeded().err
    assert told.count("activated, acts from the last token ids") == 1
    onepass(capsys, "inspect", tmp_path / "missing").refused(str(tmp_path / "missing"))
