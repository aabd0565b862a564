"""The names of the classes on an overlay: each on its largest region, and all of them in a legend."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from pixaff.io.masks import voc_palette

Box = tuple[int, int, int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
_FONT_PART = 36  # of the long side
_SMALLEST = 12  # pixels of a letter that can be read
_MOST_OF_PHOTO = 0.3  # that a legend may cover
_LONGEST = 32  # letters of a name
_CELLS = 48  # along the long side of the grid on which the middle of a region is sought


def draw_names(picture: Image.Image, mask: NDArray[np.uint8], names: Mapping[int, str]) -> None:
    """Write the name of each class on its largest part, and a legend into the corner that shows least of them.

    Args:
        picture: RGB; is drawn on.
        mask: uint8 (H, W), of the picture's size.
        names: Names by mask value.
    """
    font = find_font(max(_SMALLEST, max(picture.size) // _FONT_PART))
    draw = ImageDraw.Draw(picture)
    counts = np.bincount(mask.ravel(), minlength=256)
    names = {value: legible(name, font, f"class {value}") for value, name in names.items()}
    box = _draw_legend(picture, mask, names, counts, font)
    stroke = max(1, round(_size(font) / 9))
    taken = [] if box is None else [box]
    for value, name in names.items():
        text = cut(name)
        x0, y0, x1, y1 = draw.textbbox((0, 0), text, font, stroke_width=stroke)
        width, height = round(x1 - x0), round(y1 - y0)
        if not counts[value] or width > picture.width or height > picture.height:
            continue
        y, x, room = _middle(mask == value)
        if 2 * room < height:  # it would hide the region
            y -= room + height
        # Within the picture, and neither under the legend nor over another name.
        left = min(max(0, x - width // 2), picture.width - width)
        for moved in (0, -height, height):
            top = min(max(0, y - height // 2 + moved), picture.height - height)
            place = (left, top, left + width, top + height)
            if not any(_overlap(place, other) for other in taken):
                break
        else:
            continue
        taken.append(place)
        draw.text((left - x0, top - y0), text, "white", font, stroke_width=stroke, stroke_fill="black")


def _draw_legend(
    picture: Image.Image, mask: NDArray[np.uint8], names: Mapping[int, str], counts: NDArray[np.int64], font: Font
) -> Box | None:
    """Draw the legend; its box, or None where it would cover too much of the photo."""
    draw, size = ImageDraw.Draw(picture), _size(font)
    lines = [f"{value} {cut(name)} {_percent(counts[value] / mask.size)}" for value, name in names.items()]
    gap = max(2, size // 4)
    row = size + gap
    most = max(1, (picture.height // 2 - gap) // row)
    if len(lines) > most:
        lines = [*lines[: most - 1], f"+ {len(lines) - most + 1} more"]
    width = round(max(draw.textlength(line, font) for line in lines)) + size + 3 * gap
    height = row * len(lines) + gap
    if width > picture.width or width * height > _MOST_OF_PHOTO * mask.size:
        return None
    left, top = min(
        ((x, y) for y in (picture.height - height, 0) for x in (0, picture.width - width)),
        key=lambda corner: np.count_nonzero(mask[corner[1] : corner[1] + height, corner[0] : corner[0] + width]),
    )
    box = (left, top, left + width, top + height)
    dark = Image.blend(picture.crop(box), Image.new("RGB", (width, height)), 0.75)
    picture.paste(dark, box)
    palette, values = voc_palette(), list(names)
    for number, line in enumerate(lines):
        y = top + gap + number * row
        if not line.startswith("+"):
            colour = tuple(palette[values[number]].tolist())
            draw.rectangle((left + gap, y, left + gap + size - 1, y + size - 1), colour, "white")
        draw.text((left + 2 * gap + size, y + size // 2), line, "white", font, anchor="lm")
    return box


def _middle(region: NDArray[np.bool_]) -> tuple[int, int, int]:
    """y, x of the place that is furthest from the border of a region of at least one pixel, and how far; roughly."""
    height, width = region.shape
    step = -(-max(height, width) // _CELLS)
    rows, columns = -(-height // step), -(-width // step)
    padded = np.zeros((rows * step, columns * step), bool)
    padded[:height, :width] = region
    share = padded.reshape(rows, step, columns, step).mean((1, 3))
    left, room = np.pad(share > 0.5 if (share > 0.5).any() else share == share.max(), 1), step // 2
    while True:
        core = left[1:-1, 1:-1]
        inner = core & left[:-2, 1:-1] & left[2:, 1:-1] & left[1:-1, :-2] & left[1:-1, 2:]
        if not inner.any():
            break
        left, room = np.pad(inner, 1), room + step
    places = np.argwhere(core)
    y, x = places[((places - places.mean(0)) ** 2).sum(1).argmin()]
    return int(min((y + 0.5) * step, height - 1)), int(min((x + 0.5) * step, width - 1)), room


@lru_cache(maxsize=8)
def find_font(size: int) -> Font:
    """DejaVu Sans, which comes with Matplotlib and knows Cyrillic and Greek; else Pillow's own."""
    found = importlib.util.find_spec("matplotlib")
    for folder in (found.submodule_search_locations or []) if found else []:
        path = Path(folder) / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
        if path.is_file():
            return ImageFont.truetype(path, size)
    return ImageFont.load_default(size)


def legible(name: str, font: Font, otherwise: str) -> str:
    """A name, or other words if the font lacks one of its letters and would draw boxes."""
    missing = bytes(font.getmask("\U0010ffff"))
    return otherwise if any(bytes(font.getmask(sign)) == missing for sign in name if not sign.isspace()) else name


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _size(font: Font) -> int:
    return round(getattr(font, "size", _SMALLEST))


def cut(name: str) -> str:
    return name if len(name) <= _LONGEST else name[: _LONGEST - 3] + "..."


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share == 0 or share >= 0.01 else "< 1 %"
