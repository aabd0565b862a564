"""The masks on which a segmentation network is trained: found, checked, counted; and how sure they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pixaff.errors import FormatError, PixaffError, TrainingError, UsageError
from pixaff.events import Callback, Event
from pixaff.io.images import image_size
from pixaff.io.labels import nfc
from pixaff.io.masks import VOID, Colour, read_mask
from pixaff.io.scores import read_scores
from pixaff.ops.powers import power_weights
from pixaff.stages.batch.ledger import content_digest
from pixaff.stages.batch.mask_folders import files_by_stem, mask_classes
from pixaff.stages.batch.record import read_record
from pixaff.stages.batch.sweeps import FOLDER as SCORES
from pixaff.stages.training.folder import Trained, leave_out

SUFFIXES = (".png", ".bmp", ".tif", ".tiff")
CLASS_LIST = "classes.txt"


@dataclass(frozen=True)
class Masks:
    """The masks of a training.

    Attributes:
        photos: The photos that have a mask.
        masks: The mask file of each.
        counts: int64 (N, K + 1), the pixels of background and of each class in each mask.
        digests: A digest of the content of each mask.
    """

    photos: list[Path]
    masks: list[Path]
    counts: NDArray[np.int64]
    digests: list[str]


def classes_of_masks(
    masks: Path, classes: str | Path | Sequence[str] | None
) -> tuple[tuple[str, ...], Mapping[Colour, int] | None]:
    """Names of the classes of a folder of masks, and the mask values of their colours where these are known.

    Args:
        masks: The folder.
        classes: A class list, or the names themselves; None uses the record of the run that made the masks, or a
            ``classes.txt`` beside them.

    Raises:
        UsageError: Nothing names the classes.
    """
    if classes is not None and not isinstance(classes, (str, Path)):
        return tuple(classes), None
    record = read_record(masks) or {}
    listed = next((path for path in (masks / CLASS_LIST, masks.parent / CLASS_LIST) if path.is_file()), None)
    if classes is None and not isinstance(record.get("classes"), list):
        if listed is None:
            raise UsageError(f"{masks}: nothing names the classes of these masks", "give --classes FILE")
        classes = listed
    return mask_classes(classes, record)


def match_masks(
    photos: Sequence[Path],
    folder: Path,
    num_classes: int,
    colours: Mapping[Colour, int] | None,
    workers: int,
    result: Trained,
    command: str,
    report: Callback,
) -> Masks:
    """Find and check the mask of each photo; photos without a usable one are named and left out.

    Raises:
        TrainingError: None is left, or the masks show background alone.
    """
    report(Event("note", command, f"reading the masks of {len(photos)} photos"))
    files = files_by_stem(folder, SUFFIXES, recursive=bool(result.names.roots))

    def one(photo: Path) -> tuple[Path, NDArray[np.int64], str] | PixaffError:
        try:
            size, path = image_size(photo), files.get(nfc(result.names.key(photo)))
            if path is None:
                return FormatError(f"{photo}: no mask in {folder}", "a mask has the name of its photo")
            mask = read_mask(path, num_classes, colours)
            if mask.shape != size:
                turned = mask.shape == size[::-1]
                return FormatError(
                    f"{path}: {mask.shape[0]} x {mask.shape[1]} pixels, its photo has {size[0]} x {size[1]}",
                    "the program that made it ignored the EXIF orientation of the photo" if turned else "",
                )
            return path, np.bincount(mask.ravel(), minlength=256)[: num_classes + 1], content_digest(path)
        except PixaffError as error:
            return error

    with ThreadPoolExecutor(workers) as pool:
        found = list(pool.map(one, photos))
    kept: list[Path] = []
    rows: list[tuple[Path, NDArray[np.int64], str]] = []
    for photo, outcome in zip(photos, found, strict=True):
        if isinstance(outcome, PixaffError):
            leave_out(photo, str(outcome), result, command, report)
        else:
            kept.append(photo)
            rows.append(outcome)
    if not any(counts[1:].any() for _, counts, _ in rows):
        raise TrainingError("no photo with a class in its mask is left to train on", "the messages above say why")
    return Masks(kept, [row[0] for row in rows], np.stack([row[1] for row in rows]), [row[2] for row in rows])


def class_weights(counts: NDArray[np.int64], kind: str) -> list[float]:
    """Weights of background and classes in the loss.

    Args:
        counts: int64 (N, K + 1); see `Masks`.
        kind: "none" for 1; "median" for median frequency balancing (Eigen & Fergus, ICCV 2015): the median of the
            classes' frequencies, divided by that of the class, where a frequency is the share of the class's pixels in
            the images that show it; "sqrt" for the square root of that.

    Returns:
        K + 1 floats; 1 for a class that no mask shows.
    """
    if kind == "none":
        return [1.0] * counts.shape[1]
    shown = counts > 0
    of_images = (shown * counts.sum(1, keepdims=True)).sum(0)
    frequency = np.divide(counts.sum(0), of_images, out=np.ones(counts.shape[1]), where=of_images > 0)
    present = of_images > 0
    weights = np.where(present, np.median(frequency[present]) / frequency, 1.0)
    return [float(value) for value in (np.sqrt(weights) if kind == "sqrt" else weights)]


def scores_of(mask: Path, folder: Path | None = None) -> Path:
    """Where `pixaff.propagate` saves the scores of a mask; ``folder`` is that of the run, by default the mask's own."""
    folder = folder or mask.parent
    return folder / SCORES / mask.relative_to(folder).with_suffix(".npz")


def check_confidence(masks: Sequence[Path], command: str, report: Callback, folder: Path | None = None) -> None:
    """Warn about masks without saved scores.

    Raises:
        UsageError: There are none at all.
    """
    lacking = [mask for mask in masks if not scores_of(mask, folder).is_file()]
    if len(lacking) == len(masks):
        raise UsageError(
            f"{scores_of(masks[0], folder).parent}: no saved scores, which say how sure the masks are",
            "make the masks with --save-scores, or omit --confidence",
        )
    if lacking:
        text = f"no saved scores of {len(lacking)} of {len(masks)} masks, which count in full: {lacking[0].name}, ..."
        report(Event("warning", command, text))


def mask_confidence(mask: Path, folder: Path | None = None) -> NDArray[np.uint8] | None:
    """How far the best propagated score of each cell of a mask is ahead of the second best, from 0 to 255.

    Returns:
        uint8 (h,w) on the grid of the walk; None without saved scores.

    Raises:
        FormatError: The scores cannot be read.
    """
    if not scores_of(mask, folder).is_file():
        return None
    file = read_scores(scores_of(mask, folder))
    weights = np.array(power_weights(file.powers.tolist(), file.alpha), np.float32)
    rows = np.concatenate([np.einsum("k,khw->hw", weights, file.background)[None], file.scores])
    if len(rows) == 1:
        return np.full(rows.shape[1:], VOID, np.uint8)
    rows = np.sort(rows / rows.sum(0).clip(1e-5), axis=0)
    lead: NDArray[np.uint8] = np.round(255 * (rows[-1] - rows[-2]).clip(0, 1)).astype(np.uint8)
    return lead
