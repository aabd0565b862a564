"""Open untrusted zip archives, whose directory must not take all memory."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager

MOST_DIRECTORY = 64 << 20
"""Bytes of an archive's directory, which is read at once: some 500,000 members."""

_TAIL = (1 << 16) + 22  # the last bytes: a record of the end, and a comment
_UNTOLD = 0xFFFF  # told in another record, of large archives


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
        # zipfile reads the directory by its length, and does not compare how many members that is.
        file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL))
        tail = file.read()
        count = int.from_bytes(tail[tail.rfind(b"PK\5\6") + 10 :][:2], "little")
        if count not in (len(archive.filelist), _UNTOLD):
            raise zipfile.BadZipFile(f"found {len(archive.filelist)} members in its directory, expected {count}")
        yield archive
