"""Arrays by name from an `.npz` archive that nobody vouches for."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pixaff.errors import FormatError

MAX_BYTES = 4 << 30


def array_names(path: str | os.PathLike[str], maker: str) -> list[str]:
    """The names of the arrays in an archive, in its order.

    Args:
        path: The archive.
        maker: The command that writes such files, for the hint when there is none.

    Raises:
        FormatError: Missing, truncated or no such archive.
    """
    with _named(path, maker), zipfile.ZipFile(path) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist()]


def read_arrays(path: str | os.PathLike[str], names: Sequence[str], expected: str, maker: str) -> list[NDArray[Any]]:
    """Arrays of an archive, in the order of their names; others in it are passed over, and nothing is ever unpickled.

    Args:
        path: The archive.
        names: Of the arrays.
        expected: What such a file holds, for the hint of an error.
        maker: The command that writes such files, for the hint when there is none.

    Raises:
        FormatError: Missing, truncated, no such archive, too large, or an array that is absent or damaged.
    """
    with _named(path, maker):
        with zipfile.ZipFile(path) as archive:
            members = {member.filename: member.file_size for member in archive.infolist()}
        missing = [name for name in names if f"{name}.npy" not in members]
        if missing:
            found = ", ".join(name.removesuffix(".npy") for name in list(members)[:8]) or "nothing"
            raise FormatError(f"{path}: found {found}, {' and '.join(missing)} missing", expected)
        if sum(members[f"{name}.npy"] for name in names) > MAX_BYTES:
            raise FormatError(f"{path}: found over {MAX_BYTES >> 30} GiB of arrays", expected)
        with np.load(path, allow_pickle=False) as archive:
            arrays = [archive[name] for name in names]
        for name, array in zip(names, arrays, strict=True):
            if not isinstance(array, np.ndarray):  # the raw bytes of a member that is no array
                raise FormatError(f"{path}: {name}: found no array", expected)
        return arrays


@contextmanager
def _named(path: str | os.PathLike[str], maker: str) -> Iterator[None]:
    """What goes wrong in the block becomes a `FormatError` that names the file."""
    try:
        yield
    except FormatError:
        raise
    except FileNotFoundError:
        raise FormatError(f"{path}: no such file", f"check the path, or run {maker} first") from None
    except (IsADirectoryError, PermissionError) as error:
        raise FormatError(f"{path}: cannot be read: {error.strerror}") from None
    except zipfile.BadZipFile:
        raise FormatError(f"{path}: damaged, or no .npz or .npy file", "write it again, or remove it") from None
    # Arrays with damaged headers or compressed data: ValueError, zlib.error, EOFError, SyntaxError, MemoryError, ...
    except Exception as error:
        raise FormatError(f"{path}: damaged: {error or type(error).__name__}", "write it again, or remove it") from None
