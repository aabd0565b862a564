"""Image lists, and the names of images in them and in label files."""

from __future__ import annotations

import json
import os
import unicodedata

from pixaff.errors import LabelsError, quoted, shortened
from pixaff.io.images import IMAGE_SUFFIXES
from pixaff.io.labels.text import read_text

MAX_NAME = 255
"""Bytes of a file name on every common file system."""
MAX_PATH = 1000
"""Characters of the path of a listed image."""


def read_list(path: str | os.PathLike[str], *, folders: bool = False) -> list[str]:
    """Read image stems, one per line; suffixes are dropped and, unless ``folders`` is set, folders.

    VOC lists with an image path and a mask path per line are understood too, and the ``images`` of a JSON file, as the
    page of `pixaff.report` makes them. Names are returned as they are written:
    compare them by `nfc`. A name that is too long for any file is shortened; the result is still no name of a file.

    Raises:
        LabelsError: Unreadable, empty, or an image twice.
    """
    first: dict[str, int] = {}
    names: list[str] = []
    text = read_text(path)
    as_json = str(path).lower().endswith(".json")
    where = "entry" if as_json else "line"
    for number, line in enumerate(_json_names(path, text) if as_json else text.splitlines(), 1):
        if not line.strip():
            continue
        fields = line.split() if len(line) < 4 * MAX_NAME and not as_json else []
        pair = len(fields) == 2 and image_stem(fields[0]) == image_stem(fields[1])
        entry = fields[0] if pair else line.strip()
        name = image_path(entry) if folders else image_stem(entry)
        if max(len(os.fsencode(part)) for part in name.split("/")) > MAX_NAME or len(name) > MAX_PATH:
            name = f"{name[:40]} (cut: {where} {number}, {len(name):,} characters)"
        same = nfc(name)
        if same in first:
            raise LabelsError(
                f"{path}, {where} {number}: found {quoted(name)} again, first in {where} {first[same]}",
                "remove one of them",
            )
        first[same] = number
        names.append(name)
    if not names:
        raise LabelsError(f"{path}: found no image name", "write one per line")
    return names


def _json_names(path: str | os.PathLike[str], text: str) -> list[str]:
    """The names in a JSON list, or in the list ``images`` of a JSON object."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise LabelsError(f"{path}: found no JSON: {shortened(error)}", 'expected {"images": ["a.jpg", ...]}') from None
    names = found.get("images") if isinstance(found, dict) else found
    if not isinstance(names, list) or not all(isinstance(name, str) and _encodable(name) for name in names):
        raise LabelsError(f"{path}: found no list of image names", 'expected {"images": ["a.jpg", ...]}')
    return names


def _encodable(name: str) -> bool:
    """Whether a file can have that name: JSON may hold halves of a character."""
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return False
    return True


def image_stem(name: str) -> str:
    """The stem of an image's name: without folders (/ or backslash) and without an image suffix."""
    name = name.strip().replace("\\", "/").rsplit("/", 1)[-1]
    stem, dot, suffix = name.rpartition(".")
    return stem if dot and stem and f".{suffix.lower()}" in IMAGE_SUFFIXES else name


def image_path(name: str) -> str:
    """The path of an image in the form in which paths are compared: NFC, with "/", without suffix, "." and ".."."""
    folders = [part for part in name.strip().replace("\\", "/").split("/")[:-1] if part not in ("", ".", "..")]
    return nfc("/".join((*folders, image_stem(name))))


def nfc(name: str) -> str:
    """A name in the form in which names are compared: Unicode's composed one, in which an accent is no letter.

    macOS and archives made there write "é" as "e" and an accent, most other programs as one letter; both look the same.
    """
    return unicodedata.normalize("NFC", name)
