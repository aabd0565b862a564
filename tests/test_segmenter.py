"""A segmentation network on images in memory: classes, labels, scales, and what it returns."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from toy_bundle import BLUE, RED, draw, toy_segmenter

from pixaff.errors import LabelsError, UsageError
from pixaff.loaders import load_segmenter
from pixaff.prediction import Prediction, Segmentation
from pixaff.segmenter import Segmenter

PHOTO = Path(__file__).parents[1] / "examples" / "photos" / "chelsea.jpg"


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    draw(tmp_path / "a.png", (RED, 8, 8), (BLUE, 30, 60))
    return tmp_path / "a.png"


def expected() -> np.ndarray:
    mask = np.zeros((64, 96), np.uint8)
    mask[8:32, 8:32], mask[30:54, 60:84] = 1, 2
    return mask


def test_mask_shows_every_class_that_the_network_sees(photo: Path, tmp_path: Path) -> None:
    segmenter = toy_segmenter()
    picture = Image.open(photo)
    tensor = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
    for image in (photo, str(photo), picture, np.asarray(picture), tensor, tensor / 255):
        result = segmenter(image)
        assert type(result) is Segmentation
        assert (result.mask == expected()).all()
    assert result.classes == ("red", "blue")
    assert result.indices == (0, 1)
    assert result.scores.shape == (3, 64, 96)
    assert np.allclose(result.scores.sum(0), 1, atol=1e-5)
    assert repr(result) == "Segmentation(64 x 96, classes: red, blue)"
    facts = json.loads(json.dumps(result.to_dict()))
    assert facts["shares"]["red"] == pytest.approx(24 * 24 / 64 / 96)
    assert "probabilities" not in facts
    result.save(tmp_path / "mask.png")
    assert (np.asarray(Image.open(tmp_path / "mask.png")) == expected()).all()
    assert result.overlay().size == (96, 64)
    assert issubclass(Prediction, Segmentation)


def test_labels_restrict_the_classes(photo: Path) -> None:
    segmenter = toy_segmenter()
    blue = segmenter(photo, labels=["blue"])
    assert blue.classes == ("blue",)
    assert (blue.mask == np.where(expected() == 2, 2, 0)).all()
    assert blue.scores.shape == (2, 64, 96)
    assert (segmenter(photo, labels=[0]).mask == np.where(expected() == 1, 1, 0)).all()
    none = segmenter(photo, labels=[])
    assert (none.classes, none.mask.max()) == ((), 0)
    results = segmenter([photo, photo], labels=[None, ["red"]])
    assert [result.classes for result in results] == [("red", "blue"), ("red",)]
    with pytest.raises(UsageError, match="2 images and labels of 1"):
        segmenter([photo, photo], labels=[None])
    with pytest.raises(LabelsError, match="expected a list such as"):
        segmenter(photo, labels="red")
    with pytest.raises(LabelsError, match="green"):
        segmenter(photo, labels=["green"])


def test_scales_and_mirror_images_are_averaged(photo: Path) -> None:
    seen: list[tuple[int, ...]] = []
    segmenter = toy_segmenter(scales=(1.0, 0.5), flip=True)

    class Watched(type(segmenter.network)):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(tuple(x.shape))
            assert torch.equal(x[0], x[1].flip(2))
            return super().forward(x)

    several = Segmenter(Watched().eval(), segmenter.classes, segmenter.settings)(photo)
    assert seen == [(2, 3, 64, 96), (2, 3, 32, 48)]
    assert (several.mask != expected()).mean() < 0.05
    one, half = (toy_segmenter(scales=(scale,))(photo, labels=["red", "blue"]).scores for scale in (1.0, 0.5))
    # One pass enlarges logits, several passes probabilities: that differs along the edges.
    assert np.abs(several.scores - (one + half) / 2).mean() < 0.01


def test_mask_has_the_size_of_the_photo_at_any_working_size(photo: Path) -> None:
    result = toy_segmenter(size=48)(photo)
    assert result.image.shape == (32, 48, 3)
    assert result.mask.shape == (64, 96)
    assert (result.mask != expected()).mean() < 0.05
    large = toy_segmenter(size=192)(photo)
    assert large.image.shape == (128, 192, 3)
    assert large.mask.shape == (64, 96)


def test_crf_refines(photo: Path) -> None:
    rng = np.random.default_rng(0)
    noisy = np.asarray(Image.open(photo)) + rng.integers(-90, 90, (64, 96, 1))
    image = noisy.clip(0, 255).astype(np.uint8)
    rough, fine = toy_segmenter()(image, labels=["red", "blue"]), toy_segmenter(crf=True)(image, labels=["red", "blue"])
    assert (fine.mask != expected()).mean() <= (rough.mask != expected()).mean()
    assert not np.array_equal(fine.scores, rough.scores)


def test_replace_keeps_the_network(photo: Path) -> None:
    segmenter = toy_segmenter()
    other = segmenter.replace(size=48)
    assert other.network is segmenter.network
    assert (other.settings.size, segmenter.settings.size) == (48, 0)
    with pytest.raises(UsageError, match="no setting is called 'alpha'"):
        segmenter.replace(alpha=2)
    with pytest.raises(UsageError, match="segment has no option called 'alpha'"):
        load_segmenter("lite", alpha=2)  # type: ignore[call-arg]


def test_few_classes_are_enlarged_and_none_is_lost() -> None:
    segmenter = load_segmenter("lite", inference="torch", size=0)
    image = np.asarray(Image.open(PHOTO).resize((150, 101)))
    found = segmenter(image)
    with torch.inference_mode():
        logits = segmenter.network(segmenter.network.preprocess(image)[None])[0]
    assert logits.shape == (21, 101, 150)
    assert found.classes == ("cat",)
    assert np.array_equal(found.mask, logits.argmax(0).numpy())
