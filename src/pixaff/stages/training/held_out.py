"""Photos held out of the training of a classifier: it ends when their loss no longer falls, with the best weights."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from pixaff.device import autocast
from pixaff.errors import ImageError
from pixaff.io.images import load_image
from pixaff.models.base import Network
from pixaff.recipe import Recipe
from pixaff.stages.training.datasets import Failure
from pixaff.stages.training.distributed import collected, gathered, share

LEAST, MOST = 3, 300
"""Fewer photos say too little, and more take time and say no more."""
CHECKS = 20
"""Number of checks in a training, at most."""
PATIENCE = 4
"""Number of checks without a lower loss after which the training ends."""


def split_photos(classes: Sequence[Sequence[int]], share: float, seed: int) -> tuple[list[int], list[int]]:
    """Draw the photos to hold out; the same seed draws the same ones.

    No class gives more than twice the share of its photos, so a class of few photos keeps all, and always one.

    Args:
        classes: Present classes of each photo.
        share: Share of the photos.
        seed: Seed of the draw.

    Returns:
        Indices of the photos to train on and of those held out, ascending; none is held out if these would be fewer
        than `LEAST`.
    """
    wanted = min(MOST, round(share * len(classes)))
    everywhere = Counter(one for present in classes for one in present)
    spare = {one: min(count - 1, math.floor(2 * share * count)) for one, count in everywhere.items()}
    held: list[int] = []
    for index in np.random.default_rng((seed, len(classes))).permutation(len(classes)).tolist():
        if len(held) < wanted and all(spare[one] > 0 for one in classes[index]):
            held.append(index)
            for one in classes[index]:
                spare[one] -= 1
    held = sorted(held) if len(held) >= LEAST else []
    return [index for index in range(len(classes)) if index not in set(held)], held


class HeldOut:
    """Held-out photos and their labels.

    Args:
        paths: The photos.
        classes: Present classes of each.
        num_classes: K.
        recipe: The photos are used at the middle of its ``resize``.
    """

    def __init__(self, paths: Sequence[Path], classes: Sequence[Sequence[int]], num_classes: int, recipe: Recipe):
        self.paths, self.long_side = list(paths), sum(recipe.resize) // 2
        self.targets = torch.zeros(len(paths), num_classes)
        for row, present in zip(self.targets, classes, strict=True):
            row[list(present)] = 1.0
        self.failed: list[Failure] = []
        """Photos that cannot be decoded, with the problem; they no longer count."""

    @torch.no_grad()
    def loss(self, model: Network, precision: str) -> float:
        """Mean multi-label soft margin loss of whole photos without augmentation; NaN if none can be decoded."""
        device, broken = next(model.parameters()).device, {path for path, _ in self.failed}
        losses: list[float] = []
        failed: list[Failure] = []
        model.eval()
        for path, target in zip(share(self.paths), self.targets[share(range(len(self.paths)))], strict=True):
            if path in broken:
                continue
            try:
                image, _ = load_image(path, self.long_side)
            except ImageError as error:
                failed.append((path, str(error)))
                continue
            height, width = model.seen_size((image.shape[0], image.shape[1]))
            if image.shape[:2] != (height, width):
                image = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))
            x = model.preprocess(image)[None].to(device).contiguous(memory_format=torch.channels_last)
            with autocast(precision, device):
                logits = model(x).float().cpu()
            losses.append(float(F.multilabel_soft_margin_loss(logits, target[None])))
        model.train()
        self.failed += collected(failed)
        losses = [loss for part in gathered(losses) for loss in part]
        return math.fsum(losses) / len(losses) if losses else math.nan


def check_every(steps: int, steps_per_epoch: int) -> int:
    """Number of steps from one check to the next: at least an epoch."""
    return max(steps_per_epoch, math.ceil(steps / CHECKS))
