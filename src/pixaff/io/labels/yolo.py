"""YOLO data sets: a text file an image in folders `labels`, whose lines begin with the number of a class.

The names of the classes are in data.yaml (Ultralytics, Roboflow), or in classes.txt (Label Studio, labelImg).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pixaff.errors import LabelsError, first_few, quoted, shortened
from pixaff.io.labels.entry import Entries
from pixaff.io.labels.safe_yaml import parse_yaml
from pixaff.io.labels.text import beginning, read_text, refuse_unreadable
from pixaff.io.labels.wanted import Wanted
from pixaff.io.regular import check_regular

NAME = "YOLO, a text file an image"
LABELS, CLASSES = "labels", "classes.txt"
_YAML = (".yaml", ".yml")
_EXPECTED = "expected YOLO's data.yaml: names: [cat, dog], or names: {0: cat, 1: dog}"
_LINE = "expected lines such as: 0 0.5 0.5 0.2 0.3"


def detect(path: Path) -> bool:
    """A YAML file with `names`, or a folder with it or classes.txt, and with a folder `labels` below."""
    if path.suffix.lower() in _YAML and path.is_file():
        return True
    try:
        return path.is_dir() and _names_file(path) is not None and next(_label_folders(path), None) is not None
    except (OSError, LabelsError):
        return False


def read(path: Path, wanted: Wanted | None = None) -> Entries:
    """The entries of the text files; an empty one says that its image shows no class.

    Raises:
        LabelsError: The names of the classes cannot be read, or there is no folder `labels`.
    """
    file = _names_file(path) if path.is_dir() else path
    folder = path if path.is_dir() else path.parent
    assert file is not None
    names = _names(file)
    entries = Entries(wanted)
    folders = list(_label_folders(folder))
    if not folders:
        raise LabelsError(f"{folder}: found no folder {LABELS}", "expected labels/NAME.txt beside data.yaml")
    for place in folders:
        for text in _texts(place):
            image = _image(text.relative_to(folder))
            if not entries.wants(image):
                continue
            try:
                check_regular(text, LabelsError)
                entries.add(image, _classes(text, names), str(text))
            except LabelsError as error:
                entries.add(image, (), str(text), str(error))
    return entries


def _names_file(folder: Path) -> Path | None:
    """data.yaml, or another YAML file with names, or classes.txt."""
    with os.scandir(folder) as entries:
        files = sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.is_file())
    files = [name for name in files if Path(name).suffix.lower() in _YAML or name.lower() == CLASSES]
    files.sort(key=lambda name: (Path(name).stem.lower() not in ("data", "dataset"), name.lower() == CLASSES))
    for name in files:
        head = beginning(folder / name)
        if name.lower() == CLASSES or head.startswith(b"names:") or b"\nnames:" in head:
            return folder / name
    return None


def _label_folders(folder: Path) -> Iterator[Path]:
    """The folders `labels`: beside data.yaml, or in folders such as train and valid."""
    for place, inner, _ in os.walk(folder, onerror=refuse_unreadable):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        if LABELS in inner:
            inner.remove(LABELS)
            yield Path(place, LABELS)
        if len(Path(place).relative_to(folder).parts) >= 2:
            inner.clear()


def _texts(folder: Path) -> Iterator[Path]:
    for place, inner, files in os.walk(folder, onerror=refuse_unreadable):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        for name in sorted(files):
            if name.lower().endswith(".txt") and not name.startswith(".") and name.lower() != CLASSES:
                yield Path(place, name)


def _image(text: Path) -> str:
    """labels/train/x.txt and train/labels/x.txt belong to images/train/x and train/images/x."""
    parts = list(text.parent.parts)
    parts[parts.index(LABELS)] = "images"
    return "/".join((*parts, text.stem))


def _names(file: Path) -> dict[int, str]:
    """Class names by number.

    Raises:
        LabelsError: They cannot be read, or are no names.
    """
    check_regular(file, LabelsError)
    text = read_text(file)
    if file.suffix.lower() not in _YAML:
        return {number: line.strip() for number, line in enumerate(text.splitlines()) if line.strip()}
    try:
        found = parse_yaml(text)
    except ValueError as error:
        raise LabelsError(f"{file}: no valid YAML ({shortened(error)})", _EXPECTED) from None
    names = found.get("names") if isinstance(found, dict) else None
    pairs: Mapping[Any, Any] = dict(enumerate(names)) if isinstance(names, list) else names or {}
    if not isinstance(pairs, dict) or not pairs:
        raise LabelsError(f"{file}: found no names", _EXPECTED)
    known = {}
    for number, name in pairs.items():
        if not str(number).isdecimal() or not isinstance(name, (str, int, float)) or not str(name).strip():
            raise LabelsError(f"{file}: found {quoted(shortened(name))} as the name of class {number}", _EXPECTED)
        if isinstance(name, bool):
            raise LabelsError(f"{file}: found yes or no as the name of class {number}", "put the name in quotes")
        known[int(number)] = str(name).strip()
    return known


def _classes(text: Path, names: Mapping[int, str]) -> list[str]:
    """The classes of the lines of a file.

    Raises:
        LabelsError: A line is none of YOLO's, or numbers an unknown class.
    """
    shown: dict[str, None] = {}
    for line, words in enumerate(read_text(text).splitlines(), 1):
        fields = words.split()
        if not fields:
            continue
        where = f"{text}, line {line}"
        if len(fields) < 5 or not all(map(_is_number, fields)) or not float(fields[0]).is_integer():
            raise LabelsError(f"{where}: found {quoted(shortened(words))}", _LINE)
        number = int(float(fields[0]))
        if number not in names:
            known = first_few((f"{number} {name}" for number, name in names.items()), 10)
            raise LabelsError(f"{where}: found class {number}, which has no name", f"expected one of {known}")
        shown[names[number]] = None
    return list(shown)


def _is_number(word: str) -> bool:
    try:
        return math.isfinite(float(word))
    except ValueError:
        return False
