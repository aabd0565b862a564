"""How many of torch's threads an operation uses on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread(device: torch.device) -> Iterator[None]:
    """Inside the block, compute on one thread if the device is the CPU.

    At the end of every operation that they share, OpenMP's threads wait for each other, and they spin while they wait.
    If another program holds one of the cores, each of the hundreds of small operations takes until the next time slice:
    on two threads, a dense CRF took nine times the processor time of one thread, and seven times as long. Several
    images side by side, each on its own thread, use the cores better.
    """
    threads = torch.get_num_threads()
    if threads == 1 or device.type != "cpu":
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)  # parts of it, such as that of MKL, apply to the whole process
