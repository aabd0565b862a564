"""A model without training that sees colours: class "red" where red prevails, class "blue" where blue does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from pixaff.models.base import AffinityNetwork, BoundaryNetwork, CamNetwork, MeanShift, Network, SegNetwork
from pixaff.models.bundle import Bundle, Parts
from pixaff.models.model_folder import PARTS
from pixaff.ops.instances import connected_regions
from pixaff.predictor import Predictor
from pixaff.segmenter import Segmenter
from pixaff.settings import SegSettings, Settings

CLASSES = ("red", "blue")
RED, BLUE, GREY = (210, 30, 30), (30, 30, 210), (120, 120, 120)


class Toy(Network):
    """What both toy networks share: images as values from 0 to 1, and a parameter by which the device is found."""

    bytes_per_pixel = 100
    mean = (0.0, 0.0, 0.0)
    std = (1.0, 1.0, 1.0)

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1))

    def preprocess(self, image: NDArray[np.uint8]) -> Tensor:
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


class ToyCam(Toy, CamNetwork):
    def cam(self, x: Tensor) -> Tensor:
        surplus = x[:, [0, 2]] - x.sum(1, keepdim=True) / 2
        return F.avg_pool2d(surplus.relu() * self.gain, 2, ceil_mode=True)

    def forward(self, x: Tensor) -> Tensor:
        return 100 * self.cam(x).amax((2, 3)) - 5


class ToyAffinity(Toy, AffinityNetwork):
    def features(self, x: Tensor) -> Tensor:
        return 4 * F.avg_pool2d(x, 8) * self.gain


class ToySeg(Toy, SegNetwork):
    """Grey is background; the more an image shows of red or blue, the surer is that class."""

    def forward(self, x: Tensor) -> Tensor:
        surplus = x[:, [0, 2]] - x.sum(1, keepdim=True) / 2
        return 30 * self.gain * F.pad(surplus, (0, 0, 0, 0, 1, 0), value=0.05)


def toy_segmenter(**settings: object) -> Segmenter:
    return Segmenter(ToySeg().eval(), CLASSES, SegSettings(size=0).replace(**settings))


class ToyIrn(Toy, BoundaryNetwork):
    """Boundaries where the colour changes; displacements to the centre of each region of one colour."""

    size_divisor = 4

    def __init__(self) -> None:
        super().__init__()
        self.mean_shift = MeanShift()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        small = x[:, :, ::4, ::4]
        jumps = torch.zeros_like(small[:, 0])
        jumps[:, :, 1:] += (small[..., 1:] - small[..., :-1]).abs().sum(1)
        jumps[:, 1:] += (small[..., 1:, :] - small[..., :-1, :]).abs().sum(1)
        fields = torch.full((len(x), 2, *small.shape[2:]), 100.0)
        for field, one in zip(fields, small, strict=True):
            colours = (one * 255).round().long()
            coloured = (colours.amax(0) - colours.amin(0)) > 30
            regions = connected_regions((colours[0] * 256 + colours[2]) * coloured)
            for number in range(1, int(regions.max()) + 1):
                cells = (regions == number).nonzero().float()
                field[:, regions == number] = (cells.mean(0) - cells).T
        return 20 * jumps.clamp(max=1) * self.gain - 10, fields


def toy_bundle(**settings: object) -> Bundle:
    walk = {"walk": "psa", "alpha": 3.0, "beta": 8.0, "steps": 16, "borders": "published", "final_crf": False}
    values = {"scales": (1.0, 0.5), "size": 108, "label_threshold": 0.5, **walk, **settings}
    return Bundle(ToyCam(), ToyAffinity(), CLASSES, Settings().replace(**values), Path("toy"), irn=ToyIrn())


def toy_predictor(**settings: object) -> Predictor:
    bundle = toy_bundle(**settings)
    return Predictor(bundle.cam, bundle.affinity, bundle.classes, bundle.settings, boundary_network=bundle.irn)


def use_toy(monkeypatch: pytest.MonkeyPatch, bundle: Bundle | None = None) -> Bundle:
    """Let every model's name lead to the toy, of which a command gets the networks that it asks for."""
    made = toy_bundle() if bundle is None else bundle

    def load_model(*names: object, parts: Parts | None = None, **options: object) -> Bundle:
        wanted = PARTS if parts is None else parts(made.settings) if callable(parts) else parts
        return replace(made, **{part: None for part in PARTS if part not in wanted})

    monkeypatch.setattr("pixaff.loaders.load_model", load_model)
    return made


def draw(
    path: Path, *squares: tuple[tuple[int, int, int], int, int], size: tuple[int, int] = (64, 96), side: int = 24
) -> None:
    """A grey picture (H, W) with squares, each a colour and its top left corner (y, x)."""
    image = np.full((*size, 3), GREY, np.uint8)
    for colour, y, x in squares:
        image[y : y + side, x : x + side] = colour
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, quality=95)
