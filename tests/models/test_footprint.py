"""How much memory a network takes, without running it."""

from __future__ import annotations

import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pixaff import device
from pixaff.errors import ImageError
from pixaff.models import create_model
from pixaff.models.footprint import SPARE, traced_bytes_per_pixel
from pixaff.predictor import Predictor
from pixaff.settings import Settings


class Layers(nn.Module):
    """Of each pixel 3 numbers, then 8 beside them, then 4 beside the 8; the first ones are free by then."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).flatten(2).view(1, 8, *x.shape[2:])  # views take nothing
        return self.second(x)


class Sides(Layers):
    """Each pixel's 3 numbers stay to the end."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([super().forward(x), x], 1)


class Looking(Layers):
    """Decides by what it sees."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.sum() > 0 else x


def test_what_is_alive_together_counts() -> None:
    # The 3 numbers of the image, which the caller keeps, 8 and 4. At the end 3, 4 and the 7 that they make: less.
    assert traced_bytes_per_pixel(Layers()) == math.ceil(SPARE * 4 * (3 + 8 + 4))
    assert traced_bytes_per_pixel(Sides()) == math.ceil(SPARE * 4 * (3 + 8 + 4))
    doubled = traced_bytes_per_pixel(Layers().double())
    assert doubled is None  # a float32 image does not go into it


def test_the_network_stays_as_it_is() -> None:
    network = create_model("timm:test_resnet", 2)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    found = network.memory_per_pixel()
    assert 80 < found < 200
    assert network.bytes_per_pixel == found
    after = network.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert not network.training


def test_measured_figures_go_first_and_nothing_is_made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    assert create_model("lite_affinity").memory_per_pixel() == 360
    assert traced_bytes_per_pixel(create_model("lite_affinity")) == pytest.approx(360, rel=0.1)
    assert traced_bytes_per_pixel(Looking()) is None
    # It sees 448 x 448 pixels, however large the photo is.
    assert create_model("hybrid_affinity").memory_per_pixel() is None


def test_a_photo_too_large_for_a_backbone_of_timm_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    network = create_model("timm:test_resnet", 2)
    settings = Settings(cam="timm:test_resnet", size=0, scales=(1.0,), flip=False)
    predictor = Predictor(network, None, ("a", "b"), settings)
    monkeypatch.setattr(device, "total_memory", lambda: 100 * 100 * network.memory_per_pixel())
    assert predictor.cams(np.zeros((100, 100, 3), np.uint8), ["a"]).cams.shape == (1, 100, 100)
    with pytest.raises(ImageError, match=r"too large for TimmCam: found 101 x 100 pixels"):
        predictor.cams(np.zeros((101, 100, 3), np.uint8), ["a"])


def test_threads_that_ask_at_once_trace_a_network_once(monkeypatch: pytest.MonkeyPatch) -> None:
    network = create_model("vgg16_cam")
    network.bytes_per_pixel = None
    started: list[str] = []
    together = threading.Barrier(3)

    def traced(_: object) -> int:
        started.append("once")
        time.sleep(0.05)
        return 7

    monkeypatch.setattr("pixaff.models.base.traced_bytes_per_pixel", traced)

    def ask(_: int) -> int | None:
        together.wait()
        return network.memory_per_pixel()

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(ask, range(3))) == [7, 7, 7]
    assert started == ["once"]
