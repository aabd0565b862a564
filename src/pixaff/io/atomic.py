"""Writing files so that a reader sees the whole file or none, whatever ends the run."""

from __future__ import annotations

import errno
import itertools
import os
import platform
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pixaff.errors import OutputError

_HINTS = {
    errno.ENOSPC: "free some space or write to another disk, then run again: finished files are kept",
    errno.EDQUOT: "your disk quota is used up: free some space, then run again: finished files are kept",
    errno.EFBIG: "the file system or a process limit (ulimit -f) forbids so large a file",
    errno.EACCES: "choose an output folder that you may write to",
    errno.EPERM: "choose an output folder that you may write to",
    errno.EROFS: "the disk is read-only: choose another output folder",
    errno.ENAMETOOLONG: "shorten the file name",
    errno.ENOTDIR: "a part of the path is a file: choose another output folder",
    errno.EEXIST: "a part of the path is a file: choose another output folder",
    errno.EISDIR: "a folder of that name is in the way: remove it or choose another output",
}
_TEMPORARY = re.compile(r"\.pixaff-([0-9a-f]{8})-(\d+)-\d+-")
_serial = itertools.count()
_swept: set[tuple[int, Path]] = set()


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path to write to; it takes the place of `path` when the block ends well.

    The temporary file lies in the same folder (a rename within one file system is atomic), is hidden and has the same
    suffix. When the block raises, Ctrl-C included, it is removed and `path` stays as it was. A killed process can
    leave the hidden file behind; the next process that writes into that folder removes it.

    Missing parent folders are made.

    Raises:
        OutputError: For every `OSError` in the block or around it, with the reason (disk full, no permission, ...).
    """
    target = Path(path)
    temporary: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _sweep(target.parent)
        # Shortened so that the longest legal name still has a legal temporary one.
        temporary = target.with_name(
            f".pixaff-{_machine()}-{os.getpid()}-{next(_serial)}-{target.stem[:30]}{target.suffix}"
        )
        yield temporary
        os.replace(temporary, target)
    except BaseException as error:
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise _output_error(target, error) from error
        raise


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` as UTF-8 with the line ends it has, atomically.

    Raises:
        OutputError: The file cannot be written.
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(text.encode("utf-8"))


@contextmanager
def output_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn every `OSError` of the block into an `OutputError` that names `path`, for files that are not atomic.

    Raises:
        OutputError: With the reason (disk full, no permission, ...).
    """
    try:
        yield
    except OSError as error:
        raise _output_error(Path(path), error) from error


def _output_error(path: Path, error: OSError) -> OutputError:
    reason = error.strerror or str(error) or type(error).__name__
    return OutputError(f"{path}: cannot be written: {reason}", _HINTS.get(error.errno or 0, ""))


def _machine() -> str:
    """Eight hex digits for the host and its process-id space: a process id means nothing outside it."""
    space = ""
    with suppress(OSError):
        space = os.readlink("/proc/self/ns/pid")  # containers may share a host name, never this
    return f"{zlib.crc32(f'{platform.node()} {space}'.encode()):08x}"


def _sweep(folder: Path) -> None:
    """Remove what dead processes of this machine left in `folder`; once per process and folder, as it lists it."""
    key = (os.getpid(), folder.absolute())
    if key in _swept:
        return
    _swept.add(key)
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            match = _TEMPORARY.match(entry.name)
            if match and match[1] == _machine() and not _alive(int(match[2])):
                with suppress(OSError):
                    os.unlink(entry.path)


def _alive(process: int) -> bool:
    if os.name == "nt":
        return True  # signal 0 would interrupt the process there; leave its files alone
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True
