"""CAM files: class activation maps, or CRF posteriors, of one photo; ours, and those of other programs."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pickle import UnpicklingError
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pixaff.errors import FormatError
from pixaff.io.atomic import atomic_path
from pixaff.io.cam_formats import NPY_MAGIC, read_pickled
from pixaff.io.npz import MAX_BYTES, read_arrays

_HINT = "expected an .npz with classes, cams and size, as pixaff writes it"
_FOREIGN_HINT = "docs/formats.md shows each format that can be read"
_TOLERANCE = 1e-3  # what rounding in another program may put above 1 or below 0


@dataclass(frozen=True, eq=False)
class CamFile:
    """The maps of one photo.

    Attributes:
        classes: int64 (C,), the maps' mask values: 1..K, and 0 for the background of CRF posteriors; none twice.
        cams: float32 (C, h, w), in 0..1.
        size: (H, W) of the photo, in pixels; the maps may be smaller. Files of other programs do not tell it: there
            it is (h, w), which is the photo's own size in most of them.
    """

    classes: NDArray[np.int64]
    cams: NDArray[np.float32]
    size: tuple[int, int]


def read_cams(path: str | os.PathLike[str]) -> CamFile:
    """Read and check a CAM file, told apart by content: ours (.npz), or one of another program (.npy, a pickled dict).

    Read are the maps of PSA, SEAM, MCTformer and WeakTr, of IRN, AdvCAM, ReCAM and AMN, of Puzzle-CAM (maps or walk)
    and of CLIP-ES, and the CRF posteriors of PSA and SEAM. A pickle is taken apart without running anything. Negative
    numbers of such a file become 0 (SEAM writes some), maps beyond 1 are refused as in ours.

    Returns:
        The maps; those of other programs in ascending order of class.

    Raises:
        FormatError: Missing, truncated, of no known format, a pickle that asks for more than arrays, or an array that
            is absent, of a wrong type or shape, not finite, or out of range.
    """
    if _starts_with(path, NPY_MAGIC):
        return _read_foreign(path)
    classes, cams, size = read_arrays(path, ("classes", "cams", "size"), _HINT, "pixaff cam")
    try:
        if classes.dtype.kind not in "iu" or classes.ndim != 1:
            raise ValueError(f"classes: found {classes.dtype} {classes.shape}, expected integers (C,)")
        if cams.dtype.kind != "f":
            raise ValueError(f"cams: found {cams.dtype}, expected float16 or float32")
        if size.dtype.kind not in "iu" or size.shape != (2,):
            raise ValueError(f"size: found {size.dtype} {size.shape}, expected two integers H, W")
        return _checked(classes, cams, (int(size[0]), int(size[1])))
    except ValueError as error:
        raise FormatError(f"{path}: {error}", _HINT) from None


def write_cams(
    path: str | os.PathLike[str],
    classes: ArrayLike,
    cams: ArrayLike,
    size: tuple[int, int],
    dtype: Literal["float16", "float32"] = "float16",
) -> None:
    """Write a CAM file, compressed, atomically.

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
    if dtype not in ("float16", "float32"):
        raise ValueError(f"dtype: found {dtype}, expected float16 or float32")
    file = _checked(np.asarray(classes), np.asarray(cams), size)
    with atomic_path(path) as temporary, open(temporary, "wb") as stream:
        np.savez_compressed(
            stream, classes=file.classes, cams=file.cams.astype(dtype), size=np.array(file.size, dtype=np.int64)
        )


def _checked(classes: NDArray[Any], cams: NDArray[Any], size: tuple[int, int], signed: bool = False) -> CamFile:
    """The arrays in their final types, negative numbers allowed or not, or a ValueError: found against expected."""
    if cams.ndim != 3 or 0 in cams.shape or classes.shape != cams.shape[:1]:
        raise ValueError(f"found classes {classes.shape}, cams {cams.shape}, expected (C,) and (C, h, w)")
    if classes.min() < 0 or classes.max() > 254:
        raise ValueError(f"classes: found {classes.min()}..{classes.max()}, expected mask values 0..254")
    if len(np.unique(classes)) != len(classes):
        raise ValueError(f"classes: found {classes.tolist()}, expected every class once")
    if min(size) < 1:
        raise ValueError(f"size: found {size[0]} x {size[1]}, expected positive H, W")
    cams = cams.astype(np.float32)
    low, high = float(cams.min()), float(cams.max())  # NaN if any is
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError("cams: found NaN or infinite values")
    if (low < -_TOLERANCE and not signed) or high > 1 + _TOLERANCE:
        raise ValueError(f"cams: found values {low:.4g}..{high:.4g}, expected 0..1: divide each map by its maximum")
    return CamFile(classes.astype(np.int64), np.clip(cams, 0, 1, out=cams), (int(size[0]), int(size[1])))


def _starts_with(path: str | os.PathLike[str], magic: bytes) -> bool:
    try:
        with open(path, "rb") as stream:
            return stream.read(len(magic)) == magic
    except OSError:
        return False  # `read_arrays` says what is wrong


def _read_foreign(path: str | os.PathLike[str]) -> CamFile:
    try:
        if os.path.getsize(path) > MAX_BYTES:
            raise ValueError(f"found over {MAX_BYTES >> 30} GiB")
        with open(path, "rb") as stream:
            classes, cams = read_pickled(stream.read())
        return _checked(classes, cams, (cams.shape[1], cams.shape[2]), signed=True)
    except UnpicklingError as error:
        raise FormatError(
            f"{path}: {error}, expected a dict of plain arrays; nothing in it was run",
            f"distrust it, or write it anew where it comes from: {_FOREIGN_HINT}",
        ) from None
    except UnicodeError as error:  # a ValueError that says nothing about maps
        raise FormatError(f"{path}: damaged: {error}", "write it again, or remove it") from None
    except ValueError as error:
        raise FormatError(f"{path}: {error}", _FOREIGN_HINT) from None
    # Damaged pickles: EOFError, KeyError, IndexError, TypeError, OverflowError, MemoryError, ...
    except Exception as error:
        raise FormatError(f"{path}: damaged: {error or type(error).__name__}", "write it again, or remove it") from None
