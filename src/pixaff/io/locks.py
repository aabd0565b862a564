"""One process at a time in a folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import filelock

from pixaff.errors import UsageError
from pixaff.io.atomic import output_errors

LOCK = ".pixaff.lock"
PATIENCE = 6.0
"""Seconds: the workers of a training that was killed hold its lock until they see that they are alone."""


@contextmanager
def folder_lock(folder: Path, what: str, patience: float = PATIENCE) -> Iterator[None]:
    """Hold the lock of a folder while the block runs. It is the system's own: that of a dead process is none.

    Not for one process twice: whoever holds it is refused like any other. Where the file system has no locks, the
    block runs without.

    Args:
        folder: Made when it is missing; holds the hidden file `LOCK` meanwhile.
        what: What is done there, for the error: "a training".
        patience: Seconds to wait for the lock.

    Raises:
        UsageError: Another process is at work there.
        OutputError: The folder cannot be written.
    """
    path = folder / LOCK
    with output_errors(path):
        folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(path)
        try:
            lock.acquire(timeout=patience, poll_interval=0.1)
        except filelock.Timeout:
            raise UsageError(
                f"{folder}: another process runs {what} there", "wait until it ends, or give another folder"
            ) from None
        except NotImplementedError:
            path.unlink(missing_ok=True)
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)
        lock.release()
