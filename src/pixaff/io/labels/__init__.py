"""Image-level labels, class lists and image lists, each in the formats that people use.

A label format is a module with two functions: ``detect(path)`` says whether a path is of this format, and
``read(path, wanted)`` gives its `Entries`. `FORMATS` lists them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

from pixaff.errors import LabelsError, counted, quoted
from pixaff.io.labels import (
    class_folders,
    cls_labels,
    coco,
    cvat,
    label_studio,
    metadata,
    one_hot,
    parquet,
    table,
    tags,
    voc_xml,
    yolo,
)  # fmt: skip
from pixaff.io.labels.classes import MAX_CLASSES, VOC_CLASSES, ClassList, read_class_list, read_classes
from pixaff.io.labels.doubts import doubts
from pixaff.io.labels.entry import Entries, Entry
from pixaff.io.labels.given import Labels, class_indices, matched
from pixaff.io.labels.image_list import image_path, image_stem, nfc, read_list
from pixaff.io.labels.table import write_labels
from pixaff.io.labels.wanted import Wanted

__all__ = [
    "MAX_CLASSES",
    "VOC_CLASSES",
    "ClassList",
    "Entries",
    "Entry",
    "Labels",
    "Wanted",
    "class_indices",
    "doubts",
    "format_of",
    "image_path",
    "image_stem",
    "match_labels",
    "names_in",
    "nfc",
    "read_class_list",
    "read_classes",
    "read_entries",
    "read_labels",
    "read_list",
    "write_labels",
]


class LabelFormat(Protocol):
    """What the module of a label format offers."""

    NAME: str

    def detect(self, path: Path) -> bool: ...

    def read(self, path: Path, wanted: Wanted | None = None) -> Entries: ...


FORMATS: tuple[LabelFormat, ...] = (
    parquet, metadata, cvat, yolo, class_folders, voc_xml, cls_labels, label_studio, coco, label_studio.CSV, one_hot,
    tags, table,
)  # fmt: skip
"""In the order in which they are tried; the table takes whatever the others leave."""


def read_labels(path: str | os.PathLike[str], classes: Sequence[str], images: Iterable[str] | None = None) -> Labels:
    """Read image-level labels in any of `FORMATS`, recognised by content.

    Table: `image,labels` with the class names joined by ";"; the header may be missing, the image may have a folder and
    a suffix. XML: the names of the objects; the image is the XML file's own name. An empty cell, an XML file
    without objects and a vector of zeros say that an image shows no class.
    docs/labels.md describes the others.

    An entry that cannot be used (an unknown class, a damaged XML file, an image twice with different labels) costs only
    its own image: see `Labels.problems`.

    Args:
        path: `labels.csv`, a folder such as VOC's `Annotations`, an export of a labelling tool.
        classes: Class names in mask order.
        images: Stems of the images of interest; None for all. Entries of other images are not checked.

    Returns:
        The labels by image stem; none if there are no images of interest.

    Raises:
        LabelsError: The labels cannot be read at all, belong to none of the images, or no entry can be used.
    """
    return match_labels(path, read_entries(path, images), classes)


def read_entries(path: str | os.PathLike[str], images: Iterable[str] | None = None) -> Entries:
    """The first half of `read_labels`, which needs no classes: what the labels say of the images.

    Raises:
        LabelsError: The labels cannot be read at all, or belong to none of the images.
    """
    path = Path(path)
    wanted = None if images is None else Wanted(images)
    entries = format_of(path).read(path, wanted)
    if wanted and not entries.by_image:
        first, photo = next(iter(entries.others), "missing"), next(iter(wanted.images.values()), "missing")
        found, photos = counted(len(entries.others), "image"), counted(len(wanted), "photo")
        raise LabelsError(
            f"{path}: found {found}, none of them among {photos}",
            f"its first is {quoted(first)}, the first photo {quoted(photo)}",
        )
    return entries


def match_labels(path: str | os.PathLike[str], entries: Entries, classes: Sequence[str]) -> Labels:
    """The second half of `read_labels`: the entries' names as classes.

    Raises:
        LabelsError: No entry can be used.
    """
    labels = matched(str(path), entries, classes)
    if not labels.by_image and labels.problems:
        first = next(iter(labels.problems.values()))
        count = len(labels.problems)
        own = "pixaff fit trains a model for classes of your own"
        hint = own if count > 1 and all("found unknown class" in why for why in labels.problems.values()) else ""
        words = first if count == 1 else f"{path}: none of {count} entries can be used, the first: {first}"
        raise LabelsError(words, hint)
    if not labels.by_image and (entries.wanted is None or len(entries.wanted)):
        raise LabelsError(f"{path}: found no labels", *labels.strays[:1])
    return labels


def names_in(path: str | os.PathLike[str], images: Iterable[str] | None = None) -> tuple[str, ...]:
    """Every class name that the labels use, in alphabetical order.

    Names are only gathered here; `read_labels` and `doubts` say whether the labels are in order.

    Args:
        path: As for `read_labels`.
        images: Stems of the images whose labels count; None for all.

    Raises:
        LabelsError: The labels cannot be read at all, or number the classes without naming them.
    """
    path = Path(path)
    entries = format_of(path).read(path, None if images is None else Wanted(images))
    names = {name for entry in entries.by_image.values() for name in entry.labels}
    if entries.num_classes is not None or any(isinstance(name, int) for name in names):
        count = "" if entries.num_classes is None else f"{entries.num_classes} "
        raise LabelsError(f"{path} numbers its {count}classes and does not name them", "give --classes FILE")
    return tuple(sorted(map(str, names)))


def format_of(path: Path) -> LabelFormat:
    """The format that labels are in."""
    return next(kind for kind in FORMATS if kind.detect(path))
