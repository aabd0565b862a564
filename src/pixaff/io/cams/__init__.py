"""CAM files: the CAMs, or the CRF posteriors, of one photo; our own format, and those of other programs.

A format is a module in this folder, and its entry in `FORMATS`. It has

- `NAME`, and `HOLDS`, which says what such a file contains, for messages;
- `detect(file)`: whether an opened file is of this format;
- `read(file)`: its maps, or a `ValueError` that says what was found and what was expected;
- if pixaff writes it too, `SUFFIX`, `POSTERIORS` (whether it can contain them) and `write(path, classes, maps, size)`.

docs/formats.md describes the formats, program by program.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from pathlib import Path
from pickle import UnpicklingError
from types import ModuleType
from typing import Literal, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pixaff.errors import FormatError, UsageError
from pixaff.io.cams import clip_es, irn, npz, psa, puzzle_cam
from pixaff.io.cams.camfile import CamFile, Opened
from pixaff.io.cams.pickled_dict import MAGIC, read_dict
from pixaff.io.npz_arrays import array_headers, check_room
from pixaff.io.regular import check_regular

__all__ = [
    "CAM_SUFFIXES",
    "FORMATS",
    "POSTERIOR_FORMATS",
    "SUFFIXES",
    "CamFile",
    "check_format",
    "find_cams",
    "read_cams",
    "write_cams",
    "write_maps",
]

# The first that recognises a file reads it. IRN's comes last of those with keys: the others keep a small `cam` as well.
FORMATS: tuple[ModuleType, ...] = (npz, psa, puzzle_cam, clip_es, irn)
_WRITTEN = {form.NAME: form for form in FORMATS if hasattr(form, "write")}
SUFFIXES: dict[str, str] = {name: form.SUFFIX for name, form in _WRITTEN.items()}
"""Suffix by name, of the formats that pixaff writes."""
POSTERIOR_FORMATS = tuple(name for name, form in _WRITTEN.items() if form.POSTERIORS)
CAM_SUFFIXES = (".npz", ".npy")
_EXPECTED = "expected " + ", or ".join(form.HOLDS for form in FORMATS)
_HINT = "docs/formats.md shows each format that can be read"


def read_cams(path: str | os.PathLike[str], photo: tuple[int, int] | None = None) -> CamFile:
    """Read and check a CAM file, recognised by content: our own (.npz), or one of another program (.npy, a pickled
    dict).

    These are the CAMs of PSA, SEAM, MCTformer and WeakTr, of IRN, AdvCAM, ReCAM and AMN, of Puzzle-CAM (CAMs or walk)
    and of CLIP-ES, and the CRF posteriors of PSA and SEAM. A pickle is read without running anything. Negative values
    in such a file become 0 (SEAM writes some); values above 1 are refused, as in our own.

    Bounds are checked first: no memory is allocated for more numbers than the length of the file and its photo justify.

    Args:
        path: The file.
        photo: (H, W) of the photo, if it is known: CAMs of many times its size are refused.

    Returns:
        The CAMs, those of other programs in ascending order of class; none if the photo shows no class.

    Raises:
        FormatError: Missing, truncated, of no known format, a pickle that asks for more than arrays, or an array that
            is absent, of a wrong type or shape, not finite, or out of range.
    """
    path = Path(path)
    try:
        file = _opened(path, photo)
        form = next((form for form in FORMATS if form.detect(file)), None)
        if form is None:
            raise ValueError(f"found {file.names or 'nothing'}, {_EXPECTED}")
        found: CamFile = form.read(file)
        return found
    except FormatError:
        raise
    except UnpicklingError as error:
        raise FormatError(
            f"{path}: {error}, expected a dict of plain arrays; nothing in it was run",
            f"do not trust it, or write it again with the program that made it: {_HINT}",
        ) from None
    except UnicodeError as error:  # a ValueError that says nothing about maps
        raise FormatError(f"{path}: damaged: {error}", "write it again, or remove it") from None
    except ValueError as error:
        raise FormatError(f"{path}: {error}", _HINT) from None
    except MemoryError:
        raise FormatError(f"{path}: not enough memory to read it", "use fewer workers") from None
    # Damaged pickles: EOFError, KeyError, IndexError, TypeError, OverflowError, ...
    except Exception as error:
        words = str(error)[:80] or type(error).__name__
        raise FormatError(f"{path}: damaged: {words}", "write it again, or remove it") from None


def write_cams(
    path: str | os.PathLike[str],
    classes: ArrayLike,
    cams: ArrayLike,
    size: tuple[int, int],
    dtype: Literal["float16", "float32"] = "float16",
) -> None:
    """Write a CAM file in our own format, compressed, atomically.

    Args:
        path: `NAME.npz`; parent folders are made.
        classes: Mask values (C,).
        cams: Floats (C, h, w), in 0..1.
        size: (H, W) of the photo.
        dtype: Stored precision.

    Raises:
        ValueError: What `read_cams` would refuse.
        OutputError: The file cannot be written.
    """
    npz.write(path, classes, cams, size, dtype)


def write_maps(
    path: str | os.PathLike[str],
    format: str,
    classes: Sequence[int],
    maps: NDArray[np.float32],
    size: tuple[int, int],
) -> None:
    """Write the CAMs of a photo in one of the formats, atomically.

    Our own format keeps their size. The others do not contain the size of the photo, so for them the CAMs are resized
    to it (bilinear, align_corners false).

    Args:
        path: The file, with the suffix of `SUFFIXES`; parent folders are made.
        format: A name of `SUFFIXES`; for posteriors one of `POSTERIOR_FORMATS`.
        classes: Mask values (C,), with 0 for posteriors.
        maps: float32 (C, h, w), in 0..1.
        size: (H, W) of the photo.

    Raises:
        UsageError: There is no such format.
        OutputError: The file cannot be written.
    """
    _WRITTEN[check_format(format)].write(path, classes, maps, size)


def check_format(name: str, known: Collection[str] = tuple(SUFFIXES)) -> str:
    """The name of a format that a command writes.

    Raises:
        UsageError: It is not one of them.
    """
    if name not in known:
        raise UsageError(f"format is {name}, expected {', '.join(known)}")
    return name


@overload
def find_cams(folder: Path, stem: str) -> Path: ...


@overload
def find_cams(folder: Path, stem: str, *, must_exist: bool) -> Path | None: ...


def find_cams(folder: Path, stem: str, *, must_exist: bool = True) -> Path | None:
    """The file with an image's CAMs or posteriors; our own, if there is also one of another program.

    Raises:
        FormatError: There is none. With ``must_exist=False`` the result is None instead.
    """
    for suffix in CAM_SUFFIXES:
        path = folder / f"{stem}{suffix}"
        if path.is_file():
            return path
    if not must_exist:
        return None
    raise FormatError(
        f"{folder}: no CAM file of {stem}, neither {stem}.npz nor {stem}.npy",
        "pixaff cam makes CAMs, pixaff crf posteriors",
    )


def _opened(path: Path, photo: tuple[int, int] | None) -> Opened:
    check_regular(path, FormatError)
    if not _starts_with(path, MAGIC):
        headers = array_headers(path, "pixaff cam")
        return Opened(path, "npz", headers, path.stat().st_size, photo)
    check_room(path.stat().st_size, path.stat().st_size)
    data = path.read_bytes()
    return Opened(path, "npy", read_dict(data), len(data), photo)


def _starts_with(path: Path, magic: bytes) -> bool:
    try:
        with open(path, "rb") as stream:
            return stream.read(len(magic)) == magic
    except OSError:
        return False  # `array_headers` says what is wrong
