"""Photos as training batches, with every random choice a function of (seed, epoch, index).

This makes a resumed training exact: any process that asks for a photo of an epoch, and any number of worker processes,
gets the same crop of it in the same colours.
"""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from pixaff.errors import FormatError, ImageError, TrainingError
from pixaff.io.images import image_size, load_image
from pixaff.io.masks import Colour, read_mask
from pixaff.recipe import Recipe
from pixaff.stages.training.augment import (
    Crop,
    Normalisation,
    cut_cells,
    cut_labels,
    cut_picture,
    jitter_colours,
    place_picture,
    place_pixels,
    random_crop,
    random_size,
)

Failure = tuple[Path, str]
"""A photo and what is wrong with it."""
Key = tuple[int, int]
"""Epoch (from 0) and index of a photo."""
Sample = tuple[dict[str, torch.Tensor], list[Failure]]
"""One photo, or a batch: tensors by name, none if no photo can be decoded, and the photos that another one replaces."""

CELL = 8
"""Side in pixels of a cell of the affinity labels, which is the stride of the AffinityNet."""
BOUNDARY_CELL = 4
"""The same of boundary labels, which is the stride of IRN."""
IGNORE = 255
PREFETCH = 3
"""Batches of each worker that are ready, and the one in work."""


def readable_photos(paths: Sequence[Path]) -> tuple[list[Path], list[Failure]]:
    """Split photos into those whose header can be read, and the others with their problem."""

    def problem(path: Path) -> str:
        try:
            image_size(path)
        except ImageError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor() as pool:
        problems = list(pool.map(problem, paths))
    good = [path for path, wrong in zip(paths, problems, strict=True) if not wrong]
    return good, [(path, wrong) for path, wrong in zip(paths, problems, strict=True) if wrong]


def draw_batches(count: int, batch_size: int, epochs: int, seed: int) -> list[list[Key]]:
    """The photos of every step of a training, in a new random order each epoch.

    All batches have the same size, as in the published training: photos left over at the end of an epoch are not used
    in it. If there are fewer photos than ``batch_size``, all of them are one batch.
    """
    size = min(batch_size, count)
    batches: list[list[Key]] = []
    for epoch in range(epochs):
        order = np.random.default_rng((seed, epoch)).permutation(count).tolist()
        batches.extend([(epoch, i) for i in order[at : at + size]] for at in range(0, count - size + 1, size))
    return batches


def load_batches(dataset: Photos, batches: list[list[Key]], workers: int, pin: bool) -> Iterator[Sample]:
    """Batches in order; ``workers`` processes read ahead, and with 0 this process reads.

    Workers pass tensors in shared memory or, if the machine has too little of it, as containers often do, as plain
    arrays through a pipe.

    Raises:
        TrainingError: A worker died.
    """
    pipe = workers > 0 and bool(batches) and _shared_memory() < workers * PREFETCH * _bytes_of(dataset, len(batches[0]))
    loader = DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=_stack_arrays if pipe else _stack,
        worker_init_fn=_leave_interrupts,
        pin_memory=pin,
    )
    try:
        for tensors, failures in loader:
            yield {name: torch.as_tensor(value) for name, value in tensors.items()}, failures
    except RuntimeError as error:
        if "DataLoader worker" not in str(error) and "shared memory" not in str(error):
            raise
        raise TrainingError(
            "a process that reads photos died: out of memory, or too little shared memory (/dev/shm)",
            "continue with --resume and fewer workers (-j 1), or give the container more memory",
        ) from error


def _shared_memory() -> int:
    """Free bytes for tensors of worker processes; plenty if nothing is known."""
    try:
        return shutil.disk_usage("/dev/shm").free
    except OSError:
        return 1 << 62


def _bytes_of(dataset: Photos, count: int) -> int:
    each = 5 if isinstance(dataset, MaskPhotos) else 4 * 3
    return each * dataset.crop * dataset.crop * count


class CamPhotos(Dataset[Sample]):
    """Photos with their classes, randomly resized, cropped, mirrored and coloured.

    Sample: ``image`` float32 (3, crop, crop) and ``target`` float32 (K,), 1 for each present class.

    Args:
        paths: The photos.
        classes: The present classes of each photo (0-based).
        num_classes: K.
        normalisation: What the network expects.
        recipe: Its ``resize``, ``crop`` and ``seed`` decide the augmentation.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        classes: Sequence[Sequence[int]],
        num_classes: int,
        *,
        normalisation: Normalisation,
        recipe: Recipe,
    ) -> None:
        self.paths, self.normalisation = list(paths), normalisation
        self.size, self.crop, self.seed = recipe.resize, recipe.crop, recipe.seed
        self.targets = torch.zeros(len(paths), num_classes)
        for row, present in zip(self.targets, classes, strict=True):
            row[list(present)] = 1.0

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, key: Key) -> Sample:
        epoch, index = key
        rng = np.random.default_rng((self.seed, epoch, index))
        # Smaller than the largest size would have to be enlarged again; larger would be decoded in vain.
        index, image, failed = _first_readable(self.paths, index, self.size[1])
        if image is None:
            return {}, failed
        crop = random_crop(rng, random_size(rng, image.shape[:2], self.size), self.crop)
        picture = jitter_colours(rng, cut_picture(image, crop))
        pixels = place_picture(picture, crop, self.normalisation)
        return {"image": pixels, "target": self.targets[index]}, failed


class AffinityPhotos(Dataset[Sample]):
    """Photos with their affinity label maps, randomly cropped, mirrored and coloured.

    Sample: ``image`` float32 (3, crop, crop) and ``labels`` int64 (crop / 8, crop / 8), 255 where there is no image.

    Args:
        paths: The photos.
        sizes: (height, width) in pixels to which each photo is resized.
        label_maps: uint8 (ceil(height / 8), ceil(width / 8)) of each photo; see `pixaff.ops.labels`.
        normalisation, recipe: As for `CamPhotos`.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        sizes: Sequence[tuple[int, int]],
        label_maps: Sequence[NDArray[np.uint8]],
        *,
        normalisation: Normalisation,
        recipe: Recipe,
    ) -> None:
        self.paths, self.sizes, self.label_maps = list(paths), list(sizes), list(label_maps)
        self.normalisation, self.crop, self.seed = normalisation, recipe.crop, recipe.seed

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, key: Key) -> Sample:
        epoch, index = key
        rng = np.random.default_rng((self.seed, epoch, index))
        # At the size of the labels, or slightly larger if that rounds differently.
        index, image, failed = _first_readable(self.paths, index, lambda i: max(self.sizes[i]))
        if image is None:
            return {}, failed
        crop = random_crop(rng, self.sizes[index], self.crop, grid=CELL)
        picture = jitter_colours(rng, cut_picture(image, crop))
        labels = cut_cells(self.label_maps[index], crop, CELL, outside=IGNORE)
        return {"image": place_picture(picture, crop, self.normalisation), "labels": labels}, failed


class MaskPhotos(Dataset[Sample]):
    """Photos with their masks, randomly resized, cropped, mirrored and coloured.

    Sample: ``image`` uint8 (3, crop, crop), which takes a quarter of the memory of normalised colours on its way to the
    device, of one colour where there is no photo; ``labels`` uint8 (crop, crop), 255 where there is no photo or no
    label; and with ``confidence`` also ``confidence`` uint8 (crop, crop).

    Args:
        paths: The photos.
        masks: The mask file of each.
        num_classes: K.
        colours: Mask value by colour, for masks in colour; see `pixaff.io.masks.read_mask`.
        confidence: Returns the confidence of a photo's mask, uint8 (h,w) of any size, or None where it is unknown.
        mean: Mean of the colours that the network expects, from 0 to 1: the colour of the canvas.
        recipe: As for `CamPhotos`.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        masks: Sequence[Path],
        num_classes: int,
        *,
        colours: Mapping[Colour, int] | None,
        confidence: Callable[[Path], NDArray[np.uint8] | None] | None,
        mean: Sequence[float],
        recipe: Recipe,
    ) -> None:
        self.paths, self.masks, self.num_classes, self.colours = list(paths), list(masks), num_classes, colours
        self.confidence, self.canvas = confidence, tuple(round(255 * value) for value in mean)
        self.size, self.crop, self.seed = recipe.resize, recipe.crop, recipe.seed

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, key: Key) -> Sample:
        epoch, index = key
        rng = np.random.default_rng((self.seed, epoch, index))
        failed: list[Failure] = []
        for offset in range(len(self.paths)):
            at = (index + offset) % len(self.paths)
            try:
                image, _ = load_image(self.paths[at], self.size[1])
                mask = read_mask(self.masks[at], self.num_classes, self.colours)
                sure = None if self.confidence is None else self.confidence(self.masks[at])
            except (ImageError, FormatError) as error:
                failed.append((self.paths[at], str(error)))
                continue
            crop = random_crop(rng, random_size(rng, image.shape[:2], self.size), self.crop)
            picture = jitter_colours(rng, cut_picture(image, crop))
            sample = {"image": place_pixels(picture, crop, self.canvas), "labels": cut_labels(mask, crop, 1, IGNORE)}
            if self.confidence is not None:
                sample["confidence"] = cut_labels(np.full((1, 1), 255, np.uint8) if sure is None else sure, crop, 1, 0)
            return {name: tensor.to(torch.uint8) for name, tensor in sample.items()}, failed
        return {}, failed


class BoundaryPhotos(Dataset[Sample]):
    """Photos with their confident labels, randomly resized, cropped and mirrored (IRN).

    Sample: ``image`` float32 (3, crop, crop) and ``labels`` int64 (crop / 4, crop / 4), 255 where there is no image.

    Args:
        paths: The photos.
        label_maps: For each photo the mask file of its labels, of any size.
        normalisation, recipe: As for `CamPhotos`.
    """

    def __init__(
        self, paths: Sequence[Path], label_maps: Sequence[Path], *, normalisation: Normalisation, recipe: Recipe
    ) -> None:
        self.paths, self.label_maps, self.normalisation = list(paths), list(label_maps), normalisation
        self.size, self.crop, self.seed = recipe.resize, recipe.crop, recipe.seed

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, key: Key) -> Sample:
        epoch, index = key
        rng = np.random.default_rng((self.seed, epoch, index))
        index, image, failed = _first_readable(self.paths, index, self.size[1])
        if image is None:
            return {}, failed
        crop = random_crop(rng, random_size(rng, image.shape[:2], self.size), self.crop)
        pixels = place_picture(cut_picture(image, crop), crop, self.normalisation)
        labels = cut_labels(read_mask(self.label_maps[index]), crop, BOUNDARY_CELL, outside=IGNORE)
        return {"image": pixels, "labels": labels}, failed


class TopLeft(Dataset[Sample]):
    """The top left crop of each photo as it is, for statistics over a training set.

    Sample: ``image`` float32 (3, crop, crop), zero where there is no photo, and ``extent`` int64 (2,), the height and
    width of the photo in it.

    Args:
        paths: The photos.
        max_side: Long side in pixels to which larger photos are shrunk.
        normalisation: What the network expects.
        crop: Side of the crop.
    """

    def __init__(self, paths: Sequence[Path], max_side: int, *, normalisation: Normalisation, crop: int) -> None:
        self.paths, self.max_side, self.normalisation, self.crop = list(paths), max_side, normalisation, crop

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, key: Key) -> Sample:
        _, image, failed = _first_readable(self.paths, key[1], self.max_side)
        if image is None:
            return {}, failed
        size = (image.shape[0], image.shape[1])
        extent = (min(size[0], self.crop), min(size[1], self.crop))
        crop = Crop(size, self.crop, (0, 0), (0, 0), extent, mirror=False)
        pixels = place_picture(cut_picture(image, crop), crop, self.normalisation)
        return {"image": pixels, "extent": torch.tensor(extent)}, failed


Photos = CamPhotos | AffinityPhotos | BoundaryPhotos | MaskPhotos | TopLeft
"""What a training reads."""


def _first_readable(
    paths: Sequence[Path], index: int, max_side: int | Callable[[int], int]
) -> tuple[int, NDArray[np.uint8] | None, list[Failure]]:
    """The photo at ``index`` or, if it cannot be decoded, the next one that can, or None."""
    failed: list[Failure] = []
    for offset in range(len(paths)):
        at = (index + offset) % len(paths)
        try:
            image, _ = load_image(paths[at], max_side if isinstance(max_side, int) else max_side(at))
        except ImageError as error:
            failed.append((paths[at], str(error)))
            continue
        return at, image, failed
    return index, None, failed


def _stack(samples: list[Sample]) -> Sample:
    tensors = {name: torch.stack([sample[0][name] for sample in samples]) for name in samples[0][0]}
    return tensors, [failure for sample in samples for failure in sample[1]]


def _stack_arrays(samples: list[Sample]) -> tuple[dict[str, NDArray[Any]], list[Failure]]:
    tensors, failures = _stack(samples)
    return {name: tensor.numpy() for name, tensor in tensors.items()}, failures


def _leave_interrupts(_: Any) -> None:
    """Ignore Ctrl-C in a worker: the training process decides when it ends, after the checkpoint is written."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
