"""Photos computed side by side on the CPU, each by one thread.

The embedded networks are small and the walk and CRF are made of small products, so that splitting each operation
between threads gains little, and costs much where other programs use the processors too: OpenMP's threads then wait
for each other at the end of every operation. A photo a thread has none of that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

import torch
from torch import nn

Result = TypeVar("Result")
MOST = 8
"""Photos computed at a time: each takes a few hundred megabytes."""
LARGE = 10_000_000
"""Parameters from which on a network has the machine to itself, photo after photo: each takes some gigabytes, and its
large convolutions keep all threads busy. `lite` has five million."""


class Spread(Protocol):
    """`map` as a list, in inference mode."""

    def __call__(self, function: Callable[..., Result], *arguments: Iterable[Any]) -> list[Result]: ...


@contextmanager
def lanes(device: torch.device, *networks: nn.Module | None) -> Iterator[tuple[Spread, int]]:
    """Yield a function that maps over photos, and the number of photos that it works on at a time.

    On CUDA and for large networks that is one; on the CPU it is else the number of torch's threads, which are divided
    between the photos inside the block. A single photo has them all.
    """
    threads = torch.get_num_threads()
    sizes = [sum(parameter.numel() for parameter in network.parameters()) for network in networks if network]
    large = max(sizes, default=0) >= LARGE
    count = min(threads, MOST) if device.type == "cpu" and not large else 1
    pool = ThreadPoolExecutor(count, "pixaff", initializer=torch.set_num_threads, initargs=(threads // count,))

    def spread(function: Callable[..., Result], *arguments: Iterable[Any]) -> list[Result]:
        calls = list(zip(*arguments, strict=True))

        def call(these: tuple[Any, ...]) -> Result:
            with torch.inference_mode():  # a setting of each thread
                return function(*these)

        return [call(these) for these in calls] if count == 1 or len(calls) == 1 else list(pool.map(call, calls))

    try:
        yield spread, count
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(threads)  # parts of it, such as MKL's, hold for the whole process
