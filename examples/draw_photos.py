"""Draw a small set of tagged photos, a folder per class, for docs/tutorial.md: balls, boxes, and rooms without either.

python examples/draw_photos.py photos --count 8 --side 320
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

CLASSES = ("ball", "box", "background")


def room(rng: np.random.Generator, side: int) -> Image.Image:
    """A wall above a floor, both with grain."""
    height = side * 3 // 4
    pixels = np.empty((height, side, 3))
    edge = int(height * rng.uniform(0.45, 0.65))
    pixels[:edge] = rng.uniform(120, 210, 3)
    pixels[edge:] = rng.uniform(60, 130, 3)
    pixels *= np.linspace(0.8, 1.1, side)[None, :, None]
    return _picture(pixels + rng.normal(0, 7, pixels.shape))


def draw(rng: np.random.Generator, name: str, side: int) -> Image.Image:
    """A room with one object of a class in it, with light and shadow; one without for "background"."""
    image = room(rng, side)
    if name == "background":
        return image
    size = int(side * rng.uniform(0.28, 0.42))
    left, top = int(rng.integers(side // 20, side - size - side // 20)), int(image.height * 0.92) - size
    shape = Image.new("L", image.size)
    outline = (left, top, left + size, top + size)
    if name == "ball":
        ImageDraw.Draw(shape).ellipse(outline, fill=255)
    else:
        ImageDraw.Draw(shape).rectangle(outline, fill=255)
    y, x = np.mgrid[: image.height, : image.width]
    colour = rng.uniform(40, 230, 3)
    light = 1.15 - 0.6 * np.hypot(x - left - size * 0.35, y - top - size * 0.3) / size
    surface = colour * light[..., None]
    if name == "ball":
        surface[((x - left) * 3 // size + (y - top) * 3 // size) % 2 == 0] *= 0.55
    else:
        surface[(np.abs(x - left - size / 2) < size / 12) | (np.abs(y - top - size / 3) < size / 14)] *= 0.5
    shadow = Image.new("L", image.size)
    ImageDraw.Draw(shadow).ellipse(
        (left - size // 8, top + size * 7 // 8, left + size * 9 // 8, top + size * 9 // 8), fill=140
    )
    image = Image.composite(Image.new("RGB", image.size), image, shadow.filter(ImageFilter.GaussianBlur(size / 14)))
    return Image.composite(_picture(surface + rng.normal(0, 5, surface.shape)), image, shape)


def _picture(pixels: NDArray[np.float64]) -> Image.Image:
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=8, help="photos of each class")
    parser.add_argument("--side", type=int, default=320, help="width in pixels")
    chosen = parser.parse_args()
    rng = np.random.default_rng(0)
    for name in CLASSES:
        (chosen.out / name).mkdir(parents=True, exist_ok=True)
        for number in range(1, chosen.count + 1):
            draw(rng, name, chosen.side).save(chosen.out / name / f"{name}{number}.jpg", quality=90)


if __name__ == "__main__":
    main()
