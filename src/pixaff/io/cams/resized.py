"""Maps brought to another size, for formats that expect them at the photo's."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def resized(maps: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Maps (C, h, w) at the given (H, W): bilinear, as torch does it with `align_corners=False`."""
    if maps.shape[1:] == tuple(size):
        return maps
    if not len(maps):
        return np.zeros((0, *size), np.float32)
    import torch
    from torch.nn.functional import interpolate

    found: NDArray[np.float32] = interpolate(torch.from_numpy(maps)[None], size, mode="bilinear", align_corners=False)[
        0
    ].numpy()
    return found
