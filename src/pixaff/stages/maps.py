"""The first half of the chain for one photo: which classes it shows, and where."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from pixaff.errors import FormatError, UsageError
from pixaff.io.cams import CamFile
from pixaff.io.images import load_image
from pixaff.models.base import CamNetwork
from pixaff.ops.cam import normalized_cams
from pixaff.settings import Settings
from pixaff.stages.memory import check_memory
from pixaff.stages.refine import at_network_size
from pixaff.stages.training.precision import autocast


@dataclass(frozen=True)
class Photo:
    """A decoded photo.

    Attributes:
        image: uint8 (h, w, 3), shrunk to the size at which the networks work.
        size: (H, W) of the file, upright.
        labels: 0-based classes that a person gave, or None to have them predicted.
    """

    image: NDArray[np.uint8]
    size: tuple[int, int]
    labels: tuple[int, ...] | None


def load_photo(path: Path, labels: tuple[int, ...] | None, settings: Settings) -> Photo:
    """Decode a photo.

    Raises:
        ImageError: It cannot be read.
    """
    image, size = load_image(path, settings.size)
    return Photo(image, size, labels)


def activation_maps(
    model: CamNetwork, photo: Photo, settings: Settings, precision: str = "fp32"
) -> tuple[tuple[int, ...], Tensor]:
    """The classes of a photo (0-based, ascending) and their normalised activation maps, float32 (C, h, w).

    With the precision "bf16" the network computes in bfloat16; its maps are summed in float32 all the same.

    Raises:
        ImageError: The photo is too large for the network.
    """
    classes = photo.labels
    height, width = (round(side * max(settings.scales)) for side in photo.image.shape[:2])
    check_memory(model, (height, width), 2 if settings.flip else 1)
    with autocast(precision, model.device):
        if classes is None:
            classes = predict(model, photo.image, settings.label_threshold)
        return classes, normalized_cams(model, photo.image, classes, scales=settings.scales, flip=settings.flip)


def given_maps(file: CamFile, photo: Photo, device: torch.device) -> tuple[tuple[int, ...], Tensor]:
    """The same from a file of activation maps, brought to the photo's working size; only labelled classes are taken.

    Raises:
        FormatError: The file holds posteriors, none of the labelled classes, or maps of the photo lying on its side.
    """
    if 0 in file.classes:
        raise FormatError("found a background row, expected activation maps", "these look like CRF posteriors")
    if file.size == photo.size[::-1] != photo.size:
        raise FormatError(
            f"found maps of a photo of {file.size[0]} x {file.size[1]} pixels, expected {photo.size[0]} x "
            f"{photo.size[1]}: they lie on their side",
            "the program that made them did not turn the photo upright by its EXIF orientation",
        )
    wanted = None if photo.labels is None else {index + 1 for index in photo.labels}
    rows = [i for i in np.argsort(file.classes) if wanted is None or file.classes[i] in wanted]
    if not rows:
        raise FormatError("none of the photo's labels is among its activation maps")
    maps = torch.from_numpy(file.cams[rows]).to(device)
    if maps.shape[1:] != photo.image.shape[:2]:
        maps = F.interpolate(maps[None], photo.image.shape[:2], mode="bilinear", align_corners=False)[0]
    return tuple(int(file.classes[i]) - 1 for i in rows), maps


def check_scales(model: CamNetwork | None, settings: Settings) -> None:
    """Make sure that the network can see the photos at the scales that are asked for.

    Raises:
        UsageError: It sees one size alone.
    """
    if model is not None and model.single_scale and settings.scales != (1.0,):
        words = ", ".join(f"{scale:g}" for scale in settings.scales)
        raise UsageError(f"found the scales {words}, but {settings.cam} sees one size alone", "leave --scales out")


def predict(model: CamNetwork, image: NDArray[np.uint8], threshold: float) -> tuple[int, ...]:
    """Classes whose probability reaches the threshold, the most probable one if none does."""
    x = model.preprocess(at_network_size(model, image))[None].to(model.device)
    probabilities = torch.sigmoid(model(x)[0].float())
    present = torch.nonzero(probabilities >= threshold).flatten().tolist()
    return tuple(present) or (int(probabilities.argmax()),)
