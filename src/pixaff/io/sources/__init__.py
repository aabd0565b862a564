"""Where the photos of a run come from: files, objects in a store, members of tar files, rows of Parquet files.

A `Source` gives a photo's content, what tells it from another version of it, and the labels beside it. The photo itself
is a `Path`, of which only the source knows whether there is a file.

A shard format is a module with ``SUFFIX``, ``read(file, shown, scratch)``, which gives a `Packed`, and ``write(path,
photos)``, which packs outputs. `FORMATS` lists them.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from pixaff.io.sources import parquet, tar
from pixaff.io.sources.base import INSIDE, Source
from pixaff.io.sources.packed import Output, Packed
from pixaff.io.sources.remote import Remote

__all__ = ["FORMATS", "INSIDE", "Output", "Packed", "Remote", "ShardFormat", "Source", "format_of"]


class ShardFormat(Protocol):
    """What the module of a shard format offers."""

    SUFFIX: str

    def read(self, file: Path, shown: str, scratch: Path) -> Packed: ...

    def write(self, path: Path, photos: Iterable[Output], packed: Packed) -> None: ...


FORMATS: tuple[ShardFormat, ...] = (tar, parquet)


def format_of(name: str) -> ShardFormat | None:
    """The format of a shard, by its name; None for other files."""
    return next((kind for kind in FORMATS if name.lower().endswith(kind.SUFFIX)), None)
