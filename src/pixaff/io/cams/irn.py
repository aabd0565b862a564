"""IRN, AdvCAM, ReCAM: `keys`, `cam` of a quarter of the photo's size, `high_res`; AMN: the same with a row more."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pixaff.io.cams.camfile import CamFile, Opened
from pixaff.io.cams.keyed import read_keyed
from pixaff.io.cams.pickled_dict import write_dict
from pixaff.io.cams.resized import resized

NAME = "irn"
HOLDS = "keys with high_res or cam"
SUFFIX = ".npy"
POSTERIORS = False
_STRIDE = 4
_EPSILON = 1e-5


def detect(file: Opened) -> bool:
    # Descendants that work on COCO write `keys` alone for a photo without a class.
    return "keys" in file.content and ("high_res" in file.content or "cam" in file.content or len(file.content) == 1)


def read(file: Opened) -> CamFile:
    return read_keyed(file, "high_res" if "high_res" in file.content else "cam")


def write(
    path: str | os.PathLike[str], classes: Sequence[int], maps: NDArray[np.float32], size: tuple[int, int]
) -> None:
    import torch

    strided = resized(maps, (-(-size[0] // _STRIDE), -(-size[1] // _STRIDE)))
    # As IRN does: few of the points that remain hit the maximum.
    strided = strided / (strided.max((1, 2), keepdims=True) + np.float32(_EPSILON))
    # IRN moves `cam` to the GPU as it is, so that and `keys` are torch tensors, as IRN writes them.
    content = {
        "keys": torch.tensor([int(value) - 1 for value in classes], dtype=torch.int64),
        "cam": torch.from_numpy(np.array(strided, dtype=np.float32)),
        "high_res": np.ascontiguousarray(resized(maps, size), np.float32),
    }
    write_dict(path, content)
