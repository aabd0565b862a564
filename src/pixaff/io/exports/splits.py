"""Parts of an exported set, such as train and val: a name always falls into the same one."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from pixaff.errors import UsageError, quoted
from pixaff.io.labels import nfc

_PART = re.compile(r"[a-z][a-z0-9_]{0,20}")


@dataclass(frozen=True)
class Split:
    """Names of parts with their shares, which sum to 1.

    A hash of the image's name decides its part, so that a photo added later moves no other, and two exports agree.
    """

    parts: tuple[tuple[str, float], ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The parts, in the order in which they were given."""
        return tuple(name for name, _ in self.parts)

    def part_of(self, name: str) -> str:
        """The part of an image, by its name without suffix."""
        digest = hashlib.sha256(nfc(name).encode("utf-8", "surrogateescape")).digest()
        place, end = int.from_bytes(digest[:8], "big") / (1 << 64), 0.0
        for part, share in self.parts:
            end += share
            if place < end:
                return part
        return self.parts[-1][0]


def parse_split(text: str) -> Split:
    """ "train=0.9,val=0.1" -> a `Split`.

    Raises:
        UsageError: Not of that form, a name twice, or shares that do not sum to 1.
    """
    parts = []
    for each in text.split(","):
        name, equals, share = (word.strip() for word in each.partition("="))
        try:
            number = float(share)
        except ValueError:
            number = 0.0
        if not _PART.fullmatch(name) or not equals or not 0 < number <= 1:
            raise UsageError(f"--split: found {quoted(text)}, expected shares such as train=0.9,val=0.1")
        parts.append((name, number))
    if len({name for name, _ in parts}) < len(parts) or parts[0][0] != "train":
        raise UsageError(f"--split: found {quoted(text)}, expected train first, and every part once")
    if abs(sum(share for _, share in parts) - 1) > 1e-6:
        total = sum(share for _, share in parts)
        raise UsageError(f"--split: the shares of {quoted(text)} sum to {total:g}, expected 1")
    return Split(tuple(parts))
