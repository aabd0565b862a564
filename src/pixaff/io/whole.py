"""Whether an output is complete, told by its first and last bytes: an empty or truncated file is not."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import BinaryIO

from pixaff.io.regular import irregular

_PNG = (b"\x89PNG\r\n\x1a\n", b"\0\0\0\0IEND\xaeB`\x82")
_JPEG = (b"\xff\xd8\xff", b"\xff\xd9")
_NPY = (b"\x93NUMPY", b".")  # a pickle ends with STOP
_ZIP_END = 22  # bytes of the record at the end of an archive without comment


def looks_whole(path: str | os.PathLike[str]) -> bool:
    """Whether a file that pixaff writes is there and was not cut short.

    Of PNG and JPEG pictures, archives (.npz, .pt), pickled maps (.npy), .safetensors and .json by their first and
    last bytes; of other files it is enough that they are not empty. A file that was cut, emptied or never flushed
    before a power cut is not whole; one with a wrong byte in its middle looks whole.

    Args:
        path: Its suffix tells what it ought to be.
    """
    path = Path(path)
    if irregular(path):
        return False
    try:
        size = path.stat().st_size
        if not size:
            return False
        with open(path, "rb") as file:
            return _looks_whole(file, size, path.suffix.lower())
    except OSError:
        return False


def _looks_whole(file: BinaryIO, size: int, suffix: str) -> bool:
    if suffix == ".png":
        return _has_ends(file, size, *_PNG)
    if suffix in (".jpg", ".jpeg"):
        return _has_ends(file, size, *_JPEG)
    if suffix in (".npz", ".pt"):
        return _is_archive(file, size)
    if suffix == ".npy":
        return _has_ends(file, size, *_NPY)
    if suffix == ".safetensors":
        return _is_safetensors(file, size)
    if suffix == ".json":
        return _has_ends(file, size, b"", b"}") or _has_ends(file, size, b"", b"}\n")
    return True


def _has_ends(file: BinaryIO, size: int, first: bytes, last: bytes) -> bool:
    if size < len(first) + len(last):
        return False
    file.seek(0)
    if file.read(len(first)) != first:
        return False
    file.seek(size - len(last))
    return file.read() == last


def _is_archive(file: BinaryIO, size: int) -> bool:
    """The record at the end of a zip archive, whose table of contents lies just before it."""
    file.seek(0)
    if file.read(2) != b"PK" or size < _ZIP_END:
        return False
    file.seek(size - _ZIP_END)
    end = file.read()
    if end[:4] != b"PK\5\6":
        return False
    length, start = int.from_bytes(end[12:16], "little"), int.from_bytes(end[16:20], "little")
    return start == 0xFFFFFFFF or start + length <= size - _ZIP_END


def _is_safetensors(file: BinaryIO, size: int) -> bool:
    """The header tells where the last tensor ends."""
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    if not 2 <= length <= min(size - 8, 100_000_000):
        return False
    try:
        header = json.loads(file.read(length))
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        return bool(8 + length + max(ends, default=0) == size)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError):
        return False
