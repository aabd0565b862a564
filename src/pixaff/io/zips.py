"""Zip archives that nobody vouches for, opened without a directory that takes all memory."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager

MOST_DIRECTORY = 64 << 20
"""Bytes of an archive's directory, which is read at once: some 500,000 members."""


class _Bounded(io.FileIO):
    """A file for zipfile, which asks for as many bytes as the archive says that its directory has."""

    def read(self, size: int | None = -1, /) -> bytes:
        left = max(0, os.fstat(self.fileno()).st_size - self.tell())
        if (left if size is None or size < 0 else min(size, left)) > MOST_DIRECTORY:
            raise zipfile.BadZipFile(f"found a directory of over {MOST_DIRECTORY >> 20} MiB")
        return super().read(size) or b""


@contextmanager
def open_zip(path: str | os.PathLike[str]) -> Iterator[zipfile.ZipFile]:
    """Open an archive for reading.

    Raises:
        zipfile.BadZipFile: It is none, is damaged, or has a directory beyond all bounds.
        OSError: The file cannot be read.
    """
    with _Bounded(path) as file, zipfile.ZipFile(file) as archive:
        yield archive
