"""Two habits of the process that the networks' speed on a CPU depends on."""

from __future__ import annotations

import ctypes
import os
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
KEEP_BYTES = 2**31 - 1


def settle_process() -> None:
    """Keep freed memory, and let idle threads sleep; for a program's own process, before torch is imported.

    glibc returns every freed tensor above 32 MB to the kernel and takes it back, zeroed page by page, for the next
    layer: up to half of a network's time. OpenMP's threads spin while they wait, which on a processor that is busy
    with anything else makes two threads many times slower than one. Settings the user made are left alone.
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
