"""Image-level labels, class names and image lists, each in the formats that people have them in.

A label format is a module with two functions: ``detect(path)`` says whether a path is of this format, and
``read(path)`` gives its `Entry` objects. `FORMATS` lists them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from pixaff.errors import LabelsError
from pixaff.io.labels import table, voc_xml
from pixaff.io.labels.classes import MAX_CLASSES, VOC_CLASSES, near_name, read_classes
from pixaff.io.labels.entry import Entry
from pixaff.io.labels.image_list import image_stem, read_list
from pixaff.io.labels.table import write_labels

__all__ = [
    "MAX_CLASSES",
    "VOC_CLASSES",
    "Entry",
    "class_indices",
    "image_stem",
    "names_in",
    "read_classes",
    "read_labels",
    "read_list",
    "write_labels",
]


class LabelFormat(Protocol):
    """What the module of a label format offers."""

    def detect(self, path: Path) -> bool: ...

    def read(self, path: Path) -> dict[str, Entry]: ...


FORMATS: tuple[LabelFormat, ...] = (voc_xml, table)
"""In the order in which they are asked; the table takes whatever the others leave."""


def read_labels(path: str | os.PathLike[str], classes: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Read image-level labels from a CSV file or a folder of PASCAL VOC XML files.

    CSV: `image,labels` with the class names joined by ";"; the header may be missing, the image may carry a folder and
    a suffix. XML: the names of the objects; the image is the XML file's own name.

    Args:
        path: `labels.csv`, or a folder such as VOC's `Annotations`.
        classes: Class names in mask order.

    Returns:
        Sorted 0-based class indices, at least one, by image stem, in the order of the file.

    Raises:
        LabelsError: Names the line or file: an unknown class (with the nearest name), no label, an image twice.
    """
    numbers = {name: index for index, name in enumerate(classes)}
    labels = {}
    for stem, entry in _read(Path(path)).items():
        if entry.problem:
            raise entry.problem
        if not entry.names:
            raise LabelsError(
                f'{entry.where}: found no label for image "{stem}"', "give it one or more, or leave the image out"
            )
        for name in entry.names:
            if name not in numbers:
                raise LabelsError(f'{entry.where}: found unknown class "{name}"', near_name(name, classes))
        labels[stem] = tuple(sorted({numbers[name] for name in entry.names}))
    return labels


def names_in(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Every class name that the labels use, in alphabetical order.

    Names are only gathered here; whether the labels are in order is for `read_labels` to say.

    Raises:
        LabelsError: The labels cannot be read at all.
    """
    return tuple(sorted({name for entry in _read(Path(path)).values() for name in entry.names}))


def _read(path: Path) -> dict[str, Entry]:
    return next(kind for kind in FORMATS if kind.detect(path)).read(path)


def class_indices(labels: Sequence[str | int], classes: Sequence[str]) -> tuple[int, ...]:
    """0-based indices, ascending, of classes given by name or by index.

    Raises:
        LabelsError: A name or index is no class (with the nearest name).
    """
    numbers = {name: index for index, name in enumerate(classes)}
    found = set()
    for label in labels:
        index = numbers.get(label) if isinstance(label, str) else int(label)
        if index is None:
            raise LabelsError(f'labels: found unknown class "{label}"', near_name(str(label), classes))
        if not 0 <= index < len(classes):
            raise LabelsError(f"labels: found the index {index}, expected 0..{len(classes) - 1}")
        found.add(index)
    return tuple(sorted(found))
