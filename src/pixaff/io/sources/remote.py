"""Photos behind addresses such as ``s3://bucket/photos/lawn.jpg``, read one by one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from pixaff.errors import ImageError
from pixaff.io.addresses import Stamp, address_of, read_address
from pixaff.io.blob import MOST, Blob
from pixaff.io.sources.base import Source


class Remote(Source):
    """Photos of which some are behind addresses, and the others files.

    Args:
        stamps: Size and version of each that is behind an address.
    """

    def __init__(self, stamps: Mapping[Path, Stamp]) -> None:
        self.stamps = stamps

    def open(self, photo: Path) -> os.PathLike[str]:
        """As `Source.open`: the content of what is behind an address."""
        if photo not in self.stamps:
            return photo
        address, size = address_of(photo), self.stamps[photo][0]
        if size > MOST:
            raise ImageError(f"{address}: found {size:,} bytes, expected at most {MOST >> 30} GiB", "shrink it first")
        return Blob(address, read_address(address, ImageError))

    def stamp(self, photo: Path) -> Stamp | None:
        """As `Source.stamp`."""
        return self.stamps.get(photo)
