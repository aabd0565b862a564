"""A folder per class, as torchvision's ImageFolder has it: photos in subfolders that are named by their class.

Folders such as train and val may lie between. A photo that lies in several folders, byte for byte, shows all of them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from pixaff.errors import LabelsError
from pixaff.io.images import IMAGE_SUFFIXES
from pixaff.io.labels.entry import Entries
from pixaff.io.labels.image_list import image_stem, nfc
from pixaff.io.labels.text import refuse_unreadable
from pixaff.io.labels.wanted import Wanted

NAME = "a folder per class"
SPLITS = frozenset(("train", "training", "val", "valid", "validation", "test", "testing", "dev"))
NO_CLASS = frozenset(("background", "_background_", "__background__"))
_NOT_CLASSES = frozenset(("annotations", "imagesets", "jpegimages", "images", "labels"))
"""Subfolders, in lower case, of other data sets."""


def detect(path: Path) -> bool:
    """A folder that holds no photo and no XML itself, with photos in subfolders."""
    if not path.is_dir():
        return False
    try:
        with os.scandir(path) as entries:
            own = [(entry.name.lower(), entry.is_dir()) for entry in entries]
        if any(not folder and (_is_photo(name) or name.endswith((".xml", ".yaml", ".yml"))) for name, folder in own):
            return False
        if any(folder and name in _NOT_CLASSES for name, folder in own):
            return False
        return next(_photos(path), None) is not None
    except (OSError, LabelsError):
        return False


def read(path: Path, wanted: Wanted | None = None) -> Entries:
    """The photos with the names of their folders. Different photos of one name cost themselves.

    Raises:
        LabelsError: A folder cannot be read.
    """
    entries = Entries(wanted)
    found: dict[str, list[tuple[str, Path]]] = {}
    for name, photo in _photos(path):
        if entries.wants(photo.relative_to(path).as_posix()):
            found.setdefault(nfc(image_stem(photo.name)), []).append((name, photo))
    for places in found.values():
        if wanted is not None and wanted.nested:  # every photo for itself
            for _, photo in places:
                names = _names(name for name, other in places if other == photo or _same(photo, other))
                entries.add(photo.relative_to(path).as_posix(), names, str(photo))
            continue
        first = places[0][1]
        other = next((photo for _, photo in places[1:] if not _same(first, photo)), None)
        problem = "" if other is None else (
            f"{other}: another photo than {first}, of the same name (rename one of them, or give --recursive)"
        )  # fmt: skip
        names = _names(name for name, _ in places)
        entries.add(first.relative_to(path).as_posix(), () if problem else names, str(first), problem)
    return entries


def photos_in(path: Path) -> list[Path]:
    """The photos in the subfolders, in order; of those that are the same, byte for byte, the first.

    Raises:
        LabelsError: A folder cannot be read.
    """
    found: dict[str, list[Path]] = {}
    for _, photo in _photos(path):
        same = found.setdefault(nfc(image_stem(photo.name)), [])
        if not any(_same(photo, known) for known in same):
            same.append(photo)
    return [photo for photos in found.values() for photo in photos]


def _names(names: Iterable[str]) -> list[str]:
    return [name for name in dict.fromkeys(names) if name.lower() not in NO_CLASS]


def _photos(path: Path) -> Iterator[tuple[str, Path]]:
    """The name of its class and the path of every photo."""
    for folder in _folders(path):
        inside = _folders(folder) if folder.name.lower() in SPLITS and not _holds_photos(folder) else []
        for named in inside or [folder]:
            for place, folders, files in os.walk(named, onerror=refuse_unreadable):
                folders[:] = sorted(name for name in folders if not name.startswith("."))
                yield from ((named.name, Path(place, name)) for name in sorted(files) if _is_photo(name))


def _folders(path: Path) -> list[Path]:
    try:
        return sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise LabelsError(f"{path}: cannot be read: {error.strerror}") from None


def _holds_photos(folder: Path) -> bool:
    return any(_is_photo(entry.name) for entry in folder.iterdir())


def _is_photo(name: str) -> bool:
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def _same(one: Path, other: Path) -> bool:
    try:
        return one.stat().st_size == other.stat().st_size and one.read_bytes() == other.read_bytes()
    except OSError:
        return False
