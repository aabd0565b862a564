"""Room on the disk, hashes, and the unfinished file of a download."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from pixaff.errors import OutputError
from pixaff.io.atomic import output_errors, write_text

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


class Partial:
    """The unfinished file of a download, and beside it a note of what it is a part of.

    Args:
        folder: Where both lie, under hidden names.
        file: Name that the file is to get.
        origin: Where the file comes from. It is hashed, as addresses may hold secrets.
    """

    def __init__(self, folder: Path, file: str, origin: str) -> None:
        self.path, self.note = folder / f".{file}.part", folder / f".{file}.part.json"
        self.origin = hashlib.sha256(origin.encode()).hexdigest()

    def state(self) -> tuple[int, str, int | None]:
        """Bytes to go on from, the server's validator, and the bytes in all; (0, "", None) where it must begin anew."""
        try:
            note = json.loads(self.note.read_text(encoding="utf-8"))
            total = note["total"]
            if note["origin"] == self.origin and note["validator"] and isinstance(total, int | None):
                return self.path.stat().st_size, str(note["validator"]), total
        except (OSError, ValueError, KeyError, TypeError):
            pass
        return 0, "", None

    def begin(self, validator: str, total: int | None) -> None:
        """Empty the file, then note what it is going to be: in this order, no note ever speaks of older bytes."""
        with output_errors(self.path), open(self.path, "wb"):
            pass
        write_text(self.note, json.dumps({"origin": self.origin, "validator": validator, "total": total}))

    @contextlib.contextmanager
    def append(self) -> Iterator[Callable[[bytes], object]]:
        """Yields the function that adds bytes."""
        with output_errors(self.path), open(self.path, "ab") as file:
            yield file.write

    def discard(self) -> None:
        """Forget it."""
        for path in (self.path, self.note):
            path.unlink(missing_ok=True)
