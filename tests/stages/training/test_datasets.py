"""Crops, colours and batches of training photos: exact geometry, and randomness that depends on nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from toy_set import write_set

from pixaff.io.masks import write_mask
from pixaff.models import create_model
from pixaff.ops.labels import reduced_label_map
from pixaff.recipe import Recipe
from pixaff.stages.training import datasets
from pixaff.stages.training.augment import (
    Crop,
    Normalisation,
    cut_cells,
    cut_labels,
    cut_picture,
    jitter_colours,
    place_picture,
    random_crop,
    random_size,
)
from pixaff.stages.training.datasets import (
    AffinityPhotos,
    BoundaryPhotos,
    CamPhotos,
    draw_batches,
    load_batches,
    readable_photos,
)

HALF = Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
RECIPE = Recipe(resize=(60, 90), crop=64)


def test_batches_are_new_permutations_of_one_size() -> None:
    batches = draw_batches(10, 4, 3, seed=0)
    assert [len(batch) for batch in batches] == [4] * 6
    epochs = [[i for batch in batches for epoch, i in batch if epoch == number] for number in range(3)]
    assert all(len(set(indices)) == 8 and set(indices) < set(range(10)) for indices in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert batches == draw_batches(10, 4, 3, seed=0) != draw_batches(10, 4, 3, seed=1)
    # Fewer photos than a batch: one batch of all of them.
    assert [sorted(batch) for batch in draw_batches(3, 16, 2, seed=0)] == [
        [(0, 0), (0, 1), (0, 2)],
        [(1, 0), (1, 1), (1, 2)],
    ]


@pytest.mark.parametrize(("size", "grid"), [((50, 131), 1), ((131, 50), 8), ((40, 61), 8), ((64, 200), 8), ((1, 1), 1)])
def test_crop_lies_anywhere_it_can_and_nowhere_else(size: tuple[int, int], grid: int) -> None:
    rng = np.random.default_rng(0)
    crops = [random_crop(rng, size, 64, grid) for _ in range(600)]
    for axis, length in enumerate(size):
        sources, targets = {c.source[axis] for c in crops}, {c.target[axis] for c in crops}
        if length > 64:
            # From the first place on, in steps of the grid, to the first one that reaches the end.
            assert sources == set(range(0, length - 64 + grid, grid))
            assert targets == {0}
        else:
            assert sources == {0}
            assert targets == set(range(0, 64 - length + 1, grid))
        for c in crops:
            assert c.extent[axis] == min(64, length - c.source[axis])
    assert {c.mirror for c in crops} == {False, True}


@pytest.mark.parametrize("network", ["vgg16_cam", "resnet38_affinity"])
def test_photos_are_fed_as_the_network_s_own_preprocessing_does(
    network: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "a.png")
    with torch.device("meta"):
        model = create_model(network)
    normalisation = Normalisation(model.mean, model.std, model.bgr)
    options = {"normalisation": normalisation, "recipe": RECIPE.replace(resize=(64, 64))}
    monkeypatch.setattr(datasets, "jitter_colours", lambda rng, picture: picture)
    cells = np.zeros((8, 8), np.uint8)
    for photos in (
        CamPhotos([tmp_path / "a.png"], [(0,)], 1, **options),
        AffinityPhotos([tmp_path / "a.png"], [(64, 64)], [cells], **options),
    ):
        found = photos[(0, 0)][0]["image"]
        expected = model.preprocess(image)
        assert any(torch.allclose(found, one, atol=1e-4) for one in (expected, expected.flip(-1)))


def test_crop_side_must_fit_the_grid() -> None:
    with pytest.raises(ValueError, match="multiple of 8, found 60"):
        random_crop(np.random.default_rng(0), (50, 50), 60, grid=8)


def test_long_side_is_drawn_from_the_range_both_ends_included() -> None:
    rng = np.random.default_rng(0)
    sizes = [random_size(rng, (300, 900), (32, 36)) for _ in range(300)]
    assert {max(size) for size in sizes} == {32, 33, 34, 35, 36}
    assert all(abs(height - width / 3) <= 0.5 for height, width in sizes)
    assert random_size(rng, (1, 5000), (256, 256)) == (1, 256)


def test_window_is_cut_as_if_from_the_whole_resized_picture() -> None:
    y, x = np.mgrid[:90, :120]
    image = np.stack([2 * x, 2 * y, x + y], -1).astype(np.uint8)
    crop = Crop(size=(135, 180), side=64, source=(40, 70), target=(0, 0), extent=(64, 64), mirror=False)
    whole = Image.fromarray(image).resize((180, 135), Image.Resampling.BICUBIC).crop((70, 40, 134, 104))
    difference = np.abs(np.asarray(cut_picture(image, crop), int) - np.asarray(whole, int))
    assert difference.max() <= 1
    same = Crop(size=(90, 120), side=64, source=(20, 30), target=(0, 0), extent=(64, 64), mirror=False)
    assert np.array_equal(np.asarray(cut_picture(image, same)), image[20:84, 30:94])


def test_picture_is_normalised_then_padded_then_mirrored() -> None:
    picture = Image.new("RGB", (3, 2), (0, 51, 255))
    picture.putpixel((0, 0), (255, 255, 255))
    crop = Crop(size=(2, 3), side=8, source=(0, 0), target=(4, 1), extent=(2, 3), mirror=False)
    normalisation = Normalisation(HALF.mean, (0.5, 0.25, 0.5))
    plain = place_picture(picture, crop, normalisation)
    assert torch.allclose(plain[:, 4, 1], torch.tensor([1.0, 2.0, 1.0]))
    assert torch.allclose(plain[:, 5, 3], torch.tensor([-1.0, -1.2, 1.0]))
    assert plain.count_nonzero() == 3 * 6
    mirrored = place_picture(picture, Crop(**{**vars(crop), "mirror": True}), normalisation)
    assert torch.equal(mirrored, plain.flip(-1))


def test_colours_change_within_their_ranges_and_follow_the_generator() -> None:
    picture = Image.new("RGB", (8, 8), (100, 100, 100))
    # A grey picture is changed by the brightness alone: hue and saturation do not apply, contrast finds no spread.
    levels = [jitter_colours(np.random.default_rng(n), picture).getpixel((0, 0))[0] for n in range(200)]
    assert 69 <= min(levels) < 75
    assert 125 < max(levels) <= 131
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8))
    one, two, other = (jitter_colours(np.random.default_rng(n), noise).tobytes() for n in (1, 1, 2))
    assert one == two != other
    unchanged = jitter_colours(np.random.default_rng(1), noise, (0.0, 0.0, 0.0, 0.0))
    assert np.abs(np.asarray(unchanged, int) - np.asarray(noise, int)).max() <= 6  # there and back through HSV


@pytest.mark.parametrize("side", [64, 128])
def test_labels_stay_on_their_pixels_through_crop_and_mirror(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, side: int
) -> None:
    """Every 8 x 8 cell has its own grey level; the label over it must be the one drawn into the photo."""
    height, width = 75, 101
    cells = np.random.default_rng(0).permutation(10 * 13).reshape(10, 13).astype(np.uint8) + 1
    grey = np.repeat(np.repeat(cells, 8, 0), 8, 1)[:height, :width]
    Image.fromarray(np.stack([grey] * 3, -1)).save(tmp_path / "cells.png")
    monkeypatch.setattr(datasets, "jitter_colours", lambda rng, picture: picture)
    options = {"normalisation": Normalisation((0.0,) * 3, (1.0,) * 3), "recipe": Recipe(crop=side)}
    photos = AffinityPhotos([tmp_path / "cells.png"], [(height, width)], [cells], **options)
    seen = set()
    for epoch in range(40):
        sample, _ = photos[epoch, 0]
        levels = (sample["image"][0] * 255).round().int()
        labels = sample["labels"]
        assert labels.shape == (side // 8, side // 8)
        for (row, column), label in np.ndenumerate(labels.numpy()):
            found = levels[8 * row : 8 * row + 8, 8 * column : 8 * column + 8].unique()
            assert found[found > 0].tolist() == ([] if label == 255 else [label])
        seen.add(tuple(labels.flatten().tolist()))
    # Of 18 places at 64 pixels, 28 at 128, each mirrored or not.
    assert len(seen) > 15


def test_cells_outside_the_picture_are_ignored() -> None:
    crop = Crop(size=(20, 12), side=32, source=(0, 0), target=(8, 16), extent=(20, 12), mirror=True)
    labels = cut_cells(np.array([[1, 2], [3, 4], [5, 6]], np.uint8), crop, 8, outside=255)
    assert labels.tolist() == [[255] * 4, [2, 1, 255, 255], [4, 3, 255, 255], [6, 5, 255, 255]]


def test_sample_depends_on_seed_epoch_and_index_alone(tmp_path: Path) -> None:
    folder, _, _ = write_set(tmp_path, 4)
    paths = sorted(folder.iterdir())

    def photos(seed: int) -> CamPhotos:
        return CamPhotos(paths, [(0,), (1,), (), (0, 1)], 3, normalisation=HALF, recipe=RECIPE.replace(seed=seed))

    sample, failed = photos(0)[2, 3]
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    assert torch.equal(photos(0)[2, 3][0]["image"], sample["image"])
    assert not torch.equal(photos(0)[3, 3][0]["image"], sample["image"])
    assert not torch.equal(photos(1)[2, 3][0]["image"], sample["image"])
    assert sample["image"].shape == (3, 64, 64)
    assert sample["image"].dtype == torch.float32
    assert sample["target"].tolist() == [1, 1, 0]
    assert photos(0)[0, 2][0]["target"].tolist() == [0, 0, 0]
    assert failed == []


def test_unreadable_photos_are_found_by_their_header_or_replaced_later(tmp_path: Path) -> None:
    folder, _, _ = write_set(tmp_path, 3)
    (folder / "notes.jpg").write_text("no image")
    Image.effect_noise((90, 90), 60).convert("RGB").save(folder / "whole.jpg")
    whole = (folder / "whole.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    paths = [folder / "missing.jpg", *sorted(folder.iterdir())]
    good, failed = readable_photos(paths)
    assert [path.name for path, _ in failed] == ["missing.jpg", "notes.jpg"]
    assert [path.name for path in good] == ["cut.jpg", "toy00.png", "toy01.png", "toy02.png", "whole.jpg"]

    photos = CamPhotos(good, [(0,)] + [(1,)] * 4, 2, normalisation=HALF, recipe=RECIPE)
    sample, problems = photos[0, 0]
    assert [path.name for path, _ in problems] == ["cut.jpg"]
    assert sample["target"].tolist() == [0, 1]  # those of the photo that took its place
    batches = [[(0, 0), (0, 1)], [(0, 2), (0, 0)]]
    for workers in (0, 1):
        loaded = list(load_batches(photos, batches, workers, pin=False))
        assert [[path.name for path, _ in problems] for _, problems in loaded] == [["cut.jpg"], ["cut.jpg"]]
        assert torch.equal(loaded[0][0]["image"][0], sample["image"])
    alone = CamPhotos([folder / "cut.jpg"], [(0,)], 2, normalisation=HALF, recipe=RECIPE)
    assert [(tensors, len(problems)) for tensors, problems in load_batches(alone, [[(0, 0)]], 1, pin=False)] == [
        ({}, 1)
    ]


@pytest.mark.parametrize("size", [(50, 131), (64, 64), (90, 61), (3, 200)])
def test_irn_labels_are_those_of_the_whole_canvas_reduced(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 20, size).astype(np.uint8)
    for _ in range(20):
        crop = random_crop(rng, size, 64)
        (top, left), (to_top, to_left), (height, width) = crop.source, crop.target, crop.extent
        canvas = np.full((64, 64), 255, np.uint8)
        canvas[to_top : to_top + height, to_left : to_left + width] = labels[top : top + height, left : left + width]
        canvas = canvas[:, ::-1].copy() if crop.mirror else canvas
        assert torch.equal(cut_labels(labels, crop, 4, 255), reduced_label_map(torch.from_numpy(canvas)).long())


def test_irn_labels_may_be_of_another_size_than_the_photo() -> None:
    labels = np.random.default_rng(0).integers(0, 20, (16, 16)).astype(np.uint8)
    crop = Crop((64, 64), 64, (0, 0), (0, 0), (64, 64), mirror=False)
    assert np.array_equal(cut_labels(labels, crop, 4, 255).numpy(), labels)
    assert np.array_equal(cut_labels(labels.repeat(3, 0).repeat(3, 1), crop, 4, 255).numpy(), labels)


def test_irn_labels_stay_with_their_photo(tmp_path: Path) -> None:
    """A photo that shows its own labels in grey, resized, cropped and mirrored."""
    labels = np.zeros((80, 100), np.uint8)
    labels[20:50, 30:80] = 1
    Image.fromarray(np.repeat(labels[:, :, None] * 200, 3, 2)).save(tmp_path / "p.png")
    write_mask(tmp_path / "labels.png", labels)
    dataset = BoundaryPhotos([tmp_path / "p.png"], [tmp_path / "labels.png"], normalisation=HALF, recipe=RECIPE)
    seen = set()
    for epoch in range(12):
        sample, failed = dataset[epoch, 0]
        assert not failed
        picture, found = sample["image"][0, 2::4, 2::4] * 0.5 + 0.5, sample["labels"]
        seen |= set(found.unique().tolist())
        inside = found != 255
        wrong = ((picture > 0.4) != (found == 1)) & inside
        assert wrong.sum() <= 6  # at the rim, where the resized photo is grey
        assert (picture[~inside] == 0.5).all()
    assert seen == {0, 1, 255}
