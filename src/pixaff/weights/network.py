"""How the services are reached: addresses, patience, and who is told."""

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
class Network:
    """What every source gets along with its address.

    Attributes:
        timeout: Seconds to wait for a connection, and for the next bytes.
        retries: Further attempts after a fault that may pass. One that brought a good piece of the file is not counted.
        backoff: Seconds before the first further attempt; doubled each time.
        longest_wait: Seconds; a server that asks for a longer wait is given up.
        token_url, shares_url, drives_url: Where OneDrive gives out tokens, shared items, and items by their id. The
            addresses of Google Drive are in gdown.
        progress: Told how far a file is.
        say: Told what goes wrong on the way.
    """

    timeout: float = 30.0
    retries: int = 5
    backoff: float = 1.0
    longest_wait: float = 120.0
    token_url: str = "https://api-badgerp.svc.ms/v1.0/token"
    shares_url: str = "https://my.microsoftpersonalcontent.com/_api/v2.0/shares"
    drives_url: str = "https://api.onedrive.com/v1.0/drives"
    progress: Progress = no_progress
    say: Say = no_words


@dataclass(frozen=True)
class Found:
    """What a source answered to a short question.

    Attributes:
        size: Bytes in all, where the source tells.
        head: The first bytes.
    """

    size: int | None
    head: bytes = b""
