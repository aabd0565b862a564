"""Photos that a network cannot see in the memory there is: refused by name, before the system kills the whole run."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

from pixaff.errors import ImageError
from pixaff.models.base import Network

LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""Where Linux says how much a container may have."""


def check_memory(network: Network, size: tuple[int, int], images: int = 1) -> None:
    """Make sure that a network's layers fit into the memory of this machine, as far as its needs are known.

    Args:
        network: One with ``bytes_per_pixel``; others, and those on a GPU, which says itself that it is full, pass.
        size: (h, w) of the images that it will see.
        images: How many at once.

    Raises:
        ImageError: They need more than there is.
    """
    each = network.bytes_per_pixel
    if each is None or network.device.type != "cpu":
        return
    there, needed = total_memory(), each * size[0] * size[1] * images
    if there is not None and needed > there:
        raise ImageError(
            f"too large for {type(network).__name__}: found {size[0]} x {size[1]} pixels at the largest scale, which "
            f"take some {needed / 1e9:,.1f} GB; expected at most the {there / 1e9:,.1f} GB of this machine",
            "shrink what the networks see with --size 512",
        )


@lru_cache(maxsize=1)
def total_memory() -> int | None:
    """Bytes of memory that this process may use at most; None where the system does not say."""
    try:
        found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    except (AttributeError, ValueError, OSError):
        return None
    for limit in LIMITS:
        try:
            found.append(int(limit.read_text()))
        except (OSError, ValueError):  # not there, or "max"
            continue
    return min(found)
