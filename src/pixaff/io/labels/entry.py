"""What a label file says about its images before the classes are known: the common form of all formats."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from pixaff.errors import quoted
from pixaff.io.labels.image_list import image_stem, nfc


@dataclass(frozen=True)
class Entry:
    """The labels of one image, as the file has them.

    Attributes:
        labels: Class names, or 0-based class numbers where the format has no names; empty says that the image shows
            no class.
        where: The file, and the line if it has several images.
        problem: Why the entry cannot be used, in one line; empty if it can.
    """

    labels: tuple[str | int, ...]
    where: str
    problem: str = ""


@dataclass
class Entries:
    """The result of `read` of a label format.

    Attributes:
        wanted: Stems of the images that were asked for; None for all.
        by_image: The entries of those, by stem, in the order of the file. Stems are in Unicode's composed form, NFC.
        others: Stems of images in the file that were not asked for, in the order of the file.
        strays: What in the file belongs to no image, one line each.
        num_classes: Number of classes, if the file numbers them; None if it names them.
    """

    wanted: Collection[str] | None = None
    by_image: dict[str, Entry] = field(default_factory=dict)
    others: dict[str, None] = field(default_factory=dict)
    strays: list[str] = field(default_factory=list)
    num_classes: int | None = None

    def wants(self, image: str) -> bool:
        """Whether the labels of an image matter; if not, it is noted as one of the others."""
        stem = nfc(image_stem(image))
        if self.wanted is None or stem in self.wanted:
            return True
        self.others[stem] = None
        return False

    def add(self, image: str, labels: Iterable[str | int], where: str, problem: str = "") -> None:
        """Add the entry of a wanted image; a second one with other labels makes both unusable."""
        stem = nfc(image_stem(image))
        entry = Entry(tuple(nfc(label) if isinstance(label, str) else label for label in labels), where, problem)
        first = self.by_image.get(stem)
        if first is None:
            self.by_image[stem] = entry
        elif not first.problem and (problem or set(first.labels) != set(entry.labels)):
            problem = problem or (
                f"{where}: found {quoted(stem)} again with other labels than in {first.where} "
                "(give it one entry with all its labels)"
            )
            self.by_image[stem] = Entry((), where, problem)
