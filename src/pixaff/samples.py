"""An image in memory with its labels or CAMs: what `Predictor` and `Segmenter` work on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pixaff.errors import FormatError
from pixaff.io.cams import CamFile
from pixaff.ops.resize import resize_scores

LabelsLike = Sequence[str | int]
"""Classes of one image, by name or 0-based index; an empty sequence says that it shows none."""
CamsLike = CamFile | Mapping[str | int, Any]
"""CAMs of one image: as `Predictor.cams` returns them, or floats (h,w) in 0..1 by class name or 0-based index."""


@dataclass(frozen=True, eq=False)
class Sample:
    """A decoded image, with its labels or CAMs if they are given.

    Attributes:
        image: uint8 (h, w, 3), at the working size.
        size: (H, W) of the image as given, upright.
        labels: 0-based classes, ascending; () if it shows none, None to have them predicted.
        cams: CAMs to refine instead of the model's own.
    """

    image: NDArray[np.uint8]
    size: tuple[int, int]
    labels: tuple[int, ...] | None = None
    cams: CamFile | None = None

    @property
    def shows_none(self) -> bool:
        """Whether it is known that the image shows no class: its mask is background."""
        return self.labels == () or (self.labels is None and self.cams is not None and not len(self.cams.classes))


def fitted_cams(file: CamFile, sample: Sample, device: torch.device) -> tuple[tuple[int, ...], Tensor]:
    """Given CAMs at the working size of the image; for a labelled image only those of its labels."""
    size = (sample.image.shape[0], sample.image.shape[1])
    if sample.labels == () or (sample.labels is None and not len(file.classes)):
        return (), torch.zeros(0, *size, device=device)
    if 0 in file.classes:
        raise FormatError("found a row for the background, expected CAMs", "these look like CRF posteriors")
    if file.lies_on_its_side(sample.size):
        raise FormatError(
            f"found CAMs of a photo of {file.size[0]} x {file.size[1]} pixels, expected {sample.size[0]} x "
            f"{sample.size[1]}: they lie on their side",
            "the program that made them ignored the EXIF orientation of the photo",
        )
    wanted = None if sample.labels is None else {index + 1 for index in sample.labels}
    rows = [i for i in np.argsort(file.classes) if wanted is None or file.classes[i] in wanted]
    if not rows:
        raise FormatError("found CAMs of none of the photo's labels", "omit the labels to take all CAMs of the file")
    maps = torch.from_numpy(file.cams[rows]).to(device)
    return tuple(int(file.classes[i]) - 1 for i in rows), resize_scores(maps, size)
