"""The images of a run by name, and which of them a name in a label file or image list means."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from pixaff.io.labels.image_list import image_path, nfc

AMBIGUOUS, BY_STEM, BY_PATH, EXACT = range(4)
"""How surely a name means an image: of two entries for one image the surer one counts."""


class Found(NamedTuple):
    """Which images a name means.

    Attributes:
        images: One; none if it is another's name; several if it may be each of them.
        how: One of the constants above.
    """

    images: Sequence[str]
    how: int


class Wanted:
    """The images whose labels matter.

    A name means the image of the same path. Either may have further folders in front: `photos/a/x.jpg` means the image
    `a/x`, and `b/x.jpg` the image `a/b/x` if that is the only one to end so. Otherwise the stem decides, if only one
    image has it. Where no image has a folder, stems alone are compared.

    Args:
        images: Stems, or paths from the folder of the photos, without suffix and with "/" between folders.
    """

    def __init__(self, images: Iterable[str]) -> None:
        self.images = {nfc(image): image for image in images}
        self.nested = any("/" in image for image in self.images)
        self._stems: dict[str, list[str]] = {}
        self._ends: dict[str, list[str]] = {}
        for image in self.images:
            self._stems.setdefault(image.rsplit("/", 1)[-1], []).append(image)
            for end in _ends(image) if self.nested else ():
                self._ends.setdefault(end, []).append(image)

    def __contains__(self, image: object) -> bool:
        return image in self.images

    def __iter__(self) -> Iterator[str]:
        return iter(self.images)

    def __len__(self) -> int:
        return len(self.images)

    def find(self, name: str) -> Found:
        """The images that a name means."""
        path = image_path(name)
        if self.nested:
            if path in self.images:
                return Found((path,), EXACT)
            if path in self._ends:
                return _found(self._ends[path], BY_PATH)
            end = next((end for end in _ends(path) if end in self.images), None)
            if end is not None:
                return Found((end,), BY_PATH)
        return _found(self._stems.get(path.rsplit("/", 1)[-1], ()), BY_STEM)


def _found(images: Sequence[str], how: int) -> Found:
    return Found(images, how if len(images) < 2 else AMBIGUOUS)


def _ends(path: str) -> Iterator[str]:
    """The ends of a path that still have a folder, the longest first; without the path itself."""
    end = path.partition("/")[2]
    while "/" in end:
        yield end
        end = end.partition("/")[2]
