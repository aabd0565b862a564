"""Average precision of instances, by pycocotools: the ground truth as a COCO data set, detections, and the scores."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pixaff.errors import FormatError, PixaffError
from pixaff.io.instances import annotation
from pixaff.io.labels import nfc
from pixaff.io.masks import VOID, read_mask
from pixaff.io.records import entry, read_json

THRESHOLDS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
"""IoU from which a detection counts as correct; COCO's score is the mean over all of them."""


class Precision(NamedTuple):
    """Average precision, 0 to 1; NaN if no image has an object of the class."""

    ap: float
    """Mean over IoU thresholds of 0.5 to 0.95."""
    ap50: float
    ap70: float


def coco_truth(path: Path) -> dict[str, Any]:
    """A COCO data set from a file of JSON.

    Raises:
        FormatError: It is none.
    """
    found = read_json(path, "a COCO data set")
    for name in ("images", "annotations", "categories"):
        if not all(isinstance(each, dict) for each in entry(found, name, list, path)):
            raise FormatError(f"{path}: found {name} that are no objects, expected a COCO data set")
    return found


def voc_truth(objects: Mapping[str, Path], classes_dir: Path, names: Sequence[str]) -> dict[str, Any]:
    """A COCO data set from Pascal VOC's SegmentationObject, by stem, and SegmentationClass.

    The class of an object is that of most of its pixels. Void pixels belong to no object.

    Raises:
        FormatError: A file is damaged, or the two do not fit each other.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for stem, path in objects.items():
        numbers, values = read_mask(path), read_mask(classes_dir / f"{stem}.png", len(names))
        if numbers.shape != values.shape:
            raise FormatError(f"{path}: found {numbers.shape}, expected {values.shape} as in {classes_dir}")
        images.append(
            {"id": len(images) + 1, "file_name": f"{stem}.png", "height": len(numbers), "width": len(numbers[0])}
        )
        for number in np.unique(numbers[(numbers != 0) & (numbers != VOID)]).tolist():
            counts = np.bincount(values[numbers == number], minlength=256)
            counts[[0, VOID]] = 0
            if counts.any():
                found = annotation(numbers == number, int(counts.argmax()))
                annotations.append({**found, "id": len(annotations) + 1, "image_id": len(images)})
    return {"images": images, "annotations": annotations, "categories": categories(names)}


def categories(names: Sequence[str]) -> list[dict[str, Any]]:
    """COCO's list of classes."""
    return [{"id": value, "name": name, "supercategory": ""} for value, name in enumerate(names, 1)]


def detections(folder: Path, stem: str, image: int, renumbered: Mapping[int, int]) -> list[dict[str, Any]]:
    """The detections of an image, as COCO's list of results; classes that the ground truth lacks are left out.

    Raises:
        FormatError: The file is damaged.
    """
    path = folder / f"{stem}.json"
    found = entry(read_json(path, "the instances of a photo"), "annotations", list, path)
    return [
        {
            "image_id": image,
            "category_id": renumbered[value],
            "segmentation": each["segmentation"],
            "score": each["score"],
        }
        for each in found
        if (value := entry(each, "category_id", int, path)) in renumbered
    ]


def average_precision(
    truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]], images: Sequence[int]
) -> dict[int, Precision]:
    """By class number, and 0 for the mean over the classes.

    Args:
        truth: A COCO data set.
        results: Detections.
        images: Ids of the images that count.

    Raises:
        PixaffError: pycocotools is not installed.
        FormatError: It cannot read the data set or the detections.
    """
    try:
        from pycocotools.coco import COCO  # type: ignore[import-untyped, import-not-found, unused-ignore]
        from pycocotools.cocoeval import COCOeval  # type: ignore[import-untyped, import-not-found, unused-ignore]
    except ImportError:
        raise PixaffError(
            "instances are scored by pycocotools, which is not installed", "pip install 'pixaff[coco]'"
        ) from None
    with contextlib.redirect_stdout(io.StringIO()):
        known = COCO()
        known.dataset = json.loads(json.dumps({"info": {}, **truth}))
        try:
            known.createIndex()
            found = known.loadRes([dict(each) for each in results]) if results else COCO()
            scored = COCOeval(known, found, "segm")
            scored.params.imgIds = list(images)
            scored.params.iouThrs = np.array(THRESHOLDS)
            scored.evaluate()
            scored.accumulate()
        except (KeyError, TypeError, ValueError, AssertionError, IndexError) as error:
            raise FormatError(f"pycocotools cannot compare them: {type(error).__name__} {error}") from None
    table: NDArray[np.float64] = scored.eval["precision"][:, :, :, 0, -1]  # (IoU, recall, class), all areas
    by_class = np.where(table < 0, np.nan, table).mean(1)
    made = {value: _precision(by_class[:, place]) for place, value in enumerate(scored.params.catIds)}
    there = by_class[:, ~np.isnan(by_class[0])]
    made[0] = _precision(there.mean(1) if there.size else np.full(len(THRESHOLDS), np.nan))
    return made


def _precision(by_threshold: NDArray[np.float64]) -> Precision:
    return Precision(
        float(by_threshold.mean()),
        float(by_threshold[THRESHOLDS.index(0.5)]),
        float(by_threshold[THRESHOLDS.index(0.7)]),
    )


def stem_of(image: Mapping[str, Any], recursive: bool = False) -> str:
    """The name by which an image of a COCO data set is known: its file's without the suffix, or its path's."""
    path = PurePosixPath(str(image.get("file_name", "")))
    return nfc(path.with_suffix("").as_posix() if recursive and path.name else path.stem)
