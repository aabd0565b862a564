"""Photos behind addresses such as ``s3://bucket/photos/lawn.jpg``, read one by one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pixaff.errors import ImageError
from pixaff.io.addresses import Stamp, address_of, is_address, read_address
from pixaff.io.blob import MOST, Blob
from pixaff.io.sources.base import Source


class Remote(Source):
    """Photos of which some are behind addresses, and the others files.

    Args:
        stamps: Size and version of each that is behind an address.
    """

    def __init__(self, stamps: Mapping[Path, Stamp]) -> None:
        self.stamps = stamps

    def __getstate__(self) -> dict[str, Any]:
        return {"stamps": {}}  # workers on a cluster only open photos, of which there may be a million

    def open(self, photo: Path) -> os.PathLike[str]:
        """As `Source.open`: the content of what is behind an address."""
        if not is_address(photo):
            return photo
        address, (size, _) = address_of(photo), self.stamps.get(photo, (0, ""))
        if size > MOST:
            raise ImageError(f"{address}: found {size:,} bytes, expected at most {MOST >> 30} GiB", "shrink it first")
        return Blob(address, read_address(address, ImageError))

    def stamp(self, photo: Path) -> Stamp | None:
        """As `Source.stamp`."""
        return self.stamps.get(photo)
