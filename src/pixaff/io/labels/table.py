"""labels.csv: one row per image, its labels joined by ";" in one column.

Spreadsheets write it with a byte order mark, ";" or tabs between the columns, empty columns at the end, in UTF-16: all
of that is read. A header may name the columns, among others that are not read; without one they are image and labels.
"""

from __future__ import annotations

import codecs
import csv
import io
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from pixaff.errors import LabelsError, shortened
from pixaff.io.atomic import write_text
from pixaff.io.images import IMAGE_SUFFIXES
from pixaff.io.labels.entry import Entries
from pixaff.io.labels.text import beginning, decoded, is_western, read_bytes
from pixaff.io.labels.wanted import Wanted

NAME = "a table, a row an image"
HEADER = ("image", "labels")
# What header cells are called, the likeliest first: of two such columns the first kind is taken.
IMAGE_WORDS = ("image", "images", "filename", "file", "image name", "file name", "imagename", "photo", "picture", "img",
               "path", "image path", "file path", "filepath", "name", "image id", "imageid", "id", "stem")  # fmt: skip
LABEL_WORDS = ("labels", "label", "tags", "tag", "classes", "class", "categories", "category", "keywords", "label name",
               "class name", "category name", "labelname")  # fmt: skip
_SEPARATOR_HINT = re.compile(r'"?sep=([,;\t])"?\r?\n', re.IGNORECASE)
_EXAMPLE = "expected rows like: photo1.jpg,cat;person"

Row = tuple[int, list[str]]
"""Line number and cells."""


def detect(path: Path) -> bool:
    """Everything except a folder, since a missing file is most likely a missing table."""
    return not path.is_dir()


def read(path: Path, wanted: Wanted | None = None) -> Entries:
    """The entries of a table. A row that cannot be used costs only its own image.

    Raises:
        LabelsError: Unreadable, no rows, no row of two columns, or a quotation mark that is never closed.
    """
    rows, strays = read_rows(path)
    columns = header(rows[0][1])
    body = rows[1:] if columns else rows
    if not body:
        raise LabelsError(f"{path}: found no labels below the header", _EXAMPLE)
    if not any(len(cells) > 1 or set(",;\t").intersection(*cells[:1]) for _, cells in body):
        found = shortened(",".join(body[0][1]))
        raise LabelsError(f"{path}, line {body[0][0]}: expected 2 columns (image,labels), found 1: {found}", _EXAMPLE)
    entries = Entries(wanted, strays=strays)
    image_column, label_column = columns or (0, 1)
    for line, cells in body:
        where = f"{path}, line {line}"
        image = cells[image_column] if image_column < len(cells) else ""
        if not image:
            entries.strays.append(f"{where}: found no image name")
        elif "\n" in image:
            entries.strays.append(f"{where}: found a line break in an image name")
        elif entries.wants(image):
            problem = _problem(cells, label_column, named=columns is not None)
            labels = "" if problem else cells[label_column]
            names = [name for name in map(str.strip, labels.split(";")) if name]
            entries.add(image, names, where, f"{where}: {problem}" if problem else "")
    if columns is None and wanted is not None:
        _forget_header(body, entries)
    return entries


def write_labels(path: str | os.PathLike[str], labels: Mapping[str, Iterable[int]], classes: Sequence[str]) -> None:
    """Write image-level labels (0-based indices by image stem) as `image,labels` CSV, atomically.

    An image without labels gets an empty cell: it shows no class.

    Raises:
        OutputError: The file cannot be written.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(HEADER)
    for stem, indices in labels.items():
        writer.writerow((stem, ";".join(classes[index] for index in indices)))
    write_text(path, buffer.getvalue())


def read_rows(path: Path) -> tuple[list[Row], list[str]]:
    """The rows of a table that are not empty, at least one, and what is to be said of its encoding.

    Raises:
        LabelsError: Unreadable, no rows, or a quotation mark that is never closed.
    """
    data = read_bytes(path)
    rows = list(_rows(path, decoded(path, data)))
    if not rows:
        raise LabelsError(f"{path}: found no labels", _EXAMPLE)
    words = f"{path}: not UTF-8 text, read as cp1252 (Western European); if names look wrong, save it as UTF-8"
    return rows, [words] if is_western(data) else []


def first_rows(path: Path) -> list[Row]:
    """Some rows at the beginning of a table, by which formats are told apart; none of what is no table."""
    data = beginning(path)
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    if not wide and b"\n" in data[:-1]:
        data = data[: data.rindex(b"\n") + 1]
    try:
        return list(_rows(path, data.decode("utf-16" if wide else "utf-8-sig", errors="replace")))
    except (LabelsError, UnicodeError):
        return []


def _rows(path: Path, text: str) -> Iterator[Row]:
    """The rows that are not empty; an Excel hint such as "sep=;" is followed and left out."""
    hint = _SEPARATOR_HINT.match(text)
    separator = hint[1] if hint else _separator(text)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True)
    cells: list[str] = []
    try:
        for number, row in enumerate(reader):
            cells = [cell.strip() for cell in row]
            if any(cells) and not (hint and number == 0):
                yield reader.line_num, cells
    except csv.Error as error:
        raise LabelsError(f"{path}, line {reader.line_num}: {error}", _EXAMPLE) from None
    # Such a quotation mark swallows the rest of the file into one cell.
    if any("\n" in cell for cell in cells) and text.count('"') % 2:
        opened = reader.line_num - sum(cell.count("\n") for cell in cells)
        raise LabelsError(f"{path}, line {opened}: a quotation mark is opened and never closed", "close or remove it")


def _separator(text: str) -> str:
    """The first of comma, semicolon and tab, outside quotation marks: before it stands nothing but an image's name."""
    inside = False
    for sign in text[:1_000_000]:
        if sign == '"':
            inside = not inside
        elif sign in ",;\t" and not inside:
            return sign
    return ","


def words_of(cells: Sequence[str]) -> list[str]:
    """Header cells in the form in which their words are compared."""
    return [" ".join(cell.lower().replace("_", " ").replace("-", " ").split()) for cell in cells]


def header(cells: Sequence[str]) -> tuple[int, int] | None:
    """The columns of images and of labels, if the row is a header of words that are known."""
    words = words_of(cells)
    image = next((words.index(word) for word in IMAGE_WORDS if word in words), None)
    labels = next((words.index(word) for word in LABEL_WORDS if word in words), None)
    return None if image is None or labels is None else (image, labels)


def _problem(cells: Sequence[str], label_column: int, *, named: bool) -> str:
    filled = max((index for index, cell in enumerate(cells, 1) if cell), default=0)
    if len(cells) < 2 or (filled > 2 and not named):
        hint = "join several labels by ;, or name the columns in a first row: image,labels"
        return f"expected 2 columns (image,labels), found {filled} ({hint})"
    if label_column >= len(cells):
        return f"expected {label_column + 1} columns, as in the header, found {len(cells)}"
    if "\n" in cells[label_column]:
        return "found a line break between labels (join them by ;, and close every quotation mark)"
    return ""


def _forget_header(rows: Sequence[Row], entries: Entries) -> None:
    """Leave out a first row that reads like a header in words of its own.

    Its image is none that was asked for, has no suffix, and its label is nobody else's.
    """
    cells = rows[0][1]
    label = cells[1] if len(cells) > 1 else ""
    bare = not cells[0].lower().endswith(tuple(IMAGE_SUFFIXES))
    if bare and len(rows) > 1 and not any(label in row[1:] for _, row in rows[1:]):
        entries.others.pop(entries.other(cells[0]), None)
