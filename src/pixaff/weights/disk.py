"""Room on the disk, sizes in words, and hashes of files."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path
from typing import IO

from pixaff.errors import OutputError
from pixaff.io.atomic import output_errors

SPARE = 64 << 20
"""Bytes that a download leaves free."""


def ensure_space(folder: Path, needed: int) -> None:
    """Whether so many bytes still fit.

    Raises:
        OutputError: They do not; names both numbers.
    """
    free = shutil.disk_usage(folder).free
    if needed + SPARE > free:
        raise OutputError(
            f"{folder}: {size_words(free)} are free, {size_words(needed + SPARE)} are needed",
            "free some space, or choose another cache: --cache-dir or PIXAFF_CACHE",
        )


def writable(path: Path, mode: str) -> IO[bytes]:
    """Open a file for writing ("wb", "ab"), but not through a link: others may plant one in a shared cache."""

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)

    return open(path, mode, opener=opener)


def remove(path: Path) -> None:
    """Remove a file or a folder; of a link, the link alone."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def bytes_in(path: Path) -> int:
    """Bytes of a file, or of the files in a folder; what links lead to does not count."""
    if path.is_symlink():
        return 0
    found = [path, *path.rglob("*")] if path.is_dir() else [path]
    return sum(each.stat().st_size for each in found if each.is_file() and not each.is_symlink())


def size_words(size: int | None) -> str:
    """A number of bytes for people: "812 bytes", "4.2 MB"."""
    if size is None:
        return "unknown size"
    if size < 1000:
        return f"{size} bytes"
    units = ("kB", "MB", "GB", "TB")
    power = next((power for power in (1, 2, 3) if size < 999.95 * 1000**power), 4)
    return f"{size / 1000**power:.1f} {units[power - 1]}"


def digest(path: Path) -> tuple[str, int]:
    """SHA-256, as hex digits, and size in bytes of a file.

    Raises:
        OutputError: It cannot be read.
    """
    hasher, size = hashlib.sha256(), 0
    with output_errors(path), open(path, "rb") as file:
        while piece := file.read(1 << 20):
            hasher.update(piece)
            size += len(piece)
    return hasher.hexdigest(), size
