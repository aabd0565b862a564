"""The bytes and the text of the small files that people write."""

from __future__ import annotations

import os
from pathlib import Path

from pixaff.errors import LabelsError


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """The content of a file.

    Raises:
        LabelsError: It is missing or unreadable.
    """
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise LabelsError(f"{path}: no such file", "check the path") from None
    except OSError as error:
        raise LabelsError(f"{path}: cannot be read: {error.strerror}") from None


def read_text(path: str | os.PathLike[str]) -> str:
    """The text of a UTF-8 file, without its byte order mark.

    Raises:
        LabelsError: It is missing, unreadable or not UTF-8.
    """
    try:
        return read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise LabelsError(f"{path}: not UTF-8 text (byte {error.start})", "save the file as UTF-8 text") from None
