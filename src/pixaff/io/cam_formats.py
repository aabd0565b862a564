"""Activation maps and CRF posteriors as the programs of this field write them: a dict inside an .npy file.

Where the facts come from, program by program: docs/formats.md. All of these files are pickles; see
`pixaff.io.pickled_arrays` for how they are read without running anything.
"""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pixaff.io.atomic import atomic_path
from pixaff.io.pickled_arrays import Array, read_arrays

NPY_MAGIC = b"\x93NUMPY"
# Those of the photo's size first; IRN and Puzzle-CAM keep maps of a quarter of it ("cam") in the same file.
MAP_NAMES = ("high_res", "hr_cam", "attn_highres", "rw", "cam")
_EXPECTED = f"expected maps by class number, or keys with one of {', '.join(MAP_NAMES)}"
_SUM_TOLERANCE = 0.01  # of posteriors that were rounded to float16

Arrays = tuple[NDArray[np.int64], NDArray[Any]]
"""Mask values (C,), ascending, and float maps (C, h, w)."""


def read_pickled(data: bytes) -> Arrays:
    """Tell the format of an .npy file by its content and take the maps out.

    Args:
        data: The whole file.

    Returns:
        Mask values and maps, whose numbers the caller has to check. 0 is among the values for CRF posteriors only.

    Raises:
        pickle.UnpicklingError: The pickle holds, or asks for, more than arrays. Nothing in it was run.
        ValueError: It holds no maps in a known form.
        Exception: It is damaged.
    """
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"found .npy version {version[0]}.{version[1]}, expected 1.0 or 2.0")
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(stream)
    if dtype.kind != "O" or shape != ():
        raise ValueError(f"found an array of {str(dtype)[:40]} {shape}, {_EXPECTED}")
    try:
        saved = read_arrays(stream)
    except ValueError as error:  # of a pickle cut short; those below are about whole ones
        raise EOFError(f"{error}") from None
    content = saved.content if isinstance(saved, Array) else None
    if type(content) is not dict:
        raise ValueError(f"found a {type(content).__name__}, {_EXPECTED}")
    classes, rows = _keyed(content) if "keys" in content else _by_class(content)
    if sum(row.nbytes for row in rows) > len(data):  # one array under many names
        raise ValueError(f"found {len(rows)} maps that share their numbers")
    order = np.argsort(classes, kind="stable")
    return np.array(classes, dtype=np.int64)[order], np.stack([rows[index] for index in order])


def write_psa(path: str | os.PathLike[str], classes: Sequence[int], cams: ArrayLike) -> None:
    """Write what PSA's own programs read, atomically: a dict of maps by 0-based class, or of posteriors.

    Args:
        path: `NAME.npy`.
        classes: Mask values (C,). With 0, the background, these are posteriors and go by mask value; without it they
            are activation maps and go by mask value - 1.
        cams: Floats (C, H, W) of the photo's size, which PSA expects.

    Raises:
        OutputError: The file cannot be written.
    """
    # In ascending order: PSA's AffinityNet training takes the rows by position, the background first.
    first = 0 if 0 in classes else 1
    _save(
        path,
        {
            int(value) - first: np.ascontiguousarray(row, np.float32)
            for value, row in sorted(zip(classes, np.asarray(cams), strict=True), key=lambda pair: pair[0])
        },
    )


def write_irn(path: str | os.PathLike[str], classes: Sequence[int], strided: ArrayLike, full: ArrayLike) -> None:
    """Write what IRN's own programs read, atomically: `keys`, `cam` and `high_res`.

    IRN moves `cam` to the GPU as it is, so that and `keys` are torch tensors, as IRN writes them.

    Args:
        path: `NAME.npy`.
        classes: Mask values (C,), 1-based.
        strided: Floats (C, ceil(H / 4), ceil(W / 4)).
        full: Floats (C, H, W) of the photo's size.

    Raises:
        OutputError: The file cannot be written.
    """
    import torch

    keys = torch.tensor([int(value) - 1 for value in classes], dtype=torch.int64)
    cam = torch.from_numpy(np.array(strided, dtype=np.float32))
    _save(path, {"keys": keys, "cam": cam, "high_res": np.ascontiguousarray(full, np.float32)})


def _by_class(content: dict[Any, Any]) -> tuple[list[int], list[NDArray[Any]]]:
    """PSA and those after it: 0-based classes, or, for CRF posteriors, 0 = background and class + 1."""
    if not content:
        raise ValueError(f"found an empty dict, {_EXPECTED}")
    if any(type(key) is not int for key in content):
        raise ValueError(f"found {_names(content)}, {_EXPECTED}")
    classes = list(content)
    rows = [_map(value, f"class {key}") for key, value in content.items()]
    if any(row.ndim != 2 or row.shape != rows[0].shape for row in rows):
        shapes = ", ".join(sorted({str(row.shape) for row in rows})[:4])
        raise ValueError(f"found maps of shape {shapes}, expected one shape (H, W)")
    # The two are told apart by the sum: of maps, each of which reaches 1 somewhere, it is not 1 at every pixel.
    posteriors = 0 in content and len(rows) > 1 and _sum_to_one(rows)
    return (classes if posteriors else [value + 1 for value in classes]), rows


def _sum_to_one(rows: list[NDArray[Any]]) -> bool:
    total = np.sum(np.stack(rows), axis=0, dtype=np.float32)
    return bool(np.abs(total - 1).max() < _SUM_TOLERANCE)


def _keyed(content: dict[Any, Any]) -> tuple[list[int], list[NDArray[Any]]]:
    """IRN, AMN, Puzzle-CAM, CLIP-ES and those after them: `keys` beside an array of maps."""
    name = next((name for name in MAP_NAMES if name in content), None)
    if name is None:
        raise ValueError(f"found {_names(content)}, {_EXPECTED}")
    maps, keys = _map(content[name], name), _keys(content["keys"])
    if maps.ndim != 3:
        raise ValueError(f"{name}: found shape {maps.shape}, expected (C, H, W)")
    if len(keys) == len(maps) + 1 and keys[0] == 0:
        return keys[1:], list(maps)  # Puzzle-CAM: mask values, with a background that has no map
    if len(maps) == len(keys) + 1 and keys:
        maps = maps[1:]  # AMN: a background that has no key, which its own programs leave out too
    if len(keys) != len(maps):
        raise ValueError(f"found {len(keys)} keys and {len(maps)} maps in {name}, expected one key for each")
    return [key + 1 for key in keys], list(maps)


def _keys(value: Any) -> list[int]:
    found = value.values if isinstance(value, Array) else value
    if isinstance(found, np.ndarray) and found.dtype.kind in "iu" and found.ndim == 1:
        return [int(key) for key in found]
    if isinstance(found, (list, tuple)) and all(type(key) is int for key in found):
        return list(found)
    raise ValueError("keys: found no list of class numbers")


def _map(value: Any, name: str) -> NDArray[Any]:
    found = value.values if isinstance(value, Array) else None
    if found is None:
        raise ValueError(f"{name}: found a {type(value).__name__.lower()}, expected an array of float16, 32 or 64")
    if found.dtype.kind != "f" or found.size == 0:
        raise ValueError(f"{name}: found {found.dtype} {found.shape}, expected float16, 32 or 64")
    return found


def _names(content: dict[Any, Any]) -> str:
    return ", ".join(ascii(key)[:40] for key in list(content)[:8])


def _save(path: str | os.PathLike[str], content: dict[Any, Any]) -> None:
    """As `np.save` does, but so that numpy 1 reads it as well as numpy 2."""
    boxed = np.empty((), dtype=object)
    boxed[()] = content
    # The very first name in the stream; protocol 3 spells it out once and points back to it for every other array.
    data = pickle.dumps(boxed, protocol=3).replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n", 1)
    with atomic_path(path) as temporary, open(temporary, "wb") as stream:
        np.lib.format.write_array_header_1_0(stream, {"descr": "|O", "fortran_order": False, "shape": ()})
        stream.write(data)
