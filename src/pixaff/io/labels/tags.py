"""Tables with a row a tag, and so several rows an image, as Open Images and detection data sets have them.

What tells them from a table with a row an image is the header: `image,label`, not `image,labels`.
"""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path

from pixaff.io.labels import table
from pixaff.io.labels.entry import Entries
from pixaff.io.labels.table import first_rows, header, read_rows, words_of
from pixaff.io.labels.wanted import Wanted

NAME = "a table, a row a tag"
_SINGULAR = frozenset(("label", "tag", "class", "category", "label name", "class name", "category name", "labelname"))


def detect(path: Path) -> bool:
    """A table whose header says `label`, and in which an image or a line of labels does not show that it is another."""
    rows = first_rows(path)
    columns = header(rows[0][1]) if len(rows) > 1 else None
    if columns is None or words_of(rows[0][1])[columns[1]] not in _SINGULAR:
        return False
    return not any(len(cells) > columns[1] and ";" in cells[columns[1]] for _, cells in rows[1:])


def read(path: Path, wanted: Wanted | None = None) -> Entries:
    """The entries of a table: each image with the labels of all its rows; an empty label adds none.

    Rows with a confidence of 0, by which Open Images says what an image does not show, add none either.

    Raises:
        LabelsError: Unreadable, or no rows below the header.
    """
    rows, strays = read_rows(path)
    columns = header(rows[0][1])
    if columns is None or any(len(cells) > columns[1] and ";" in cells[columns[1]] for _, cells in rows[1:]):
        return table.read(path, wanted)
    entries = Entries(wanted, strays=strays)
    image_column, label_column = columns
    words = words_of(rows[0][1])
    confidence = words.index("confidence") if "confidence" in words else len(words)
    found: dict[Hashable, tuple[str, str, dict[str, None]]] = {}
    for line, cells in rows[1:]:
        where = f"{path}, line {line}"
        image = cells[image_column] if image_column < len(cells) else ""
        if not image or "\n" in image:
            entries.strays.append(f"{where}: found no image name")
        elif entries.wants(image):
            *_, labels = found.setdefault(entries.same(image), (image, where, {}))
            label = cells[label_column] if label_column < len(cells) else ""
            if len(cells) <= max(columns):
                problem = f"{where}: expected {max(columns) + 1} columns, as in the header, found {len(cells)}"
                entries.add(image, (), where, problem)
            elif "\n" in label:
                entries.add(image, (), where, f"{where}: found a line break in a label")
            elif label and cells[confidence : confidence + 1] not in (["0"], ["0.0"]):
                labels[label] = None
    for image, where, labels in found.values():
        entries.add(image, labels, where)
    return entries
