"""Trainings on photos in nested folders, whose stems are equal."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_set import CLASSES, quick_trainings, use_tiny, write_set

from pixaff.events import silent
from pixaff.io.cams import write_cams
from pixaff.io.images import image_size
from pixaff.io.masks import write_mask
from pixaff.recipe import Recipe
from pixaff.settings import Settings
from pixaff.stages.batch.inputs import find_images
from pixaff.stages.crf import crf
from pixaff.stages.fit import _clear, fit
from pixaff.stages.train_affinity import train_affinity
from pixaff.stages.train_cam import train_cam
from pixaff.stages.train_irn import _labelled
from pixaff.stages.training.folder import Trained
from pixaff.stages.training.pixel_labels import match_masks, scores_of

RECIPE = Recipe(epochs=1, batch_size=2, lr=5e-3, optimizer="adamw", precision="fp32", resize=(60, 110), crop=96)
SETTINGS = Settings(
    scales=(1.0,), size=96, walk="psa", crf_low=2.0, crf_high=6.0, alpha=3.0, beta=8.0, steps=16, final_crf=False
)


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    use_tiny(monkeypatch)
    quick_trainings(monkeypatch)


@pytest.fixture
def nested(tmp_path: Path) -> tuple[Path, Path]:
    """photos/a/x.png, photos/b/x.png, photos/b/c/x.png and their labels by path."""
    photos, labels, _ = write_set(tmp_path, 3)
    names = ("a/x", "b/x", "b/c/x")
    for number, name in enumerate(names):
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        (photos / f"toy{number:02}.png").rename(photos / f"{name}.png")
    labels.write_text("image,labels\na/x,square\nb/x,disc\nb/c/x,square;disc\n")
    return photos, labels


def files(folder: Path, ending: str) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob(f"*{ending}"))


def test_the_whole_chain(nested: tuple[Path, Path], tmp_path: Path) -> None:
    photos, labels = nested
    out, masks = tmp_path / "run", ["a/x.png", "b/c/x.png", "b/x.png"]

    def run(**options: bool) -> list[str]:
        result = fit(photos, labels, out, settings=SETTINGS, cam_recipe=RECIPE, affinity_recipe=RECIPE, workers=1,
                     device="cpu", recursive=True, **options)  # fmt: skip
        assert result.failed == []
        return sorted([*result.done, *result.skipped])

    assert run() == masks
    assert files(out / "masks", ".png") == masks
    assert files(out / "crf", ".npz") == sorted(f"{side}/{name[:-4]}.npz" for side in ("high", "low") for name in masks)
    assert (out / "photos.txt").read_text().split() == ["a/x", "b/x", "b/c/x"]
    assert run() == masks
    (out / "masks" / "b" / "mine.txt").touch()
    assert run(overwrite=True) == masks
    assert (out / "masks" / "b" / "mine.txt").is_file()


def test_clearing_a_run_leaves_no_folders(nested: tuple[Path, Path], tmp_path: Path) -> None:
    photos, labels = nested
    out = tmp_path / "run"
    fit(photos, labels, out, settings=SETTINGS, cam_recipe=RECIPE, affinity_recipe=RECIPE, workers=1, device="cpu",
        recursive=True)  # fmt: skip
    _clear(out)
    assert sorted(path.name for path in out.iterdir()) == ["classes.txt", "photos.txt"]


def test_what_fails_is_named_by_its_path(nested: tuple[Path, Path], tmp_path: Path) -> None:
    photos, labels = nested
    (photos / "d").mkdir()
    (photos / "d" / "x.png").write_bytes(b"no image")
    labels.write_text(labels.read_text() + "d/x,disc\n")
    made = train_cam(photos, labels, CLASSES, tmp_path / "cam", recipe=RECIPE, workers=1, device="cpu", recursive=True)
    assert [name for name, _ in made.failed] == ["d/x.png"]
    assert sorted(made.done) == ["a/x.png", "b/c/x.png", "b/x.png"]
    for name, classes in (("a/x", [1]), ("b/x", [2])):
        height, width = image_size(photos / f"{name}.png")
        cams = torch.zeros(len(classes), height, width)
        cams[:, : height // 2] = 1
        write_cams(tmp_path / "cams" / f"{name}.npz", classes, cams.numpy(), (height, width))
    crf(photos, tmp_path / "cams", tmp_path / "crf", recursive=True, workers=1, device="cpu")
    made = train_affinity(photos, tmp_path / "crf" / "low", tmp_path / "crf" / "high", tmp_path / "affinity",
                          recipe=RECIPE, workers=1, device="cpu", recursive=True)  # fmt: skip
    assert sorted(made.done) == ["a/x.png", "b/x.png"]
    assert sorted(name for name, _ in made.failed) == ["b/c/x.png", "d/x.png"]
    assert json.loads((tmp_path / "affinity" / "run.json").read_text())["command"] == "train-affinity"


def test_masks_and_their_scores_are_found_by_path(nested: tuple[Path, Path], tmp_path: Path) -> None:
    photos, _ = nested
    found = find_images(photos, recursive=True)
    masks = tmp_path / "masks"
    for number, photo in enumerate(found):
        values = np.full(image_size(photo), number % 2 + 1, np.uint8)
        values[: number + 1] = 0
        write_mask(masks / f"{found.names.key(photo)}.png", values)
    result = Trained(names=found.names)
    labelled = match_masks(found, masks, 2, None, 1, result, "train-seg", silent)
    expected = [masks / f"{name}.png" for name in ("a/x", "b/x", "b/c/x")]
    assert (labelled.photos, labelled.masks, result.failed) == (list(found), expected, [])
    assert scores_of(masks / "b" / "c" / "x.png", masks) == masks / "scores" / "b" / "c" / "x.npz"
    kept, paths, _ = _labelled(found, masks, 1, result, silent)
    assert (kept, paths) == (list(found), expected)
