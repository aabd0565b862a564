"""Class activation maps (CAMs) over scales and mirror images, and the background score for them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

EPSILON = 1e-5
SCALES = (1.0, 0.5, 1.5, 2.0)

Picture: TypeAlias = NDArray[np.uint8] | Image.Image
"""An image: uint8 (H,W,3) RGB or a PIL image."""


class Mapper(Protocol):
    """A network that maps one scale of an image; what `summed_cams` needs."""

    def preprocess(self, image: Picture) -> Tensor:
        """Image -> float32 (3,H,W), normalised."""
        ...

    def cam(self, x: Tensor) -> Tensor:
        """Normalised images (B,3,H,W) -> maps (B,K,h,w) >= 0."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]:
        """The weights, which tell the device."""
        ...


@runtime_checkable
class OwnCams(Protocol):
    """A network that makes the CAMs of a whole image itself, as those of pixaff do."""

    def normalized_cams(self, image: Picture, classes: Sequence[int], scales: Sequence[float], flip: bool) -> Tensor:
        """See the function of that name."""
        ...


@torch.inference_mode()
def normalized_cams(
    model: OwnCams | Mapper,
    image: Picture,
    classes: Sequence[int],
    scales: Sequence[float] = SCALES,
    flip: bool = True,
) -> Tensor:
    """Class activation maps of one image (section 3.1), summed over scales and mirror images.

    The 8-bit image is resized (bicubic, sizes rounded; for a network of pixaff, to multiples of ``model.size_divisor``,
    so that its cells cover the image exactly), mapped by ``model.cam``, enlarged to the image's size (bilinear,
    align_corners false), un-mirrored and summed; each map is divided by its maximum + 1e-5. A network with its own
    ``normalized_cams``
    may do otherwise: the hybrid classifier works at one size, whatever ``scales`` says.

    Args:
        model: A CAM network of pixaff, or any module with ``preprocess`` and ``cam``.
        image: uint8 (H,W,3) RGB or a PIL image.
        classes: 0-based classes that are present.
        scales: Factors on the image's sides.
        flip: Whether to sum the maps of mirror images as well.

    Returns:
        float32 (len(classes), H, W) in 0..1, on the model's device.

    Raises:
        ValueError: No class, a class that the network lacks, or no scale.
    """
    if isinstance(model, OwnCams):
        if not classes or not scales:
            raise _nothing_to_sum(classes, scales)
        return model.normalized_cams(image, classes, scales, flip)
    return summed_cams(model, image, classes, scales, flip)


@torch.inference_mode()
def summed_cams(
    model: Mapper,
    image: Picture,
    classes: Sequence[int],
    scales: Sequence[float] = SCALES,
    flip: bool = True,
    divisor: int = 1,
) -> Tensor:
    """`normalized_cams` as a sum over scales and mirror images, whose sizes are multiples of ``divisor``."""
    height, width = image.size[::-1] if isinstance(image, Image.Image) else image.shape[:2]
    return sum_of_scales(scale_maps(model, image, classes, scales, flip, divisor), (height, width))


def sum_of_scales(maps: Iterable[Tensor], size: tuple[int, int]) -> Tensor:
    """Maps (1,C,h,w) of several scales, enlarged to a size and summed: CAMs (C,H,W) in 0..1."""
    total: Tensor | None = None
    for one in maps:
        summed = F.interpolate(one, size, mode="bilinear", align_corners=False)[0]
        total = summed if total is None else total + summed
    assert total is not None
    return divided_by_maximum(total)


def scale_maps(
    model: Mapper, image: Picture, classes: Sequence[int], scales: Sequence[float], flip: bool, divisor: int = 1
) -> Iterator[Tensor]:
    """Yield the maps of each scale as the network makes them, with those of the mirror image added: (1,C,h,w).

    Args, Raises:
        See `normalized_cams` and `summed_cams`.
    """
    if not classes or not scales:
        raise _nothing_to_sum(classes, scales)
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    device = next(model.parameters()).device
    for scale in scales:
        x = model.preprocess(resized_to_cells(picture, scale, divisor))[None].to(device)
        if flip:
            x = torch.cat([x, x.flip(3)])
        maps = model.cam(x.contiguous(memory_format=torch.channels_last)).float()
        if max(classes) >= maps.shape[1] or min(classes) < 0:
            raise ValueError(f"found classes {list(classes)}, expected 0..{maps.shape[1] - 1}")
        maps = maps[:, list(classes)]
        # Interpolation is linear and symmetric: un-mirroring before it saves half of the work.
        yield maps[:1] + maps[1:].flip(3) if flip else maps


def whole_cells(size: tuple[int, int], scale: float, divisor: int) -> tuple[int, int]:
    """A size (h, w) times a scale, rounded to multiples of the divisor."""
    height, width = (max(1, round(side * scale / divisor)) * divisor for side in size)
    return height, width


def resized_to_cells(image: Picture, scale: float, divisor: int) -> Image.Image:
    """An image at a scale (bicubic), with sides that are multiples of the divisor."""
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    height, width = whole_cells((picture.height, picture.width), scale, divisor)
    if picture.size == (width, height):
        return picture
    return picture.resize((width, height), Image.Resampling.BICUBIC)


def divided_by_maximum(maps: Tensor) -> Tensor:
    """Each map of (C,H,W) divided by its maximum + 1e-5."""
    return maps / (maps.amax((1, 2), keepdim=True) + EPSILON)


def _nothing_to_sum(classes: Sequence[int], scales: Sequence[float]) -> ValueError:
    return ValueError(f"found {len(classes)} classes and {len(scales)} scales, expected at least one of each")


def background_score(cams: Tensor, alpha: float) -> Tensor:
    """(1 - max over the classes)^alpha: float (C,H,W) in 0..1 -> (1,H,W) (section 3.1, equation 2); 1 if C is 0."""
    if not len(cams):
        return cams.new_ones((1, *cams.shape[1:]))
    return (1 - cams.amax(0, keepdim=True)).clamp(min=0) ** alpha


def with_background(cams: Tensor, alpha: float) -> Tensor:
    """Background and class scores: float (C,H,W) in 0..1 -> (C + 1,H,W), background first."""
    return torch.cat([background_score(cams, alpha), cams])
