"""Folders of masks: their files by stem, and the classes that their values stand for."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pixaff.errors import LabelsError, quoted
from pixaff.io.labels import VOC_CLASSES, Wanted, nfc, read_class_list
from pixaff.io.masks import VOID, Colour, voc_colours
from pixaff.stages.batch.naming import Names


def mask_classes(
    path: str | Path | None, record: Mapping[str, Any]
) -> tuple[tuple[str, ...], dict[Colour, int] | None]:
    """Class names, and the mask values of their colours where these are known.

    Args:
        path: A class list; without one, the names that the run recorded count, else those of Pascal VOC.
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


def files_by_stem(folder: Path, suffixes: Sequence[str], *, recursive: bool = False) -> dict[str, Path]:
    """The files of a folder that end in one of the suffixes, however spelt, by stem; the first suffix first.

    With ``recursive``, also those in subfolders that are not hidden, by their paths without suffix: "a/b/lawn".
    """
    found: dict[str, Path] = {}
    names = Names((folder,) if recursive else ())
    paths = [path for path in _files(folder, recursive) if path.suffix.lower() in suffixes]
    for path in sorted(
        paths, key=lambda path: (suffixes.index(path.suffix.lower()), path.suffix != path.suffix.lower())
    ):
        found.setdefault(nfc(names.key(path)), path)
    return found


def listed_images(listed: Sequence[str], images: Sequence[str], listing: str | Path) -> list[str]:
    """The images that the names in a list mean, once each; a name that means none stays as it is.

    Raises:
        LabelsError: A name may mean several images.
    """
    wanted, found = Wanted(images), dict[str, None]()
    for name in listed:
        chosen = wanted.find(name).images
        if len(chosen) > 1:
            first, second = map(quoted, chosen[:2])
            raise LabelsError(f"{listing}: {quoted(name)} may be {first} or {second}", "write it with its folder")
        found[wanted.images[chosen[0]] if chosen else name] = None
    return list(found)


def _files(folder: Path, recursive: bool) -> Iterator[Path]:
    for place, inner, files in os.walk(folder):
        inner[:] = [name for name in inner if not name.startswith(".")] if recursive else []
        yield from (Path(place, name) for name in files if not name.startswith("."))
