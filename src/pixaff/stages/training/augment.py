"""Random resizing, cropping, mirroring and colour jitter of a photo, as plain functions of a NumPy generator.

The paper (section 4.2) trains with random sizes, random crops, mirror images and jittered colours. Nothing here
touches a global random state: the same generator state gives the same image in any process.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms.v2 import functional as F  # type: ignore[import-untyped]

JITTER = (0.3, 0.3, 0.3, 0.1)
"""Brightness, contrast, saturation (factors 1 - s to 1 + s) and hue (turns -s to s)."""


@dataclass(frozen=True)
class Crop:
    """A window of an image, and its place on a square canvas; sizes are (height, width) in pixels."""

    size: tuple[int, int]
    """Size of the whole image, after resizing."""
    side: int
    """Side of the square canvas."""
    source: tuple[int, int]
    """Top left corner of the window in the image."""
    target: tuple[int, int]
    """Top left corner of the window on the canvas."""
    extent: tuple[int, int]
    """Size of the window."""
    mirror: bool
    """Whether the canvas is mirrored after the window has been copied."""


def random_size(rng: np.random.Generator, size: tuple[int, int], long_side: tuple[int, int]) -> tuple[int, int]:
    """A size of the same shape whose longer side is drawn from ``long_side`` (both ends included)."""
    scale = int(rng.integers(long_side[0], long_side[1] + 1)) / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def random_crop(rng: np.random.Generator, size: tuple[int, int], side: int, grid: int = 1) -> Crop:
    """Draw a square crop of an image, and whether to mirror it.

    A side longer than ``side`` is cropped at a random place, a shorter one is put at a random place of the canvas. Both
    places are multiples of ``grid``, so that with ``grid=8`` a map of 8 x 8 cells can be cropped along with its image.

    Raises:
        ValueError: ``side`` is not a multiple of ``grid``.
    """
    if side % grid:
        raise ValueError(f"crop side must be a multiple of {grid}, found {side}")
    corners = []
    for length in size:
        spare = length - side
        if spare > 0:
            # Rounded up: the last place may reach beyond the edge, or else the last few pixels would never be seen.
            corners.append((grid * int(rng.integers(-(-spare // grid) + 1)), 0))
        else:
            corners.append((0, grid * int(rng.integers(-spare // grid + 1))))
    (top, to_top), (left, to_left) = corners
    extent = min(side, size[0] - top), min(side, size[1] - left)
    return Crop(size, side, (top, left), (to_top, to_left), extent, bool(rng.integers(2)))


def cut_picture(image: NDArray[np.uint8], crop: Crop) -> Image.Image:
    """The crop's window of ``image`` (H,W,3), resized as if the whole image had been resized to ``crop.size``."""
    picture = Image.fromarray(image)
    (top, left), (height, width) = crop.source, crop.extent
    if image.shape[:2] == crop.size:
        return picture.crop((left, top, left + width, top + height))
    down, across = image.shape[0] / crop.size[0], image.shape[1] / crop.size[1]
    # Rounding may put the far corner slightly outside, which Pillow refuses.
    right, bottom = min((left + width) * across, image.shape[1]), min((top + height) * down, image.shape[0])
    return picture.resize((width, height), Image.Resampling.BICUBIC, box=(left * across, top * down, right, bottom))


def jitter_colours(
    rng: np.random.Generator, picture: Image.Image, strengths: tuple[float, float, float, float] = JITTER
) -> Image.Image:
    """Change brightness, contrast, saturation and hue by random amounts, in random order."""
    adjust: tuple[Callable[[Image.Image, float], Image.Image], ...] = (
        F.adjust_brightness,
        F.adjust_contrast,
        F.adjust_saturation,
        F.adjust_hue,
    )
    amounts = [float(rng.uniform(max(0.0, 1 - s), 1 + s)) for s in strengths[:3]]
    amounts.append(float(rng.uniform(-strengths[3], strengths[3])))
    for which in rng.permutation(4):
        picture = adjust[which](picture, amounts[which])
    return picture


class Normalisation(NamedTuple):
    """The colours that a network expects: mean and standard deviation of red, green and blue from 0 to 1, and their
    order.

    With ``bgr`` the normalised colours are in the order blue, green, red.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    bgr: bool = False


def place_picture(picture: Image.Image, crop: Crop, normalisation: Normalisation) -> torch.Tensor:
    """Normalise the crop's window and put it on the canvas: float32 (3, side, side), zeros around it."""
    mean, std, bgr = normalisation
    pixels = F.normalize(F.to_dtype(F.pil_to_tensor(picture), torch.float32, scale=True), list(mean), list(std))
    canvas = torch.zeros(3, crop.side, crop.side)
    (top, left), (height, width) = crop.target, crop.extent
    canvas[:, top : top + height, left : left + width] = pixels.flip(0) if bgr else pixels
    return canvas.flip(-1) if crop.mirror else canvas


def cut_labels(labels: NDArray[np.uint8], crop: Crop, stride: int, outside: int) -> torch.Tensor:
    """Crop a label map (h,w) along with its image, reduced to a stride by nearest neighbour.

    The map may have any size: it is resized to ``crop.size`` by nearest neighbour as well. Each cell gets the label of
    the pixel at its centre, or right below it, as `pixaff.ops.labels.reduced_label_map` of the whole canvas has it.

    Returns int64 (side / stride, side / stride); ``outside`` where there is no image.
    """
    canvas = ((np.arange(crop.side // stride) + 0.5) * stride).astype(np.int64)
    rows = _label_places(canvas, crop, labels.shape[0], 0)
    columns = _label_places(crop.side - 1 - canvas if crop.mirror else canvas, crop, labels.shape[1], 1)
    cells = labels[np.maximum(rows, 0)[:, None], np.maximum(columns, 0)].astype(np.int64)
    cells[rows < 0], cells[:, columns < 0] = outside, outside
    return torch.from_numpy(cells)


def _label_places(canvas: NDArray[np.int64], crop: Crop, length: int, axis: int) -> NDArray[np.int64]:
    """The rows or columns of a label map of some length for those of the canvas; -1 where there is no image."""
    inside = canvas - crop.target[axis]
    image = inside + crop.source[axis]
    places = ((image + 0.5) * length / crop.size[axis]).astype(np.int64).clip(0, length - 1)
    found: NDArray[np.int64] = np.where((inside >= 0) & (inside < crop.extent[axis]), places, -1)
    return found


def cut_cells(cells: NDArray[np.uint8], crop: Crop, grid: int, outside: int) -> torch.Tensor:
    """Crop a map of ``grid`` x ``grid`` pixel cells (h,w) along with its image; ``outside`` where there is no image.

    Returns int64 (side / grid, side / grid). The crop must have been drawn with the same ``grid``.
    """
    side = crop.side // grid
    canvas = torch.full((side, side), outside, dtype=torch.int64)
    (top, left), (to_top, to_left) = (tuple(c // grid for c in corner) for corner in (crop.source, crop.target))
    height, width = (-(-length // grid) for length in crop.extent)
    window = torch.from_numpy(cells[top : top + height, left : left + width].astype(np.int64))
    canvas[to_top : to_top + height, to_left : to_left + width] = window
    return canvas.flip(-1) if crop.mirror else canvas


def place_pixels(picture: Image.Image, crop: Crop, colour: tuple[int, ...]) -> torch.Tensor:
    """Put the crop's window on a canvas of one colour: uint8 (3, side, side), to be normalised on the device."""
    canvas = np.empty((crop.side, crop.side, 3), np.uint8)
    canvas[:] = colour
    (top, left), (height, width) = crop.target, crop.extent
    canvas[top : top + height, left : left + width] = np.asarray(picture)
    return torch.from_numpy((canvas[:, ::-1] if crop.mirror else canvas).transpose(2, 0, 1).copy())
