"""Affinity labels of many photos, from the files of `pixaff.crf`."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from pixaff.errors import FormatError, PixaffError, TrainingError
from pixaff.events import Callback, Event
from pixaff.io.cams import CamFile, find_cams, read_cams
from pixaff.io.images import image_size
from pixaff.ops.labels import affinity_label_map
from pixaff.stages.batch.naming import Names
from pixaff.stages.training.datasets import CELL, IGNORE
from pixaff.stages.training.folder import Trained, leave_out

Labelled = tuple[tuple[int, int], NDArray[np.uint8]]
"""(height, width) at which a photo is used, and its label map, uint8 (ceil(height / 8), ceil(width / 8))."""


def read_label_maps(
    photos: Sequence[Path], low: Path, high: Path, max_side: int, workers: int, names: Names | None = None
) -> list[Labelled | PixaffError]:
    """Reduce the posteriors of every photo to its label map, once: a few kilobytes per photo, cropped along with it.

    Args:
        photos: The photos.
        low: Folder of the posteriors with much background, NAME.npz or PSA's NAME.npy.
        high: Folder of those with little background.
        max_side: Long side in pixels to which larger photos are shrunk; 0 means never.
        workers: Number of threads; most of the time goes into decompression, which does not block Python.
        names: What the posteriors of the photos are called; default: by the names of their files.

    Returns:
        For each photo, its labels or what is wrong.
    """

    names = names or Names()

    def one(photo: Path) -> Labelled | PixaffError:
        try:
            size = image_size(photo)
            sides = [read_cams(find_cams(folder, names.key(photo))) for folder in (low, high)]
            return label_photo(photo, size, sides[0], sides[1], max_side)
        except PixaffError as error:
            return error

    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(one, photos))


def confident_cells(
    photos: Sequence[Path],
    low: Path,
    high: Path,
    max_side: int,
    workers: int,
    result: Trained,
    command: str,
    report: Callback,
) -> tuple[list[Path], list[tuple[int, int]], list[NDArray[np.uint8]]]:
    """The photos whose posteriors can be read, their sizes and label maps; the others are named and left out.

    Raises:
        TrainingError: The posteriors do not agree on any cell of any photo.
    """
    report(Event("note", command, f"reading the posteriors of {len(photos)} photos"))
    kept, sizes, maps = [], [], []
    for photo, labels in zip(photos, read_label_maps(photos, low, high, max_side, workers, result.names), strict=True):
        if isinstance(labels, PixaffError):
            leave_out(photo, str(labels), result, command, report)
        else:
            kept.append(photo)
            sizes.append(labels[0])
            maps.append(labels[1])
    if not any(bool((cells != IGNORE).any()) for cells in maps):
        raise TrainingError("no photo with labels is left to train on", "the messages above say why")
    return kept, sizes, maps


def label_photo(photo: Path, size: tuple[int, int], low: CamFile, high: CamFile, max_side: int) -> Labelled:
    """The label map of one photo of ``size`` (H, W), in mask values; see `pixaff.ops.labels.affinity_label_map`.

    Raises:
        FormatError: The posteriors belong to a photo of another size, have no background, or do not match each other.
    """
    for side in (low, high):
        if side.size != size:
            raise FormatError(
                f"{photo}: {size[0]} x {size[1]} pixels, its posteriors are of {side.size[0]} x {side.size[1]}",
                "recompute them from this photo: pixaff crf --overwrite",
            )
    if low.classes[0] != 0 or not np.array_equal(low.classes, high.classes):
        raise FormatError(
            f"{photo}: posteriors of classes {low.classes.tolist()} and {high.classes.tolist()}, "
            "expected the same ones, starting with background, 0",
            "recompute them: pixaff crf --overwrite",
        )
    shrink = min(1.0, max_side / max(size)) if max_side else 1.0
    height, width = (max(1, round(length * shrink)) for length in size)
    padding = (0, -width % CELL, 0, -height % CELL)
    cells = []
    for side in (low, high):
        scores = torch.from_numpy(side.cams)
        if scores.shape[1:] != (height, width):
            scores = F.interpolate(scores[None], (height, width), mode="bilinear", align_corners=False)[0]
        cells.append(F.pad(scores, padding))
    rows = affinity_label_map(cells[0], cells[1], stride=CELL).numpy()
    values = np.full(256, IGNORE, np.uint8)
    values[: len(low.classes)] = low.classes
    return (height, width), values[rows]
