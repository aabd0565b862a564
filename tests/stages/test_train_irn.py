"""Training IRN: CAMs to confident labels, pairs to losses, the stored mean, and what happens when they do not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from toy_set import TinyIrn, quick_trainings, use_tiny, write_set

from pixaff.errors import TrainingError, UsageError
from pixaff.events import Event
from pixaff.io.checkpoints import read_metadata, read_state_dict
from pixaff.io.images import read_image
from pixaff.io.masks import write_mask
from pixaff.models.base import BoundaryNetwork
from pixaff.recipe import Recipe
from pixaff.stages.train_irn import boundary_terms, store_mean_displacement, train_irn
from pixaff.stages.training.metrics import read_records

RECIPE = Recipe(epochs=2, batch_size=4, lr=5e-3, optimizer="adamw", precision="fp32", crop=96, resize=(70, 110))
FAST: dict[str, Any] = {"recipe": RECIPE, "device": "cpu", "workers": 1}


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    use_tiny(monkeypatch)
    quick_trainings(monkeypatch)


def write_labels(folder: Path, masks: dict[str, np.ndarray]) -> Path:
    """Confident labels: the masks, with a void rim."""
    for stem, mask in masks.items():
        labels = mask.copy()
        rim = np.zeros_like(mask, bool)
        rim[:, 1:] |= mask[:, 1:] != mask[:, :-1]
        labels[rim] = 255
        write_mask(folder / "labels" / f"{stem}.png", labels)
    return folder / "labels"


def test_network_learns_boundaries_and_displacements(tmp_path: Path) -> None:
    photos, _, masks = write_set(tmp_path, 12)
    labels = write_labels(tmp_path, masks)
    recipe = RECIPE.replace(epochs=14)
    result = train_irn(photos, labels, tmp_path / "run", **{**FAST, "recipe": recipe})
    assert result.path == tmp_path / "run" / "irn.safetensors"
    assert len(result.done) == 12
    epochs = [record for record in read_records(tmp_path / "run") if record["kind"] == "epoch"]
    assert epochs[-1]["loss"] < 0.9 * epochs[0]["loss"]
    for record in epochs:
        parts = record["bg"] / 4 + record["fg"] / 4 + record["neg"] / 2 + record["dp_fg"] / 2 + record["dp_bg"] / 2
        assert record["loss"] == pytest.approx(parts, abs=1e-5)
    assert read_metadata(result.path)["network"] == "lite_irn"
    TinyIrn().load_state_dict(read_state_dict(result.path))


def test_stored_mean_is_that_of_the_photos(tmp_path: Path) -> None:
    photos, _, masks = write_set(tmp_path, 5)
    run = train_irn(photos, write_labels(tmp_path, masks), tmp_path / "run", **FAST)
    model = TinyIrn().eval()
    model.load_state_dict(read_state_dict(run.path))
    stored = model.mean_shift.running_mean.clone()
    assert stored.abs().min() > 0
    model.mean_shift.running_mean.zero_()
    means = []
    with torch.no_grad():
        for path in sorted(photos.iterdir()):
            x = model.preprocess(read_image(path))[None]  # by load_image, a photo larger than the crop would be cut
            height, width = x.shape[2:]
            canvas = torch.zeros(1, 3, 96, 96)
            canvas[..., :height, :width] = x[..., :96, :96]
            field = model(canvas)[1][0, :, : -(-min(height, 96) // 4), : -(-min(width, 96) // 4)]
            means.append(field.mean((1, 2)))
    # Photos longer than the mean of the range, 90, are shrunk to it: they differ a little.
    assert torch.allclose(stored, torch.stack(means).mean(0), atol=0.02)


def test_mean_may_include_the_padding_as_published(tmp_path: Path) -> None:
    photos, _, _ = write_set(tmp_path, 3)
    paths = sorted(photos.iterdir())

    class Ramp(TinyIrn):
        """The displacement is 1 on the photo and 0 on the padding."""

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            seen = (x.abs().sum(1, keepdim=True) > 0).float()[..., ::4, ::4]
            return seen[:, 0], seen.expand(-1, 2, -1, -1)

    class Padded(Ramp):
        mean_of_padding = True

    found = []
    for kind in (Ramp, Padded):
        model = kind()
        store_mean_displacement(model, paths, 90, RECIPE, 1)
        found.append(model.mean_shift.running_mean)
    assert torch.equal(found[0], torch.ones(2))
    assert (found[1] < 0.95).all()


def test_killed_irn_training_resumes_to_the_same_bits(tmp_path: Path) -> None:
    photos, _, masks = write_set(tmp_path, 12)
    labels = write_labels(tmp_path, masks)
    whole = train_irn(photos, labels, tmp_path / "whole", **FAST)

    class Killed(Exception):
        pass

    def kill(event: Event) -> None:
        if event.kind == "progress" and event.data["step"] == 4:
            raise Killed

    with pytest.raises(Killed):
        train_irn(photos, labels, tmp_path / "part", save_every=0, report=kill, **FAST)
    with pytest.raises(UsageError, match="unfinished training"):
        train_irn(photos, labels, tmp_path / "part", **FAST)
    again = train_irn(photos, labels, tmp_path / "part", resume=True, **FAST)
    assert again.path.read_bytes() == whole.path.read_bytes()


def test_photos_whose_labels_do_not_fit_are_named_and_left_out(tmp_path: Path) -> None:
    photos, _, masks = write_set(tmp_path, 6)
    labels = write_labels(tmp_path, masks)
    (labels / "toy00.png").unlink()
    (labels / "toy01.png").write_bytes(b"no image")
    Image.new("RGB", (180, 80)).save(photos / "toy02.png")
    (photos / "toy03.png").write_bytes(b"no image")
    result = train_irn(photos, labels, tmp_path / "run", **FAST)
    failed = dict(result.failed)
    assert set(failed) == {f"toy0{number}.png" for number in range(4)}
    assert "expected the shape of the photo, 80 x 180" in failed["toy02.png"]
    assert result.done == ["toy04.png", "toy05.png"]


@pytest.mark.parametrize(("crop", "radius"), [(64, 10), (72, 10), (448, 1)])
def test_crop_without_a_single_pair_is_refused(tmp_path: Path, crop: int, radius: int) -> None:
    photos, _, masks = write_set(tmp_path, 2)
    labels = write_labels(tmp_path, masks)
    with pytest.raises(UsageError, match=f"radius is {radius}" if radius == 1 else f"crop is {crop}"):
        train_irn(photos, labels, tmp_path / "run", recipe={"crop": crop}, radius=radius, device="cpu")


def test_nothing_labelled_is_an_error(tmp_path: Path) -> None:
    photos, _, masks = write_set(tmp_path, 2)
    for stem, mask in masks.items():
        write_mask(tmp_path / "labels" / f"{stem}.png", np.full_like(mask, 255))
    with pytest.raises(TrainingError, match="no photo with labels is left"):
        train_irn(photos, tmp_path / "labels", tmp_path / "run", **FAST)


def test_terms_read_labels_and_maps_in_one_order() -> None:
    """Boundaries on the rim of a square, and displacements to its middle, have almost no loss."""
    size = 32
    labels = torch.zeros(1, size, size, dtype=torch.int64)
    labels[:, 10:22, 12:24] = 1
    rim = torch.zeros(size, size, dtype=torch.bool)
    rim[8:24, 10:26] = True
    rim[10:22, 12:24] = False
    labels[:, rim] = 255
    y, x = torch.meshgrid(torch.arange(size) - 15.5, torch.arange(size) - 17.5, indexing="ij")
    field = -torch.stack([y, x]) * (labels[0] == 1)

    class Known(BoundaryNetwork):
        def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return (rim * 40.0 - 20.0)[None], field[None]

    terms = boundary_terms(5)(Known(), {"image": torch.zeros(1), "labels": labels})
    assert list(terms) == ["loss", "bg", "fg", "neg", "dp_fg", "dp_bg"]
    assert float(terms["fg"]) < 1e-4
    assert float(terms["neg"]) < 1e-3
    assert float(terms["dp_fg"]) < 1e-4
    assert float(terms["dp_bg"]) == 0
