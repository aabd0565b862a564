"""Class activation maps over scales and mirror images, against the published way of making them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from pixaff.models.base import CamNetwork
from pixaff.ops.cam import background_score, normalized_cams, with_background


class Stripes(torch.nn.Module):
    """A network of one strided convolution, asymmetric on purpose: its map of a mirror image is no mirror image."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = torch.nn.Conv2d(3, 4, 5, stride=8, padding=2, bias=False)

    def preprocess(self, image: object) -> torch.Tensor:
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 127.5 - 1

    def cam(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.conv(x))


class CellStripes(Stripes, CamNetwork):
    size_divisor = 16


def picture(height: int = 50, width: int = 67) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def slow_cams(model: Stripes, image: np.ndarray, classes: list[int], scales: tuple[float, ...]) -> torch.Tensor:
    """One scale, one mirror, all classes at a time, each enlarged before it is un-mirrored and summed."""
    height, width = image.shape[:2]
    total = torch.zeros(4, height, width, dtype=torch.float64)
    for scale in scales:
        size = (round(width * scale), round(height * scale))
        resized = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
        for mirrored in (False, True):
            x = model.preprocess(resized[:, ::-1].copy() if mirrored else resized)[None]
            maps = F.interpolate(model.cam(x), (height, width), mode="bilinear", align_corners=False)[0].detach()
            total += maps.flip(2) if mirrored else maps
    total = total[classes]
    return total / (total.amax((1, 2), keepdim=True) + 1e-5)


def test_equals_the_plain_loop() -> None:
    model = Stripes()
    found = normalized_cams(model, picture(), [3, 1], scales=(1, 0.5, 1.5))
    assert found.shape == (2, 50, 67)
    assert found.dtype == torch.float32
    expected = slow_cams(model, picture(), [3, 1], (1, 0.5, 1.5))
    assert torch.allclose(found.double(), expected, atol=1e-5)


def test_without_mirror_differs_and_takes_pil_images() -> None:
    model = Stripes()
    plain = normalized_cams(model, Image.fromarray(picture()), [0], flip=False)
    assert (plain - normalized_cams(model, picture(), [0])).abs().max() > 0.05


def test_sizes_follow_the_network_s_divisor() -> None:
    model, seen = CellStripes(), []
    cam = model.cam
    model.cam = lambda x: seen.append(tuple(x.shape[2:])) or cam(x)  # type: ignore[method-assign,func-returns-value]
    normalized_cams(model, picture(50, 67), [0], scales=(1.0, 0.1))
    assert seen == [(48, 64), (16, 16)]


def test_one_pixel() -> None:
    assert normalized_cams(Stripes(), picture(1, 1), [0]).shape == (1, 1, 1)


@pytest.mark.parametrize(("classes", "scales"), [([], (1.0,)), ([0], ()), ([4], (1.0,)), ([-1], (1.0,))])
def test_bad_arguments(classes: list[int], scales: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="expected"):
        normalized_cams(Stripes(), picture(), classes, scales=scales)


def test_background_is_a_power_of_what_the_best_class_leaves() -> None:
    cams = torch.tensor([[[0.25, 1.0]], [[0.5, 0.0]]])
    assert torch.allclose(background_score(cams, 2.0), torch.tensor([[[0.25, 0.0]]]))
    assert torch.equal(with_background(cams, 2.0)[1:], cams)
