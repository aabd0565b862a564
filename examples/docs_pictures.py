"""Make the pictures of docs/index.md, docs/how.md and docs/own-cams.md from examples/photos, with the embedded model.

python examples/docs_pictures.py docs/images
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

import pixaff
from pixaff.ops.cam import with_background
from pixaff.ops.resize import resize_scores
from pixaff.ops.walk import cell_scores, random_walk, upsample_scores
from pixaff.viz.overlay import heatmap, overlay
from pixaff.viz.sheet import contact_sheet

PHOTOS = Path(__file__).parent / "photos"
STEPS = (0, 1, 8, 64, 256)
CELLS = ((12, 23), (34, 34), (4, 10))
"""Rows and columns of cells of astronaut.jpg: on her cheek, on her suit, on the flag."""


def photos_to_masks(model: pixaff.Predictor) -> Image.Image:
    """Each photo above its overlay, with predicted labels."""
    rows: list[list[NDArray[np.uint8]]] = [[], []]
    for name in ("chelsea.jpg", "astronaut.jpg", "grace_hopper.jpg"):
        result = model(PHOTOS / name)
        width = 240 * result.mask.shape[1] // result.mask.shape[0]
        photo = np.asarray(Image.open(PHOTOS / name).convert("RGB").resize((width, 240), Image.Resampling.LANCZOS))
        mask = np.asarray(Image.fromarray(result.mask).resize((width, 240), Image.Resampling.NEAREST))
        names = {index + 1: name for index, name in zip(result.indices, result.classes, strict=True)}
        rows[0].append(photo)
        rows[1].append(overlay(photo, mask, names=names))
    return grid(rows)


def spreading(model: pixaff.Predictor) -> Image.Image:
    """Where the score of one cell goes, cell by cell; then the CAM of the class person, and its mask."""
    photo = PHOTOS / "astronaut.jpg"
    file = model.cams(photo, labels=["person"])
    affinity = model.affinity(photo)
    image = model.sample(photo).image
    size = image.shape[:2]
    start = cell_scores(with_background(torch.from_numpy(file.cams), model.settings.alpha))
    seeds = torch.zeros(len(CELLS), *start.shape[1:])
    for index, (row, column) in enumerate(CELLS):
        seeds[index, row, column] = 1
    rows: list[list[NDArray[np.uint8]]] = [[] for _ in range(len(CELLS) + 2)]
    for steps in STEPS:
        walked = random_walk(
            torch.cat([seeds, start]), affinity, model.settings.beta, steps, borders=model.settings.borders
        )
        large = upsample_scores(walked, size)
        for index, spread in enumerate(large[: len(CELLS)]):
            rows[index].append(heatmap(image, (spread / spread.max()).sqrt().numpy()))
        rows[-2].append(heatmap(image, large[-1].clamp(0, 1).numpy()))
        mask = large[len(CELLS) :].argmax(0).numpy().astype(np.uint8) * file.classes[0].astype(np.uint8)
        rows[-1].append(overlay(image, mask))
    names = ("a cell of the face", "a cell of the suit", "a cell of the flag", "CAM of person", "mask")
    headers = [f"{steps} steps" if steps != 1 else "1 step" for steps in STEPS]
    return contact_sheet(rows, headers, names, cell=150)


def own_cam(model: pixaff.Predictor) -> Image.Image:
    """A blob on the cat's face, what the walk makes of it, and masks at two alphas."""
    rows, columns = np.mgrid[:24, :36]
    blob = np.exp(-((rows - 12) ** 2 + (columns - 16) ** 2) / 120)
    result = model.replace(alpha=8)(PHOTOS / "chelsea.jpg", cams={"cat": blob})
    size = result.image.shape[:2]
    cam = resize_scores(torch.from_numpy(blob)[None].float(), size)[0].numpy()
    large = upsample_scores(torch.from_numpy(result.walked[:2]), result.walked_size, model.stride)
    walked = resize_scores(large, size)[1].numpy()
    less = model.replace(alpha=1)(PHOTOS / "chelsea.jpg", cams={"cat": blob})
    pictures = [heatmap(result.image, cam), heatmap(result.image, walked)]
    pictures += [np.asarray(each.overlay()) for each in (less, result)]
    small = [np.asarray(Image.fromarray(each).resize((360, 360 * size[0] // size[1]))) for each in pictures]
    return grid([small[:2], small[2:]])


def grid(rows: list[list[NDArray[np.uint8]]], gap: int = 6) -> Image.Image:
    """Pictures side by side, on white; each row as wide as the others."""
    width = sum(picture.shape[1] + gap for picture in rows[0]) - gap
    sheet = Image.new("RGB", (width, sum(row[0].shape[0] + gap for row in rows) - gap), "white")
    top = 0
    for row in rows:
        left = 0
        for picture in row:
            sheet.paste(Image.fromarray(picture), (left, top))
            left += picture.shape[1] + gap
        top += row[0].shape[0] + gap
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    model = pixaff.load("lite", device="cpu")
    photos_to_masks(model).save(out / "start.jpg", quality=85, optimize=True)
    own_cam(model).save(out / "own-cam.jpg", quality=85, optimize=True)
    spreading(model).quantize(256, dither=Image.Dither.NONE).save(out / "walk.png", optimize=True)


if __name__ == "__main__":
    main()
