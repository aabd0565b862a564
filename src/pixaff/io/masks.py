"""Masks: palette PNGs whose pixel values are class numbers, 0 = background, 1..K = classes, 255 = void."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pixaff.errors import FormatError, first_few
from pixaff.io.atomic import write_bytes
from pixaff.io.picture_files import opened

Value = TypeVar("Value", bound=np.integer)
VOID = 255
Colour = tuple[int, int, int]
_PART = 1 << 24
_NUMBERS = "pixel values must be class numbers: 0 background, 1..K classes, 255 void"


def voc_palette() -> NDArray[np.uint8]:
    """The colours of Pascal VOC, uint8 (256, 3): row i for pixel value i; 0 is black, 255 (void) cream."""
    return _palette().copy()


@lru_cache(maxsize=1)
def _palette() -> NDArray[np.uint8]:
    # Bit 3k + c of the index becomes bit 7 - k of channel c.
    bits = np.arange(256, dtype=np.uint16)[:, None] >> np.arange(9, dtype=np.uint16) & 1
    places = (1 << np.arange(7, 4, -1, dtype=np.uint16))[None, :, None]
    colours: NDArray[np.uint8] = (bits.reshape(256, 3, 3) * places).sum(axis=1).astype(np.uint8)
    return colours


def write_mask(path: str | os.PathLike[str], mask: NDArray[np.uint8]) -> None:
    """Write a mask as PNG with the VOC palette, so that it shows in colour everywhere.

    Args:
        path: The PNG file; parent folders are made.
        mask: uint8 (H, W).

    Raises:
        ValueError: `mask` is not a uint8 plane.
        OutputError: The file cannot be written.
    """
    write_bytes(path, mask_png(mask))


def mask_png(mask: NDArray[np.uint8]) -> bytes:
    """The file that `write_mask` writes."""
    if mask.dtype != np.uint8 or mask.ndim != 2 or mask.size == 0:
        raise ValueError(f"mask: found {mask.dtype} {mask.shape}, expected uint8 (H, W)")
    picture = Image.fromarray(mask)
    picture.putpalette(_palette().tobytes())
    png = io.BytesIO()  # Pillow hides the reason when it writes to a full disk itself
    picture.save(png, format="PNG")
    return png.getvalue()


def resize_mask(mask: NDArray[Value], size: tuple[int, int]) -> NDArray[Value]:
    """A mask (H, W) at another size (h, w): the values at the middle of each of its pixels."""
    rows, columns = (
        ((np.arange(side) + 0.5) * own / side).astype(np.int64) for side, own in zip(size, mask.shape, strict=True)
    )
    return mask[rows[:, None], columns]


def voc_colours(num_classes: int) -> dict[Colour, int]:
    """Mask value by colour of Pascal VOC's palette: of 0..num_classes, and 255 for its void, cream."""
    palette = _palette()
    return {_colour(palette[value]): value for value in (*range(num_classes + 1), VOID)}


def read_mask(
    path: str | os.PathLike[str],
    num_classes: int | None = None,
    colours: Mapping[Colour, int] | None = None,
    void: int = VOID,
) -> NDArray[np.uint8]:
    """Read a palette or grey mask, or, if the colours of the classes are known, one in colour.

    The values are class numbers. But image editors and optimisers rewrite palettes, with only the colours that occur
    and in an order of their own; then the numbers mean nothing, and the colours tell the classes.

    Args:
        path: PNG, BMP or TIFF.
        num_classes: Number of classes K without background; values other than 0..K and 255 are then an error.
        colours: Mask value by colour (r, g, b), of a class list that has colours or of `voc_colours`. Without it, the
            order of a palette is checked nevertheless: VOC's colours at other numbers are read by colour if its
            void, which nobody else paints cream, is among them, and refused otherwise.
        void: The file's own value for void. It becomes 255, which then must not be in the file.

    Returns:
        uint8 (H, W), writable.

    Raises:
        FormatError: Missing, damaged, in colour, lossy, 16-bit, with class numbers out of range, or with a palette that
            contradicts its numbers.
    """
    with opened(path, FormatError) as picture:
        if picture.format not in ("PNG", "BMP", "TIFF"):
            raise FormatError(f"{path}: found a {picture.format} file, expected a PNG mask", _NUMBERS)
        if picture.mode == "RGB" and colours:
            values = _by_colour(path, np.array(picture), colours)
        elif picture.mode not in ("P", "L", "1"):
            raise FormatError(f"{path}: found {_kind(picture.mode)}, expected palette or grey 8-bit values", _NUMBERS)
        else:
            values = np.array(picture, dtype=np.uint8)
        if picture.mode == "P":
            table = _palette_values(path, picture, values, num_classes, colours, void)
            values = values if table is None else table[values]
        if picture.format == "PNG" and picture.mode == "L":
            # Pillow stretches 2 and 4-bit grey (as PNG optimisers write it) to 0..255; undo it.
            values //= _grey_step(Path(path))
    if void != VOID:
        if (values == VOID).any():
            raise FormatError(f"{path}: found the value 255, expected {void} for void", "check --void")
        values[values == void] = VOID
    if num_classes is not None:
        present = _present(values)
        wrong = present[(present > num_classes) & (present != VOID)]
        if wrong.size:
            found, expected = first_few(wrong, 5), f"expected 0..{num_classes} and {void} (void)"
            raise FormatError(f"{path}: found class numbers {found}; {expected}", "check the classes file")
    return values


def _palette_values(
    path: str | os.PathLike[str],
    picture: Image.Image,
    values: NDArray[np.uint8],
    num_classes: int | None,
    colours: Mapping[Colour, int] | None,
    void: int,
) -> NDArray[np.uint8] | None:
    """The mask value of each number of a palette, uint8 (256,), where its colours say otherwise; None where not.

    Raises:
        FormatError: The colours contradict the numbers, and do not say the classes of all of them.
    """
    known = voc_colours(VOID - 1 if num_classes is None else num_classes) if colours is None else colours
    palette = np.array(picture.getpalette("RGB"), np.uint8).reshape(-1, 3)
    first_is_black = len(palette) > 0 and not palette[0].any()
    meant: dict[int, int | None] = {}
    for number in _present(values).tolist():
        if number in (VOID, void):  # of whatever colour
            continue
        colour = _colour(palette[number]) if number < len(palette) else None
        # What nobody painted is black; and a grey that is the number itself says nothing about a class.
        plain = colour in ((0, 0, 0), (number, number, number)) and first_is_black and number > 0
        meant[number] = None if colour is None or plain else known.get(colour)
    wrong = [(number, value) for number, value in meant.items() if value not in (None, number)]
    if not wrong:
        return None
    all_known = None not in meant.values()
    if colours is None and not all_known:
        return None  # a palette of somebody's own, which shares a colour with VOC's
    if not all_known or (colours is None and VOID not in meant.values()):
        number, value = wrong[0]
        named = {0: "background", VOID: "void"}.get(value or 0, f"class {value}")
        whose = "in Pascal VOC's palette" if colours is None else "in the list of classes"
        raise FormatError(
            f"{path}: number {number} of its palette has the colour of {named} {whose}: was the palette reordered?",
            "store the class numbers themselves, or give --classes with the colour of each class (name:r,g,b)",
        )
    table = np.arange(256, dtype=np.uint8)
    for number, found in meant.items():
        table[number] = number if found is None else found
    return table


def _present(values: NDArray[np.uint8]) -> NDArray[np.int64]:
    """The values that occur, in ascending order; counted in parts, as a count takes eight times the memory."""
    parts = np.array_split(values.ravel(), values.size // _PART + 1)
    seen = np.any([np.bincount(part, minlength=256) > 0 for part in parts], axis=0)
    return np.flatnonzero(seen).astype(np.int64)


def _by_colour(
    path: str | os.PathLike[str], pixels: NDArray[np.uint8], colours: Mapping[Colour, int]
) -> NDArray[np.uint8]:
    """The mask values (H, W) of colours (H, W, 3)."""
    packed = pixels.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
    present, places = np.unique(packed, return_inverse=True)
    table = np.zeros(len(present), np.uint8)
    for place, code in enumerate(present.tolist()):
        colour = (code >> 16, code >> 8 & 255, code & 255)
        if colour not in colours:
            raise FormatError(f"{path}: found a colour image with the colour {colour}, which is no class's", _NUMBERS)
        table[place] = colours[colour]
    return table[places].reshape(packed.shape)


def _colour(row: NDArray[np.uint8]) -> Colour:
    red, green, blue = row.tolist()
    return red, green, blue


def _kind(mode: str) -> str:
    if mode.startswith(("I", "F")):
        return f"pixels of more than 8 bits (mode {mode})"
    if mode in ("LA", "PA", "La"):
        return f"an alpha channel (mode {mode})"
    return f"a colour image (mode {mode})"


def _grey_step(path: Path) -> int:
    """Distance of neighbouring grey levels after Pillow's stretching of a PNG: 1, 17 (4 bits) or 85 (2 bits)."""
    with open(path, "rb") as file:
        depth = int(file.read(25)[24])
    return int(255 // (2**depth - 1)) if depth < 8 else 1
