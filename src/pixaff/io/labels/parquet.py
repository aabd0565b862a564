"""Parquet files of Hugging Face data sets: only the labels are read, and matched by the paths of the images in them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pixaff.errors import LabelsError, PixaffError, quoted, shortened
from pixaff.io.labels.entry import Entries
from pixaff.io.labels.hugging_face import card_names, feature_names, label_keys, labels_in
from pixaff.io.labels.table import IMAGE_WORDS, words_of
from pixaff.io.labels.text import beginning
from pixaff.io.labels.wanted import Wanted
from pixaff.io.records import parse_json
from pixaff.io.regular import check_regular

NAME = "Hugging Face Parquet"
_MAGIC = b"PAR1"
_EXPECTED = "expected columns image (with the paths of the photos) and label or labels"
_ROWS = 4096
"""Read together."""


def detect(path: Path) -> bool:
    """A Parquet file, or a folder with some, directly or in its folder `data`."""
    if path.is_dir():
        return bool(_files(path))
    return beginning(path, len(_MAGIC)) == _MAGIC


def read(path: Path, wanted: Wanted | None = None) -> Entries:
    """The entries of the rows; an empty list says that the image shows no class.

    Raises:
        LabelsError: A file is damaged, lacks a column, or has images without paths.
        PixaffError: pyarrow is not installed.
    """
    entries = Entries(wanted)
    for file in _files(path) if path.is_dir() else [path]:
        check_regular(file, LabelsError)
        _take(file, entries)
    return entries


def _take(file: Path, entries: Entries) -> None:
    parquet = parquet_library()
    try:
        with parquet.ParquetFile(file) as opened:
            image, label = _columns(file, opened.schema_arrow)
            names = written_names(opened.schema_arrow, label) or card_names(file.parent, label)
            found = False
            for number, (name, value) in enumerate(_rows(opened, image, label), 1):
                where = f"{file}, row {number}"
                if not isinstance(name, str) or not name.strip():
                    entries.strays.append(f"{where}: found no path of an image")
                    continue
                found = True
                if entries.wants(name):
                    _add(entries, name, value, names, where)
            if not found and opened.metadata.num_rows:
                raise LabelsError(
                    f"{file}: found images without paths, which tell no photo from another",
                    "save the photos and a metadata.csv beside them",
                )
    except PixaffError:
        raise
    except Exception as error:  # damaged files raise OSError, ArrowInvalid, ArrowNotImplementedError, ...
        raise LabelsError(f"{file}: damaged Parquet: {shortened(error)}", "download it again") from None


def _add(entries: Entries, name: str, value: Any, names: Sequence[str] | None, where: str) -> None:
    try:
        labels = labels_in(value, names)
    except ValueError as error:
        entries.add(name, (), where, f"{where}: {error}")
    else:
        if labels is not None:
            entries.add(name, labels, where)


def _columns(file: Path, schema: Any) -> tuple[str, str]:
    """The column of the paths, as image.path where they are in a struct, and that of the labels.

    Raises:
        LabelsError: One of them is missing.
    """
    from pyarrow import types  # type: ignore[import-untyped,import-not-found,unused-ignore]

    columns = list(schema.names)
    words = words_of(columns)
    labels = label_keys(columns)
    if not labels:
        raise LabelsError(f"{file}: found no column label or labels among {shortened(', '.join(columns))}", _EXPECTED)
    for word in IMAGE_WORDS:
        if word not in words or columns[words.index(word)] in labels:
            continue
        column = columns[words.index(word)]
        kind = schema.field(column).type
        if types.is_struct(kind) and kind.get_field_index("path") >= 0:
            return f"{column}.path", labels[0]
        if types.is_string(kind) or types.is_large_string(kind):
            return column, labels[0]
    found = shortened(", ".join(f"{name} ({schema.field(name).type})" for name in columns))
    raise LabelsError(f"{file}: found no paths of images in {quoted(found)}", _EXPECTED)


def _rows(opened: Any, image: str, label: str) -> Iterator[tuple[Any, Any]]:
    column, _, inner = image.partition(".")
    inner = inner if opened.schema_arrow.get_field_index(image) < 0 else ""
    for batch in opened.iter_batches(_ROWS, columns=[image, label]):
        for row in batch.to_pylist():
            cell = row[column] if inner else row[image]
            yield (cell or {}).get(inner) if inner else cell, row[label]


def written_names(schema: Any, label: str) -> list[str] | None:
    """The names that the file itself holds, as the `datasets` library writes them."""
    data = (schema.metadata or {}).get(b"huggingface")
    if data is None:
        return None
    try:
        found = parse_json(data)
    except ValueError:
        return None
    info = found.get("info") if isinstance(found, dict) else None
    features = info.get("features") if isinstance(info, dict) else None
    return feature_names(features.get(label)) if isinstance(features, dict) else None


def _files(folder: Path) -> list[Path]:
    return [
        file
        for place in (folder, folder / "data")
        if place.is_dir()
        for file in sorted(place.glob("*.parquet"))
        if not file.name.startswith(".")
    ]


def parquet_library() -> Any:
    """pyarrow's module for Parquet.

    Raises:
        PixaffError: It is not installed.
    """
    try:
        from pyarrow import parquet  # type: ignore[import-untyped,import-not-found,unused-ignore]
    except ImportError:
        raise PixaffError("Parquet needs pyarrow, which is not installed", "pip install 'pixaff[parquet]'") from None
    return parquet
