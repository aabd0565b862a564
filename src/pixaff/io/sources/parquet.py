"""Shards of Parquet: a column with the bytes of photos, plain or as Hugging Face's struct of bytes and path."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pixaff.errors import ImageError, PixaffError, shortened
from pixaff.io.images import IMAGE_SUFFIXES
from pixaff.io.labels.hugging_face import label_keys
from pixaff.io.labels.parquet import parquet_library, written_names
from pixaff.io.labels.table import IMAGE_WORDS, words_of
from pixaff.io.sources.packed import Output, Packed, safe_name

SUFFIX = ".parquet"
_ROWS = 16
"""Read and written together: each may hold a huge photo."""
_NAMES = ("file name", "filename", "image id", "id", "key", "name", "path")
"""Columns that name the photos, where the struct does not."""
_BEGINNINGS = {b"\xff\xd8\xff": ".jpg", b"\x89PNG": ".png", b"RIFF": ".webp"}
_EXPECTED = "expected a column image with the bytes of photos, or Hugging Face's struct of bytes and path"


def read(file: Path, shown: str, scratch: Path) -> Packed:
    """Copy the photos of a file into a scratch file, uncompressed, and gather names and labels.

    A photo is called by its path in the struct, or by a column such as ``file_name`` or ``id``, or by the number of its
    row. If several have one name, all but the first get the number of their row as well.

    Raises:
        ImageError: Damaged, or without a column of photos.
        PixaffError: pyarrow is not installed.
    """
    library = parquet_library()
    packed = Packed(scratch / "photos", shown)
    try:
        with library.ParquetFile(file, pre_buffer=False, buffer_size=1 << 20) as opened:
            image, naming, label = _columns(shown, opened.schema_arrow)
            if label is not None:
                packed.names = written_names(opened.schema_arrow, label)
            stems: set[str] = set()
            with open(packed.file, "wb") as out:
                for row, (cell, name, value) in enumerate(_rows(opened, image, naming, label)):
                    data = cell.get("bytes") if isinstance(cell, dict) else cell
                    raw = (cell.get("path") if isinstance(cell, dict) else None) or name
                    called = _name(raw, data, row, stems)
                    packed.rows[called] = row
                    if not isinstance(data, bytes):
                        packed.problems[called] = (
                            f"{shown}/{called}: found no bytes in row {row}, only a path or nothing"
                        )
                        continue
                    packed.members[called] = out.tell(), len(data)
                    out.write(data)
                    if label is not None:
                        packed.values[os.path.splitext(called)[0]] = value, f"{shown}, row {row}"
    except PixaffError:
        raise
    except OSError as error:
        if error.errno is not None:  # of the scratch file: a full disk is not the shard's fault
            raise
        raise _damaged(shown, error) from None
    except Exception as error:  # ArrowInvalid, ArrowNotImplementedError, ...
        raise _damaged(shown, error) from None
    return packed


def write(path: Path, photos: Iterable[Output], packed: Packed) -> None:
    """Pack outputs, one row a photo: image, row, classes, shares, and each output as bytes and path.

    The ``datasets`` library reads the masks as images.
    """
    import pyarrow as pa  # type: ignore[import-untyped,import-not-found,unused-ignore]

    library = parquet_library()
    writer: Any = None
    rows: list[dict[str, Any]] = []
    file = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns: dict[str, Any] = {
        "image": pa.string(),
        "row": pa.int64(),
        "classes": pa.list_(pa.string()),
        "shares": pa.list_(pa.float32()),
    }

    def flush() -> None:
        nonlocal writer
        if writer is None:
            files = [name for row in rows[:1] for name in row if name not in columns] or ["mask"]
            features = {name: {"_type": "Image"} for name in files if name in ("mask", "overlays_jpg")}
            schema = pa.schema({**columns, **dict.fromkeys(files, file)}, metadata=_metadata(features, files))
            writer = library.ParquetWriter(path, schema, compression="none", write_page_index=False)
        writer.write_table(pa.Table.from_pylist(rows, schema=writer.schema))
        rows.clear()

    for photo in photos:
        classes, shares = photo.facts.get("classes") or (), photo.facts.get("shares") or {}
        rows.append(
            {
                "image": photo.name,
                "row": packed.rows.get(photo.name, -1),
                "classes": list(classes),
                "shares": [float(shares.get(name, 0)) for name in classes],
                **{_column(name): {"bytes": each.read_bytes(), "path": name} for name, each in photo.files.items()},
            }
        )
        if len(rows) == _ROWS:
            flush()
    flush()
    assert writer is not None
    writer.close()


def _metadata(images: dict[str, Any], files: list[str]) -> dict[str, str]:
    """The description of the columns that the ``datasets`` library looks for."""
    import json

    text, number = {"dtype": "string", "_type": "Value"}, {"dtype": "int64", "_type": "Value"}
    share = {"dtype": "float32", "_type": "Value"}
    plain = {"bytes": {"dtype": "binary", "_type": "Value"}, "path": text}
    features = {
        "image": text,
        "row": number,
        "classes": {"feature": text, "_type": "List"},
        "shares": {"feature": share, "_type": "List"},
        **{name: images.get(name, plain) for name in files},
    }
    return {"huggingface": json.dumps({"info": {"features": features}})}


def _column(name: str) -> str:
    """The column of an output: "mask" for lawn.png, "cams" for lawn.npz, "scores_npz" for scores/lawn.npz."""
    folder, slash, _ = name.partition("/")
    suffix = os.path.splitext(name)[1][1:]
    known = ("overlays", "scores", "instances")
    return f"{folder}_{suffix}" if slash and folder in known else "mask" if suffix == "png" else "cams"


def _damaged(shown: str, error: Exception) -> ImageError:
    return ImageError(f"{shown}: damaged Parquet: {shortened(error)}", "copy or download it again")


def _columns(shown: str, schema: Any) -> tuple[str, str | None, str | None]:
    """The columns of the photos, of their names and of their labels.

    Raises:
        ImageError: There are no photos.
    """
    from pyarrow import types  # type: ignore[import-untyped,import-not-found,unused-ignore]

    columns = list(schema.names)
    words = words_of(columns)
    found = [columns[words.index(word)] for word in IMAGE_WORDS if word in words]
    image = next((name for name in found if _holds_bytes(schema.field(name).type)), None)
    if image is None:
        kinds = ", ".join(f"{name} ({schema.field(name).type})" for name in columns)
        raise ImageError(f"{shown}: found no photos among {shortened(kinds)}", _EXPECTED)
    texts = (types.is_string, types.is_large_string, types.is_integer)
    named = [columns[words.index(word)] for word in _NAMES if word in words]
    naming = next((name for name in named if any(fits(schema.field(name).type) for fits in texts)), None)
    labels = [name for name in label_keys(columns) if name != image]
    return image, naming, labels[0] if labels else None


def _holds_bytes(kind: Any) -> bool:
    from pyarrow import types  # type: ignore[import-untyped,import-not-found,unused-ignore]

    if types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _holds_bytes(kind.field("bytes").type)
    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def _rows(opened: Any, image: str, naming: str | None, label: str | None) -> Iterator[tuple[Any, Any, Any]]:
    columns = [name for name in dict.fromkeys((image, naming, label)) if name is not None]
    for batch in opened.iter_batches(_ROWS, columns=columns):
        for row in batch.to_pylist():
            yield row[image], row.get(naming), row.get(label)


def _name(raw: Any, data: Any, row: int, stems: set[str]) -> str:
    """What a row is called: a legal path with a suffix, whose stem no other row has."""
    text = "" if raw is None else str(raw).replace("\\", "/")
    if text.startswith("/") or ".." in text.split("/") or ":" in text:  # where somebody's disk had it
        text = text.rsplit("/", 1)[-1].rsplit(":", 1)[-1]
    try:
        name = safe_name(text)
    except ValueError:
        name = f"row-{row:06}"
    stem, suffix = os.path.splitext(name)
    if suffix.lower() not in IMAGE_SUFFIXES:
        head = data[:4] if isinstance(data, bytes) else b""
        stem, suffix = name, next((end for start, end in _BEGINNINGS.items() if head.startswith(start)), ".image")
    if stem in stems:
        stem = f"{stem}-row-{row:06}"
    stems.add(stem)
    return stem + suffix
