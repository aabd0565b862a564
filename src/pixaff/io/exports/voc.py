"""The folders of Pascal VOC's segmentation sets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pixaff.io.atomic import write_text
from pixaff.io.exports.base import Item, Writer
from pixaff.io.exports.photos import write_photo
from pixaff.io.masks import write_mask


class Voc(Writer):
    """``SegmentationClass/``, ``JPEGImages/``, ``ImageSets/Segmentation/PART.txt`` and ``classes.txt``."""

    name = "voc"
    splits = True

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.names: dict[str, list[str]] = {part: [] for part in self.parts}

    def files(self, name: str) -> tuple[Path, ...]:
        photos = (self.out / "JPEGImages" / f"{name}.jpg",) if self.photos else ()
        return (self.out / "SegmentationClass" / f"{name}.png", *photos)

    def shared(self) -> tuple[Path, ...]:
        lists = self.out / "ImageSets" / "Segmentation"
        return (*(lists / f"{part}.txt" for part in self.parts), self.out / "classes.txt")

    def convert(self, item: Item) -> Any:
        mask, *photo = self.files(item.name)
        if item.photo is not None:
            write_photo(photo[0], item.photo)
        write_mask(mask, item.mask)

    def add(self, name: str, made: Any) -> None:
        self.names[self.part_of(name)].append(name)

    def finish(self) -> None:
        for path, lines in zip(self.shared(), (*self.names.values(), self.classes), strict=True):
            write_text(path, "".join(f"{line}\n" for line in lines))
