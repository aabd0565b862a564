"""Labels whose classes are known: what `read_labels` returns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from pixaff.errors import LabelsError, quoted
from pixaff.io.labels.classes import near_name
from pixaff.io.labels.entry import Entries, Entry
from pixaff.io.labels.image_list import nfc


@dataclass(frozen=True, eq=False, repr=False)
class Labels(Mapping[str, tuple[int, ...]]):
    """Image-level labels: sorted 0-based class indices by image stem, in the order of the file.

    An empty tuple says that the image shows no class: its mask is background, and a training takes it as a true
    negative. As a mapping these are the labels that can be used; asking for an image whose entry cannot raises what is
    wrong with it. Stems may be in any Unicode form.

    Attributes:
        source: The file or folder that was read.
        by_image: The labels by stem, in Unicode's composed form (NFC).
        problems: What is wrong with the entries of other images, by stem.
        others: Stems in the source that were not asked for.
        strays: What in the source belongs to no image, a line each.
        named: Where the source first names a class, by class index.
    """

    source: str
    by_image: Mapping[str, tuple[int, ...]]
    problems: Mapping[str, str] = field(default_factory=dict)
    others: Sequence[str] = ()
    strays: Sequence[str] = ()
    named: Mapping[int, str] = field(default_factory=dict)

    def __getitem__(self, image: str) -> tuple[int, ...]:
        """The labels of an image.

        Raises:
            KeyError: The source does not name it.
            LabelsError: Its entry cannot be used.
        """
        stem = nfc(image)
        if stem in self.problems:
            raise LabelsError(self.problems[stem])
        return self.by_image[stem]

    def __contains__(self, image: object) -> bool:
        return isinstance(image, str) and nfc(image) in self.by_image

    def __iter__(self) -> Iterator[str]:
        return iter(self.by_image)

    def __len__(self) -> int:
        return len(self.by_image)

    def __repr__(self) -> str:
        return f"<Labels of {len(self.by_image)} images from {self.source}, {len(self.problems)} problems>"

    def of(self, image: str) -> tuple[int, ...]:
        """The labels of an image, empty if it shows no class.

        Raises:
            LabelsError: Its entry is missing or cannot be used.
        """
        try:
            return self[image]
        except KeyError:
            hint = f"add {quoted(image)} there, without labels if it shows no class; or leave it out with --list"
            raise LabelsError(f"{self.source}: no entry for {quoted(image)}", hint) from None


def matched(source: str, entries: Entries, classes: Sequence[str]) -> Labels:
    """Match the entries of a label file against class names.

    Raises:
        LabelsError: The file numbers another number of classes.
    """
    if entries.num_classes not in (None, len(classes)):
        raise LabelsError(
            f"{source}: found vectors of {entries.num_classes} numbers, expected {len(classes)}, one per class",
            "give the class list that they were made with: --classes",
        )
    numbers = {nfc(name): index for index, name in enumerate(classes)}
    hints: dict[str, str] = {}
    by_image: dict[str, tuple[int, ...]] = {}
    problems: dict[str, str] = {}
    named: dict[int, str] = {}
    for stem, entry in entries.by_image.items():
        unknown = next((label for label in entry.labels if isinstance(label, str) and label not in numbers), None)
        number = next((label for label in entry.labels if isinstance(label, int) and label >= len(classes)), None)
        if entry.problem:
            problems[stem] = entry.problem
        elif unknown is not None:
            hint = hints[unknown] if unknown in hints else hints.setdefault(unknown, near_name(unknown, classes))
            problems[stem] = f"{entry.where}: found unknown class {quoted(unknown)} ({hint})"
        elif number is not None:
            problems[stem] = f"{entry.where}: found class number {number}, expected 0..{len(classes) - 1}"
        else:
            by_image[stem] = _indices(entry, numbers)
            for index in by_image[stem]:
                named.setdefault(index, entry.where)
    return Labels(source, by_image, problems, tuple(entries.others), tuple(entries.strays), named)


def class_indices(labels: Sequence[str | int], classes: Sequence[str]) -> tuple[int, ...]:
    """0-based indices, ascending, of classes given by name or by index.

    Raises:
        LabelsError: A name or index is not a class (with the nearest name).
    """
    numbers = {nfc(name): index for index, name in enumerate(classes)}
    found = set()
    for label in labels:
        index = numbers.get(nfc(label)) if isinstance(label, str) else int(label)
        if index is None:
            raise LabelsError(f"labels: found unknown class {quoted(label)}", near_name(str(label), classes))
        if not 0 <= index < len(classes):
            raise LabelsError(f"labels: found the index {index}, expected 0..{len(classes) - 1}")
        found.add(index)
    return tuple(sorted(found))


def _indices(entry: Entry, numbers: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(sorted({numbers[label] if isinstance(label, str) else label for label in entry.labels}))
