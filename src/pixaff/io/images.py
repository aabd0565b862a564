"""Photos of any common kind in, 8-bit RGB arrays out, upright and as their viewer shows them."""

from __future__ import annotations

import os
import struct
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from pixaff.errors import ImageError, PixaffError

# fmt: off
IMAGE_SUFFIXES = frozenset((
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".avif", ".bmp", ".gif", ".tif", ".tiff", ".jp2",
    ".ppm", ".pgm", ".pnm",
))
# fmt: on
MAX_PIXELS = 300_000_000

# What may be decoded at all. Pillow knows more, some of it dangerous on strangers' files (EPS starts Ghostscript).
_FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "AVIF", "BMP", "GIF", "TIFF", "JPEG2000", "PPM")
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION = 0x0112
_pillow_settings = threading.Lock()


def read_image(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """Read a photo.

    EXIF orientation is applied. Grey, palette and CMYK are converted, transparency is laid on white, 16 bits are
    scaled to 8.

    Returns:
        uint8 (H, W, 3), RGB, writable.

    Raises:
        ImageError: Missing, empty, truncated, no image, animated, over 300 megapixels, or floating-point pixels.
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


def load_image(path: str | os.PathLike[str], max_side: int = 0) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """Read a photo, shrunk to a long side of `max_side` pixels where it is larger (0: never).

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
        return image_array(picture, max_side, str(path))


def image_array(
    picture: Image.Image, max_side: int = 0, name: str = "image"
) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """`load_image` for a picture that Pillow has opened, or that was made in memory.

    Raises:
        ImageError: Pixels of a kind that is no photo's.
    """
    orientation = _orientation(picture)
    size = _upright_size(picture)
    target = _shrunk(picture.size, max_side)
    if target != picture.size:
        # Twice the target leaves the filter below enough to work with.
        picture.draft(None, (2 * target[0], 2 * target[1]))
    picture = _smoothable(name, picture)
    if picture.size != target:
        picture = picture.resize(target, Image.Resampling.LANCZOS, reducing_gap=2.0)
    picture = _rgb(picture)
    if orientation in _TRANSPOSE:
        picture = picture.transpose(_TRANSPOSE[orientation])
    return np.array(picture), size


@contextmanager
def opened(path: str | os.PathLike[str], error: type[PixaffError] = ImageError) -> Iterator[Image.Image]:
    """Open a still picture of at most 300 megapixels; what goes wrong in the block becomes `error`, naming the file."""
    try:
        with open(path, "rb") as file:
            if not file.read(1):
                raise error(f"{path}: empty file, expected an image", "copy or download it again")
            file.seek(0)
            with _quiet_pillow():
                picture = Image.open(file, formats=_formats())
            _check_size(path, picture, error)
            _check_still(path, picture, error)
            yield picture
    except PixaffError:
        raise
    except UnidentifiedImageError:
        found = f"{Path(path).stat().st_size:,} bytes of no known image format"
        raise error(f"{path}: found {found}", "expected JPEG, PNG, WebP, TIFF or BMP; HEIC and SVG: convert") from None
    except FileNotFoundError:
        raise error(f"{path}: no such file", "check the path") from None
    except IsADirectoryError:
        raise error(f"{path}: found a folder, expected an image") from None
    except PermissionError:
        raise error(f"{path}: no permission to read it") from None
    except MemoryError:
        raise error(f"{path}: not enough memory to decode it", "shrink it first") from None
    # Decoders raise nearly anything on damaged data: OSError, SyntaxError, struct.error, IndexError, ...
    except Exception as cause:
        raise error(f"{path}: damaged image: {cause or type(cause).__name__}", "copy or download it again") from cause


@lru_cache(maxsize=1)
def _formats() -> tuple[str, ...]:
    Image.init()  # AVIF and JPEG 2000 depend on the Pillow build
    return tuple(name for name in _FORMATS if name in Image.OPEN)


@contextmanager
def _quiet_pillow() -> Iterator[None]:
    """Without Pillow's pixel limit (ours is checked after the header) and its warnings about odd headers.

    Both are process-wide settings, hence the lock; only headers are read inside.
    """
    with _pillow_settings, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _check_size(path: str | os.PathLike[str], picture: Image.Image, error: type[PixaffError]) -> None:
    width, height = picture.size
    if width * height > MAX_PIXELS:
        found = f"{width} x {height} pixels, expected at most {MAX_PIXELS // 1_000_000} megapixels"
        raise error(f"{path}: found {found}", "shrink it first")


def _check_still(path: str | os.PathLike[str], picture: Image.Image, error: type[PixaffError]) -> None:
    if picture.format == "MPO":  # a camera's JPEG with a preview or a second view behind the photo
        return
    with _quiet_pillow():
        frames = getattr(picture, "n_frames", 1)
    if frames > 1:
        found = f"{picture.format} with {frames} frames, expected a still picture"
        raise error(f"{path}: found an animated or multi-page {found}", "extract one frame")


def _orientation(picture: Image.Image) -> int:
    """EXIF orientation still to be applied, 1..8; 1 where there is none."""
    if picture.format == "PNG" and _metadata_last(picture):
        picture.load()
    with _quiet_pillow():
        if picture.format == "TIFF":
            picture.load()  # it may warn of odd tags as it does so
        # What getexif() adds to these for a PNG is loading the pixels, in search of what is known not to be there.
        exif = Image.Image.getexif(picture) if picture.format == "PNG" else picture.getexif()
        orientation = exif.get(_ORIENTATION, 1)
    return orientation if orientation in _TRANSPOSE else 1


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


def _shrunk(size: tuple[int, int], max_side: int) -> tuple[int, int]:
    """(width, height) with a long side of at most `max_side`, neither side below 1."""
    long_side = max(size)
    if max_side == 0 or long_side <= max_side:
        return size
    width, height = (max(1, round(side * max_side / long_side)) for side in size)
    return width, height


def _smoothable(path: str | os.PathLike[str], picture: Image.Image) -> Image.Image:
    """The picture in a mode whose values can be averaged: L, LA, RGB, RGBA or CMYK."""
    if picture.mode.startswith("I"):
        values = np.asarray(picture)
        low, high = int(values.min()), int(values.max())
        if low < 0 or high > 65535:
            raise ImageError(f"{path}: found pixel values {low}..{high}, expected 0..65535", "save it as 8-bit PNG")
        return Image.fromarray(_eight_bits(values.astype(np.uint16, copy=False)))
    if picture.mode == "F":
        raise ImageError(f"{path}: found floating-point pixels, expected 8 or 16 bits", "save it as 8-bit PNG")
    if "transparency" in picture.info and picture.mode in ("1", "L", "P", "RGB"):
        return picture.convert("RGBA")
    if picture.mode in ("1", "P"):
        return picture.convert("RGB")
    if picture.mode in ("PA", "RGBa", "La"):
        return picture.convert("RGBA")
    picture.load()
    return picture


def _eight_bits(values: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """16-bit grey values (H, W) divided by 257 and rounded, so that 65535 is 255."""
    # In 16-bit integers, as a wider type would take two to four times the memory; 65407 + 128 is the largest of them.
    return ((np.minimum(values, np.uint16(65407)) + np.uint16(128)) // np.uint16(257)).astype(np.uint8)


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode in ("LA", "RGBA"):
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    return picture if picture.mode == "RGB" else picture.convert("RGB")
