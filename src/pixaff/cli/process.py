"""Settings of the process: its memory and threads, on which the speed of networks on a CPU depends, and its streams."""

from __future__ import annotations

import ctypes
import os
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
KEEP_BYTES = 2**31 - 1


def settle_process() -> None:
    """Keep freed memory, and let idle threads sleep; for a program's own process, before torch is imported.

    glibc returns every freed tensor above 32 MB to the kernel and requests it again, zeroed page by page, for the next
    layer: this takes up to half of a network's time. OpenMP threads spin while they wait; on a processor that is also
    busy with other work, this makes two threads many times slower than one. The user's own settings are kept.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if not sys.platform.startswith("linux") or any(name.startswith("MALLOC_") for name in os.environ):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library, such as musl
        return
    mallopt(M_TRIM_THRESHOLD, KEEP_BYTES)
    mallopt(M_MMAP_MAX, 0)


def settle_streams() -> None:
    """Let file names pass as the bytes that they are, and replace streams that are closed.

    The next file that is opened would get a closed descriptor, and whatever a library prints would end up in it.
    """
    for number, name in ((1, "stdout"), (2, "stderr")):
        try:
            os.fstat(number)
        except OSError:
            replace_stream(name)
        stream = getattr(sys, name)
        if stream is None:
            replace_stream(name)
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="surrogateescape")


def replace_stream(name: str) -> None:
    """Discard whatever is printed to a standard stream from now on."""
    number = {"stdout": 1, "stderr": 2}[name]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    if nowhere != number:
        os.dup2(nowhere, number)
        os.close(nowhere)
    setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
