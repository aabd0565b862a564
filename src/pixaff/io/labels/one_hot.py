"""One-hot tables, as Kaggle's competitions and Roboflow have them: a row an image, a column of 0 and 1 a class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pixaff.errors import LabelsError, quoted
from pixaff.io.labels.entry import Entries
from pixaff.io.labels.table import IMAGE_WORDS, Row, first_rows, header, read_rows, words_of
from pixaff.io.labels.wanted import Wanted

NAME = "a one-hot table, a column a class"
_VALUES = {"0": False, "1": True, "0.0": False, "1.0": True, "": False, "false": False, "true": True}
_MOST_ODD = 0.1
"""Share of a column's cells that may be none of these: a few are mistakes, more are another column."""


def detect(path: Path) -> bool:
    """A table with a header, without a column of labels, and with a column of 0 and 1."""
    rows = first_rows(path)
    return len(rows) > 1 and header(rows[0][1]) is None and bool(_columns(rows)[1])


def read(path: Path, wanted: Wanted | None = None) -> Entries:
    """The entries of a table. A row that cannot be used costs its own image alone.

    Raises:
        LabelsError: Unreadable, or two columns of one name.
    """
    rows, strays = read_rows(path)
    entries = Entries(wanted, strays=strays)
    names = rows[0][1]
    image_column, columns = _columns(rows)
    first: dict[str, int] = {}
    for column in columns:
        if names[column] in first:
            raise LabelsError(
                f"{path}, line {rows[0][0]}: found the column {quoted(names[column])} twice", "rename one"
            )
        first[names[column]] = column
    for line, cells in rows[1:]:
        where = f"{path}, line {line}"
        image = cells[image_column] if image_column < len(cells) else ""
        if not image:
            entries.strays.append(f"{where}: found no image name")
        elif entries.wants(image):
            values = {column: cells[column] if column < len(cells) else "" for column in columns}
            odd = next((column for column in columns if values[column].lower() not in _VALUES), None)
            problem = "" if odd is None else f"found {quoted(values[odd])} for {quoted(names[odd])}, expected 0 or 1"
            if len(cells) <= max(columns):
                problem = problem or f"expected {max(columns) + 1} columns, as in the header, found {len(cells)}"
            shown = [] if problem else [names[column] for column in columns if _VALUES[values[column].lower()]]
            entries.add(image, shown, where, f"{where}: {problem}" if problem else "")
    return entries


def _columns(rows: Sequence[Row]) -> tuple[int, list[int]]:
    """The column of the images, and those of the classes."""
    words = words_of(rows[0][1])
    image = next((words.index(word) for word in IMAGE_WORDS if word in words), 0)
    counts = [0] * len(words)
    filled = [0] * len(words)
    for _, cells in rows[1:]:
        for column, cell in enumerate(cells[: len(words)]):
            counts[column] += cell.lower() not in _VALUES
            filled[column] += bool(cell)
    named = [column for column, word in enumerate(words) if column != image and word and word not in _VALUES]
    return image, [at for at in named if filled[at] and counts[at] <= _MOST_ODD * filled[at]]
