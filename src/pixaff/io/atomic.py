"""Writing files so that a reader sees the whole file or none, whatever ends the run; a power cut included.

A file is written under a hidden name beside its place, flushed to the disk and only then given its name, and the folder
is flushed as well, so that neither an empty nor a half file can have that name.
"""

from __future__ import annotations

import errno
import io
import itertools
import os
import platform
import re
import secrets
import shutil
import stat
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

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
    errno.ELOOP: "a part of the path is a link that leads back to itself: choose another output folder",
}
_TEMPORARY = re.compile(r"\.pixaff-([0-9a-f]{8})-(\d+)-\d+-")
_LONGEST_SUFFIX = 20  # of a temporary name, which has to be legal for every legal one
_serial = itertools.count()
_known: set[tuple[int, Path]] = set()


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path to write to; it takes the place of `path` when the block ends well.

    The temporary file lies in the same folder (a rename within one file system is atomic), is hidden and has the same
    suffix. It is flushed before it takes that place. When the block raises, Ctrl-C included, it is removed and `path`
    stays as it was. A killed process can leave the hidden file behind; the next process that writes into that folder
    removes it. Where `path` is a link, the link is replaced and what it leads to is left alone.

    The block must write with Python's own files, which raise when the disk is full. Pillow and `torch.save` do not, or
    hide the reason: see `write_bytes` and `atomic_stream`.

    Missing parent folders are made.

    Raises:
        OutputError: For every `OSError` in the block or around it, with the reason (disk full, no permission, ...); or
            the folder is reached by a link that another user put into a folder to which many may write.
    """
    target = Path(path)
    temporary: Path | None = None
    try:
        _prepare(target.parent)
        # Shortened so that the longest legal name still has a legal temporary one; and not to be foreseen, as somebody
        # else could lay a link of that name.
        suffix = target.suffix if len(target.suffix) <= _LONGEST_SUFFIX else ""
        number = f"{next(_serial)}-{secrets.token_hex(4)}"
        temporary = target.with_name(f".pixaff-{_machine()}-{os.getpid()}-{number}-{target.stem[:20]}{suffix}")
        yield temporary
        _flush(temporary)
        os.replace(temporary, target)
        with suppress(OSError):  # not every file system flushes folders, nor does Windows open them
            _flush(target.parent)
    except BaseException as error:
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise _output_error(target, error) from error
        raise


@contextmanager
def atomic_stream(path: str | os.PathLike[str]) -> Iterator[io.BufferedWriter]:
    """As `atomic_path`, yielding an open binary file; for writers that hide why they failed.

    `torch.save` ends with a RuntimeError of its own when the file that it writes to raises. The reason is kept here, so
    that it becomes the `OutputError` all the same.

    Raises:
        OutputError: For every `OSError`, whatever the block made of it.
    """
    with atomic_path(path) as temporary:
        stream = _Stream(io.FileIO(temporary, "w"))
        try:
            with stream:
                yield stream
        except Exception as error:
            if stream.failure is not None and error is not stream.failure:
                raise stream.failure from error
            raise


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write `data`, atomically.

    Raises:
        OutputError: The file cannot be written.
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` as UTF-8 with the line ends it has, atomically; names of files that are no UTF-8 keep their bytes.

    Raises:
        OutputError: The file cannot be written.
    """
    write_bytes(path, text.encode("utf-8", "surrogateescape"))


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


def scratch_folder() -> tempfile.TemporaryDirectory[str]:
    """A folder for what this process needs for a while; what killed processes of this machine left is removed."""
    for left in Path(tempfile.gettempdir()).glob(f"pixaff-{_machine()}-*-*"):
        process = left.name.split("-")[2]
        if process.isdecimal() and not _alive(int(process)):
            shutil.rmtree(left, ignore_errors=True)  # which follows no link
    return tempfile.TemporaryDirectory(prefix=f"pixaff-{_machine()}-{os.getpid()}-")


class _Stream(io.BufferedWriter):
    """A file that remembers why it could not be written."""

    failure: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            self.failure = self.failure or error
            raise


def _output_error(path: Path, error: OSError) -> OutputError:
    reason = error.strerror or str(error) or type(error).__name__
    return OutputError(f"{path}: cannot be written: {reason}", _HINTS.get(error.errno or 0, ""))


def _flush(path: Path) -> None:
    """Have a file, or the names in a folder, on the disk before this returns."""
    file = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(file)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system that cannot
            raise
    finally:
        os.close(file)


def _prepare(folder: Path) -> None:
    """Make a folder; once per process, look at the way to it and remove what dead processes left in it."""
    folder.mkdir(parents=True, exist_ok=True)
    key = (os.getpid(), folder.absolute())
    if key in _known:
        return
    _refuse_planted_links(folder.absolute())
    _sweep(folder)
    _known.add(key)


def _refuse_planted_links(folder: Path) -> None:
    """Do not write through a link that another user put into a folder that is open to many.

    This is what Linux calls protected links: the link must be this user's, root's or the folder's owner's.

    Raises:
        OutputError: There is such a link on the way to the folder.
    """
    if os.name == "nt":
        return
    for part in (folder, *folder.parents):
        found = os.lstat(part)
        if not stat.S_ISLNK(found.st_mode):
            continue
        around = os.stat(part.parent)
        open_to_many = around.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        if open_to_many and found.st_uid not in (os.geteuid(), 0, around.st_uid):
            raise OutputError(
                f"{part}: found a link to {os.readlink(part)} that another user made in a shared folder",
                "remove it, or choose another output folder",
            )


def _machine() -> str:
    """Eight hex digits for the host and its process-id space: a process id means nothing outside it."""
    space = ""
    with suppress(OSError):
        space = os.readlink("/proc/self/ns/pid")  # containers may share a host name, never this
    return f"{zlib.crc32(f'{platform.node()} {space}'.encode()):08x}"


def _sweep(folder: Path) -> None:
    """Remove what dead processes of this machine left in `folder`."""
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
