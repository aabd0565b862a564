from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from irn_figures import irn_figures, pairs, slow_pair_affinity

from pixaff.ops.boundary import boundary_affinity
from pixaff.ops.labels import pair_labels
from pixaff.ops.losses import affinity_loss, boundary_loss, displacement_loss
from pixaff.ops.neighbours import offsets, source_view, target_view

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


def random_labels(batch: int, h: int, w: int, seed: int = 0) -> torch.Tensor:
    """Blocks of 3 x 3 cells of background, two classes and void."""
    generator = torch.Generator().manual_seed(seed)
    blocks = torch.tensor([0, 1, 2, 255], dtype=torch.uint8)[
        torch.randint(0, 4, (batch, -(-h // 3), -(-w // 3)), generator=generator)
    ]
    return blocks.repeat_interleave(3, 1).repeat_interleave(3, 2)[:, :h, :w]


def slow_terms(edge, field, label_map, radius) -> list[torch.Tensor]:
    """bg, fg, neg of the boundaries, then fg and bg of the displacements, pair after pair."""
    costs: list[list[torch.Tensor]] = [[], [], [], [], []]
    h, w = edge.shape[1:]
    for b, labels in enumerate(label_map.tolist()):
        for _, source, target in pairs(h, w, radius, full=False):
            ends = labels[source[0]][source[1]], labels[target[0]][target[1]]
            if 255 in ends:
                continue
            affinity = slow_pair_affinity(edge[b], source, target)
            change = field[b, :, source[0], source[1]] - field[b, :, target[0], target[1]]
            offset = torch.tensor([target[0] - source[0], target[1] - source[1]])
            if ends[0] != ends[1]:
                costs[2].append(-torch.log(1 + 1e-5 - affinity))
                continue
            background = ends[0] == 0
            costs[0 if background else 1].append(-torch.log(affinity + 1e-5))
            costs[4 if background else 3].append((change if background else change - offset).abs().mean())
    assert all(costs)
    return [torch.stack(one).mean() for one in costs]


@pytest.mark.parametrize(("h", "w", "radius"), [(7, 11, 4), (6, 17, 5), (8, 7, 2)])
def test_irn_losses_and_gradients_equal_pair_after_pair(h, w, radius):
    generator = torch.Generator().manual_seed(0)
    edge = torch.rand(2, h, w, generator=generator, dtype=torch.float64).requires_grad_()
    field = (3 * torch.randn(2, 2, h, w, generator=generator, dtype=torch.float64)).requires_grad_()
    labels = random_labels(2, h, w)
    expected = slow_terms(edge, field, labels, radius)
    boundary, displacement = boundary_loss(edge, labels, radius), displacement_loss(field, labels, radius)
    found = [*boundary[1:], *displacement[1:]]
    weights = torch.tensor([1.3, 0.7, 2.1, 0.4, 1.9])
    sums = [sum(w * term for w, term in zip(weights, terms, strict=True)) for terms in (found, expected)]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=0)
    gradients = [torch.autograd.grad(total, (edge, field)) for total in sums]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
        assert other.abs().max() > 0
    bg, fg, neg, dp_fg, dp_bg = (term.item() for term in found)
    assert boundary.total.item() == pytest.approx(bg / 4 + fg / 4 + neg / 2)
    assert displacement.total.item() == pytest.approx((dp_fg + dp_bg) / 2)


def test_irn_boundary_loss_is_the_affinity_loss_of_its_pairs():
    edge = torch.rand(3, 30, 40, generator=torch.Generator().manual_seed(1))
    labels = random_labels(3, 30, 40)
    one, other = edge.clone().requires_grad_(), edge.clone().requires_grad_()
    found = boundary_loss(one, labels)
    expected = affinity_loss(boundary_affinity(other, 10, "published"), *pair_labels(labels, 10))
    found.total.backward()
    expected.total.backward()
    torch.testing.assert_close(torch.stack(found), torch.stack(expected), rtol=1e-5, atol=0)
    torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-8)


def published_loss_memory(edge: torch.Tensor, field: torch.Tensor, radius: int) -> list[torch.Tensor]:
    """What a gathered path, and gathered ends, of every pair come to."""
    gathered = [boundary_affinity(edge, radius, "published")]
    for offset in offsets(radius):
        gathered.append(source_view(field, radius) - target_view(field, offset, radius))
    return gathered


def test_irn_losses_keep_their_inputs_alone():
    edge, field = torch.rand(2, 32, 32, requires_grad=True), torch.randn(2, 2, 32, 32, requires_grad=True)
    labels = random_labels(2, 32, 32)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.nbytes) or t, lambda t: t):
        losses = boundary_loss(edge, labels).total + displacement_loss(field, labels).total
    assert sum(saved) <= edge.nbytes + field.nbytes + 2 * labels.nbytes + 100
    assert sum(saved) < sum(one.nbytes for one in published_loss_memory(edge, field, 10)) / 10
    losses.backward()
    assert edge.grad is not None
    assert field.grad is not None


def test_irn_losses_without_pairs():
    none = torch.full((1, 24, 24), 255, dtype=torch.uint8)
    for edge, labels in ((torch.rand(1, 24, 24), none), (torch.rand(1, 9, 30), none[:, :9].repeat(1, 1, 2)[..., :30])):
        edge.requires_grad_()
        field = torch.randn(1, 2, *edge.shape[1:], requires_grad=True)
        terms = [*boundary_loss(edge, labels), *displacement_loss(field, labels)]
        assert [term.item() for term in terms] == [0] * 7
        sum(terms).backward()
        assert edge.grad is not None
        assert field.grad is not None
        assert edge.grad.abs().max() == field.grad.abs().max() == 0


def test_irn_losses_of_one_object_alone():
    """Foreground everywhere, and a field that points at one centre: nothing to learn."""
    rows, columns = torch.meshgrid(torch.arange(20.0), torch.arange(25.0), indexing="ij")
    field = torch.stack([8 - rows, 11 - columns])[None]
    labels = torch.full((1, 20, 25), 3, dtype=torch.uint8)
    assert displacement_loss(field, labels).total.item() == pytest.approx(0, abs=1e-6)
    assert boundary_loss(torch.zeros(1, 20, 25), labels).total.item() == pytest.approx(0, abs=1e-4)
    resting = displacement_loss(torch.zeros_like(field), labels)
    lengths = [(abs(dy) + abs(dx)) / 2 for dy, dx in offsets(10)]
    assert resting.fg.item() == pytest.approx(np.mean(lengths), rel=1e-5)
    assert resting.bg.item() == 0


def test_certain_boundaries_stay_finite_in_half_precision():
    edge = torch.tensor([0.0, 1.0, 1.0]).repeat(10).expand(1, 20, 30).bfloat16().requires_grad_()
    labels = random_labels(1, 20, 30)
    loss = boundary_loss(edge, labels)
    assert loss.total.dtype == torch.float32
    loss.total.backward()
    assert edge.grad is not None
    assert edge.grad.dtype == torch.bfloat16
    assert edge.grad.isfinite().all()


@pytest.mark.parametrize(
    ("work", "words"),
    [
        (lambda: boundary_loss(torch.zeros(9, 9), torch.zeros(9, 9).byte()), r"edge: found torch.float32 \(9, 9\)"),
        (lambda: boundary_loss(torch.zeros(1, 9, 9), torch.zeros(1, 9, 9)), "label_map: found torch.float32"),
        (lambda: boundary_loss(torch.zeros(1, 9, 9), torch.zeros(1, 9, 8).byte()), r"expected integers \(1, 9, 9\)"),
        (lambda: displacement_loss(torch.zeros(1, 9, 9), torch.zeros(1, 9, 9).byte()), "displacement: found"),
        (lambda: displacement_loss(torch.zeros(1, 2, 9, 9), torch.zeros(9, 9).byte()), r"label_map: found"),
    ],
)
def test_misuse_of_irn_losses(work, words):
    with pytest.raises(ValueError, match=words):
        work()


def test_irn_number_of_pairs():
    """Of the published loss; its terms are held against the network's outputs in test_resnet50."""
    figures = irn_figures()
    kinds = pair_labels(figures["loss.reduced_label"], 10)
    assert [int(kind.sum()) for kind in kinds] == figures["loss.pairs"].int().tolist()
