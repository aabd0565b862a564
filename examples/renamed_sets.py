"""Make a small set with own classes from VOC photos, as a user of `pixaff fit` has it, and masks to measure with.

    python examples/renamed_sets.py OUT VOC [VOC ...] --classes aeroplane train --photos 70 [--negatives 20]

Each VOC is a folder with JPEGImages, SegmentationClassAug, labels.csv and lists/train*.txt. OUT gets ``photos``,
``labels.csv`` with the classes under other names (so that nothing can go by the name), ``classes.txt``, and ``masks``,
in which all other classes are background. Photos are drawn class by class in turn. Then:

    pixaff fit OUT/photos --labels OUT/labels.csv --out RUN
    pixaff evaluate RUN/masks OUT/masks --classes OUT/classes.txt
"""

from __future__ import annotations

import argparse
import random
import shutil
from itertools import zip_longest
from pathlib import Path

import numpy as np

from pixaff.io.labels import VOC_CLASSES, read_labels, read_list
from pixaff.io.masks import read_mask, write_mask

VOID = 255


def training_photos(sources: list[Path]) -> dict[str, tuple[Path, tuple[int, ...]]]:
    """The folder and the classes of every photo on a training list."""
    photos = {}
    for source in sources:
        labels = read_labels(source / "labels.csv", VOC_CLASSES)
        for listing in sorted((source / "lists").glob("train*.txt")):
            photos.update({name: (source, labels[name]) for name in read_list(listing)})
    return photos


def draw_photos(
    labels: dict[str, tuple[int, ...]], wanted: list[int], count: int, negatives: int, seed: int
) -> list[str]:
    """So many photos of the wanted classes, class by class in turn, and so many that show none of them."""
    names = sorted(labels)
    random.Random(seed).shuffle(names)
    queues = [[name for name in names if one in labels[name]] for one in wanted]
    turns = [name for turn in zip_longest(*queues) for name in turn if name is not None]
    drawn = list(dict.fromkeys(turns))[:count]
    others = [name for name in names if not set(wanted) & set(labels[name])]
    return [*drawn, *others[:negatives]]


def own_mask(path: Path, wanted: list[int]) -> np.ndarray:
    """A mask in which the wanted classes are 1, 2, ... and all others background."""
    values = np.zeros(256, np.uint8)
    values[VOID] = VOID
    for at, one in enumerate(wanted):
        values[one + 1] = at + 1
    return values[read_mask(path)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("sources", type=Path, nargs="+")
    parser.add_argument("--classes", nargs="+", required=True, choices=VOC_CLASSES)
    parser.add_argument("--photos", type=int, default=70)
    parser.add_argument("--negatives", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    wanted = [VOC_CLASSES.index(name) for name in options.classes]
    photos = training_photos(options.sources)
    labels = {name: shown for name, (_, shown) in photos.items()}
    (options.out / "photos").mkdir(parents=True)
    (options.out / "masks").mkdir()
    names = [f"kind{at + 1:02d}" for at in range(len(wanted))]
    (options.out / "classes.txt").write_text("".join(f"{name}\n" for name in names))
    rows = ["image,labels\n"]
    for name in draw_photos(labels, wanted, options.photos, options.negatives, options.seed):
        source, shown = photos[name]
        shutil.copy(source / "JPEGImages" / f"{name}.jpg", options.out / "photos")
        write_mask(
            options.out / "masks" / f"{name}.png", own_mask(source / "SegmentationClassAug" / f"{name}.png", wanted)
        )
        rows.append(f"{name}.jpg,{';'.join(names[at] for at, one in enumerate(wanted) if one in shown)}\n")
    (options.out / "labels.csv").write_text("".join(rows))


if __name__ == "__main__":
    main()
