"""Image lists, and the name by which an image goes in them and in label files."""

from __future__ import annotations

import os

from pixaff.errors import LabelsError
from pixaff.io.images import IMAGE_SUFFIXES
from pixaff.io.labels.text import read_text


def read_list(path: str | os.PathLike[str]) -> list[str]:
    """Read image stems, one a line; folders and suffixes are dropped.

    VOC lists with an image path and a mask path a line are understood too.

    Raises:
        LabelsError: Unreadable, empty, or an image twice.
    """
    first: dict[str, int] = {}
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not line.strip():
            continue
        fields = line.split()
        pair = len(fields) == 2 and image_stem(fields[0]) == image_stem(fields[1])
        stem = image_stem(fields[0] if pair else line.strip())
        if stem in first:
            raise LabelsError(
                f'{path}, line {number}: found "{stem}" again, first in line {first[stem]}', "remove one of them"
            )
        first[stem] = number
    if not first:
        raise LabelsError(f"{path}: found no image name", "write one a line")
    return list(first)


def image_stem(name: str) -> str:
    """The stem by which an image goes: without folders (/ or backslash) and without an image's suffix."""
    name = name.strip().replace("\\", "/").rsplit("/", 1)[-1]
    stem, dot, suffix = name.rpartition(".")
    return stem if dot and stem and f".{suffix.lower()}" in IMAGE_SUFFIXES else name
