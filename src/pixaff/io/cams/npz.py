"""Our own: an .npz with `classes`, `cams` and `size`."""

from __future__ import annotations

import os
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from pixaff.errors import FormatError
from pixaff.io.atomic import atomic_path
from pixaff.io.cams.camfile import CamFile, Opened, check_extent, checked
from pixaff.io.npz_arrays import read_arrays

NAME = "npz"
KEYS = ("classes", "cams", "size")
HOLDS = "classes, cams and size"
SUFFIX = ".npz"
POSTERIORS = True
_HINT = f"expected an .npz with {HOLDS}, as pixaff writes it"


def detect(file: Opened) -> bool:
    return file.container == "npz" and ("classes" in file.content or "cams" in file.content)


def read(file: Opened) -> CamFile:
    try:
        # The size alone first: the maps of a photo of known size cannot be of any size.
        header = file.content.get("cams")
        if header is not None and len(header.shape) == 3 and "size" in file.content:
            (size,) = read_arrays(file.path, ("size",), _HINT, "pixaff cam")
            photo = (int(size[0]), int(size[1])) if size.dtype.kind in "iu" and size.shape == (2,) else None
            check_extent(header.shape, photo)
            check_extent(header.shape, file.photo)
        classes, cams, size = read_arrays(file.path, KEYS, _HINT, "pixaff cam")
        if classes.dtype.kind not in "iu" or classes.ndim != 1:
            raise ValueError(f"classes: found {classes.dtype} {classes.shape}, expected integers (C,)")
        if cams.dtype.kind != "f":
            raise ValueError(f"cams: found {cams.dtype}, expected float16 or float32")
        if size.dtype.kind not in "iu" or size.shape != (2,):
            raise ValueError(f"size: found {size.dtype} {size.shape}, expected two integers H, W")
        return checked(classes, cams, (int(size[0]), int(size[1])))
    except ValueError as error:
        raise FormatError(f"{file.path}: {error}", _HINT) from None


def write(
    path: str | os.PathLike[str],
    classes: ArrayLike,
    cams: ArrayLike,
    size: tuple[int, int],
    dtype: Literal["float16", "float32"] = "float16",
) -> None:
    if dtype not in ("float16", "float32"):
        raise ValueError(f"dtype: found {dtype}, expected float16 or float32")
    # A copy, which is clipped; without a class there is nothing of which the type could be told.
    values = np.array(classes) if np.size(classes) else np.zeros(0, np.int64)
    file = checked(values, np.array(cams, dtype=np.float32), size)
    with atomic_path(path) as temporary, open(temporary, "wb") as stream:
        np.savez_compressed(
            stream, classes=file.classes, cams=file.cams.astype(dtype), size=np.array(file.size, dtype=np.int64)
        )
