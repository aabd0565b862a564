"""How sources are reached: patience, and who is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Progress = Callable[[str, int, int | None], None]
"""Called with the name of what is fetched, the bytes that are there and the bytes in all, where known."""

Say = Callable[[str], None]
"""Called with a line of words: a retry, a source that failed."""


def no_progress(name: str, done: int, total: int | None) -> None:
    """The progress callback of callers that want none."""


def no_words(words: str) -> None:
    """The callback of callers that want no words."""


@dataclass(frozen=True)
class Connection:
    """What every source gets besides its own address.

    Attributes:
        timeout: Seconds to wait for a connection, and for the next bytes.
        slowest: Bytes a second, over twice the timeout, below which a server is given up.
        retries: Further attempts after a fault that may pass, before the file has become longer by a good piece.
        backoff: Seconds before the first further attempt; doubled each time.
        longest_wait: Seconds; a server that asks for a longer wait is given up.
        progress: Told how far a file is.
        say: Told what goes wrong on the way.
    """

    timeout: float = 30.0
    slowest: float = 1024.0
    retries: int = 5
    backoff: float = 1.0
    longest_wait: float = 120.0
    progress: Progress = no_progress
    say: Say = no_words
