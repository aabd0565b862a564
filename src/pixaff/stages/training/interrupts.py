"""Ctrl-C at a moment that suits the work: between two steps, when there is something to save."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def deferred_interrupts() -> Iterator[Callable[[], bool]]:
    """Hold back the first Ctrl-C inside the block; the yielded function says whether there was one.

    The block is expected to look, save and raise `KeyboardInterrupt` itself; a second Ctrl-C raises it at once.
    Outside the main thread, which alone receives signals, nothing is held back.
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
