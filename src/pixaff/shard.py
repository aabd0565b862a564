"""A share of the images: one of several runs that divide a folder between them."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from dataclasses import dataclass

from pixaff.errors import UsageError, shortened

_WORDS = re.compile(r"([0-9]{1,7})/([0-9]{1,7})")


@dataclass(frozen=True, order=True)
class Shard:
    """The ``index``-th of ``count`` shards, from 1.

    An image belongs to a shard by its name alone, so new images move no other ones.
    """

    index: int
    count: int

    @classmethod
    def of(cls, words: str) -> Shard:
        """The shard of words such as "2/8".

        Raises:
            UsageError: They are none.
        """
        found = _WORDS.fullmatch(words) if isinstance(words, str) else None
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            raise UsageError(
                f"shard is {shortened(repr(words))}, expected I/N with I from 1 to N",
                "count from 1: --shard 1/8, ..., --shard 8/8",
            )
        return cls(int(found[1]), int(found[2]))

    def has(self, name: str) -> bool:
        """Whether an image belongs to the shard.

        Args:
            name: What records call it: its path from the folder given, or the name of its file.
        """
        return index_of(name, self.count) == self.index

    @property
    def stem(self) -> str:
        """Name of its record and its ledger, without suffix."""
        return f"run-{self.index}-of-{self.count}"

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


def index_of(name: str, count: int) -> int:
    """Which of ``count`` shards, from 1, an image belongs to."""
    data = unicodedata.normalize("NFC", name).encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big") % count + 1
