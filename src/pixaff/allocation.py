"""Memory, threads and processors of a process that computes networks on the CPU."""

from __future__ import annotations

import atexit
import ctypes
import gc
import os
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8
KEEP_BYTES = 2**31 - 1
STARTING = 1_000_000
"""New objects from which on unreachable ones are looked for while a program starts; PyTorch makes 200,000."""
USUAL = gc.get_threshold()
ONE_STORE = {"MALLOC_ARENA_MAX": "1"}
"""For the environment of a process whose threads begin before `settle_process` can act."""

_keeps_memory = False


def settle_process() -> None:
    """Keep freed memory, and let idle threads sleep; for a program's own process, before torch is imported.

    glibc returns every freed tensor above 32 MB to the kernel and requests it again, zeroed page by page, for the next
    layer: this takes up to half of a network's time. The threads share one store of freed memory: of glibc's usual
    several each keeps the most that its threads have needed, and the memory of a long run grows as further threads
    come. OpenMP threads spin while they wait; on a processor that is also busy with other work, this makes two threads
    many times slower than one. The user's own settings are kept.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if not sys.platform.startswith("linux") or chosen_by_the_user():
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library, such as musl
        return
    global _keeps_memory
    mallopt(M_TRIM_THRESHOLD, KEEP_BYTES)
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_ARENA_MAX, 1)
    _keeps_memory = True


def chosen_by_the_user() -> bool:
    """Whether the environment says other things about the C library's memory than pixaff does."""
    return {name: value for name, value in os.environ.items() if name.startswith("MALLOC_")} not in ({}, ONE_STORE)


def keeps_memory() -> bool:
    """Whether the C library keeps freed memory in this process, so that nothing else has to; see `settle_process`."""
    return _keeps_memory


def collect_later() -> None:
    """Leave unreachable objects alone until `collect_now`; for a program's own process, before torch is imported.

    The objects that PyTorch makes when it is imported stay. Python would go through all of them several times while it
    imports, and again when it ends, which takes a third as long as the import.
    """
    gc.set_threshold(STARTING, *USUAL[1:])
    atexit.register(gc.freeze)


def collect_now() -> None:
    """The work begins: collect as usual, but for what is there now. Does nothing without `collect_later` before."""
    if gc.get_threshold()[0] == STARTING:
        gc.freeze()
        gc.set_threshold(*USUAL)


def default_workers() -> int:
    """Number of processors that this process may use, at least one."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return max(1, os.cpu_count() or 1)
