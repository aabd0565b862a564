"""The bytes and the text of the small files that people write."""

from __future__ import annotations

import codecs
import os
import re
from pathlib import Path

from pixaff.errors import LabelsError
from pixaff.io.regular import irregular

MAX_BYTES = 1 << 28
"""Of a label file, class list or image list: the labels of some millions of images."""

# Signs of names beside letters; of 0x80 to 0x9F, with which East Asian letters begin, only an apostrophe and oe.
_SIGNS = frozenset("\u2019\u0152\u0153\u00a0\u00a7\u00ab\u00b0\u00bb")
_WORD = re.compile(r"[^\W\d_]+")
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
    """The text of a file in UTF-8, in UTF-16 with its byte order mark, or in cp1252, as spreadsheets write it.

    Raises:
        LabelsError: It is missing, unreadable, or in another encoding, which nothing in it tells.
    """
    return decoded(path, read_bytes(path))


def decoded(path: str | os.PathLike[str], data: bytes) -> str:
    """As `read_text`, of the content of a file.

    Raises:
        LabelsError: It is in another encoding.
    """
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        if is_western(data):
            return data.decode("cp1252")
        line = data.count(b"\n", 0, error.start) + 1
        raise LabelsError(f"{path}, line {line}: not UTF-8 text (byte {error.start})", _HINT) from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise LabelsError(f"{path}, line {line}: found a NUL byte, expected UTF-8 text", _HINT)
    return text


def is_western(data: bytes) -> bool:
    """Whether bytes that are no UTF-8 read well in cp1252, the encoding of Western European spreadsheets.

    Every sign beyond ASCII is a letter or one of a few signs, and no word has more of them than ASCII letters.
    Cyrillic, Greek and East Asian encodings hardly ever look like that; those of Central Europe may.
    """
    try:
        data.decode()
    except UnicodeDecodeError:
        pass
    else:
        return False
    try:
        text = data.decode("cp1252")
    except UnicodeDecodeError:
        return False
    if "\0" in text or not all(sign.isascii() or sign in _SIGNS or "\u00c0" <= sign <= "\u00ff" for sign in set(text)):
        return False
    words = (word for word in _WORD.findall(text) if not word.isascii())
    return all(2 * len(word.encode("ascii", "ignore")) >= len(word) for word in words)


def beginning(path: Path, size: int = 1 << 16) -> bytes:
    """The first bytes of a file; none of what is no regular file or cannot be read: a pipe can be read once only."""
    if not path.is_file() or irregular(path):
        return b""
    try:
        with open(path, "rb") as stream:
            return stream.read(size)
    except OSError:
        return b""


def files_in(folder: Path, suffix: str) -> list[Path]:
    """The files of a folder with a suffix (of any case) that are not hidden, in the order of their names.

    Raises:
        LabelsError: The folder cannot be read.
    """
    try:
        return sorted(file for file in folder.iterdir() if file.suffix.lower() == suffix and file.name[0] != ".")
    except OSError as error:
        raise LabelsError(f"{folder}: cannot be read: {error.strerror}") from None


def refuse_unreadable(error: OSError) -> None:
    """For ``os.walk``, which would pass over a folder that cannot be read.

    Raises:
        LabelsError: Always.
    """
    raise LabelsError(f"{error.filename}: cannot be read: {error.strerror}")
