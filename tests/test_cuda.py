"""What runs on CUDA against the same on the CPU; skipped where there is none (`benchmarks/cuda.sh` runs it)."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_set import CLASSES, use_tiny, write_set

import pixaff
from pixaff.events import Event
from pixaff.io.checkpoints import load_training, read_state_dict
from pixaff.models import create_model, list_models
from pixaff.models.base import AffinityNetwork, BoundaryNetwork, CamNetwork
from pixaff.ops.affinity import pair_affinity
from pixaff.ops.boundary import boundary_affinity, boundary_walk
from pixaff.ops.instances import detect_instances, displacement_centroids, instance_map, instance_scores
from pixaff.ops.labels import affinity_label_map, confident_label_map, pair_labels
from pixaff.ops.losses import affinity_loss, boundary_loss, displacement_loss
from pixaff.ops.neighbours import offsets, source_shape
from pixaff.ops.walk import random_walk
from pixaff.recipe import Recipe
from pixaff.stages.train_cam import train_cam

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")

DEVICE = "cuda"
PHOTO = Path(__file__).parents[1] / "examples" / "photos" / "chelsea.jpg"


@pytest.fixture(autouse=True)
def exact_convolutions() -> Iterator[None]:
    """cuDNN rounds to TF32 otherwise."""
    before, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
    yield
    torch.backends.cudnn.allow_tf32 = before


def rand(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def close(found: torch.Tensor, expected: torch.Tensor, atol: float = 1e-5) -> None:
    assert found.device.type == DEVICE
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-4, atol=atol)


@pytest.mark.parametrize("name", list_models())
def test_networks_compute_what_they_do_on_the_cpu(name: str) -> None:
    torch.manual_seed(0)
    sizes = {"image_size": 96} if name == "hybrid_cam" else {}
    network = create_model(name, 5, **sizes)
    photo = (rand(112, 96, 3) * 255).to(torch.uint8).numpy()

    def work() -> torch.Tensor:
        x = network.preprocess(photo)[None].to(next(network.parameters()).device)
        if isinstance(network, CamNetwork):
            return network.normalized_cams(photo, [1, 3], (1.0,) if network.single_scale else (1.0, 0.5))
        if isinstance(network, BoundaryNetwork):
            return network.boundaries(photo).edge
        assert isinstance(network, AffinityNetwork)
        return pair_affinity(network.features(x).float())

    with torch.inference_mode():
        expected = work()
        network.to(DEVICE).to(memory_format=torch.channels_last)
        found = work()
    # Networks of random weights amplify rounding.
    close(found, expected, 5e-3)


def test_whole_prediction() -> None:
    expected = pixaff.load("lite", device="cpu", size=256)(PHOTO)
    found = pixaff.load("lite", device=DEVICE, size=256)([PHOTO, PHOTO], labels=[None, ["cat"]])
    for one in found:
        assert one.classes == expected.classes == ("cat",)
        assert (one.mask == expected.mask).mean() >= 0.999
        assert np.abs(one.cams - expected.cams).max() <= 1e-3
        assert np.abs(one.walked - expected.walked).max() <= 1e-3


def test_cams_of_others_are_refined() -> None:
    cams = {"cat": rand(20, 30).numpy(), "dog": rand(20, 30, seed=1).numpy()}
    expected = pixaff.load("lite", device="cpu", size=200)(PHOTO, cams=cams)
    found = pixaff.load("lite", device=DEVICE, size=200)(PHOTO, cams=cams)
    assert (found.mask == expected.mask).mean() >= 0.999


def test_affinity_and_its_gradient() -> None:
    features = rand(2, 24, 14, 17)
    labels = (rand(2, 14, 17, seed=1) * 3).long()
    results = []
    for device in ("cpu", DEVICE):
        moved = features.to(device).requires_grad_()
        for borders in ("published", "full"):
            affinity = pair_affinity(moved, borders=borders)
            results.append(affinity.detach())
        loss = affinity_loss(pair_affinity(moved), *pair_labels(labels.to(device)))
        results.extend([loss.total.detach(), torch.autograd.grad(loss.total, moved)[0]])
    for expected, found in zip(results[:4], results[4:], strict=True):
        close(found, expected)


def test_losses_of_boundaries_and_displacements() -> None:
    edge, field = rand(2, 30, 33), rand(2, 2, 30, 33, seed=1) * 4 - 2
    labels = (rand(2, 30, 33, seed=2) * 3).long()
    results = []
    for device in ("cpu", DEVICE):
        moved, shift = edge.to(device).requires_grad_(), field.to(device).requires_grad_()
        total = boundary_loss(moved, labels.to(device)).total + displacement_loss(shift, labels.to(device)).total
        results.append([total.detach(), *torch.autograd.grad(total, (moved, shift)), boundary_affinity(moved).detach()])
    for expected, found in zip(*results, strict=True):
        close(found, expected)


def test_instances() -> None:
    field, scores, edge = rand(2, 25, 28) * 4 - 2, rand(2, 25, 28, seed=1), rand(25, 28, seed=2)
    results = []
    for device in ("cpu", DEVICE):
        moved = field.to(device)
        numbers = instance_map(displacement_centroids(moved, 20), moved)
        walked = boundary_walk(scores.to(device), edge.to(device))
        found = detect_instances(instance_scores(walked, numbers), (97, 110))
        results.append([numbers, walked, found.scores, found.map, found.rows])
    for expected, found in zip(*results, strict=True):
        if expected.is_floating_point():
            close(found, expected)
        else:
            assert (found.cpu() == expected).float().mean() >= 0.99


def test_label_maps() -> None:
    low, high, cams = rand(3, 64, 80), rand(3, 64, 80, seed=1), rand(2, 64, 80, seed=2)
    image = (rand(64, 80, 3, seed=3) * 255).to(torch.uint8)
    assert torch.equal(affinity_label_map(low.to(DEVICE), high.to(DEVICE)).cpu(), affinity_label_map(low, high))
    found = confident_label_map(image, cams.to(DEVICE)).cpu()
    assert (found == confident_label_map(image, cams)).float().mean() >= 0.99


def test_walk_of_batches_and_large_grids() -> None:
    grids = [(13, 17), (40, 31), (5, 9), (3, 4), (181, 182)]
    scores = [rand(2 + i, h, w, seed=i) for i, (h, w) in enumerate(grids)]
    shapes = [source_shape(h, w) for h, w in grids]
    affinities = [rand(len(offsets()), h * w, seed=i) ** 0.25 for i, (h, w) in enumerate(shapes)]
    found = random_walk([s.to(DEVICE) for s in scores], [a.to(DEVICE) for a in affinities])
    for one, expected in zip(found, random_walk(scores, affinities), strict=True):
        close(one, expected)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "auto"])
def test_training_is_saved_and_continued(precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_tiny(monkeypatch)
    photos, labels, _ = write_set(tmp_path, 8)
    recipe = Recipe(epochs=4, batch_size=4, lr=5e-3, optimizer="adamw", precision=precision, resize=(60, 90), crop=64)
    out = tmp_path / "run"

    def stop(event: Event) -> None:
        if event.kind == "progress" and event.data["step"] == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train_cam(photos, labels, CLASSES, out, recipe=recipe, device=DEVICE, workers=2, report=stop)
    saved = load_training(out / "training.pt")
    assert all(tensor.device.type == "cpu" for tensor in saved["model"].values())
    result = train_cam(photos, labels, CLASSES, out, recipe=recipe, device=DEVICE, workers=2, resume=True)
    assert len(result.done) == 8
    assert all(tensor.isfinite().all() for tensor in read_state_dict(result.path).values())
