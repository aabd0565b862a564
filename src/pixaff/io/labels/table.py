"""labels.csv: a row an image, its labels joined by ";" in the second column."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pixaff.errors import LabelsError
from pixaff.io.atomic import write_text
from pixaff.io.labels.entry import Entry
from pixaff.io.labels.image_list import image_stem
from pixaff.io.labels.text import read_text

HEADER = ("image", "labels")


def detect(path: Path) -> bool:
    """Whatever is no folder, as a missing file is most likely a missing table."""
    return not path.is_dir()


def read(path: Path) -> dict[str, Entry]:
    """The entries by image stem, in the order of the file.

    Raises:
        LabelsError: Unreadable, no rows, a row that is not two columns, without an image, or an image twice.
    """
    entries: dict[str, Entry] = {}
    lines: dict[str, int] = {}
    reader = csv.reader(io.StringIO(read_text(path), newline=""), skipinitialspace=True)
    try:
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            cells = [cell.strip() for cell in row]
            if not any(cells) or (not lines and tuple(cell.lower() for cell in cells) == HEADER):
                continue
            if len(cells) != 2:
                raise LabelsError(
                    f"{where}: expected 2 columns (image,labels), found {len(cells)}", "join several labels by ;"
                )
            stem = image_stem(cells[0])
            if not stem:
                raise LabelsError(f"{where}: found no image name", "the columns are image,labels")
            if stem in lines:
                raise LabelsError(
                    f'{where}: found image "{stem}" again, first in line {lines[stem]}', "join the labels in one row"
                )
            entries[stem] = Entry(tuple(name for name in map(str.strip, cells[1].split(";")) if name), where)
            lines[stem] = reader.line_num
    except csv.Error as error:
        raise LabelsError(f"{path}, line {reader.line_num}: {error}", "expected CSV: image,labels") from None
    if not entries:
        raise LabelsError(f"{path}: found no labels", "expected rows like: photo1,cat;person")
    return entries


def write_labels(path: str | os.PathLike[str], labels: Mapping[str, Iterable[int]], classes: Sequence[str]) -> None:
    """Write image-level labels (0-based indices by image stem) as `image,labels` CSV, atomically.

    Raises:
        ValueError: An image without a label, which `read_labels` would refuse.
        OutputError: The file cannot be written.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(HEADER)
    for stem, indices in labels.items():
        names = [classes[index] for index in indices]
        if not names:
            raise ValueError(f"labels of {stem}: found none, expected one or more")
        writer.writerow((stem, ";".join(names)))
    write_text(path, buffer.getvalue())
