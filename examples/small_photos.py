"""How well small photos are masked: VOC photos shrunk to several long sides, enlarged to the working size or not.

    python examples/small_photos.py VOC LIST --count 40 --sides 112,160,224,320,400,500

Takes LIST's images at even distances, with given labels, and prints the mIoU against the masks, shrunk alike: walked at
the photo's own size, at the working size, and at its own size with fewer steps, in proportion to its area.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

import pixaff
from pixaff.io.labels import VOC_CLASSES, read_labels, read_list
from pixaff.ops.metrics import ConfusionMatrix

WAYS = ("own size", "working size", "own size, fewer steps")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("voc", type=Path)
    parser.add_argument("list", type=Path)
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--sides", default="112,160,224,320,400,500")
    options = parser.parse_args()
    names = read_list(options.list)
    names = names[:: len(names) // options.count][: options.count]
    labels = read_labels(options.voc / "labels.csv", VOC_CLASSES, names)
    model = pixaff.load("lite")
    for side in map(int, options.sides.split(",")):
        tables = {way: ConfusionMatrix(len(VOC_CLASSES) + 1) for way in WAYS}
        for name in names:
            photo = Image.open(options.voc / "JPEGImages" / f"{name}.jpg").convert("RGB")
            truth = Image.open(options.voc / "SegmentationClassAug" / f"{name}.png")
            shrink = min(1.0, side / max(photo.size))
            size = (max(1, round(photo.width * shrink)), max(1, round(photo.height * shrink)))
            small, truth = photo.resize(size, Image.Resampling.LANCZOS), truth.resize(size, Image.Resampling.NEAREST)
            # The working size is the photo's own where it is not below it, so that nothing is enlarged.
            own = model.replace(size=max(32, max(size)))
            ways = (own, model, own.replace(steps=max(4, round(model.settings.steps * shrink**2))))
            for way, each in zip(WAYS, ways, strict=True):
                tables[way].update(each(small, labels[name]).mask, np.asarray(truth))
        print(side, ", ".join(f"{way} {100 * table.miou():.2f}" for way, table in tables.items()), flush=True)


if __name__ == "__main__":
    main()
