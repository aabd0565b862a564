"""A mask or a CAM over its photo."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pixaff.io.masks import VOID, voc_palette
from pixaff.viz.legend import draw_names

# Dark blue, blue, cyan, yellow, red, dark red at these values: the colours of CAM papers.
_STOPS = np.array([0.0, 0.125, 0.375, 0.625, 0.875, 1.0])
_COLOURS = np.array([[0, 0, 128], [0, 0, 255], [0, 255, 255], [255, 255, 0], [255, 0, 0], [128, 0, 0]], dtype=float)


def overlay(
    image: NDArray[np.uint8],
    mask: NDArray[np.uint8],
    opacity: float = 0.55,
    names: Mapping[int, str] | None = None,
) -> NDArray[np.uint8]:
    """Tint a photo with its mask in VOC colours, outline every region, and write its class on it.

    The outlines are white within black, so that they show on snow as well as on asphalt. Background keeps the colours
    of the photo; void (255), a band along the outlines of VOC's ground truth, is tinted cream without an outline.

    Args:
        image: uint8 (H, W, 3), RGB.
        mask: uint8 (H, W), class numbers.
        opacity: Share of the class colour, 0..1.
        names: Names by mask value: each is written on the largest region of its class, and a legend in a corner lists
            all of them with their share of the photo. Left out where the photo is too small for them.

    Returns:
        uint8 (H, W, 3).

    Raises:
        ValueError: Shapes or dtypes do not fit, or the opacity is out of range.
    """
    _check_image(image)
    if mask.dtype != np.uint8 or mask.shape != image.shape[:2]:
        raise ValueError(f"mask: found {mask.dtype} {mask.shape}, expected uint8 {image.shape[:2]}")
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity: found {opacity}, expected 0..1")
    tinted = mask != 0
    result = image.copy()
    result[tinted] = _blend(image[tinted], voc_palette()[mask[tinted]], opacity)
    edge = _edge(mask)
    width = max(mask.shape) // 700
    inner = _widened(edge, width)
    result[_widened(inner, 1 + width // 2)] = 0
    result[inner] = 255
    if names:
        picture = Image.fromarray(result)
        draw_names(picture, mask, names)
        result = np.asarray(picture)
    return result


def heatmap(image: NDArray[np.uint8], cam: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Draw a CAM over its photo, from blue (0) through yellow to red (1).

    Args:
        image: uint8 (H, W, 3), RGB.
        cam: Floats (H, W) in 0..1; values outside are clipped.

    Returns:
        uint8 (H, W, 3), half photo (in grey, so that its colours do not mix with those of the CAM), half CAM.

    Raises:
        ValueError: Shapes or dtypes do not fit.
    """
    _check_image(image)
    if cam.shape != image.shape[:2] or cam.dtype.kind != "f":
        raise ValueError(f"cam: found {cam.dtype} {cam.shape}, expected floats {image.shape[:2]}")
    colours = colour_table()[(np.nan_to_num(cam.astype(np.float32)).clip(0, 1) * 255).round().astype(np.uint8)]
    grey = (image @ np.array([0.299, 0.587, 0.114], dtype=np.float32)).round().astype(np.uint8)
    return _blend(np.repeat(grey[..., None], 3, axis=2), colours, 0.5)


def colour_table() -> NDArray[np.uint8]:
    """The colours of a CAM, uint8 (256, 3), from 0 to 1."""
    steps = np.linspace(0, 1, 256)
    return np.stack([np.interp(steps, _STOPS, channel) for channel in _COLOURS.T], axis=1).round().astype(np.uint8)


def _blend(below: NDArray[np.uint8], above: NDArray[np.uint8], opacity: float) -> NDArray[np.uint8]:
    mixed = below * np.float32(1 - opacity) + above * np.float32(opacity)
    rounded: NDArray[np.uint8] = mixed.round().astype(np.uint8)
    return rounded


def _edge(mask: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """True where the class changes, except at void."""
    edge = np.zeros(mask.shape, dtype=bool)
    edge[:, 1:] |= mask[:, 1:] != mask[:, :-1]
    edge[1:] |= mask[1:] != mask[:-1]
    void = mask == VOID
    edge[:, 1:] &= ~(void[:, 1:] | void[:, :-1])
    edge[1:] &= ~(void[1:] | void[:-1])
    return edge


def _widened(edge: NDArray[np.bool_], pixels: int) -> NDArray[np.bool_]:
    """The same lines, wider by some pixels at each side."""
    for _ in range(pixels):
        wider = edge.copy()
        wider[:, 1:] |= edge[:, :-1]
        wider[:, :-1] |= edge[:, 1:]
        wider[1:] |= edge[:-1]
        wider[:-1] |= edge[1:]
        edge = wider
    return edge


def _check_image(image: NDArray[np.uint8]) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"image: found {image.dtype} {image.shape}, expected uint8 (H, W, 3)")
