"""mIoU of a segmentation network on photos that it is not trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from pixaff.device import autocast
from pixaff.errors import FormatError, ImageError
from pixaff.io.images import load_image
from pixaff.io.masks import Colour, read_mask
from pixaff.models.base import Network
from pixaff.ops.metrics import ConfusionMatrix
from pixaff.stages.training.distributed import share, summed

MOST = 500
"""Largest number of photos that are held out: they are computed ten times in a training."""


def hold_out(count: int, share: float, seed: int) -> list[int]:
    """Indices of the photos that are kept out of a training, in ascending order; at least one is left for it."""
    chosen = min(round(count * share), MOST, count - 1)
    return sorted(np.random.default_rng((seed, count)).permutation(count)[:chosen].tolist())


class Validation:
    """Measures a network on photos with masks, one forward pass each.

    Args:
        photos, masks: The photos, and the mask file of each.
        num_classes, colours: See `pixaff.io.masks.read_mask`.
        size: Long side in pixels to which photos are shrunk.
        workers: Number of threads that read.
    """

    def __init__(
        self,
        photos: Sequence[Path],
        masks: Sequence[Path],
        num_classes: int,
        colours: Mapping[Colour, int] | None,
        size: int,
        workers: int,
    ) -> None:
        self.photos, self.masks, self.num_classes, self.colours = list(photos), list(masks), num_classes, colours
        self.size, self.workers = size, workers

    @torch.inference_mode()
    def __call__(self, model: Network, precision: str) -> dict[str, float]:
        """mIoU against the masks, from 0 to 1; photos that cannot be read are left out."""
        device, matrix = next(model.parameters()).device, ConfusionMatrix(self.num_classes + 1)
        with ThreadPoolExecutor(self.workers) as pool:
            for found in pool.map(self._read, share(self.photos), share(self.masks)):
                if found is None:
                    continue
                image, mask = found
                x = model.preprocess(image)[None].to(device, memory_format=torch.channels_last)
                with autocast(precision, device):
                    logits = model(x)
                logits = F.interpolate(logits.float(), mask.shape, mode="bilinear", align_corners=False)
                matrix.update(logits[0].argmax(0), mask)
        matrix.matrix = summed(torch.from_numpy(matrix.matrix)).numpy()
        return {"miou": matrix.miou()}

    def _read(self, photo: Path, mask: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]] | None:
        try:
            return load_image(photo, self.size)[0], read_mask(mask, self.num_classes, self.colours)
        except (ImageError, FormatError):
            return None
