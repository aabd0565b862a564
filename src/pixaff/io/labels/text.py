"""The bytes and the text of the small files that people write."""

from __future__ import annotations

import codecs
import os
from pathlib import Path

from pixaff.errors import LabelsError

MAX_BYTES = 1 << 28
"""Of a label file, class list or image list: the labels of some millions of images."""

_HINT = 'save it as UTF-8 (spreadsheets: "CSV UTF-8"), or convert it, e.g. iconv -f cp1252 -t utf-8'


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """The content of a file.

    Raises:
        LabelsError: It is missing, unreadable or larger than 256 MiB.
    """
    try:
        with open(path, "rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise LabelsError(f"{path}: no such file", "check the path") from None
    except OSError as error:
        raise LabelsError(f"{path}: cannot be read: {error.strerror}") from None
    if len(data) > MAX_BYTES:
        raise LabelsError(f"{path}: found over {MAX_BYTES >> 20} MiB, expected a small text file", "check the path")
    return data


def read_text(path: str | os.PathLike[str]) -> str:
    """The text of a file in UTF-8, or in UTF-16 with its byte order mark, as spreadsheets write it.

    Raises:
        LabelsError: It is missing, unreadable, or in another encoding, which nothing in it tells.
    """
    data = read_bytes(path)
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise LabelsError(f"{path}, line {line}: not UTF-8 text (byte {error.start})", _HINT) from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise LabelsError(f"{path}, line {line}: found a NUL byte, expected UTF-8 text", _HINT)
    return text


def files_in(folder: Path, suffix: str) -> list[Path]:
    """The files of a folder with a suffix (of any case) that are not hidden, in the order of their names.

    Raises:
        LabelsError: The folder cannot be read.
    """
    try:
        return sorted(file for file in folder.iterdir() if file.suffix.lower() == suffix and file.name[0] != ".")
    except OSError as error:
        raise LabelsError(f"{folder}: cannot be read: {error.strerror}") from None
