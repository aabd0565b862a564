from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from irn_figures import IMAGE, irn_figures
from PIL import Image

from pixaff.ops.crf import dense_crf
from pixaff.ops.labels import affinity_label_map, confident_label_map, pair_labels, reduced_label_map
from pixaff.ops.neighbours import offsets

GOLDEN = Path(__file__).parents[1] / "data" / "reference_golden.npz"


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN) as data:
        return {
            key: data[key]
            for key in ("crf_alpha4", "crf_alpha32", "labels.map", "labels.bg", "labels.fg", "labels.neg")
        }


def top_left_crop(posterior: np.ndarray, side: int = 128) -> torch.Tensor:
    """Crop of the reference: the 98 x 131 image at the top left, nothing below it."""
    crop = torch.zeros(posterior.shape[0], side, side)
    cut = posterior[:, :side, :side]
    crop[:, : cut.shape[1], : cut.shape[2]] = torch.from_numpy(cut)
    return crop


def test_golden_label_map(golden):
    low, high = top_left_crop(golden["crf_alpha4"]), top_left_crop(golden["crf_alpha32"])
    labels = affinity_label_map(low, high)
    assert labels.dtype == torch.uint8
    np.testing.assert_array_equal(labels.numpy(), golden["labels.map"])
    batch = affinity_label_map(torch.stack([low, low.flip(-1)]), torch.stack([high, high.flip(-1)]))
    np.testing.assert_array_equal(batch.numpy(), np.stack([golden["labels.map"], golden["labels.map"][:, ::-1]]))


def test_golden_pair_labels(golden):
    label_map = torch.from_numpy(golden["labels.map"])
    for name, found in zip(("bg", "fg", "neg"), pair_labels(label_map), strict=True):
        assert found.dtype == torch.bool
        np.testing.assert_array_equal(found.numpy(), golden[f"labels.{name}"], err_msg=name)


def test_each_rule_of_the_label_map():
    #           sure class, sure background, doubt, low says class but high background, no image
    low = torch.tensor([[0.1, 0.9, 0.8, 0.2, 0.0], [0.9, 0.1, 0.2, 0.8, 0.0]])
    high = torch.tensor([[0.0, 0.9, 0.3, 0.9, 0.0], [1.0, 0.1, 0.7, 0.1, 0.0]])
    low, high = low[:, None], high[:, None]
    assert affinity_label_map(low, high, stride=1).tolist() == [[1, 0, 255, 0, 255]]


def test_a_batch_of_pair_labels_by_a_double_loop():
    rng = np.random.default_rng(0)
    maps = rng.choice([0, 1, 2, 255], (2, 7, 9)).astype(np.int64)
    bg, fg, neg = pair_labels(torch.from_numpy(maps), radius=3)
    assert bg.shape == (2, len(offsets(3)), 5 * 5)
    for b, grid in enumerate(maps):
        for p, (dy, dx) in enumerate(offsets(3)):
            for k, (y, x) in enumerate((y, x) for y in range(5) for x in range(2, 7)):
                ends = {int(grid[y, x]), int(grid[y + dy, x + dx])}
                kind = (ends == {0}, len(ends) == 1 and ends <= {1, 2}, len(ends) == 2 and 255 not in ends)
                assert (bool(bg[b, p, k]), bool(fg[b, p, k]), bool(neg[b, p, k])) == kind


def test_bad_input():
    good = torch.zeros(2, 16, 16)
    with pytest.raises(ValueError, match=r"found \(2, 16, 16\) and \(3, 16, 16\)"):
        affinity_label_map(good, torch.zeros(3, 16, 16))
    with pytest.raises(ValueError, match="size 16x15, expected multiples of the stride 8"):
        affinity_label_map(good[..., :15], good[..., :15])
    with pytest.raises(ValueError, match="found 256 channels"):
        affinity_label_map(torch.zeros(256, 8, 8), torch.zeros(256, 8, 8))
    with pytest.raises(ValueError, match=r"found torch.int64 and torch.int64"):
        affinity_label_map(good.long(), good.long())
    with pytest.raises(ValueError, match=r"label_map: found torch.float32 \(2, 16, 16\)"):
        pair_labels(good)


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return np.asarray(Image.open(IMAGE).convert("RGB"))


@pytest.fixture(scope="module")
def maps() -> torch.Tensor:
    with np.load(GOLDEN) as data:
        return torch.from_numpy(data["cam"])


def test_irn_labels(photo, maps):
    labels = confident_label_map(photo, maps)
    values = torch.zeros(256, dtype=torch.uint8)
    values[[1, 2, 255]] = torch.tensor([8, 15, 255], dtype=torch.uint8)
    assert torch.equal(values[labels.long()], irn_figures()["ir_label"])


@pytest.mark.parametrize(("name", "threshold"), [("conf_fg", 0.30), ("conf_bg", 0.05)])
def test_irn_labels_of_one_threshold(name, threshold, photo, maps):
    """Both thresholds the same: no doubt is left."""
    labels = confident_label_map(photo, maps, threshold, threshold)
    assert torch.equal(torch.tensor([0, 8, 15])[labels.long()], irn_figures()[name].long())


def test_irn_labels_against_the_steps_one_by_one(photo, maps):
    crop, cams = photo[:40, :50], maps[:1, :40, :50]
    found = []
    for threshold in (0.4, 0.1):
        hard = cams[0] > threshold
        probs = torch.stack([torch.where(hard, 0.2, 0.8), torch.where(hard, 0.8, 0.2)])
        found.append(dense_crf(crop, probs, sxy_bilateral=50, srgb=5).argmax(0))
    expected = found[0].clone()
    expected[(found[0] == 0) & (found[1] == 1)] = 255
    assert torch.equal(confident_label_map(crop, cams, 0.4, 0.1, certainty=0.8).long(), expected)
    assert {0, 1} <= set(expected.unique().tolist())


def test_irn_labels_without_a_class_are_background(photo):
    labels = confident_label_map(photo, torch.zeros(0, 98, 131))
    assert labels.shape == (98, 131)
    assert labels.max() == 0


def test_irn_reduced_labels():
    figures = irn_figures()
    assert torch.equal(reduced_label_map(figures["loss.label"]), figures["loss.reduced_label"])


@pytest.mark.parametrize(("h", "w"), [(8, 12), (10, 13), (1, 30), (97, 4)])
def test_reduced_labels_are_those_of_a_resized_picture(h, w):
    labels = torch.randint(0, 256, (h, w), generator=torch.Generator().manual_seed(h), dtype=torch.uint8)
    found = reduced_label_map(torch.stack([labels, labels.flip(0)]))
    size = (max(1, round(w / 4)), max(1, round(h / 4)))
    expected = np.asarray(Image.fromarray(labels.numpy()).resize(size, Image.Resampling.NEAREST))
    np.testing.assert_array_equal(found[0].numpy(), expected)
    assert found.shape == (2, *expected.shape)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"cams": torch.zeros(98, 131)}, "cams: found torch.float32"),
        ({"cams": torch.zeros(1, 98, 131, dtype=torch.uint8)}, "cams: found torch.uint8"),
        ({"foreground": 0.05, "background": 0.3}, "foreground and background: found 0.05 and 0.3"),
        ({"certainty": 1.0}, "certainty: found 1.0"),
    ],
)
def test_bad_settings_of_irn_labels(given, words, photo, maps):
    with pytest.raises(ValueError, match=words):
        confident_label_map(**{"image": photo, "cams": maps, **given})
