"""Time `evaluate` on 335 pairs of masks against the plain loop: one image at a time, 21 x 21 comparisons each.

    python -m benchmarks.evaluate [--pairs N] [--ground-truth DIR --predictions DIR] [--repeats N] [--json]

Without folders the masks are made: 500 x 375 pixels, a few shapes with void around them, predictions shifted.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.measuring import arguments, show, take_turns
from pixaff.io.masks import write_mask
from pixaff.stages.evaluate import evaluate

CLASSES = 21


def plain_loop(predictions: Path, ground_truth: Path) -> float:
    """mIoU from a confusion matrix filled entry by entry."""
    matrix = np.zeros((CLASSES, CLASSES))
    for path in sorted(ground_truth.glob("*.png")):
        truth = np.array(Image.open(path))
        found = np.array(Image.open(predictions / path.name))
        valid = truth != 255
        for row in range(CLASSES):
            for column in range(CLASSES):
                matrix[row, column] += np.sum((truth == row) & (found == column) & valid)
    inside = np.diag(matrix)
    union = matrix.sum(0) + matrix.sum(1) - inside
    return float(np.mean(inside[union > 0] / union[union > 0]))


def make_masks(folder: Path, pairs: int) -> tuple[Path, Path]:
    """Palette masks in two folders."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:375, :500]
    for i in range(pairs):
        truth = np.zeros((375, 500), np.uint8)
        for _ in range(3):
            a, b, radius = rng.integers(40, 335), rng.integers(40, 460), rng.integers(30, 120)
            distance = np.hypot(y - a, x - b)
            truth[distance < radius + 4] = 255
            truth[distance < radius] = rng.integers(1, CLASSES)
        found = np.roll(truth, rng.integers(-9, 10, 2), (0, 1))
        found[found == 255] = 0
        write_mask(folder / "truth" / f"{i:04}.png", truth)
        write_mask(folder / "found" / f"{i:04}.png", found)
    return folder / "found", folder / "truth"


def run(predictions: Path, ground_truth: Path, repeats: int) -> tuple[list[dict[str, float | str]], dict[str, float]]:
    """Both ways by seconds and mIoU."""
    figures: dict[str, float] = {}

    def plain() -> None:
        figures["plain"] = plain_loop(predictions, ground_truth)

    def ours() -> None:
        figures["pixaff"] = evaluate(predictions, ground_truth).best.miou

    seconds = dict(zip(("plain", "pixaff"), take_turns([plain, ours], repeats), strict=True))
    rows: list[dict[str, float | str]] = [
        {"way": name, "seconds": seconds[name], "mIoU_percent": 100 * figures[name]} for name in seconds
    ]
    images = len(list(ground_truth.glob("*.png")))
    return rows, {"images": images, "times_faster": seconds["plain"] / seconds["pixaff"]}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--pairs", type=int, default=335, help="pairs of masks that are made (default: %(default)s)")
    parser.add_argument("--predictions", type=Path, help="folder of masks instead")
    parser.add_argument("--ground-truth", type=Path, help="folder of their ground truth")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.predictions:
            given = options.predictions, options.ground_truth
        else:
            given = make_masks(Path(folder), options.pairs)
        show("Evaluate", *run(*given, options.repeats), options.json)


if __name__ == "__main__":
    main()
