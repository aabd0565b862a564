"""An image list over photos in many shards, of which each is known when it is read."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from pixaff.io.labels import image_path, nfc, read_list


class Listed:
    """An image list, of which each shard has a part.

    An entry SHARD/NAME means the photo of that shard, any other all photos of that name. Either name may have further
    folders in front.

    Args:
        listing: Its file.
        shards: Names of all shards of the run.

    Attributes:
        names: The entries.
        shown: What messages call the list.

    Raises:
        LabelsError: The list cannot be read.
    """

    def __init__(self, listing: str | Path, shards: Iterable[str]) -> None:
        self.names, self.shown = read_list(listing, folders=True), str(listing)
        called = {nfc(shard): shard for shard in shards}
        self._of_shard: dict[str, dict[str, str]] = {}
        self._by_stem: dict[str, dict[str, str]] = {}
        for name in self.names:
            path = image_path(name)
            ends = [at for at, sign in enumerate(path) if sign == "/" and path[:at] in called]
            if ends:
                self._of_shard.setdefault(called[path[: ends[-1]]], {})[path[ends[-1] + 1 :]] = name
            else:
                self._by_stem.setdefault(path.rpartition("/")[2], {})[path] = name

    def of(self, shard: str, photos: Iterable[str]) -> tuple[set[str], set[str]]:
        """Which photos of a shard are listed, and the entries that name them.

        Args:
            shard: Its name.
            photos: The names of its photos.
        """
        chosen, found, own = set[str](), set[str](), self._of_shard.get(shard, {})
        for photo in photos:
            key = nfc(os.path.splitext(photo)[0])
            entries = [own[key]] if key in own else []
            for path, entry in self._by_stem.get(key.rpartition("/")[2], {}).items():
                if f"/{path}".endswith(f"/{key}") or f"/{key}".endswith(f"/{path}"):
                    entries.append(entry)
            if entries:
                chosen.add(photo)
                found.update(entries)
        return chosen, found
