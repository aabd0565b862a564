"""The formats in which activation maps and posteriors are written."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from pixaff.errors import UsageError
from pixaff.io.cam_formats import write_irn, write_psa
from pixaff.io.cams import write_cams
from pixaff.ops.cam import EPSILON

SUFFIXES = {"npz": ".npz", "psa": ".npy", "irn": ".npy"}
IRN_STRIDE = 4


def check_format(name: str, known: Collection[str]) -> str:
    """The name of a format that a command writes.

    Raises:
        UsageError: It is not one of them.
    """
    if name not in known:
        raise UsageError(f"format is {name}, expected {', '.join(known)}")
    return name


def write_maps(path: Path, form: str, classes: Sequence[int], maps: NDArray[np.float32], size: tuple[int, int]) -> None:
    """Write the maps of a photo in one of the formats.

    Ours keeps them at the size at which they were made. The others know no size of the photo, so their maps are
    brought to it (bilinear, align_corners false).

    Args:
        path: The file, with the suffix of `SUFFIXES`.
        form: "npz", "psa", or, for activation maps, "irn".
        classes: Mask values (C,), with 0 for posteriors.
        maps: float32 (C, h, w), in 0..1.
        size: (H, W) of the photo.

    Raises:
        OutputError: The file cannot be written.
    """
    if form == "npz":
        write_cams(path, classes, maps, size)
        return
    given = torch.from_numpy(maps)
    full = _resized(given, size)
    if form == "psa":
        write_psa(path, classes, full.numpy())
        return
    strided = _resized(given, (-(-size[0] // IRN_STRIDE), -(-size[1] // IRN_STRIDE)))
    # As IRN does: few of the points that remain hit the maximum.
    strided = strided / (strided.amax((1, 2), keepdim=True) + EPSILON)
    write_irn(path, classes, strided.numpy(), full.numpy())


def _resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    if maps.shape[1:] == size:
        return maps
    return F.interpolate(maps[None], size, mode="bilinear", align_corners=False)[0]
