"""YOLO segmentation: a text file of polygons for each image, and `data.yaml`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from pixaff.io.atomic import write_text
from pixaff.io.exports.base import Item, Writer, region_cuts
from pixaff.io.exports.photos import write_photo
from pixaff.io.exports.polygons import outline


class Yolo(Writer):
    """``labels/NAME.txt``, ``data.yaml``, and ``images/NAME.jpg`` where there are photos.

    With parts, the files of each are in a folder of its name: ``labels/val/NAME.txt``.
    """

    name = "yolo"
    regions = True
    splits = True

    def files(self, name: str) -> tuple[Path, ...]:
        part = "" if self.split is None else self.part_of(name)
        photos = (self.out / "images" / part / f"{name}.jpg",) if self.photos else ()
        return (self.out / "labels" / part / f"{name}.txt", *photos)

    def shared(self) -> tuple[Path, ...]:
        return (self.out / "data.yaml",)

    def convert(self, item: Item) -> Any:
        height, width = item.mask.shape
        label, *photo = self.files(item.name)
        lines = []
        for value, (rows, columns), pixels in region_cuts(item):
            ring = (outline(pixels) + np.array([columns.start, rows.start])) / (width, height)
            lines.append(" ".join([str(value - 1), *(f"{number:.6g}" for number in ring.ravel())]) + "\n")
        if item.photo is not None:
            write_photo(photo[0], item.photo)
        write_text(label, "".join(lines))

    def finish(self) -> None:
        # Without "path", paths are relative to this file. JSON strings are YAML.
        names = "".join(
            f"  {index}: {json.dumps(name, ensure_ascii=False)}\n" for index, name in enumerate(self.classes)
        )
        head = "# Both are required: name a folder of other images as val to measure with.\n"
        places = {"train": "images", "val": "images"}
        if self.split is not None:
            head, places = "", {part: f"images/{part}" for part in self.parts}
            places.setdefault("val", "images/train")
        lines = "".join(f"{part}: {place}\n" for part, place in places.items())
        write_text(self.shared()[0], f"{head}{lines}\nnames:\n{names}")
