"""The masks of an image, and the scores that they follow from: what `Predictor` and `Segmenter` return.

`masks_at` makes the masks of other alphas from saved scores, `margin_at` says how certain a mask is.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pixaff.errors import ImageError, UsageError
from pixaff.io.images import image_array, load_image
from pixaff.io.masks import write_mask
from pixaff.io.scores import ScoreFile, check_saved
from pixaff.ops.powers import power_weights
from pixaff.ops.resize import best_value, mask_at_size, resize_scores
from pixaff.ops.walk import upsample_scores
from pixaff.viz.cam_panels import cam_panels
from pixaff.viz.overlay import overlay as draw_overlay

STRIDE = 8
"""Side in pixels of a cell of the walks psa and both."""
OVERLAY_SIDE = 2000
"""Pixels of the long side up to which an overlay is as large as its photo."""


ImageLike = str | os.PathLike[str] | Image.Image | NDArray[Any] | Tensor
"""A path, a PIL image, uint8 (H,W,3) or (H,W), or a tensor (3,H,W) of uint8 or of floats in 0..1."""


@dataclass(frozen=True, eq=False)
class Instances:
    """The instances of one image: D detections.

    Attributes:
        map: int64 (H, W), at the image's own size: 0 background, 1..D the detections.
        values: int64 (D,), their mask values.
        classes: Their names.
        scores: float32 (D,), in 0..1: the largest propagated score, of which the largest in the image is 1; 0 for
            detections with less than 1 % of the pixels.
    """

    map: NDArray[np.int64]
    values: NDArray[np.int64]
    classes: tuple[str, ...]
    scores: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.values)

    def without_fragments(self) -> Instances:
        """Those with a score above 0, renumbered."""
        kept = np.flatnonzero(self.scores > 0)
        numbers = np.zeros(len(self) + 1, np.int64)
        numbers[kept + 1] = np.arange(1, len(kept) + 1)
        classes = tuple(self.classes[place] for place in kept)
        return Instances(numbers[self.map], self.values[kept], classes, self.scores[kept])


@dataclass(frozen=True, eq=False)
class Segmentation:
    """Scores of the classes at every pixel of an image, and the mask that follows from them.

    In a notebook it displays itself as an overlay.

    Attributes:
        image: uint8 (h, w, 3), at the working size.
        size: (H, W) of the image as given.
        indices: 0-based classes of the image, ascending.
        names: Names of all classes of the model.
        scores: float32 (C + 1, h, w), at the working size: background and classes, summing to 1 at each pixel.
    """

    image: NDArray[np.uint8]
    size: tuple[int, int]
    indices: tuple[int, ...]
    names: tuple[str, ...]
    scores: NDArray[np.float32]

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the image's classes, in the order of ``cams`` and of ``scores`` after the background."""
        return tuple(self.names[i] if i < len(self.names) else str(i + 1) for i in self.indices)

    @cached_property
    def mask(self) -> NDArray[np.uint8]:
        """uint8 (H, W), at the image's own size: 0 background, 1..K classes."""
        return self._mask(self.size)

    def overlay(self, photo: ImageLike | None = None) -> Image.Image:
        """The image, tinted with its mask, with outlines, class names and a legend.

        Args:
            photo: The same image, to be drawn on at its own size, or at most at 2,000 pixels; None draws on the image
                at the working size.

        Raises:
            ImageError: The photo cannot be read, or is not of this image's size.
        """
        image, size = (self.image, self.size) if photo is None else image_within(photo, OVERLAY_SIDE)
        if size != self.size:
            raise ImageError(
                f"found an image of {size[1]} x {size[0]} pixels, expected {self.size[1]} x {self.size[0]}",
                "give the image that the mask is of",
            )
        names = dict(zip((index + 1 for index in self.indices), self.classes, strict=True))
        return Image.fromarray(draw_overlay(image, self._mask((image.shape[0], image.shape[1])), names=names))

    def save(self, path: str | Path) -> None:
        """Write the mask as a palette PNG, atomically.

        Raises:
            UsageError: The path does not end in .png.
            OutputError: The file cannot be written.
        """
        if Path(path).suffix.lower() != ".png":
            raise UsageError(f"{path}: expected a path that ends in .png", "masks are palette PNGs")
        write_mask(path, self.mask)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: classes, size, and each mask value's share of the pixels."""
        counts = np.bincount(self.mask.ravel(), minlength=1) / self.mask.size
        shares = {name: float(counts[i + 1]) if i + 1 < len(counts) else 0.0
                  for i, name in zip(self.indices, self.classes, strict=True)}  # fmt: skip
        return {
            "classes": list(self.classes),
            "size": list(self.size),
            "shares": {"background": float(counts[0]), **shares},
        }

    def _mask(self, size: tuple[int, int]) -> NDArray[np.uint8]:
        return mask_at_size(torch.from_numpy(self.scores), [0, *(index + 1 for index in self.indices)], size)

    def _repr_png_(self) -> bytes:
        png = io.BytesIO()
        self.overlay().save(png, format="PNG")
        return png.getvalue()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.size[0]} x {self.size[1]}, classes: {', '.join(self.classes) or 'none'})"


@dataclass(frozen=True, eq=False, repr=False)
class Prediction(Segmentation):
    """The result of the walk for one image.

    Attributes:
        cams: float32 (C, h, w), in 0..1: the CAMs from which the walk started.
        probabilities: Probabilities of the predicted labels, by name; empty if labels or CAMs were given.
        walked_size: (h, w) at which the image was walked.
        alpha: Alpha of the walk.
        powers: Further alphas for which the background was propagated.
        walked: float32 (C + 1 + len(powers), h / 8, w / 8), or h / 4, w / 4 in the walk irn: the propagated scores
            before CRF refinement.
        instances: The instances, if they were asked for.
    """

    cams: NDArray[np.float32]
    probabilities: Mapping[str, float]
    walked_size: tuple[int, int]
    alpha: float
    powers: tuple[float, ...]
    walked: NDArray[np.float32]
    instances: Instances | None = None

    def cam_panels(self) -> Image.Image:
        """The CAMs as heat maps over the image, a panel for each class, with the probabilities of predicted labels."""
        scores = [self.probabilities[name] for name in self.classes] if self.probabilities else None
        return cam_panels(self.image, self.cams, self.classes, scores)

    def scores_file(self) -> ScoreFile:
        """The propagated scores, as ``propagate --save-scores`` writes them; see `masks_at`."""
        first = 1 + len(self.indices)
        values = np.array(self.indices, np.int64) + 1
        return ScoreFile(
            values,
            self.walked[1:first],
            np.array(self.powers),
            self.walked[first:],
            self.alpha,
            self.walked_size,
            self.size,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: classes, size, probabilities, and each mask value's share of the pixels."""
        probabilities = {name: round(float(value), 6) for name, value in self.probabilities.items()}
        return {**super().to_dict(), "probabilities": probabilities}


def masks_at(file: ScoreFile, alphas: Sequence[float]) -> list[NDArray[np.uint8]]:
    """Masks at the image's own size for several alphas, as `Predictor` makes them without CRF refinement.

    Raises:
        UsageError: An alpha is outside the range of the file.
    """
    check_saved(alphas, file.powers[0], file.powers[-1])
    weights = [power_weights(file.powers.tolist(), alpha) for alpha in alphas]
    classes = torch.from_numpy(file.scores)
    backgrounds = torch.einsum("ak,khw->ahw", torch.tensor(weights), torch.from_numpy(file.background))
    values = [0, *file.classes.tolist()]
    if file.size != file.walked_size:
        return [
            mask_at_size(probabilities(torch.cat([row[None], classes]), file.walked_size, file.cell), values, file.size)
            for row in backgrounds
        ]

    def large(rows: Tensor) -> Tensor:
        return upsample_scores(rows, file.walked_size, file.cell).clamp(min=0)

    if not len(file.classes):
        return [np.zeros(file.size, np.uint8) for _ in alphas]
    # Which class is best, and how good it is, is the same for all alphas.
    enlarged = large(classes)
    best, winner = enlarged.amax(0), best_value(enlarged, values[1:])
    return [winner.masked_fill(large(row[None])[0] >= best, 0).numpy() for row in backgrounds]


def margin_at(file: ScoreFile) -> NDArray[np.float32]:
    """How far the best propagated score is ahead of the second best, at the alpha of the run.

    Returns:
        float32 (H, W) of the image's size, in 0..1, of scores that sum to 1; 1 where the image shows no class.
    """
    if not len(file.classes):
        return np.ones(file.size, np.float32)
    weights = torch.tensor(power_weights(file.powers.tolist(), file.alpha))
    background = torch.einsum("k,khw->hw", weights, torch.from_numpy(file.background))
    scores = probabilities(torch.cat([background[None], torch.from_numpy(file.scores)]), file.walked_size, file.cell)
    best, second = scores.topk(2, dim=0).values
    margin: NDArray[np.float32] = resize_scores((best - second)[None], file.size)[0].numpy()
    return margin


def mask_margin(margin: NDArray[np.float32], mask: NDArray[np.uint8], classes: Sequence[int]) -> float:
    """How sure the walk was of a whole mask: the mean margin in the region of each class, averaged over the classes.

    Background counts as one of them, and a class that the mask does not show counts as 0. Large sure backgrounds, which
    most photos have, would otherwise hide small doubtful objects (docs/training.md has figures).

    Args:
        margin: float32 (H, W), see `margin_at`.
        mask: uint8 (H, W).
        classes: Mask values of the photo's classes.
    """
    if not classes:
        return 1.0
    regions = [mask == value for value in (0, *classes)]
    return float(np.mean([margin[region].mean() if region.any() else 0.0 for region in regions]))


def probabilities(walked: Tensor, size: tuple[int, int], stride: int = STRIDE) -> Tensor:
    """Propagated scores (C, h/stride, w/stride), enlarged to the size (h, w): float32, summing to 1 at each pixel."""
    scores = upsample_scores(walked, size, stride).float().clamp(min=0)
    return scores / scores.sum(0).clamp(min=1e-5)


def image_within(image: ImageLike, max_side: int, enlarge_below: int = 0) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """An image of any kind as uint8 (h,w,3), resized as by `load_image`, and its own size (H, W)."""
    sizes = max_side, enlarge_below
    if isinstance(image, (str, os.PathLike)):
        return load_image(image, *sizes)
    if isinstance(image, Image.Image):
        return image_array(image, *sizes)
    if isinstance(image, Tensor):
        pixels = image.detach().cpu()
        if pixels.ndim != 3 or pixels.shape[0] != 3 or not pixels.numel():
            raise ImageError(f"found a tensor of shape {tuple(pixels.shape)}, expected (3, H, W)")
        if pixels.is_floating_point():
            low, high = (float(bound) for bound in pixels.aminmax())
            if not (low >= 0 and high <= 1):
                raise ImageError(f"found a tensor of values {low:.4g} to {high:.4g}, expected 0 to 1")
            pixels = (pixels.float() * 255).round().to(torch.uint8)
        image = pixels.permute(1, 2, 0).contiguous().numpy()
    array = np.asarray(image)
    if array.dtype != np.uint8 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)) or not array.size:
        raise ImageError(f"found an image of {array.dtype} {array.shape}, expected uint8 (H, W, 3) or (H, W)")
    return image_array(Image.fromarray(array), *sizes)
