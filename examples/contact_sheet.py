"""Draw what each step makes of some images: photo, CAM, walk, mask, ground truth.

    python examples/contact_sheet.py VOC OUT LIST sheet.png --count 24

OUT is a folder that evaluate_lite.sh filled for LIST (cams, walk and walk-crf). Images are taken at regular intervals.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from pixaff.io.cams import read_cams
from pixaff.io.images import load_image, read_image
from pixaff.io.labels import read_list
from pixaff.io.masks import read_mask
from pixaff.viz.overlay import heatmap, overlay
from pixaff.viz.sheet import contact_sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("voc", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("list", type=Path)
    parser.add_argument("sheet", type=Path)
    parser.add_argument("--count", type=int, default=24)
    options = parser.parse_args()
    names = read_list(options.list)
    names = [names[i] for i in np.linspace(0, len(names) - 1, options.count).round().astype(int)]
    rows = []
    for name in names:
        photo = options.voc / "JPEGImages" / f"{name}.jpg"
        file = read_cams(options.out / "cams" / f"{name}.npz")
        small, _ = load_image(photo, max(file.cams.shape[1:]))
        maps = torch.from_numpy(file.cams).amax(0).numpy()
        image = read_image(photo)
        masks = [
            read_mask(folder / f"{name}.png")
            for folder in (options.out / "walk", options.out / "walk-crf", options.voc / "SegmentationClassAug")
        ]
        rows.append([image, heatmap(small, maps), *(overlay(image, mask) for mask in masks)])
    contact_sheet(rows, ["photo", "largest CAM", "walk", "walk + CRF", "ground truth"], names).save(options.sheet)


if __name__ == "__main__":
    main()
