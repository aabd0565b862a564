"""What every source of photos offers, and the ordinary one: files, each opened where it is."""

from __future__ import annotations

import os
from pathlib import Path

from pixaff.errors import LabelsError
from pixaff.io.addresses import Stamp
from pixaff.io.labels import Entries, Wanted

INSIDE = "inside"
"""In place of a label file: the labels that the source has itself."""


class Source:
    """Photos that are files.

    Attributes:
        shown: What messages call the source.
    """

    shown: str = INSIDE

    def open(self, photo: Path) -> os.PathLike[str]:
        """A photo for `pixaff.io.images`: its path, or its content.

        Raises:
            ImageError: It cannot be read.
        """
        return photo

    def stamp(self, photo: Path) -> Stamp | None:
        """What tells a photo from another version of it, without reading it; None of a file."""
        return None

    def labels(self, wanted: Wanted) -> Entries:
        """The labels beside the photos.

        Raises:
            LabelsError: There are none.
        """
        raise LabelsError(f'found "{INSIDE}" for labels, but photos in folders', "give a file of labels, or predict")
