"""Open image files with Pillow, after their headers and markers have shown that decoding cannot take for ever."""

from __future__ import annotations

import importlib
import io
import os
import re
import struct
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError

from pixaff.errors import ImageError, PixaffError
from pixaff.io.blob import Blob
from pixaff.io.regular import check_regular

# fmt: off
RAW_SUFFIXES = frozenset((
    ".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".fff", ".gpr", ".iiq", ".kdc", ".mef", ".mos",
    ".mrw", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f",
))
# fmt: on
"""Of cameras' raw files, in lower case."""
HEIF, HEIF_SUFFIXES = "HEIF", frozenset((".heic", ".heif", ".hif"))
"""Of phones and cameras; read through pillow-heif, if it is installed."""
MAX_PIXELS = 300_000_000
MAX_SCANS = 100
"""Of a progressive JPEG, each of which visits every pixel. Encoders write about ten."""

# What may be decoded at all. Pillow knows more, some of it dangerous on strangers' files (EPS starts Ghostscript).
_FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "AVIF", "BMP", "GIF", "TIFF", "JPEG2000", "PPM")
_PLUGINS = ("Avif", "Jpeg2K", "Mpo", "Tiff", "WebP")  # of Pillow's forty, those that it does not load anyway
_RAW = "a camera's raw file, of which only a thumbnail can be read"
_CONVERT = "convert it to JPEG, TIFF or PNG first"
_AGAIN = "copy or download it again"
_PNG = b"\x89PNG\r\n\x1a\n"
# Without the rest (text, EXIF, colour profile) a PNG shows the same pixels. acTL tells an animated one.
_PNG_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"acTL")
_SUBFILE_TYPE, _SUB_IFDS, _DNG_VERSION = 254, 330, 50706  # tags of a TIFF
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # among the pixels: no stuffed byte, no restart, no filling
_HEAD = 1 << 18  # bytes in which the first scan of a photo begins
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"mif2", b"msf1")
_SINGLE_SCAN = b"\xc0\xc1"  # frames that are decoded as they are read, if their first scan has all components
_pillow_settings = threading.Lock()


@contextmanager
def opened(path: str | os.PathLike[str], error: type[PixaffError] = ImageError) -> Iterator[Image.Image]:
    """Open a still picture of at most 300 megapixels; what goes wrong in the block becomes `error`, naming the file.

    Pipes, devices and links that lead nowhere are refused without being opened. A `Blob` is read from memory.
    """
    pixels = 0
    try:
        with _binary(path, error) as file:
            if not file.read(1):
                raise error(f"{path}: empty file, expected an image", _AGAIN)
            file.seek(0)
            picture = _identified(file)
            pixels = picture.size[0] * picture.size[1]
            if pixels > MAX_PIXELS:
                found = f"{picture.size[0]} x {picture.size[1]} pixels, expected at most {MAX_PIXELS // 1_000_000}"
                raise error(f"{path}: found {found} megapixels", "shrink it first")
            if _is_raw(Path(path), picture):
                raise error(f"{path}: found {_RAW}", _CONVERT)
            if picture.format in ("JPEG", "MPO") and _scans(file) > MAX_SCANS:
                raise error(f"{path}: found a JPEG of over {MAX_SCANS} scans, expected some ten", "save it again")
            if _has_more(picture):
                found = f"an animated or multi-page {picture.format}"
                raise error(f"{path}: found {found}, expected a still picture", "extract one frame")
            yield picture
    except PixaffError:
        raise
    except _NoHeif:
        raise error(f"{path}: found a HEIC photo; to read it, pip install 'pixaff[heic]'", _CONVERT) from None
    except UnidentifiedImageError:
        if Path(path).suffix.lower() in RAW_SUFFIXES:
            raise error(f"{path}: found {_RAW}", _CONVERT) from None
        length = len(path.data) if isinstance(path, Blob) else Path(path).stat().st_size
        found = f"{length:,} bytes of no known image format"
        raise error(f"{path}: found {found}", "expected JPEG, PNG, WebP, HEIC, TIFF or BMP; SVG: convert") from None
    except FileNotFoundError:
        raise error(f"{path}: no such file", "check the path") from None
    except PermissionError:
        raise error(f"{path}: no permission to read it") from None
    except MemoryError:
        size = f" of {pixels / 1e6:.0f} megapixels" if pixels else ""
        raise error(f"{path}: not enough memory to decode an image{size}", "shrink it first") from None
    # Decoders raise nearly anything on damaged data: OSError, SyntaxError, struct.error, IndexError, ...
    except Exception as cause:
        words = str(cause)[:80] or type(cause).__name__
        raise error(f"{path}: damaged image: {words}", _AGAIN) from cause


def _binary(path: str | os.PathLike[str], error: type[PixaffError]) -> BinaryIO:
    if isinstance(path, Blob):
        return io.BytesIO(path.data)
    check_regular(path, error)
    return open(path, "rb")


@contextmanager
def quiet_pillow() -> Iterator[None]:
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


@lru_cache(maxsize=1)
def _formats() -> tuple[str, ...]:
    Image.preinit()
    for name in _PLUGINS:
        with suppress(ImportError):  # AVIF and JPEG 2000 depend on the Pillow build
            importlib.import_module(f"PIL.{name}ImagePlugin")
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _identified(file: BinaryIO) -> Image.Image:
    with quiet_pillow():
        try:
            return Image.open(file, formats=_formats())
        except Exception:
            file.seek(0)
            head = file.read(12)
            if head[4:8] == b"ftyp" and head[8:] in _HEIF_BRANDS:
                return _heif(file)
            if not head.startswith(_PNG):
                raise
            file.seek(len(_PNG))
            bare = _without_notes(file)
            try:
                return Image.open(bare, formats=_formats())
            except Exception:
                pass  # the first error says more
            raise


class _NoHeif(Exception):
    """A HEIC photo, and nothing to read it with."""


def _heif(file: BinaryIO) -> Image.Image:
    """A HEIC photo, which is turned upright and has 8 bits a channel whatever its file has.

    The reader is not registered with Pillow, which would change it for the whole process.
    """
    try:
        from pillow_heif import HeifImageFile  # type: ignore[import-untyped,import-not-found,unused-ignore]
    except ImportError:
        raise _NoHeif from None
    file.seek(0)
    picture: Image.Image = HeifImageFile(file)
    return picture


def _without_notes(png: BinaryIO) -> io.BytesIO:
    """The chunks of a PNG that decide its pixels: damaged text or EXIF data is no reason to refuse a good picture."""
    bare = io.BytesIO()
    bare.write(_PNG)
    while len(header := png.read(8)) == 8:
        length, kind = struct.unpack(">I4s", header)
        if kind in _PNG_PIXELS:
            bare.write(header + png.read(length + 4))  # the chunk and its checksum
        else:
            png.seek(length + 4, os.SEEK_CUR)
    bare.seek(0)
    return bare


def _is_raw(path: Path, picture: Image.Image) -> bool:
    """Whether this is a TIFF whose first picture is a thumbnail and whose photo lies in a format of the camera's."""
    if picture.format != "TIFF":
        return False
    tags = getattr(picture, "tag_v2", {})
    reduced = bool(int(tags.get(_SUBFILE_TYPE, 0)) & 1) and _SUB_IFDS in tags
    return reduced or _DNG_VERSION in tags or path.suffix.lower() in RAW_SUFFIXES


def _has_more(picture: Image.Image) -> bool:
    """Whether there is a second picture. How many there are is not asked: to count pages can take minutes."""
    if picture.format in ("MPO", HEIF):  # a camera's photo with a preview or other views behind it
        return False
    with quiet_pillow():
        if picture.format != "TIFF":
            return bool(getattr(picture, "is_animated", False))
        try:
            picture.seek(1)
        except EOFError:
            return False
        return True


def _scans(file: BinaryIO) -> int:
    """How often a JPEG visits its pixels, counted up to one more than is allowed; the file is left where it was."""
    position = file.tell()
    file.seek(0)
    data = file.read(_HEAD)
    scans, known = _counted_scans(data)
    if not known and len(data) == _HEAD:
        scans, _ = _counted_scans(data + file.read())
    file.seek(position)
    return scans


def _counted_scans(data: bytes) -> tuple[int, bool]:
    """The scans in the beginning of a JPEG, and whether the rest of it can add any that counts."""
    place, scans, components, at_once = 2, 0, b"", False
    while place + 1 < len(data) and scans <= MAX_SCANS:
        marker, length = data[place + 1], int.from_bytes(data[place + 2 : place + 4], "big")
        if data[place] != 0xFF or marker in (0x00, 0xFF):  # filling between segments
            place += 1
        elif marker == 0xD9:  # the end; what follows, say a preview, is not decoded
            return scans, True
        elif 0xD0 <= marker <= 0xD8 or marker == 0x01:  # markers without a segment
            place += 2
        elif marker == 0xDA:
            scans += 1
            if at_once and data[place + 4 : place + 5] == components:
                return scans, True
            found = _JPEG_MARKER.search(data, place + 2 + length)
            place = found.start() if found else len(data)
        else:
            if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # a frame: its kind and components
                components, at_once = data[place + 9 : place + 10], marker in _SINGLE_SCAN
            place += 2 + length
    return scans, scans > MAX_SCANS
