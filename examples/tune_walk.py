"""Find the walk's alpha, beta and steps for a model, on images that are not the ones to report on.

    python examples/tune_walk.py PHOTOS CAMS MASKS LIST --model RUN [--walk psa|irn]

walks the CAMs of every second image of LIST with each combination and prints the mIoU against the masks, best first.
The masks only measure; nothing is trained on them. In the walk irn, beta is that of the boundaries.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import numpy as np
import torch

import pixaff
from pixaff.io.cams import read_cams
from pixaff.io.images import load_image
from pixaff.io.labels import read_list
from pixaff.io.masks import read_mask
from pixaff.ops.boundary import boundary_affinity, strided_cams
from pixaff.ops.cam import background_score
from pixaff.ops.metrics import ConfusionMatrix
from pixaff.ops.resize import resize_scores
from pixaff.ops.walk import cell_scores, random_walk, upsample_scores

ALPHAS = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
BETAS = {"psa": (12.0, 16.0, 20.0, 24.0), "irn": (4.0, 5.0, 7.0, 10.0)}
STEPS = (64, 128, 256, 512)
STRIDES = {"psa": 8, "irn": 4}


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path)
    parser.add_argument("cams", type=Path)
    parser.add_argument("masks", type=Path)
    parser.add_argument("list", type=Path)
    parser.add_argument("--model", default="lite")
    parser.add_argument("--every", type=int, default=2, help="take every n-th image of the list")
    parser.add_argument("--borders", choices=("full", "published"), help="borders of the walk; default: the model's")
    parser.add_argument("--walk", choices=tuple(STRIDES), help="default: the model's")
    options = parser.parse_args()
    model = pixaff.load(options.model, borders=options.borders, walk=options.walk)
    settings = model.settings
    betas, stride = BETAS[settings.walk], STRIDES[settings.walk]
    grid = list(itertools.product(betas, STEPS, ALPHAS))
    tables = {setting: ConfusionMatrix(len(model.classes) + 1) for setting in grid}
    plain = {alpha: ConfusionMatrix(len(model.classes) + 1) for alpha in ALPHAS}
    names = read_list(options.list)[:: options.every]
    for name in names:
        file = read_cams(options.cams / f"{name}.npz")
        image, _ = load_image(options.photos / f"{name}.jpg", settings.size)
        size = (image.shape[0], image.shape[1])
        truth = read_mask(options.masks / f"{name}.png")[::2, ::2]
        values = np.array([0, *file.classes], np.uint8)
        maps = torch.from_numpy(file.cams)
        background = torch.cat([background_score(maps, alpha) for alpha in ALPHAS])
        at_its_size = model.replace(size=0)  # that of the CAMs
        if settings.walk == "psa":
            cells, affinity = cell_scores(torch.cat([background, maps])), at_its_size.affinity(image)
            walked_size = size
        else:
            edge = at_its_size.boundaries(image).edge
            walked_size = (stride * edge.shape[0], stride * edge.shape[1])
            scores = resize_scores(torch.cat([background, maps]), walked_size)
            cells = torch.cat([cell_scores(scores[: len(ALPHAS)], stride), strided_cams(scores[len(ALPHAS) :])])
            cells, affinity = cells * (1 - edge), boundary_affinity(edge, settings.radius, settings.borders)

        def masks(rows: torch.Tensor, values: np.ndarray = values) -> dict[float, np.ndarray]:
            """The mask of each alpha: the walk is linear, so one walk serves all alphas."""
            best, winner = rows[len(ALPHAS) :].max(0)
            chosen = values[1:][winner.numpy()]
            return {alpha: np.where((rows[i] > best).numpy(), 0, chosen) for i, alpha in enumerate(ALPHAS)}

        for alpha, mask in masks(torch.cat([background, maps])[:, ::2, ::2]).items():
            plain[alpha].update(mask, truth)
        for beta, steps in itertools.product(betas, STEPS):
            walked = random_walk(cells, affinity, beta, steps, settings.radius, borders=settings.borders)
            large = resize_scores(upsample_scores(walked, walked_size, stride), size)
            for alpha, mask in masks(large[:, ::2, ::2]).items():
                tables[beta, steps, alpha].update(mask, truth)
    print(f"{len(names)} images of {options.list.name}")
    for alpha, table in plain.items():
        print(f"CAM  alpha {alpha:<4g} mIoU {100 * table.miou():.2f}")
    for (beta, steps, alpha), table in sorted(tables.items(), key=lambda item: -item[1].miou())[:12]:
        print(f"walk alpha {alpha:<4g} beta {beta:<3g} steps {steps:<4d} mIoU {100 * table.miou():.2f}")


if __name__ == "__main__":
    main()
