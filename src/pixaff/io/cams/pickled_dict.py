"""The container of the other programs' formats: a pickled dict inside an .npy file.

See `pixaff.io.pickled_arrays` for how it is read without running anything.
"""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pixaff.io.atomic import atomic_path
from pixaff.io.cams.camfile import CamFile, Opened, check_extent, checked
from pixaff.io.npz_arrays import check_room
from pixaff.io.pickled_arrays import Array, read_arrays
from pixaff.io.unpickle import Budget

MAGIC = b"\x93NUMPY"


def read_dict(data: bytes, budget: Budget | None = None) -> dict[Any, Any]:
    """Take the dict out of an .npy file.

    Args:
        data: The whole file.
        budget: What reading it may take; None for that of the maps of one photo.

    Returns:
        Plain keys and values; arrays and tensors as `Array`.

    Raises:
        pickle.UnpicklingError: The pickle holds, or asks for, more than arrays. Nothing in it was run.
        ValueError: It holds something other than a dict.
        Exception: It is damaged.
    """
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"found .npy version {version[0]}.{version[1]}, expected 1.0 or 2.0")
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(stream)
    if dtype.kind != "O" or shape != ():
        raise ValueError(f"found an array of {str(dtype)[:40]} {shape}, expected a dict")
    try:
        saved = read_arrays(stream, budget or Budget(len(data)))
    except ValueError as error:  # of a pickle cut short; those below are about whole ones
        raise EOFError(f"{error}") from None
    content = saved.content if isinstance(saved, Array) else None
    if type(content) is not dict:
        raise ValueError(f"found a {type(content).__name__}, expected a dict")
    return content


def write_dict(path: str | os.PathLike[str], content: dict[Any, Any]) -> None:
    """Write a dict as `np.save` does, atomically, but so that numpy 1 reads it as well as numpy 2.

    Raises:
        OutputError: The file cannot be written.
    """
    boxed = np.empty((), dtype=object)
    boxed[()] = content
    # The very first name in the stream; protocol 3 spells it out once and points back to it for every other array.
    data = pickle.dumps(boxed, protocol=3).replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n", 1)
    with atomic_path(path) as temporary, open(temporary, "wb") as stream:
        np.lib.format.write_array_header_1_0(stream, {"descr": "|O", "fortran_order": False, "shape": ()})
        stream.write(data)


def floats(value: Any, name: str) -> NDArray[Any]:
    """The array behind an entry.

    Raises:
        ValueError: It is no array of floats, or an empty one.
    """
    found = value.values if isinstance(value, Array) else None
    if found is None:
        raise ValueError(f"{name}: found a {type(value).__name__.lower()}, expected an array of float16, 32 or 64")
    if found.dtype.kind != "f" or found.size == 0:
        raise ValueError(f"{name}: found {found.dtype} {found.shape}, expected float16, 32 or 64")
    return found


def check_rows(file: Opened, rows: Sequence[NDArray[Any]]) -> None:
    """Refuse what would make much memory out of a small file, before any is taken.

    Raises:
        ValueError: One array goes by many names, or the maps (h, w) are too large.
    """
    if sum(row.nbytes for row in rows) > file.bytes:
        raise ValueError(f"found {len(rows)} CAMs that share their values")
    for row in rows:
        check_extent(row.shape, file.photo)
    check_room(sum(row.size for row in rows) * np.dtype(np.float32).itemsize, file.bytes)


def in_order(classes: Sequence[int], rows: Sequence[NDArray[Any]]) -> CamFile:
    """Maps (h, w) of one shape in ascending order of their mask values; negative numbers become 0.

    Raises:
        ValueError: Found against expected.
    """
    order = np.argsort(classes, kind="stable")
    maps = np.empty((len(rows), *rows[0].shape), np.float32)
    with np.errstate(over="ignore"):
        for place, index in enumerate(order):
            maps[place] = rows[index]
    return checked(np.array(classes, dtype=np.int64)[order], maps, (maps.shape[1], maps.shape[2]), signed=True)
