"""Walk the CAMs of a lite model, the labels given, into cells that a network can learn from.

    python examples/lite_walked_cells.py --help

Writes a torch file: image -> (classes, 0-based; float16 (1 + C, h / 8, w / 8), summing to 1). The CAMs come from views
of `lite_views.py`; the numbers of the walk are the model's.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from lite_views import View
from torch import Tensor

import pixaff
from pixaff.io.images import load_image
from pixaff.io.labels import read_classes, read_labels, read_list
from pixaff.models.lite import LiteCam
from pixaff.ops.cam import background_score
from pixaff.ops.walk import random_walk

VIEWS = (("s1", False, 2.0), ("s5", False, 1.0), ("s5f", True, 1.0))
"""File, whether it is mirrored, and its weight in the sum: scale 1 is not seen mirrored and counts twice."""


def balanced(names: Sequence[str], labels: Mapping[str, Sequence[int]], most: int) -> list[str]:
    """Images of which at most so many have the same rarest class, the rarest first, in the order of ``names``."""
    frequency = Counter(c for name in names for c in labels[name])
    shown: Counter[int] = Counter()
    kept = set()
    for i in sorted(range(len(names)), key=lambda i: (min(frequency[c] for c in labels[names[i]]), i % 7)):
        rarest = min(labels[names[i]], key=lambda c: frequency[c])
        if shown[rarest] < most:
            kept.add(names[i])
            shown.update(labels[names[i]])
    return [name for name in names if name in kept]


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("voc", type=Path, nargs="+", help="folders with JPEGImages and labels.csv")
    parser.add_argument("--list", type=Path, action="append", required=True, help="one for each folder")
    parser.add_argument("--views", type=Path, required=True, help="folder of s1.bin, s5.bin and s5f.bin")
    parser.add_argument("--model", default="lite")
    parser.add_argument("--most", type=int, default=200, help="images with the same rarest class")
    options = parser.parse_args()
    # In bfloat16 the affinities take half of the time where the processor knows it.
    model, classes = pixaff.load(options.model, precision="bf16"), read_classes(options.voc[0] / "classes.txt")
    settings, network, as_it_is = model.settings, model.cam_network, model.replace(size=0)
    assert isinstance(network, LiteCam)
    views = [(View(options.views / f"{name}.bin"), mirrored, weight) for name, mirrored, weight in VIEWS]
    labels: dict[str, tuple[int, ...]] = {}
    paths: dict[str, Path] = {}
    for voc, listing in zip(options.voc, options.list, strict=True):
        labels |= read_labels(voc / "labels.csv", classes)
        paths |= {name: voc / "JPEGImages" / f"{name}.jpg" for name in read_list(listing)}
    result: dict[str, tuple[list[int], Tensor]] = {}
    for name in balanced(list(paths), labels, options.most):
        image, _ = load_image(paths[name], settings.size)
        rows, columns = (-(-side // 8) for side in image.shape[:2])
        present, total = list(labels[name]), torch.zeros(())
        for view, mirrored, weight in views:
            cells = view[name]
            logits = network._pixel_rows(cells[:, :120], cells[:, 120:])
            maps = torch.sigmoid(logits[:, 1:] - logits[:, :1])[:, present]
            maps = maps.flip(3) if mirrored else maps
            size = (2 * rows, 2 * columns)
            total = total + weight * F.interpolate(maps, size, mode="bilinear", align_corners=False)[0]
        cams = total / (total.amax((1, 2), keepdim=True) + 1e-5)
        scores = F.avg_pool2d(torch.cat([background_score(cams, settings.alpha), cams])[None], 2)[0]
        affinity = as_it_is.affinity(image)
        walked = random_walk(
            scores, affinity, settings.beta, settings.steps, settings.radius, borders=settings.borders
        ).clamp(min=0)
        result[name] = (present, (walked / walked.sum(0).clamp(min=1e-5)).half())
        if len(result) % 500 == 0:
            print(f"{len(result)} images", flush=True)
    torch.save(result, options.out)


if __name__ == "__main__":
    main()
