"""Photos of an exported set: upright JPEGs, so that every trainer sees them as their masks lie."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from pixaff.errors import FormatError
from pixaff.io.atomic import write_bytes
from pixaff.io.images import image_size, read_image
from pixaff.io.picture_files import opened

QUALITY = 95
_ORIENTATION = 0x0112


def check_photo(photo: Path, size: tuple[int, int]) -> None:
    """Refuse a photo that is not of its mask's (H, W).

    Raises:
        ImageError: The photo cannot be read.
        FormatError: The sizes differ.
    """
    found = image_size(photo)
    if found != size:
        raise FormatError(
            f"{photo}: found {found[1]} x {found[0]} pixels, expected the mask's {size[1]} x {size[0]}",
            "is it the photo that the mask was made of?",
        )


def write_photo(path: Path, photo: Path) -> None:
    """Write what `photo_bytes` gives.

    Raises:
        ImageError: The photo cannot be read.
        OutputError: The copy cannot be written.
    """
    write_bytes(path, photo_bytes(photo))


def photo_bytes(photo: Path) -> bytes:
    """A photo as JPEG: byte for byte if it is an upright JPEG in grey or RGB, otherwise re-encoded.

    Raises:
        ImageError: The photo cannot be read.
    """
    with opened(photo) as picture:
        plain = picture.format == "JPEG" and picture.mode in ("L", "RGB")
        upright = picture.getexif().get(_ORIENTATION, 1) in (0, 1)
    if plain and upright:
        return photo.read_bytes()
    jpeg = io.BytesIO()
    Image.fromarray(read_image(photo)).save(jpeg, format="JPEG", quality=QUALITY, subsampling=0)
    return jpeg.getvalue()
