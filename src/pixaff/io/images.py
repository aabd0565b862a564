"""Photos of any common kind in, 8-bit RGB arrays out, upright and as their viewer shows them.

Memory: besides the decoded pixels (at most 4 bytes each), Pillow's decoders take up to 8 bytes a pixel while they work,
and the array takes 3. A photo of the 300 megapixels that are allowed takes up to 3.6 GB; a JPEG that is shrunk, a
fraction of it.
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pixaff.errors import ImageError
from pixaff.io.atomic import write_bytes
from pixaff.io.picture_files import HEIF, HEIF_SUFFIXES, opened, quiet_pillow

# fmt: off
IMAGE_SUFFIXES = frozenset((
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".avif", ".bmp", ".gif", ".tif", ".tiff", ".jp2",
    ".ppm", ".pgm", ".pnm", *HEIF_SUFFIXES,
))
# fmt: on

_ORIENTATION = 0x0112
_BAND = 16_000_000  # pixels that are converted at a time
_RANGES = tuple(2**bits - 1 for bits in (8, 10, 12, 14, 16))  # of the values of a sensor
_TWELVE_BITS = _RANGES[2]


# By EXIF orientation, what turns the pixels upright.
_TURNS: dict[int, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    2: lambda array: array[:, ::-1],
    3: lambda array: array[::-1, ::-1],
    4: lambda array: array[::-1],
    5: lambda array: array.swapaxes(0, 1),
    6: lambda array: np.rot90(array, -1),
    7: lambda array: array[::-1, ::-1].swapaxes(0, 1),
    8: lambda array: np.rot90(array),
}


def read_image(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """Read a photo.

    EXIF orientation is applied. Grey, palette and CMYK are converted, transparency is laid on white. 16-bit grey is
    scaled to 8 bits from the range of 8, 10, 12, 14 or 16 bits, the smallest that holds its largest value: cameras,
    microscopes and satellites keep 12 bits in files of 16.

    Returns:
        uint8 (H, W, 3), RGB, writable.

    Raises:
        ImageError: Missing, empty, truncated, no regular file, no image, animated, a camera's raw file, over 300
            megapixels, floating-point pixels, or colours of 12 bits in 16.
    """
    return load_image(path)[0]


def image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """(H, W) of a photo after EXIF orientation.

    The pixels are not decoded, except those of a TIFF (Pillow turns it upright as it loads) and of the rare PNG that
    keeps its EXIF data behind them.

    Raises:
        ImageError: As for `read_image`, as far as the header shows it.
    """
    with opened(path) as picture:
        return _upright_size(picture)


def load_image(
    path: str | os.PathLike[str], max_side: int = 0, enlarge_below: int = 0
) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """Read a photo, shrunk to a long side of `max_side` pixels where it is larger (0: never).

    A photo whose long side is below `enlarge_below` is enlarged to `max_side`.

    A JPEG is decoded at an eighth, a quarter or half its size where that suffices, so that a 12000 x 9000 one takes
    little memory.

    Returns:
        The photo as `read_image` gives it, uint8 (h, w, 3), and its (H, W) before shrinking.

    Raises:
        ImageError: As for `read_image`.
    """
    if max_side < 0:
        raise ValueError(f"max_side: found {max_side}, expected 0 (full size) or more")
    with opened(path) as picture:
        return image_array(picture, max_side, enlarge_below, str(path))


def write_picture(path: str | os.PathLike[str], picture: Image.Image, **options: Any) -> None:
    """Write a picture, say an overlay, atomically, in the format of its suffix.

    Args:
        path: The file; parent folders are made.
        picture: What to write.
        **options: Of Pillow's writer, such as ``quality``.

    Raises:
        OutputError: The file cannot be written.
    """
    data = io.BytesIO()  # Pillow takes a short write to a full disk for a whole one
    picture.save(data, format=Image.registered_extensions()[os.path.splitext(path)[1].lower()], **options)
    write_bytes(path, data.getvalue())


def image_array(
    picture: Image.Image, max_side: int = 0, enlarge_below: int = 0, name: str = "image"
) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """`load_image` for a picture that Pillow has opened, or that was made in memory.

    Raises:
        ImageError: Pixels of a kind that is no photo's.
    """
    sixteen = _sixteen_bits(picture)
    orientation = _orientation(picture)
    size = _upright_size(picture)
    target = _working_size(picture.size, max_side, enlarge_below)
    if target != picture.size and picture.format != HEIF:  # whose thumbnail is another, coarser photo
        # Twice the target leaves the filter below enough to work with.
        picture.draft(None, (2 * target[0], 2 * target[1]))
    picture.load()
    white = _white(picture, sixteen, name)
    array = _in_bands(picture, white) if picture.size == target else np.array(_rgb(_resized(picture, target, white)))
    turn = _TURNS.get(orientation)
    return array if turn is None else np.ascontiguousarray(turn(array)), size


def _orientation(picture: Image.Image) -> int:
    """EXIF orientation still to be applied, 1..8; 1 where there is none."""
    if picture.format == "PNG" and _metadata_last(picture):
        picture.load()
    with quiet_pillow():
        if picture.format == "TIFF":
            picture.load()  # it may warn of odd tags as it does so
        try:
            # What getexif() adds to these for a PNG is loading the pixels, in search of what is known not to be there.
            exif = Image.Image.getexif(picture) if picture.format == "PNG" else picture.getexif()
            orientation = exif.get(_ORIENTATION, 1)
        except Exception:  # damaged EXIF data, of a picture that may be whole
            return 1
    return orientation if orientation in _TURNS else 1


def _metadata_last(png: Image.Image) -> bool:
    """True if a PNG has EXIF data or text behind its pixels, where reading the header does not meet it."""
    file = getattr(png, "fp", None)
    if file is None:  # loaded, and with it all there is
        return False
    position = file.tell()
    file.seek(8)
    pixels = found = False
    while not found and len(header := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", header)
        found = pixels and kind in (b"eXIf", b"iTXt", b"tEXt", b"zTXt")
        pixels |= kind == b"IDAT"
        file.seek(length + 4, os.SEEK_CUR)  # the chunk and its checksum
    file.seek(position)
    return found


def _upright_size(picture: Image.Image) -> tuple[int, int]:
    sideways = _orientation(picture) >= 5  # before the size is asked for, as it may load and turn the picture
    width, height = picture.size
    return (width, height) if sideways else (height, width)


def _working_size(size: tuple[int, int], max_side: int, enlarge_below: int) -> tuple[int, int]:
    """(width, height) with a long side of `max_side` where it is larger or below `enlarge_below`; no side below 1."""
    long_side = max(size)
    if max_side == 0 or enlarge_below <= long_side <= max_side:
        return size
    width, height = (max(1, round(side * max_side / long_side)) for side in size)
    return width, height


def _in_bands(picture: Image.Image, white: int) -> NDArray[np.uint8]:
    """The pixels, uint8 (H, W, 3); what is needed to convert them is never there for all of them at once."""
    array = np.empty((picture.height, picture.width, 3), np.uint8)
    for start, band in _bands(picture, 1):
        array[start : start + band.height] = np.asarray(_rgb(_smoothable(band, white)))
    return array


def _resized(picture: Image.Image, target: tuple[int, int], white: int) -> Image.Image:
    """The picture shrunk to (width, height); a large one is first reduced by a whole number, band by band."""
    # Half of what is left to do leaves the filter enough to work with, as Pillow's `reducing_gap=2` does it.
    factors = (max(1, picture.width // target[0] // 2), max(1, picture.height // target[1] // 2))
    if picture.width * picture.height <= _BAND or factors == (1, 1):
        return _smoothable(picture, white).resize(target, Image.Resampling.LANCZOS, reducing_gap=2.0)
    width, height = (-(-side // factor) for side, factor in zip(picture.size, factors, strict=True))
    reduced: Image.Image | None = None
    for start, band in _bands(picture, factors[1]):
        part = _smoothable(band, white).reduce(factors)
        if reduced is None:
            reduced = Image.new(part.mode, (width, height))
        reduced.paste(part, (0, start // factors[1]))
    assert reduced is not None
    box = (0, 0, picture.width / factors[0], picture.height / factors[1])
    return reduced.resize(target, Image.Resampling.LANCZOS, box)


def _bands(picture: Image.Image, multiple: int) -> Iterator[tuple[int, Image.Image]]:
    """The picture in bands of some 16 megapixels, a multiple of rows each, with the row where each begins."""
    rows = max(1, _BAND // picture.width // multiple) * multiple
    if rows >= picture.height:
        yield 0, picture
        return
    for start in range(0, picture.height, rows):
        yield start, picture.crop((0, start, picture.width, min(start + rows, picture.height)))


def _white(picture: Image.Image, sixteen: bool, name: str) -> int:
    """The value that stands for white: 255, or the end of the range of which a grey picture of 16 bits makes use.

    Args:
        picture: Loaded.
        sixteen: Whether its file has 16 bits a channel, of which Pillow keeps the upper eight where it has colours.
        name: For messages.

    Raises:
        ImageError: Values without a known range, or colours of which eight bits are lost.
    """
    if picture.mode == "F":
        raise ImageError(f"{name}: found floating-point pixels, expected 8 or 16 bits", "save it as 8-bit PNG")
    if picture.mode.startswith("I"):
        extremes = [(int(part.min()), int(part.max())) for _, band in _bands(picture, 1) for part in [np.asarray(band)]]
        low, high = min(low for low, _ in extremes), max(high for _, high in extremes)
        if low < 0 or high > _RANGES[-1]:
            found = f"pixel values {low}..{high}, expected 0..{_RANGES[-1]}"
            raise ImageError(f"{name}: found {found}", "save it as 8-bit PNG")
        return next(top for top in _RANGES if high <= top)
    if sixteen and picture.mode in ("RGB", "RGBA", "LA"):
        channels: Any = picture.getextrema()
        high = max(int(high) for _, high in channels[: 1 if picture.mode == "LA" else 3])
        if 0 < high <= _TWELVE_BITS >> 8:  # in the upper byte nearly nothing is left of them
            found = f"16-bit colours of at most {high * 256 + 255}, expected 0..{_RANGES[-1]}"
            raise ImageError(f"{name}: found {found}", "stretch them to 16 bits, or save it as 8-bit PNG")
    return _RANGES[0]


def _sixteen_bits(picture: Image.Image) -> bool:
    """Whether a picture that is not yet loaded has 16 bits a channel in its file."""
    tiles = getattr(picture, "tile", None) or ()
    return any(";16" in str(tile[3] if isinstance(tile[3], str) else tile[3][0]) for tile in tiles)


def _smoothable(picture: Image.Image, white: int) -> Image.Image:
    """The picture in a mode whose values can be averaged: L, LA, RGB, RGBA or CMYK."""
    if picture.mode.startswith("I"):
        return Image.fromarray(_eight_bits(np.asarray(picture).astype(np.uint16, copy=False), white))
    if "transparency" in picture.info and picture.mode in ("1", "L", "P", "RGB"):
        return picture.convert("RGBA")
    if picture.mode in ("1", "P"):
        return picture.convert("RGB")
    if picture.mode in ("PA", "RGBa", "La"):
        return picture.convert("RGBA")
    return picture


def _eight_bits(values: NDArray[np.uint16], white: int) -> NDArray[np.uint8]:
    """16-bit grey values (H, W) of 0..`white`, scaled so that `white` is 255, and rounded."""
    table: NDArray[np.uint8] = ((np.arange(white + 1, dtype=np.uint32) * 255 + white // 2) // white).astype(np.uint8)
    return table[values]


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode in ("LA", "RGBA"):
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    return picture if picture.mode == "RGB" else picture.convert("RGB")
