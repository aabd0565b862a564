"""Hugging Face `datasets`: Parquet files of photos and masks, which `load_dataset` reads and the Hub shows."""

from __future__ import annotations

import importlib.util
import json
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from pixaff.errors import UsageError
from pixaff.io.atomic import atomic_stream, write_text
from pixaff.io.exports.base import Item, Writer
from pixaff.io.exports.index import grey_png
from pixaff.io.exports.photos import photo_bytes

ROWS = 64
"""Photos in a row group, which are in memory together."""
_COLUMNS = ("image", "label")
_FEATURES = {"info": {"features": {column: {"_type": "Image"} for column in _COLUMNS}}}


class HuggingFace(Writer):
    """``data/PART-00000-of-00001.parquet`` with columns ``image`` and ``label``, and ``id2label.json``."""

    name = "hf"
    needs_photos = True
    splits = True

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        if importlib.util.find_spec("pyarrow") is None:
            hint = "pip install 'pixaff[parquet]', or --to imagefolder"
            raise UsageError("--to hf writes Parquet, which needs pyarrow: not installed", hint)
        self.rows: dict[str, list[dict[str, Any]]] = {part: [] for part in self.parts}
        self._open = ExitStack()
        self._writers: dict[str, Any] = {}

    def shared(self) -> tuple[Path, ...]:
        files = (self.out / "data" / f"{part}-00000-of-00001.parquet" for part in self.parts)
        return (*files, self.out / "id2label.json")

    def __enter__(self) -> HuggingFace:
        import pyarrow as pa  # type: ignore[import-untyped,import-not-found,unused-ignore]
        from pyarrow.parquet import ParquetWriter  # type: ignore[import-untyped,import-not-found,unused-ignore]

        picture = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        # Where `datasets` looks for the kinds of the columns.
        schema = pa.schema([(column, picture) for column in _COLUMNS], {"huggingface": json.dumps(_FEATURES)})
        for part, path in zip(self.parts, self.shared()[:-1], strict=True):
            stream = self._open.enter_context(atomic_stream(path))
            self._writers[part] = self._open.enter_context(ParquetWriter(stream, schema))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._open.__exit__(kind, error, trace)
            return
        with self._open:
            for part in self.parts:
                self._flush(part)
        names = {str(value): name for value, name in enumerate(("background", *self.classes))}
        write_text(self.shared()[-1], json.dumps(names, indent=2, ensure_ascii=False) + "\n")

    def convert(self, item: Item) -> Any:
        assert item.photo is not None
        pictures = ((f"{item.name}.jpg", photo_bytes(item.photo)), (f"{item.name}.png", grey_png(item.mask)))
        return {column: {"bytes": data, "path": path} for column, (path, data) in zip(_COLUMNS, pictures, strict=True)}

    def add(self, name: str, made: Any) -> None:
        part = self.part_of(name)
        self.rows[part].append(made)
        if len(self.rows[part]) >= ROWS:
            self._flush(part)

    def _flush(self, part: str) -> None:
        import pyarrow as pa

        rows, self.rows[part] = self.rows[part], []
        if rows:
            writer = self._writers[part]
            writer.write_table(pa.Table.from_pylist(rows, schema=writer.schema))
