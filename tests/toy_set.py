"""A toy data set and toy networks that the training tests share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

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


class Tiny(nn.Module):
    """What every network of the package has for training, at a thousandth of the size; stride 8."""

    mean = (0.5, 0.5, 0.5)
    std = (0.5, 0.5, 0.5)

    def __init__(self, outputs: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for channels in ((3, 8), (8, 16), (16, 16)):
            layers += [nn.Conv2d(*channels, 3, stride=2, padding=1), nn.ReLU()]
        self.backbone = nn.Sequential(*layers)
        self.drop = nn.Dropout(0.2)
        self.head = nn.Conv2d(16, outputs, 1)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        return {"backbone": list(self.backbone.parameters()), "head": list(self.head.parameters())}

    def preprocess(self, image: NDArray[np.uint8]) -> Tensor:
        return (torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255 - 0.5) / 0.5


class TinyCam(Tiny):
    def cam(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x)).relu()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(self.backbone(x))).flatten(2).topk(8).values.mean(-1)


class TinySeeded(TinyCam):
    """A classifier with a pixel head of its own, as `LiteCam`."""

    def __init__(self, outputs: int) -> None:
        super().__init__(outputs)
        self.rows = nn.Conv2d(16, outputs + 1, 1)
        self.register_buffer("seeded", torch.tensor(False))

    def pixel_logits(self, x: Tensor) -> Tensor:
        return self.rows(self.backbone(x))

    def cam(self, x: Tensor) -> Tensor:
        if not self.seeded:
            return super().cam(x)
        rows = self.pixel_logits(x)
        return torch.sigmoid(rows[:, 1:] - rows[:, :1])

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        groups = super().parameter_groups()
        return {**groups, "head": [*groups["head"], *self.rows.parameters()]}


class TinyAffinity(Tiny):
    def features(self, x: Tensor) -> Tensor:
        return nn.functional.elu(self.head(self.backbone(x)))


def create_tiny(name: str, num_classes: int = 20) -> Tiny:
    """In the place of `pixaff.models.create_model`."""
    return TinyAffinity(24) if name.endswith("affinity") else TinyCam(num_classes)


def create_seeded(name: str, num_classes: int = 20) -> Tiny:
    """The same with a pixel head."""
    return TinyAffinity(24) if name.endswith("affinity") else TinySeeded(num_classes)
