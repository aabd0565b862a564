"""Errors that a person can act on: one line that says what was found, and a hint that says what to do.

Every error that pixaff raises on purpose, for bad input, a full disk and so on, is a `PixaffError`. The command line
prints ``str(error)`` and exits with ``error.exit_code``; a batch prints it and continues with the next image. Mistakes
of the calling code (a tensor of the wrong shape) are plain `ValueError`.
"""

from __future__ import annotations

from collections.abc import Iterable

QUOTED = 80
"""Number of characters of foreign text that a message shows."""


def shortened(text: object, limit: int = QUOTED) -> str:
    """Foreign text for a message: control characters are escaped, and the middle of long text is left out.

    Args:
        text: A name, a cell, a path: whatever somebody else wrote.
        limit: Characters to keep, before escaping.
    """
    words = str(text)
    if len(words) > limit:
        tail = limit // 4
        words = f"{words[: limit - tail - 3]}...{words[-tail:]}"
    return _printable(words)


def quoted(text: object, limit: int = QUOTED) -> str:
    """As `shortened`, in double quotes."""
    return f'"{shortened(text, limit)}"'


def counted(number: int, noun: str, plural: str = "") -> str:
    """A number and what it counts: "1 image", "2,000 images"; `plural` if it is not made with an s."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def first_few(words: Iterable[object], most: int = 3) -> str:
    """Words for a message, each as `shortened`, "a, b, c, ..." if there are more than `most`."""
    every = list(words)
    return ", ".join(map(shortened, every[:most])) + (", ..." if len(every) > most else "")


def _printable(text: str) -> str:
    if text.isprintable():
        return text
    # Lone surrogates too: they stand for bytes of a file name that are no UTF-8, and cannot be printed.
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


class PixaffError(Exception):
    """Something outside the program is wrong.

    Args:
        message: What was found, against what was expected, with the file's name. White space is folded to one line
            and control characters are escaped, because messages may quote file names and what another library said.
        hint: What to do about it; may be empty.

    Attributes:
        message: The message on one line.
        hint: The hint on one line.
        exit_code: Status with which the command line ends.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        self.message = _printable(" ".join(message.split()))
        self.hint = _printable(" ".join(hint.split()))
        # Both go into args, so that the error survives pickling between worker processes.
        super().__init__(self.message, self.hint)

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class UsageError(PixaffError):
    """The command or call cannot be carried out as given: contradictory options, or no input."""

    exit_code = 2


class ImageError(PixaffError):
    """A photo is missing, damaged, animated, too large, or not an image."""


class LabelsError(PixaffError):
    """A classes file, label file, VOC XML folder or image list is wrong."""


class FormatError(PixaffError):
    """A CAM, mask or score file does not contain what it should."""


class CheckpointError(PixaffError):
    """Network weights or training state cannot be read safely, or do not fit."""


class TrainingError(PixaffError):
    """A training cannot begin, continue or be resumed."""


class OutputError(PixaffError):
    """A result cannot be written: disk full, no permission."""


class DownloadError(PixaffError):
    """Published weights cannot be downloaded, or the download is not what it should be."""


class DeviceError(PixaffError):
    """The requested device does not exist or ran out of memory."""
