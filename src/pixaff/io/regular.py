"""Only regular files are opened: a pipe or a device can keep a reader waiting for ever."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from pixaff.errors import PixaffError

FOLDER = "a folder"
_KINDS = {
    stat.S_IFDIR: FOLDER,
    stat.S_IFIFO: "a named pipe (FIFO)",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def irregular(path: str | os.PathLike[str]) -> str:
    """Why a path cannot be opened as a file, such as "a named pipe (FIFO)"; "" for a file or a link to one.

    "" too for what is missing altogether, or cannot be looked at: opening it says why. Nothing is opened here.
    """
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return f"a link to a file that is not there ({_target(path)})" if os.path.islink(path) else ""
    except OSError as error:
        return "a link that leads back to itself" if error.errno == errno.ELOOP else ""
    return "" if stat.S_ISREG(mode) else _KINDS.get(stat.S_IFMT(mode), "no regular file")


def check_regular(path: str | os.PathLike[str], error: type[PixaffError]) -> None:
    """Raise the given error for a folder, pipe, device or socket, and for a link that leads nowhere."""
    found = irregular(path)
    if found:
        raise error(f"{path}: found {found}, expected a file")


def _target(path: str | os.PathLike[str]) -> str:
    try:
        return str(Path(path).readlink())
    except OSError:
        return "?"
