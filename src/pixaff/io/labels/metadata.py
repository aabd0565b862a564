"""metadata.csv and metadata.jsonl beside photos, as in Hugging Face's ImageFolder: `file_name` and a label column."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pixaff.errors import LabelsError, shortened
from pixaff.io.labels import one_hot
from pixaff.io.labels.entry import Entries
from pixaff.io.labels.hugging_face import card_names, json_cell, label_keys, labels_in
from pixaff.io.labels.table import first_rows, read_rows, words_of
from pixaff.io.labels.text import beginning, read_text
from pixaff.io.labels.wanted import Wanted
from pixaff.io.records import parse_json

NAME = "Hugging Face metadata"
FILES = ("metadata.csv", "metadata.jsonl")
_IMAGE = ("file name", "image file name")
_EXPECTED = 'expected lines such as {"file_name": "lawn.jpg", "label": "cat"}'

Row = tuple[str, dict[str, Any] | None]
"""Where it is, and its cells by column; None if it is damaged."""


def detect(path: Path) -> bool:
    """A file metadata.csv or metadata.jsonl with `file_name`, other lines of JSON, or a folder with such a file."""
    if path.is_dir():
        try:
            return bool(_files(path))
        except OSError:
            return False
    if path.suffix.lower() == ".jsonl":
        return path.is_file()
    if path.name.lower() != FILES[0] or not (rows := first_rows(path)):
        return False
    words = words_of(rows[0][1])
    return bool(label_keys(words)) and any(word in words for word in _IMAGE)


def read(path: Path, wanted: Wanted | None = None) -> Entries:
    """The entries of the rows; an empty list and an empty cell say that the image shows no class.

    Raises:
        LabelsError: Unreadable, no rows, or no columns of file names and labels.
    """
    entries = Entries(wanted)
    for file in _files(path) if path.is_dir() else [path]:
        if file.suffix.lower() == ".csv" and not detect(file):  # the folder's, without a column of labels
            _take_one_hot(file, path, entries)
        else:
            _take(file, path, entries)
    return entries


def _take(file: Path, path: Path, entries: Entries) -> None:
    """Add the entries of a file."""
    is_csv = file.suffix.lower() == ".csv"
    rows = _csv_rows(file, entries) if is_csv else list(_json_rows(file, entries))
    columns = list(dict.fromkeys(name for _, row in rows for name in row or ()))
    image = next((name for name in columns if words_of([name])[0] in _IMAGE), None)
    labels = label_keys(columns)
    if image is None or not labels:
        missing = "file_name" if image is None else "label or labels"
        found = f", only {shortened(', '.join(columns))}" if columns else ""
        raise LabelsError(f"{file}: found no column {missing}{found}", _EXPECTED)
    names = card_names(file.parent, labels[0])
    inside = file.parent.relative_to(path).as_posix() if path.is_dir() else "."
    for where, row in rows:
        name = (row or {}).get(image)
        if row is None or not isinstance(name, str) or not name.strip():
            if row is not None:
                entries.strays.append(f"{where}: found no file_name")
            continue
        place = f"{inside}/{name}"
        if not entries.wants(place):
            continue
        try:
            if labels[0] not in row:
                raise ValueError(f"found no {labels[0]}")
            value = json_cell(row[labels[0]]) if is_csv else row[labels[0]]
            found_labels = labels_in(value, names, numbers_as_text=is_csv)
        except ValueError as error:
            entries.add(place, (), where, f"{where}: {error}")
        else:
            if found_labels is not None:
                entries.add(place, found_labels, where)


def _take_one_hot(file: Path, path: Path, entries: Entries) -> None:
    found = one_hot.read(file, entries.wanted)
    entries.strays += found.strays
    entries.others |= found.others
    for image, entry in found.by_image.items():
        entries.add(image, entry.labels, entry.where, entry.problem)


def _csv_rows(file: Path, entries: Entries) -> list[Row]:
    rows, strays = read_rows(file)
    entries.strays += strays
    header = rows[0][1]
    return [(f"{file}, line {line}", dict(zip(header, cells, strict=False))) for line, cells in rows[1:]]


def _json_rows(file: Path, entries: Entries) -> Iterator[Row]:
    for line, text in enumerate(read_text(file).split("\n"), 1):
        if not text.strip():
            continue
        where = f"{file}, line {line}"
        try:
            row = parse_json(text)
        except ValueError as error:
            entries.strays.append(f"{where}: no valid JSON ({shortened(error)})")
            continue
        if isinstance(row, dict):
            yield where, row
        else:
            entries.strays.append(f"{where}: found no object ({_EXPECTED})")


def _files(folder: Path) -> Sequence[Path]:
    """The metadata files of a folder, and of folders such as train and data/train in it."""
    found: list[Path] = []
    for place, inner, files in os.walk(folder):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        found += [Path(place, name) for name in FILES if name in files and _names_files(Path(place, name))]
        if len(Path(place).relative_to(folder).parts) >= 2:
            inner.clear()
    return found


def _names_files(file: Path) -> bool:
    return b"file_name" in beginning(file)
