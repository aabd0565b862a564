"""A toy data set and toy networks that the training tests share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from pixaff.models import registry
from pixaff.models.base import AffinityNetwork, BoundaryNetwork, CamNetwork, MeanShift, Network, SegNetwork

CLASSES = ("square", "disc")


def draw(rng: np.random.Generator, height: int, width: int, shown: tuple[int, ...]) -> tuple[NDArray, NDArray]:
    """Grey noise with a red square (class 0) and a green disc (class 1): image (H,W,3), mask (H,W) of 0, 1, 2."""
    image = rng.integers(60, 120, (height, width, 3)).astype(np.uint8)
    mask = np.zeros((height, width), np.uint8)
    y, x = np.mgrid[:height, :width]
    for index in shown:
        radius = int(rng.integers(height // 6, height // 4))
        cy, cx = int(rng.integers(radius, height - radius)), int(rng.integers(radius, width - radius))
        inside = np.maximum(abs(y - cy), abs(x - cx)) <= radius if index == 0 else np.hypot(y - cy, x - cx) <= radius
        image[inside] = (220, 40, 40) if index == 0 else (40, 220, 40)
        mask[inside] = index + 1
    return image, mask


def write_set(folder: Path, count: int, seed: int = 0) -> tuple[Path, Path, dict[str, NDArray]]:
    """Photos of several sizes and their labels.csv: (photos, labels, masks by stem)."""
    rng = np.random.default_rng(seed)
    photos = folder / "photos"
    photos.mkdir(parents=True)
    masks, rows = {}, ["image,labels"]
    for number in range(count):
        shown = ((0,), (1,), (0, 1))[number % 3]
        image, masks[f"toy{number:02}"] = draw(rng, int(rng.integers(60, 100)), int(rng.integers(60, 110)), shown)
        Image.fromarray(image).save(photos / f"toy{number:02}.png")
        rows.append(f"toy{number:02},{';'.join(CLASSES[index] for index in shown)}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    return photos, folder / "labels.csv", masks


class Tiny(Network):
    """What every network of the package has for training, at a thousandth of the size; stride 8."""

    mean = (0.5, 0.5, 0.5)
    std = (0.5, 0.5, 0.5)
    new = ("head", "rows")

    def __init__(self, outputs: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for channels in ((3, 8), (8, 16), (16, 16)):
            layers += [nn.Conv2d(*channels, 3, stride=2, padding=1), nn.ReLU()]
        self.backbone = nn.Sequential(*layers)
        self.drop = nn.Dropout(0.2)
        self.head = nn.Conv2d(16, outputs, 1)

    def preprocess(self, image: NDArray[np.uint8]) -> Tensor:
        return (torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255 - 0.5) / 0.5


class TinyCam(Tiny, CamNetwork):
    def cam(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x)).relu()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(self.backbone(x))).flatten(2).topk(8).values.mean(-1)


class TinySeeded(TinyCam):
    """A classifier with a segmentation head of its own, as `LiteCam`."""

    has_segmentation_head = True

    def __init__(self, outputs: int) -> None:
        super().__init__(outputs)
        self.rows = nn.Conv2d(16, outputs + 1, 1)
        self.register_buffer("seeded", torch.tensor(False))

    def segmentation_logits(self, x: Tensor) -> Tensor:
        return self.rows(self.backbone(x))

    def use_segmentation_head(self, used: bool) -> None:
        self.seeded.fill_(used)

    def cam(self, x: Tensor) -> Tensor:
        if not self.seeded:
            return super().cam(x)
        rows = self.segmentation_logits(x)
        return torch.sigmoid(rows[:, 1:] - rows[:, :1])


class TinyAffinity(Tiny, AffinityNetwork):
    def __init__(self, outputs: int = 24) -> None:
        super().__init__(outputs)

    def features(self, x: Tensor) -> Tensor:
        return nn.functional.elu(self.head(self.backbone(x)))


class TinyIrn(Tiny, BoundaryNetwork):
    """Stride 4: two of the three layers."""

    def __init__(self) -> None:
        super().__init__(3)
        self.backbone = self.backbone[:4]
        self.mean_shift = MeanShift()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        rows = self.head(self.drop(self.backbone(x)))
        return rows[:, 0], self.mean_shift(rows[:, 1:])


class TinySeg(Tiny, SegNetwork):
    def __init__(self, outputs: int) -> None:
        super().__init__(outputs + 1)
        self.num_classes = outputs
        self.norm = nn.BatchNorm2d(16)

    def forward(self, x: Tensor) -> Tensor:
        logits = self.head(self.norm(self.backbone(x)))
        return nn.functional.interpolate(logits, x.shape[2:], mode="bilinear", align_corners=False)


def use_tiny(
    monkeypatch: pytest.MonkeyPatch,
    cam: type[CamNetwork] = TinyCam,
    affinity: type[AffinityNetwork] = TinyAffinity,
    seg: type[SegNetwork] = TinySeg,
) -> None:
    """Let every name of the registry stand for a toy network; the package ships no weights of these."""
    entries = {
        name: replace(
            entry, family=replace(entry.family, cam=cam, affinity=affinity, irn=TinyIrn, seg=seg, shipped=False)
        )
        for name, entry in registry._ENTRIES.items()
    }
    monkeypatch.setattr(registry, "_ENTRIES", entries)


def quick_trainings(patch: pytest.MonkeyPatch) -> None:
    """Trainings of toys without what takes longer than their steps: processes that read photos, and drawn curves."""
    from pixaff.stages.training import loop
    from pixaff.stages.training.datasets import load_batches

    patch.setattr(loop, "load_batches", lambda data, batches, workers, pin: load_batches(data, batches, 0, pin))
    patch.setattr(loop, "draw_curve", lambda folder: (folder / "loss.png").touch())
