"""COCO JSON: an instance for each connected region, as run lengths or polygons."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from pixaff.io.atomic import write_text
from pixaff.io.exports.base import Item, Writer, region_cuts
from pixaff.io.exports.photos import write_photo
from pixaff.io.exports.polygons import outline
from pixaff.io.run_lengths import packed, run_lengths


class Coco(Writer):
    """``annotations.json`` (``annotations_PART.json`` of parts), and ``images/NAME.jpg`` where there are photos."""

    name = "coco"
    regions = True
    scores = True
    splits = True

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.images: dict[str, list[dict[str, Any]]] = {part: [] for part in self.parts}
        self.annotations: dict[str, list[dict[str, Any]]] = {part: [] for part in self.parts}

    def files(self, name: str) -> tuple[Path, ...]:
        return (self.out / "images" / f"{name}.jpg",) if self.photos else ()

    def shared(self) -> tuple[Path, ...]:
        if self.split is None:
            return (self.out / "annotations.json",)
        return tuple(self.out / f"annotations_{part}.json" for part in self.parts)

    def convert(self, item: Item) -> Any:
        height, width = item.mask.shape
        found = []
        for value, (rows, columns), pixels in region_cuts(item):
            segmentation: Any
            if self.polygons:
                ring = outline(pixels) + np.array([columns.start, rows.start])
                segmentation = [[round(float(number), 2) for number in ring.ravel()]]
            else:
                whole = np.zeros((height, width), np.bool_)
                whole[rows, columns] = pixels
                segmentation = {"size": [height, width], "counts": packed(run_lengths(whole))}
            box = [columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start]
            found.append(
                {
                    "category_id": value,
                    "segmentation": segmentation,
                    "area": int(pixels.sum()),
                    "bbox": box,
                    "iscrowd": 0,
                }
            )
            if item.margin is not None and item.scores is None:
                found[-1]["score"] = round(float(item.margin[rows, columns][pixels].mean()), 4)
        if item.scores is not None and item.regions is not None:
            numbers = [number for number in np.unique(item.regions).tolist() if number]
            for each, number in zip(found, numbers, strict=True):
                each["score"] = round(float(item.scores[number - 1]), 6)
        if item.photo is not None:
            write_photo(self.files(item.name)[0], item.photo)
        return {"file_name": f"{item.name}.jpg", "height": height, "width": width}, found

    def add(self, name: str, made: Any) -> None:
        image, found = made
        images, annotations = (kind[self.part_of(name)] for kind in (self.images, self.annotations))
        number = len(images) + 1
        images.append({"id": number, **image})
        for each in found:
            annotations.append({"id": len(annotations) + 1, "image_id": number, **each})

    def finish(self) -> None:
        categories = [{"id": value, "name": name, "supercategory": ""} for value, name in enumerate(self.classes, 1)]
        for path, part in zip(self.shared(), self.parts, strict=True):
            whole = {
                "info": {"description": "masks of pixaff"},
                "images": self.images[part],
                "annotations": self.annotations[part],
                "categories": categories,
            }
            write_text(path, json.dumps(whole, ensure_ascii=False) + "\n")
