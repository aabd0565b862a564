"""CAM files: class activation maps, or CRF posteriors, of one photo as `NAME.npz`."""

from __future__ import annotations

import os
import zipfile
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pixaff.errors import FormatError
from pixaff.io.atomic import atomic_path

MAX_BYTES = 4 << 30
_HINT = "expected an .npz with classes, cams and size, as pixaff writes it"
_TOLERANCE = 1e-3  # what rounding in another program may put above 1 or below 0


@dataclass(frozen=True, eq=False)
class CamFile:
    """The maps of one photo.

    Attributes:
        classes: int64 (C,), the maps' mask values: 1..K, and 0 for the background of CRF posteriors; none twice.
        cams: float32 (C, h, w), in 0..1.
        size: (H, W) of the photo, in pixels; the maps may be smaller.
    """

    classes: NDArray[np.int64]
    cams: NDArray[np.float32]
    size: tuple[int, int]


def read_cams(path: str | os.PathLike[str]) -> CamFile:
    """Read and check a CAM file; nothing in it is ever unpickled.

    Raises:
        FormatError: Missing, truncated, no such archive, or an array that is absent, of a wrong type or shape, not
            finite, or out of range.
    """
    arrays = _load(path)
    classes, cams, size = (arrays[name] for name in ("classes", "cams", "size"))
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


def _checked(classes: NDArray[Any], cams: NDArray[Any], size: tuple[int, int]) -> CamFile:
    """The arrays in their final types, or a ValueError that says found against expected."""
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
    if low < -_TOLERANCE or high > 1 + _TOLERANCE:
        raise ValueError(f"cams: found values {low:.4g}..{high:.4g}, expected 0..1: divide each map by its maximum")
    return CamFile(classes.astype(np.int64), np.clip(cams, 0, 1, out=cams), (int(size[0]), int(size[1])))


def _load(path: str | os.PathLike[str]) -> dict[str, NDArray[Any]]:
    names = ("classes", "cams", "size")
    try:
        with zipfile.ZipFile(path) as archive:
            members = {member.filename: member.file_size for member in archive.infolist()}
        missing = [name for name in names if f"{name}.npy" not in members]
        if missing:
            found = ", ".join(name.removesuffix(".npy") for name in list(members)[:8]) or "nothing"
            raise FormatError(f"{path}: found {found}, {' and '.join(missing)} missing", _HINT)
        if sum(members[f"{name}.npy"] for name in names) > MAX_BYTES:
            raise FormatError(f"{path}: found over {MAX_BYTES >> 30} GiB of arrays", _HINT)
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in names}
        for name, array in arrays.items():
            if not isinstance(array, np.ndarray):  # the raw bytes of a member that is no array
                raise FormatError(f"{path}: {name}: found no array", _HINT)
        return arrays
    except FormatError:
        raise
    except FileNotFoundError:
        raise FormatError(f"{path}: no such file", "check the path, or run pixaff cam first") from None
    except (IsADirectoryError, PermissionError) as error:
        raise FormatError(f"{path}: cannot be read: {error.strerror}") from None
    except zipfile.BadZipFile:
        raise FormatError(f"{path}: damaged, or no .npz file", "write it again, or remove it") from None
    # Arrays with damaged headers or compressed data: ValueError, zlib.error, EOFError, SyntaxError, MemoryError, ...
    except Exception as error:
        raise FormatError(f"{path}: damaged: {error or type(error).__name__}", "write it again, or remove it") from None
