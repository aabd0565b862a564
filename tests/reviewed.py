"""A small folder of masks with scores, photos and ground truth, with names that nobody should trust."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from pixaff.io.masks import write_mask
from pixaff.io.scores import ScoreFile, write_scores
from pixaff.ops.powers import background_powers
from pixaff.prediction import masks_at

CLASSES = ("cat", "</script><img src=x onerror=alert(1)>")
NAMES = ("a & <b>'\"", "b", "c ü", "d")
SIZE = (96, 128)
ALPHA = 2.0


def scores_of(number: int) -> ScoreFile:
    """Round objects, further apart and surer with the number; the second class is in every other photo. The cells of
    the first two have 8 pixels, those of the others 4."""
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]

    def blob(y: float, x: float) -> np.ndarray:
        return (0.6 + 0.1 * number) * np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * 18**2))

    maps = np.stack([blob(40, 40 + 4 * number), blob(56, 90)][: 1 + number % 2])

    side = 8 if number < 2 else 4

    def cells(plane: np.ndarray) -> np.ndarray:
        return plane.reshape(SIZE[0] // side, side, SIZE[1] // side, side).mean((1, 3)).astype(np.float32)

    powers = np.array(background_powers())
    background = np.stack([cells((1 - maps.max(0)) ** power) for power in powers])
    scores = np.stack([cells(one) for one in maps])
    return ScoreFile(np.arange(1, len(maps) + 1), scores, powers, background, ALPHA, SIZE, SIZE)


def make(folder: Path) -> Path:
    """Write it into a folder, and return that."""
    for place in ("photos", "gt"):
        (folder / place).mkdir()
    rng = np.random.default_rng(0)
    for number, name in enumerate(NAMES):
        file = scores_of(number)
        write_scores(folder / "photos-masks" / "scores" / f"{name}.npz", file)
        mask, truth = masks_at(file, [ALPHA, 3.0])
        write_mask(folder / "photos-masks" / f"{name}.png", mask)
        write_mask(folder / "gt" / f"{name}.png", truth)
        colours = np.full((*SIZE, 3), (70, 110, 60), np.uint8) + rng.integers(0, 30, (*SIZE, 3), dtype=np.uint8)
        Image.fromarray(colours).save(folder / "photos" / f"{name}.jpg")
    record = {"command": "propagate", "settings": {"alpha": ALPHA, "model": "lite"}, "classes": list(CLASSES)}
    (folder / "photos-masks" / "run.json").write_text(json.dumps(record), encoding="utf-8")
    return folder
