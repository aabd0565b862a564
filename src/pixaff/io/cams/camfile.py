"""What a CAM file holds, whichever program wrote it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

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


@dataclass(frozen=True)
class Opened:
    """A file whose container has been read and whose format is still to be told.

    Attributes:
        path: The file.
        container: "npz" or "npy".
        content: By key. Of an .npz the names alone; of an .npy the dict in it, with numpy arrays and torch tensors as
            `pixaff.io.pickled_arrays.Array`.
        bytes: The file's length.
    """

    path: Path
    container: str
    content: Mapping[Any, Any]
    bytes: int

    @property
    def names(self) -> str:
        """The keys, for messages."""
        return ", ".join(ascii(key)[:40] for key in list(self.content)[:8])


def checked(classes: NDArray[Any], cams: NDArray[Any], size: tuple[int, int], signed: bool = False) -> CamFile:
    """The arrays in their final types.

    Args:
        classes: Mask values, integers (C,).
        cams: Floats (C, h, w).
        size: (H, W) of the photo.
        signed: Whether negative numbers become 0 instead of being refused.

    Raises:
        ValueError: Found against expected.
    """
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
