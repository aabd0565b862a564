"""Folders of masks: their files by stem, and the classes that their values stand for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pixaff.io.labels import VOC_CLASSES, nfc, read_class_list
from pixaff.io.masks import VOID, Colour, voc_colours


def mask_classes(
    path: str | Path | None, record: Mapping[str, Any]
) -> tuple[tuple[str, ...], dict[Colour, int] | None]:
    """Class names, and the mask values of their colours where these are known.

    Args:
        path: A class list; without one, the names that the run recorded count, else those of PASCAL VOC.
        record: The run's ``run.json``; empty where there is none.
    """
    if path is not None:
        listed = read_class_list(path)
        names, colours = listed.names, listed.colours
    else:
        recorded = record.get("classes")
        names = tuple(str(name) for name in recorded) if isinstance(recorded, list) else VOC_CLASSES
        colours = None
    voc = voc_colours(len(names))
    if colours is None:
        return names, voc if names == VOC_CLASSES else None
    # Background is black and void VOC's, where the list does not say otherwise.
    return names, {colour: value for colour, value in voc.items() if value in (0, VOID)} | colours


def files_by_stem(folder: Path, suffixes: Sequence[str]) -> dict[str, Path]:
    """The files of a folder that end in one of the suffixes, however spelt, by stem; the first suffix first."""
    found: dict[str, Path] = {}
    paths = [path for path in folder.iterdir() if not path.name.startswith(".") and path.suffix.lower() in suffixes]
    for path in sorted(
        paths, key=lambda path: (suffixes.index(path.suffix.lower()), path.suffix != path.suffix.lower())
    ):
        found.setdefault(nfc(path.stem), path)
    return found
