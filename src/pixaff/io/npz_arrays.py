"""Arrays by name from an untrusted `.npz` archive: bounds are checked before memory is allocated."""

from __future__ import annotations

import math
import os
import struct
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from pixaff.errors import FormatError
from pixaff.io.regular import check_regular

MAX_BYTES = 1 << 30
"""Of the numbers of one file, in memory."""
FREE_BYTES = 64 << 20
RATIO = 100
"""A file may unpack to so many times its length, and to `FREE_BYTES` in any case. Maps unpack to some 2 to 20 times."""
_MEMBERS = 100
_LONGEST_DIRECTORY = 1 << 20  # bytes of an archive's table of contents, which takes longer to read than its arrays
_END = struct.Struct("<4s4H2LH")  # the record at the end: ..., length of the table of contents, its place, of a comment
_DAMAGED = "write it again, or remove it"


@dataclass(frozen=True)
class Header:
    """What an archive says of one array.

    Attributes:
        shape: Its shape.
        dtype: Its type.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def bytes(self) -> int:
        """What it takes in memory, numbers of less than 32 bits made as wide."""
        return math.prod(self.shape) * max(self.dtype.itemsize, 4)


def array_headers(path: str | os.PathLike[str], maker: str) -> dict[str, Header]:
    """The arrays in an archive, in its order; no numbers are read.

    Args:
        path: The archive.
        maker: The command that writes such files, for the hint when there is none.

    Raises:
        FormatError: Missing, truncated or no such archive.
    """
    with _opened(path, maker) as archive:
        return _headers(archive)


def read_arrays(path: str | os.PathLike[str], names: Sequence[str], expected: str, maker: str) -> list[NDArray[Any]]:
    """Arrays of an archive, in the order of their names; other arrays are ignored, and nothing is ever unpickled.

    Args:
        path: The archive.
        names: Of the arrays.
        expected: What such a file holds, for the hint of an error.
        maker: The command that writes such files, for the hint when there is none.

    Raises:
        FormatError: Missing, truncated, no such archive, larger than `check_room` allows, or an array that is absent
            or damaged.
    """
    with _opened(path, maker) as archive:
        headers = _headers(archive)
        missing = [name for name in names if name not in headers]
        if missing:
            found = ", ".join(ascii(name)[1:-1][:40] for name in list(headers)[:8]) or "nothing"
            raise FormatError(f"{path}: found {found}, {' and '.join(missing)} missing", expected)
        try:
            check_room(sum(headers[name].bytes for name in names), os.path.getsize(path))
        except ValueError as error:
            raise FormatError(f"{path}: {error}", expected) from None
        return [_array(archive, name, headers[name]) for name in names]


def check_room(needed: int, file_bytes: int) -> None:
    """Refuse numbers that would take much more memory than files of such a length have a reason to.

    Args:
        needed: Bytes in memory.
        file_bytes: Length of the file.

    Raises:
        ValueError: Found against expected.
    """
    if needed > MAX_BYTES:
        raise ValueError(f"found {_size(needed)} of numbers, expected at most {_size(MAX_BYTES)}")
    if needed > FREE_BYTES + RATIO * file_bytes:
        raise ValueError(f"found {_size(needed)} of numbers in a file of {_size(file_bytes)}")


@contextmanager
def _opened(path: str | os.PathLike[str], maker: str) -> Iterator[zipfile.ZipFile]:
    """The archive; what goes wrong in the block becomes a `FormatError` that names the file."""
    try:
        check_regular(path, FormatError)
        _check_directory(path)
        with zipfile.ZipFile(path) as archive:
            yield archive
    except FormatError:
        raise
    except FileNotFoundError:
        raise FormatError(f"{path}: no such file", f"check the path, or run {maker} first") from None
    except PermissionError as error:
        raise FormatError(f"{path}: cannot be read: {error.strerror}") from None
    except zipfile.BadZipFile:
        raise FormatError(f"{path}: damaged, or no .npz or .npy file", _DAMAGED) from None
    except MemoryError:
        raise FormatError(f"{path}: not enough memory to read it", "use fewer workers") from None
    # Arrays with damaged headers or compressed data: ValueError, zlib.error, EOFError, SyntaxError, ...
    except Exception as error:
        raise FormatError(f"{path}: damaged: {str(error)[:80] or type(error).__name__}", _DAMAGED) from None


def _check_directory(path: str | os.PathLike[str]) -> None:
    """Refuse an archive of very many members before they are listed.

    Raises:
        ValueError: There are.
    """
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(-min(size, _END.size + 0xFFFF), os.SEEK_END)
        tail = file.read()
    # As Python's zipfile looks for it: without a comment, else wherever it is last.
    place = len(tail) - _END.size
    if not (tail[max(place, 0) :].startswith(b"PK\5\6") and tail.endswith(b"\0\0")):
        place = tail.rfind(b"PK\5\6")
    if 0 <= place <= len(tail) - _END.size and _END.unpack_from(tail, place)[5] > _LONGEST_DIRECTORY:
        raise ValueError("an archive of too many members")


def _headers(archive: zipfile.ZipFile) -> dict[str, Header]:
    members = [name for name in archive.namelist()[:_MEMBERS] if name.endswith(".npy")]
    headers = {}
    for member in members:
        with archive.open(member) as stream:
            headers[member.removesuffix(".npy")] = _header(stream)
    return headers


def _header(stream: IO[bytes]) -> Header:
    version = np.lib.format.read_magic(stream)
    # Version 3 differs from 2 in the names of fields, which no array of ours has.
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(stream)
    return Header(shape, dtype)


def _array(archive: zipfile.ZipFile, name: str, header: Header) -> NDArray[Any]:
    member = archive.getinfo(f"{name}.npy")
    if math.prod(header.shape) * header.dtype.itemsize > member.file_size:
        raise ValueError(f"{name}: claims {header.dtype} {header.shape}, and holds {member.file_size} bytes")
    with archive.open(member) as stream:
        array: NDArray[Any] = np.lib.format.read_array(stream, allow_pickle=False)
        if stream.read(1):  # at the end the checksum is compared
            raise ValueError(f"{name}: more than the array")
    return array


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
