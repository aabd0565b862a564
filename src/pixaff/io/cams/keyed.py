"""What the formats of IRN and those after it share: `keys` beside an array of maps."""

from __future__ import annotations

from typing import Any

import numpy as np

from pixaff.io.cams.camfile import CamFile, Opened, no_class
from pixaff.io.cams.pickled_dict import check_rows, floats, in_order
from pixaff.io.pickled_arrays import Array


def read_keyed(file: Opened, name: str) -> CamFile:
    """The maps under `name`, by the class numbers under `keys`.

    Raises:
        ValueError: They are of another type or shape, or do not go together.
    """
    keys = _numbers(file.content["keys"])
    found = file.content.get(name)
    # The photo shows no class: no key, or Puzzle-CAM's background alone; some programs leave out the maps as well.
    if (found is None and not keys) or (_holds_nothing(found) and keys in ([], [0])):
        return no_class()
    maps = floats(found, name)
    if maps.ndim != 3:
        raise ValueError(f"{name}: found shape {maps.shape}, expected (C, H, W)")
    check_rows(file, maps)  # type: ignore[arg-type]  # an array of rows
    if len(keys) == len(maps) + 1 and keys[0] == 0:
        return in_order(keys[1:], list(maps))  # Puzzle-CAM: mask values, with a background that has no map
    if len(maps) == len(keys) + 1 and keys:
        maps = maps[1:]  # AMN: a background that has no key, which its own programs leave out too
    if len(keys) != len(maps):
        raise ValueError(f"found {len(keys)} keys and {len(maps)} CAMs in {name}, expected one key per CAM")
    return in_order([key + 1 for key in keys], list(maps))


def _holds_nothing(value: Any) -> bool:
    return isinstance(value, Array) and value.values is not None and value.values.shape[:1] == (0,)


def _numbers(value: Any) -> list[int]:
    found = value.values if isinstance(value, Array) else value
    if isinstance(found, np.ndarray) and found.ndim == 1 and (found.dtype.kind in "iu" or found.size == 0):
        return [int(key) for key in found]
    if isinstance(found, (list, tuple)) and all(type(key) is int for key in found):
        return list(found)
    raise ValueError("keys: found no list of class numbers")
