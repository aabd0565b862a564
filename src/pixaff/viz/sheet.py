"""Contact sheets: many images side by side, at a glance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

_GAP = 6
_HEADER = 30
_FONT_SIZE = 14


def contact_sheet(
    rows: Sequence[Sequence[NDArray[np.uint8]]],
    headers: Sequence[str],
    row_names: Sequence[str],
    cell: int = 220,
) -> Image.Image:
    """Arrange images in a grid, with a header above each column and a name to the left of each row.

    Every image is resized to fit a square cell, with its proportions; a row is as high as its highest image.

    Args:
        rows: Images, uint8 (H, W, 3), RGB; every row as long as `headers`.
        headers: What each column shows.
        row_names: What each row shows; long names are shortened.
        cell: Side of a cell in pixels.

    Returns:
        An RGB image.

    Raises:
        ValueError: No rows, a row of another length, or another number of names than rows.
    """
    if not rows or len(row_names) != len(rows):
        raise ValueError(
            f"found {len(rows)} rows and {len(row_names)} names, expected one or more rows with a name each"
        )
    for name, row in zip(row_names, rows, strict=True):
        if len(row) != len(headers):
            raise ValueError(f"row {name}: found {len(row)} images, expected {len(headers)}")
    font = ImageFont.load_default(_FONT_SIZE)
    margin = round(min(cell, max(font.getlength(name) for name in row_names))) + 2 * _GAP
    grid = [[_fitted(picture, cell) for picture in row] for row in rows]
    heights = [max(picture.height for picture in row) for row in grid]
    width = margin + len(headers) * (cell + _GAP)
    sheet = Image.new("RGB", (width, _HEADER + sum(heights) + _GAP * len(heights)), "white")
    draw = ImageDraw.Draw(sheet)
    for column, header in enumerate(headers):
        centre = margin + column * (cell + _GAP) + cell // 2
        draw.text((centre, _HEADER // 2), _cut(header, font, cell), "black", font, anchor="mm")
    top = _HEADER
    for name, cells, height in zip(row_names, grid, heights, strict=True):
        draw.text((_GAP, top + height // 2), _cut(name, font, margin - 2 * _GAP), "black", font, anchor="lm")
        for column, picture in enumerate(cells):
            left = margin + column * (cell + _GAP) + (cell - picture.width) // 2
            sheet.paste(picture, (left, top + (height - picture.height) // 2))
        top += height + _GAP
    return sheet


def _fitted(picture: NDArray[np.uint8], cell: int) -> Image.Image:
    image = Image.fromarray(picture)
    scale = cell / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.LANCZOS)


def _cut(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """The text, or its beginning with "..." if it is wider than `width` pixels."""
    if font.getlength(text) <= width + 1:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."
