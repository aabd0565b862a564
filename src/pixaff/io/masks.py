"""Masks: palette PNGs whose pixel values are class numbers, 0 = background, 1..K = classes, 255 = void."""

from __future__ import annotations

import io
import os
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pixaff.errors import FormatError
from pixaff.io.atomic import write_bytes
from pixaff.io.picture_files import opened

VOID = 255
_NUMBERS = "pixel values must be class numbers: 0 background, 1..K classes, 255 void"


def voc_palette() -> NDArray[np.uint8]:
    """The colours of PASCAL VOC, uint8 (256, 3): row i for pixel value i; 0 is black, 255 (void) cream."""
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
    if mask.dtype != np.uint8 or mask.ndim != 2 or mask.size == 0:
        raise ValueError(f"mask: found {mask.dtype} {mask.shape}, expected uint8 (H, W)")
    picture = Image.fromarray(mask)
    picture.putpalette(_palette().tobytes())
    png = io.BytesIO()  # Pillow hides the reason when it writes to a full disk itself
    picture.save(png, format="PNG")
    write_bytes(path, png.getvalue())


def read_mask(path: str | os.PathLike[str], num_classes: int | None = None) -> NDArray[np.uint8]:
    """Read a palette or grey mask.

    Args:
        path: PNG, BMP or TIFF.
        num_classes: Number of classes K without background; values other than 0..K and 255 are then an error.

    Returns:
        uint8 (H, W), writable.

    Raises:
        FormatError: Missing, damaged, in colour, lossy, 16-bit, or with class numbers out of range.
    """
    with opened(path, FormatError) as picture:
        if picture.format not in ("PNG", "BMP", "TIFF"):
            raise FormatError(f"{path}: found a {picture.format} file, expected a PNG mask", _NUMBERS)
        if picture.mode not in ("P", "L", "1"):
            raise FormatError(f"{path}: found {_kind(picture.mode)}, expected palette or grey 8-bit values", _NUMBERS)
        values = np.array(picture, dtype=np.uint8)
        if picture.format == "PNG" and picture.mode == "L":
            # Pillow stretches 2 and 4-bit grey (as PNG optimisers write it) to 0..255; undo it.
            values //= _grey_step(Path(path))
    if num_classes is not None:
        present = np.flatnonzero(np.bincount(values.ravel(), minlength=256))
        wrong = present[(present > num_classes) & (present != VOID)]
        if wrong.size:
            numbers = ", ".join(map(str, wrong[:5])) + (", ..." if wrong.size > 5 else "")
            expected = f"expected 0..{num_classes} and 255 (void)"
            raise FormatError(f"{path}: found class numbers {numbers}; {expected}", "check the classes file")
    return values


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
