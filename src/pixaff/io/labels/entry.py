"""What a label file says about its images before the classes are known: the common form of all formats."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field

from pixaff.errors import quoted
from pixaff.io.labels.image_list import image_path, image_stem, nfc
from pixaff.io.labels.wanted import AMBIGUOUS, BY_STEM, Found, Wanted


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
        wanted: The images that were asked for; None for all.
        by_image: The entries of those, by image, in the order of the file; of all images by stem. Names are in NFC,
            Unicode's composed form.
        others: Images in the file that were not asked for, in the order of the file.
        strays: What in the file belongs to no image, one line each.
        num_classes: Number of classes, if the file numbers them; None if it names them.
        paths: All images in the file with their folders, where all were asked for.
    """

    wanted: Wanted | None = None
    by_image: dict[str, Entry] = field(default_factory=dict)
    others: dict[str, None] = field(default_factory=dict)
    strays: list[str] = field(default_factory=list)
    num_classes: int | None = None
    paths: dict[str, None] = field(default_factory=dict)
    _how: dict[str, int] = field(default_factory=dict)

    def wants(self, image: str) -> bool:
        """Whether the labels of an image matter; if not, it is noted as one of the others."""
        if self.wanted is None:
            self.paths[image_path(image)] = None
        if self._find(image).images:
            return True
        self.others[self.other(image)] = None
        return False

    def other(self, image: str) -> str:
        """The name under which an image is noted as one of the others."""
        return image_path(image) if self.wanted is not None and self.wanted.nested else nfc(image_stem(image))

    def same(self, image: str) -> Hashable:
        """Equal for names that mean the same image."""
        found = self._find(image)
        return tuple(found.images), found.how

    def add(self, image: str, labels: Iterable[str | int], where: str, problem: str = "") -> None:
        """Add the entry of a wanted image; a second one with other labels makes both unusable."""
        found = self._find(image)
        if found.how == AMBIGUOUS:
            first, second = found.images[:2]
            labels, problem = (), (
                f"{where}: found {quoted(image)}, which may be {quoted(first)} or {quoted(second)} "
                "(write it with its folder)"
            )  # fmt: skip
        entry = Entry(tuple(nfc(label) if isinstance(label, str) else label for label in labels), where, problem)
        for each in found.images:
            self._put(each, entry, found.how)

    def _find(self, image: str) -> Found:
        return Found((nfc(image_stem(image)),), BY_STEM) if self.wanted is None else self.wanted.find(image)

    def _put(self, image: str, entry: Entry, how: int) -> None:
        first = self.by_image.get(image)
        if first is None or how > self._how[image]:
            self.by_image[image], self._how[image] = entry, how
        elif how == self._how[image] and not first.problem and (
            entry.problem or set(first.labels) != set(entry.labels)
        ):  # fmt: skip
            problem = entry.problem or (
                f"{entry.where}: found {quoted(image)} again with other labels than in {first.where} "
                "(give it one entry with all its labels)"
            )
            self.by_image[image] = Entry((), entry.where, problem)
