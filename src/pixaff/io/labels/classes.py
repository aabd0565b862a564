"""Class names: the lists of them, and what a name that is not among them may have meant."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence

from pixaff.errors import LabelsError
from pixaff.io.labels.text import read_text

# fmt: off
VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)
# fmt: on
MAX_CLASSES = 254  # mask values 1..254; 0 is background and 255 void


def read_classes(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Read class names, one a line; the first is mask value 1.

    Raises:
        LabelsError: Unreadable, empty, a blank line between names, a name twice, "background", ";" in a name, or more
            than 254 names.
    """
    lines = [line.strip() for line in read_text(path).rstrip().splitlines()]
    if not lines:
        raise LabelsError(f"{path}: found no class name", "write one a line, without background")
    first: dict[str, int] = {}
    for number, name in enumerate(lines, 1):
        where = f"{path}, line {number}"
        if not name:
            raise LabelsError(f"{where}: blank line", "remove it: the line numbers are the mask values")
        if name.lower() == "background":
            raise LabelsError(f'{where}: found "{name}"', "remove it: background is mask value 0, always")
        if ";" in name:
            raise LabelsError(f'{where}: found ";" in "{name}"', "rename the class: label files join names by ;")
        if name in first:
            raise LabelsError(f'{where}: found "{name}" again, first in line {first[name]}', "remove one of them")
        first[name] = number
    if len(lines) > MAX_CLASSES:
        raise LabelsError(f"{path}: found {len(lines)} classes, expected at most {MAX_CLASSES}: masks are 8-bit")
    return tuple(lines)


def near_name(name: str, classes: Sequence[str]) -> str:
    """A hint about a name that is none of the classes: the nearest one, or some of what there is."""
    if name.lower() == "background":
        return "leave it out: background needs no label"
    folded = {known.lower(): known for known in classes}
    near = difflib.get_close_matches(name.lower(), folded, n=1, cutoff=0.6)
    return f'did you mean "{folded[near[0]]}"?' if near else f"expected one of: {_some(list(folded.values()))}"


def _some(names: list[str]) -> str:
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
