"""The content of a CAM file, whichever program wrote it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_PIXELS = 300_000_000  # of one map, as of a photo
_TOLERANCE = 1e-3  # what rounding in another program may put above 1 or below 0
_LARGER = 2  # maps may be as many times the photo's long side: some programs work on enlarged photos,
_FIXED_SIZE = 4096  # or bring every photo, however small, to one size, as pixaff does


@dataclass(frozen=True, eq=False)
class CamFile:
    """The CAMs of one photo.

    Attributes:
        classes: int64 (C,), their mask values: 1..K, and 0 for the background of CRF posteriors; all different. C is 0
            for a photo that shows none of the classes.
        cams: float32 (C, h, w), in 0..1.
        size: (H, W) of the photo, in pixels; the CAMs may be smaller. Files of other programs do not contain it: for
            them it is (h, w), which is the photo's own size in most of them, or (0, 0) without any CAM.
    """

    classes: NDArray[np.int64]
    cams: NDArray[np.float32]
    size: tuple[int, int]

    def lies_on_its_side(self, photo: tuple[int, int]) -> bool:
        """Whether these are CAMs of a photo of (H, W) whose EXIF orientation was ignored.

        The size tells, or, if the CAMs are smaller, the ratio of their sides: it is that of the turned photo, and far
        from that of the upright one.
        """
        if photo[0] == photo[1] or min(*self.size, *photo) < 1 or self.size == photo:
            return False
        if self.size == photo[::-1]:
            return True
        found, upright = (float(np.log(height / width)) for height, width in (self.size, photo))
        doubt = 1.5 / min(self.size) + 0.005  # of sides that were rounded
        return abs(found + upright) < doubt and abs(found - upright) > 2 * doubt


@dataclass(frozen=True)
class Opened:
    """A file whose container has been read and whose format is not yet known.

    Attributes:
        path: The file.
        container: "npz" or "npy".
        content: By key. Of an .npz, `pixaff.io.npz_arrays.Header` of each array; of an .npy the dict in it, with numpy
            arrays and torch tensors as `pixaff.io.pickled_arrays.Array`.
        bytes: The file's length.
        photo: (H, W) of the photo, if the caller knows it.
    """

    path: Path
    container: str
    content: Mapping[Any, Any]
    bytes: int
    photo: tuple[int, int] | None = None

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

    Returns:
        The file; it contains `cams` themselves if they have its dtype.

    Raises:
        ValueError: Found against expected.
    """
    if cams.ndim != 3 or 0 in cams.shape[1:] or classes.shape != cams.shape[:1]:
        raise ValueError(f"found classes {classes.shape}, cams {cams.shape}, expected (C,) and (C, h, w)")
    if min(size) < 1:
        raise ValueError(f"size: found {size[0]} x {size[1]}, expected positive H, W")
    if not len(classes):
        return CamFile(classes.astype(np.int64), cams.astype(np.float32), (int(size[0]), int(size[1])))
    if classes.min() < 0 or classes.max() > 254:
        raise ValueError(f"classes: found {classes.min()}..{classes.max()}, expected mask values 0..254")
    if len(np.unique(classes)) != len(classes):
        raise ValueError(f"classes: found {classes.tolist()[:20]}, expected every class once")
    with np.errstate(over="ignore"):
        cams = cams.astype(np.float32, copy=False)
    low, high = float(cams.min()), float(cams.max())  # NaN if any is
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError("cams: found NaN or infinite values")
    if (low < -_TOLERANCE and not signed) or high > 1 + _TOLERANCE:
        raise ValueError(f"cams: found values {low:.4g}..{high:.4g}, expected 0..1: divide each CAM by its maximum")
    return CamFile(classes.astype(np.int64), np.clip(cams, 0, 1, out=cams), (int(size[0]), int(size[1])))


def no_class() -> CamFile:
    """The file of a photo of unknown size that shows none of the classes."""
    return CamFile(np.zeros(0, np.int64), np.zeros((0, 0, 0), np.float32), (0, 0))


def check_extent(shape: Sequence[int], photo: tuple[int, int] | None) -> None:
    """Refuse CAMs (C, h, w) with more pixels than a photo can have, or many more than this photo (H, W) has.

    Raises:
        ValueError: Found against expected.
    """
    height, width = shape[-2:]
    if height * width > MAX_PIXELS:
        raise ValueError(f"found CAMs of {height} x {width}, expected at most {MAX_PIXELS // 1_000_000} megapixels")
    if photo is not None and min(photo) > 0 and max(height, width) > max(_LARGER * max(photo), _FIXED_SIZE):
        raise ValueError(f"found CAMs of {height} x {width} for a photo of {photo[0]} x {photo[1]} pixels")
