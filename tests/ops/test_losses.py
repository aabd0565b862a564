from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pixaff.ops.losses import affinity_loss

GOLDEN = Path(__file__).parents[1] / "data" / "reference_golden.npz"


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    keys = ("loss.affinity", "loss.bg", "loss.fg", "loss.neg", "labels.bg", "labels.fg", "labels.neg")
    with np.load(GOLDEN) as data:
        return {key: torch.from_numpy(data[key]) for key in keys}


@pytest.fixture(scope="module")
def masks(golden) -> list[torch.Tensor]:
    return [golden[f"labels.{name}"][None] for name in ("bg", "fg", "neg")]


def test_golden_terms(golden, masks):
    loss = affinity_loss(golden["loss.affinity"], *masks)
    for name in ("bg", "fg", "neg"):
        assert getattr(loss, name).item() == pytest.approx(golden[f"loss.{name}"].item(), abs=1e-5), name
    expected = golden["loss.bg"] / 4 + golden["loss.fg"] / 4 + golden["loss.neg"] / 2
    assert loss.total.item() == pytest.approx(expected.item(), abs=1e-5)


def test_a_kind_that_is_absent_costs_nothing(golden, masks):
    bg, _, neg = masks
    none = torch.zeros_like(bg)
    affinity = golden["loss.affinity"].clone().requires_grad_()
    loss = affinity_loss(affinity, bg, none, neg)
    assert loss.fg.item() == 0
    assert loss.total.item() == pytest.approx((golden["loss.bg"] / 4 + golden["loss.neg"] / 2).item(), abs=1e-5)
    nothing = affinity_loss(affinity, none, none, none)
    assert [term.item() for term in nothing] == [0, 0, 0, 0]
    nothing.total.backward()
    assert affinity.grad is not None
    assert affinity.grad.abs().max() == 0


def test_certain_affinities_stay_finite_in_half_precision():
    affinity = torch.tensor([[[0.0, 1.0, 1.0]]], dtype=torch.bfloat16, requires_grad=True)
    alike = torch.tensor([[[True, False, False]]])
    loss = affinity_loss(affinity, alike, alike.roll(2, -1), alike.roll(1, -1))
    assert loss.bg.item() == pytest.approx(-np.log(1e-5), rel=1e-2)
    assert loss.neg.item() == pytest.approx(-np.log(1e-5), rel=1e-2)
    loss.total.backward()
    assert affinity.grad is not None
    assert torch.isfinite(affinity.grad).all()


def test_grids_without_pairs():
    empty = torch.zeros(2, 34, 0)
    mask = empty.bool()
    assert affinity_loss(empty, mask, mask, mask).total.item() == 0


def test_bad_masks(golden, masks):
    bg, fg, neg = masks
    with pytest.raises(ValueError, match=r"fg: found torch.bool \(34, 96\), expected torch.bool \(1, 34, 96\)"):
        affinity_loss(golden["loss.affinity"], bg, fg[0], neg)
    with pytest.raises(ValueError, match=r"neg: found torch.float32"):
        affinity_loss(golden["loss.affinity"], bg, fg, neg.float())
