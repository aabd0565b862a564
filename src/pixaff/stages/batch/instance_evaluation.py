"""Instances of a folder against a COCO data set, or against masks of objects as Pascal VOC has them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pixaff.errors import FormatError, UsageError
from pixaff.events import Callback, Event, silent
from pixaff.io.instances import FOLDER as INSTANCES
from pixaff.io.labels import nfc, read_list
from pixaff.stages.batch.inputs import existing_folder
from pixaff.stages.batch.instance_precision import (
    Precision,
    average_precision,
    coco_truth,
    detections,
    stem_of,
    voc_truth,
)
from pixaff.stages.batch.mask_folders import files_by_stem, mask_classes
from pixaff.stages.batch.record import read_record

COMMAND = "evaluate"


@dataclass(frozen=True)
class InstanceEvaluation:
    """The result of `evaluate_instances`.

    Attributes:
        mean: Mean over the classes of which the ground truth has objects.
        classes: By class name.
        images: Number of images compared.
        listing: Name of the list that chose them, or "all of" the ground truth.
        failed: Images that could not be compared, each with the reason.
    """

    mean: Precision
    classes: dict[str, Precision]
    images: int
    listing: str
    failed: tuple[tuple[str, str], ...]


def evaluate_instances(
    predictions: str | Path,
    ground_truth: str | Path,
    *,
    objects: str | Path | None = None,
    listing: str | Path | None = None,
    classes: str | Path | None = None,
    recursive: bool = False,
    report: Callback = silent,
) -> InstanceEvaluation:
    """Average precision of instances at the IoU 0.5 and 0.7, and COCO's mean over 0.5 to 0.95, by pycocotools.

    Args:
        predictions: Folder of masks that ``pixaff.propagate(..., instances=True)`` wrote, or of its instances.
        ground_truth: A COCO data set (.json), whose classes are matched by name; or with ``objects`` a folder of masks
            NAME.png as Pascal VOC's SegmentationClass.
        objects: Folder of NAME.png with the number of the object at each pixel, as Pascal VOC's SegmentationObject.
        listing: Image list; without it, all images with ground truth are compared.
        classes: Class list; see `pixaff.evaluate`.
        recursive: Compare the files in subfolders, too: each with the one of the same path.
        report: Receives an `Event` for each image that fails.

    Raises:
        UsageError: Contradictory arguments, or nothing to compare.
        FormatError: The ground truth cannot be read.
        PixaffError: pycocotools is not installed.
    """
    truth_path, folder = Path(ground_truth), existing_folder(predictions)
    record = read_record(folder) or read_record(folder.parent) or {}
    folder = folder / INSTANCES if (folder / INSTANCES).is_dir() else folder
    names, _ = mask_classes(classes, record)
    wanted = None if listing is None else {nfc(stem) for stem in read_list(listing, folders=recursive)}
    if (objects is None) != (truth_path.suffix.lower() == ".json"):
        raise UsageError(
            f"{truth_path}: found {'a folder' if objects is None else 'a file'} of ground truth for instances",
            "give a COCO data set (.json), or a folder as SegmentationClass with --objects SegmentationObject",
        )
    if objects is None:
        truth = coco_truth(truth_path)
    else:
        there = files_by_stem(existing_folder(objects), (".png",), recursive=recursive)
        there = {stem: path for stem, path in there.items() if wanted is None or stem in wanted}
        truth = voc_truth(there, existing_folder(truth_path), names)
    numbers = {each.get("name"): each["id"] for each in truth["categories"]}
    renumbered = {value: numbers[name] for value, name in enumerate(names, 1) if name in numbers}
    results, images, failed = [], [], []
    for image in truth["images"]:
        stem = stem_of(image, recursive)
        if wanted is not None and stem not in wanted:
            continue
        try:
            results += detections(folder, stem, image["id"], renumbered)
            images.append(image["id"])
        except (FormatError, FileNotFoundError) as error:
            reason = f"no instances in {folder}" if isinstance(error, FileNotFoundError) else str(error)
            failed.append((stem, reason))
            report(Event("failed", COMMAND, reason, photo=Path(stem)))
    if not images:
        raise UsageError(
            f"none of {len(truth['images'])} images has instances in {folder}", "propagate --instances writes them"
        )
    found = average_precision(truth, results, images)
    by_name = {each["name"]: found[each["id"]] for each in truth["categories"]}
    source = Path(listing).name if listing is not None else f"all of {ground_truth}"
    return InstanceEvaluation(found[0], by_name, len(images), source, tuple(failed))
