"""Ctrl-C between two steps of a training, when its state can be saved."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def deferred_interrupts() -> Iterator[Callable[[], bool]]:
    """Hold back the first Ctrl-C inside the block; the yielded function says whether there was one.

    The block has to ask, save and raise `KeyboardInterrupt` itself; a second Ctrl-C raises it at once. Outside the main
    thread, which alone receives signals, nothing is held back.
    """
    pending = False

    def note(signum: int, frame: FrameType | None) -> None:
        nonlocal pending
        if pending:
            raise KeyboardInterrupt
        pending = True

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    previous = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: pending
    finally:
        signal.signal(signal.SIGINT, previous)
