"""The CAMs of a photo side by side: a panel for each class, with its name and score above it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from pixaff.viz.legend import cut, find_font, legible
from pixaff.viz.overlay import colour_table, heatmap

SIDE = 512
"""Long side of a panel, in pixels."""
_GAP = 4
_LETTERS = 18  # height, in pixels
_BAND = 30  # above a panel, for its name
_SCALE = 12  # height of the colour scale
_INK, _PAPER = (240, 240, 240), (24, 24, 24)


def cam_panels(
    image: NDArray[np.uint8],
    cams: NDArray[np.floating],
    names: Sequence[str],
    scores: Sequence[float] | None = None,
) -> Image.Image:
    """Draw the photo, and the CAM of each class over it, from blue (0) through green and yellow to red (1).

    Names and scores stand beside the pictures, in light on dark, so that they can be read whatever the photo shows.

    Args:
        image: uint8 (H, W, 3), RGB; larger ones are shrunk.
        cams: Floats (C, h, w) in 0..1; values outside are clipped. They are resized to the panels.
        names: What each CAM is of.
        scores: A score of each class, such as its probability, which is written behind its name.

    Returns:
        An RGB image, with panels of at most 512 pixels.

    Raises:
        ValueError: Shapes or dtypes do not fit.
    """
    if (
        cams.ndim != 3
        or cams.dtype.kind != "f"
        or not len(cams) == len(names) == len(names if scores is None else scores)
    ):
        raise ValueError(f"cams: found {cams.dtype} {cams.shape} and {len(names)} names, expected floats (C, h, w)")
    scale = min(1.0, SIDE / max(image.shape[:2]))
    width, height = (max(1, round(side * scale)) for side in (image.shape[1], image.shape[0]))
    small = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))
    font = find_font(_LETTERS)
    panels = [(small, "photo" if len(cams) else "photo: no class")]
    for number, (cam, name) in enumerate(zip(cams, names, strict=True)):
        plane = Image.fromarray(np.nan_to_num(cam).astype(np.float32)).resize(
            (width, height), Image.Resampling.BILINEAR
        )
        words = cut(legible(name, font, f"class {number + 1} of {len(names)}")) + (
            "" if scores is None else f"  {scores[number]:.2f}"
        )
        panels.append((heatmap(small, np.asarray(plane)), words))
    wide = max(width, *(math.ceil(font.getlength(words)) for _, words in panels))
    columns = _columns(len(panels), wide, height + _BAND)
    rows = -(-len(panels) // columns)
    whole = (columns * (wide + _GAP) + _GAP, rows * (height + _BAND) + _BAND)
    picture = Image.new("RGB", whole, _PAPER)
    draw = ImageDraw.Draw(picture)
    for number, (panel, words) in enumerate(panels):
        left, top = _GAP + number % columns * (wide + _GAP), number // columns * (height + _BAND)
        draw.text((left, top + _BAND // 2), words, _INK, font, anchor="lm")
        picture.paste(Image.fromarray(panel), (left, top + _BAND))
    _draw_scale(picture, rows * (height + _BAND) + _BAND // 2)
    return picture


def _columns(panels: int, width: int, height: int) -> int:
    """The number of columns with which the picture is closest to a screen's shape, 3 : 2."""
    return min(
        range(1, panels + 1),
        key=lambda columns: abs(math.log(columns * width / (-(-panels // columns) * height) / 1.5)),
    )


def _draw_scale(picture: Image.Image, middle: int) -> None:
    """The colours from 0 to 1, at the lower end."""
    draw, font = ImageDraw.Draw(picture), find_font(_LETTERS - 4)
    length = min(160, picture.width // 2)
    bar = Image.fromarray(colour_table()[None]).resize((length, _SCALE))
    left = _GAP
    for mark in ("CAM 0", bar, "1"):
        if isinstance(mark, str):
            draw.text((left, middle), mark, _INK, font, anchor="lm")
            left += math.ceil(font.getlength(mark)) + 2 * _GAP
        else:
            picture.paste(mark, (left, middle - _SCALE // 2))
            left += length + 2 * _GAP
