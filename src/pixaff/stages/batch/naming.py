"""What photos are called in outputs, labels, image lists and records.

Without ``--recursive`` that is the name of the file. With it, it is the path from the folder that was given, so that
outputs mirror the folders, and equal names in different ones do not meet.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pixaff.io.sources import Source


@dataclass(frozen=True)
class Names:
    """How photos are called.

    Attributes:
        roots: Folders from which their paths are taken; a photo in none of them has the name of its file.
    """

    roots: tuple[Path, ...] = ()

    def name(self, photo: Path) -> str:
        """The name of a photo in a record: "a/b/lawn.jpg", or "lawn.jpg"."""
        for root in self.roots:
            if photo.is_relative_to(root):
                path = photo.relative_to(root)
                return photo.name if ".." in path.parts else path.as_posix()
        return photo.name

    def key(self, photo: Path) -> str:
        """The name without suffix, by which its outputs are called and its labels found: "a/b/lawn", or "lawn"."""
        return os.path.splitext(self.name(photo))[0] if self.roots else photo.stem


class Photos(list[Path]):
    """Photos of a run, with what they are called and where their content is."""

    def __init__(self, paths: Iterable[Path] = (), names: Names | None = None, source: Source | None = None) -> None:
        super().__init__(paths)
        self.names = names or Names()
        self.source = source or Source()

    def only(self, paths: Iterable[Path]) -> Photos:
        """Some of them, called as before."""
        return Photos(paths, self.names, self.source)


def naming_of(photos: Sequence[Path]) -> Names:
    """How photos are called: `Photos` say it, others have the names of their files."""
    return photos.names if isinstance(photos, Photos) else Names()


def source_of(photos: Sequence[Path]) -> Source:
    """Where the content of photos is: `Photos` say it, others are files."""
    return photos.source if isinstance(photos, Photos) else Source()
