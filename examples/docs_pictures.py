"""Make the pictures of the documentation from examples/photos, with the embedded model.

    python examples/docs_pictures.py docs/images --tutorial DIR --browser

DIR is a folder in which the first three steps of docs/tutorial.md were run, for photos.jpg and few.jpg; --browser makes
those of the page, and needs selenium, Chromium and chromedriver. Without them, the other pictures are made.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

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
LABELS = {"chelsea.jpg": ["cat"], "astronaut.jpg": ["person"], "grace_hopper.jpg": ["person"]}
STEPS = (0, 1, 8, 64, 256)
CELLS = ((12, 23), (34, 34), (4, 10))
"""Rows and columns of cells of astronaut.jpg: on her cheek, on her suit, on the flag."""


def photos_to_masks(model: pixaff.Predictor) -> Image.Image:
    """Each photo above its overlay, with predicted labels."""
    rows: list[list[NDArray[np.uint8]]] = [[], []]
    for name in LABELS:
        result = model(PHOTOS / name)
        width = 240 * result.mask.shape[1] // result.mask.shape[0]
        photo = np.asarray(Image.open(PHOTOS / name).convert("RGB").resize((width, 240), Image.Resampling.LANCZOS))
        mask = np.asarray(Image.fromarray(result.mask).resize((width, 240), Image.Resampling.NEAREST))
        names = {index + 1: name for index, name in zip(result.indices, result.classes, strict=True)}
        rows[0].append(photo)
        rows[1].append(overlay(photo, mask, names=names))
    return grid(rows)


def spreading(model: pixaff.Predictor) -> Image.Image:
    """Where the score of one cell goes, cell by cell, by the AffinityNet; then the CAM of a person, and its mask."""
    model = model.replace(walk="psa")
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


def alphas(model: pixaff.Predictor) -> Image.Image:
    """Two photos at three alphas."""
    values, names = (0.25, 1.5, 16), ("chelsea.jpg", "astronaut.jpg")
    models = [model.replace(alpha=alpha) for alpha in values]
    rows = [[np.asarray(one(PHOTOS / name, LABELS[name]).overlay(PHOTOS / name)) for one in models] for name in names]
    return contact_sheet(
        rows, [f"--alpha {alpha:g}" for alpha in values], [Path(name).stem for name in names], cell=230
    )


def drawn(photos: Path) -> Image.Image:
    """The first four photos of each class of the drawn set."""
    names = ("ball", "box", "background")
    rows = [[np.asarray(Image.open(photos / name / f"{name}{i}.jpg")) for i in range(1, 5)] for name in names]
    return contact_sheet(rows, [""] * 4, names, cell=150)


def few(photos: Path, run: Path) -> Image.Image:
    """Photos of the drawn set, and their masks at three alphas by the model that was trained on it."""
    values, names = (0.1, 0.25, 1.5), ("ball2", "box2", "ball4")
    models = [pixaff.load(run, alpha=alpha, device="cpu") for alpha in values]
    rows = []
    for name in names:
        photo, label = photos / name[:-1] / f"{name}.jpg", name[:-1]
        masks = [np.asarray(one(photo, [label]).overlay(photo)) for one in models]
        rows.append([np.asarray(Image.open(photo).convert("RGB")), *masks])
    return contact_sheet(rows, ["photo", *(f"--alpha {alpha:g}" for alpha in values)], names, cell=200)


def page() -> tuple[Image.Image, Image.Image]:
    """The page of the three photos with given labels in Chromium: as it opens, and with the slider moved."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for argument in ("--headless", "--no-sandbox", "--disable-gpu", "--window-size=1480,1080"):
        options.add_argument(argument)
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as place:
        shutil.copytree(PHOTOS, Path(place, "photos"))
        try:
            os.chdir(place)  # the page shows a command with these paths
            lines = "".join(f"{name},{';'.join(labels)}\n" for name, labels in LABELS.items())
            Path("labels.csv").write_text(f"image,labels\n{lines}", encoding="utf-8")
            pixaff.propagate("photos", "masks", labels="labels.csv", save_scores=True, device="cpu")
            pixaff.report("masks", "report.html", photos="photos")
        finally:
            os.chdir(here)
        driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
        try:
            driver.get(Path(place, "report.html").as_uri())
            opened = _shown(driver)
            driver.execute_script(
                "const one = document.getElementById('alpha'); one.value = 105;"
                "one.dispatchEvent(new Event('input', { bubbles: true }));"
            )
            return opened, _shown(driver)
        finally:
            driver.quit()


def _shown(driver: Any) -> Image.Image:
    """The window, without the scroll bar, 1,000 pixels wide."""
    time.sleep(1)
    window = Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB")
    window = window.crop((0, 0, window.width - 14, window.height))
    return window.resize((1000, 1000 * window.height // window.width), Image.Resampling.LANCZOS)


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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tutorial", type=Path, metavar="DIR", help="folder with photos/ and run/ of docs/tutorial.md")
    parser.add_argument("--browser", action="store_true", help="also make the pictures of the page")
    options = parser.parse_args()
    out = options.out
    out.mkdir(parents=True, exist_ok=True)

    def save(name: str, picture: Image.Image) -> None:
        picture.save(out / f"{name}.jpg", quality=85, optimize=True)

    model = pixaff.load("lite", device="cpu")
    save("start", photos_to_masks(model))
    save("own-cam", own_cam(model))
    save("alpha", alphas(model))
    cat = model(PHOTOS / "chelsea.jpg", LABELS["chelsea.jpg"])
    save("overlay", cat.overlay(PHOTOS / "chelsea.jpg"))
    cat.save(out / "mask.png")
    spreading(model).quantize(256, dither=Image.Dither.NONE).save(out / "walk.png", optimize=True)
    if options.tutorial is not None:
        photos = options.tutorial / "photos"
        save("photos", drawn(photos))
        save("few", few(photos, options.tutorial / "run"))
    if options.browser:
        opened, moved = page()
        save("report", opened)
        save("slider", moved)


if __name__ == "__main__":
    main()
