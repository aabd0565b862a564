"""A file in memory: the content of a member of a tar, of a row of a Parquet file, or of an object in a store."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

MOST = 1 << 30
"""Bytes of a photo that are read into memory: 300 megapixels without compression take fewer."""


@dataclass(frozen=True)
class Blob(os.PathLike[str]):
    """Bytes that `pixaff.io.images` takes in place of a path.

    Attributes:
        name: What messages call it.
        data: The content.
    """

    name: str
    data: bytes = field(repr=False)

    def __fspath__(self) -> str:
        return self.name

    def __str__(self) -> str:
        return self.name
