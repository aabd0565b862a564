"""Time the dense CRF of low and high background power on photos: pydensecrf, one run each, against the torch engine.

    python -m benchmarks.crf [PHOTOS] [--masks DIR] [--powers 4 32] [--count N] [--busy] [--repeats N] [--json]

Both sharpen the same scores: soft blobs around the objects of the photo's mask where --masks has one (palette PNGs, two
classes at most), two blobs at chosen places otherwise. Photos are shrunk to the long side of VOC's, 500 pixels. Each
figure is a median over the repeats, with both engines taking turns. The position lattice, which photos of one size
share, is built before the clock starts; `--cold` builds it every time. `--busy` has other programs hold all cores but
one meanwhile.
"""

from __future__ import annotations

import importlib
import statistics
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from benchmarks.measuring import Row, arguments, load, show, take_turns
from pixaff.io.images import IMAGE_SUFFIXES, load_image
from pixaff.ops import crf

PHOTOS = Path(__file__).parents[1] / "examples" / "photos"
LONG_SIDE = 500
VOID = 255


def pick_photos(folder: Path, masks: Path | None, count: int) -> list[Path]:
    """At most `count` photos, evenly spread over the sorted names; with `masks`, those that have one."""
    photos = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    if masks is not None:
        photos = [path for path in photos if (masks / f"{path.stem}.png").exists()]
    if not photos:
        raise SystemExit(f"no photos{' with a mask' if masks else ''} in {folder}")
    return photos[:: -(-len(photos) // count)]


def make_scores(size: tuple[int, int], mask: Path | None, powers: list[float]) -> NDArray[np.float32]:
    """Scores (A, C, H, W) of background, (1 - max)^power, and soft blobs, one set for each of A powers."""
    height, width = size
    if mask is None:
        y, x = np.mgrid[:height, :width]
        spots = [(0.45, 0.4, 0.2), (0.6, 0.75, 0.15)]
        regions = [np.hypot(y / height - a, x / width - b) < radius for a, b, radius in spots]
    else:
        labels = np.asarray(Image.open(mask).resize((width, height), Image.Resampling.NEAREST))
        regions = [labels == label for label in np.unique(labels) if label not in (0, VOID)][:2]
    blur = ImageFilter.GaussianBlur(max(size) / 20)
    blobs = np.stack([np.asarray(Image.fromarray(region.astype(np.uint8) * 255).filter(blur)) for region in regions])
    blobs = blobs / 255
    blobs /= blobs.max((1, 2), keepdims=True) + 1e-5
    background = 1 - blobs.max(0, keepdims=True)
    return np.stack([np.concatenate([background**power, blobs]) for power in powers]).astype(np.float32)


def pydensecrf_runs(image: NDArray[np.uint8], scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """The published way: one run for each set of scores."""
    densecrf = importlib.import_module("pydensecrf.densecrf")
    results = []
    for probs in scores:
        labels, height, width = probs.shape
        model = densecrf.DenseCRF2D(width, height, labels)
        model.setUnaryEnergy(-np.log(np.clip(probs, 1e-5, 1)).reshape(labels, -1))
        model.addPairwiseGaussian(sxy=3, compat=3)
        model.addPairwiseBilateral(sxy=80, srgb=13, rgbim=image, compat=10)
        results.append(np.array(model.inference(10)).reshape(probs.shape))
    return np.stack(results)


def torch_run(image: NDArray[np.uint8], scores: NDArray[np.float32], cold: bool) -> NDArray[np.float32]:
    """All sets of scores at once."""
    if cold:
        crf._cached_position_lattice.cache_clear()
    found: NDArray[np.float32] = crf.dense_crf(image, scores, engine="torch").numpy()
    return found


def run(
    folder: Path, masks: Path | None, powers: list[float], count: int, repeats: int, cold: bool
) -> list[dict[str, float | str]]:
    """One row per photo: name, size, labels, seconds of both, ratio, share of equal labels, mean difference."""
    rows: list[dict[str, float | str]] = []
    for photo in pick_photos(folder, masks, count):
        image = load_image(photo, LONG_SIDE)[0].copy()
        scores = make_scores(image.shape[:2], masks and masks / f"{photo.stem}.png", powers)
        works = [partial(pydensecrf_runs, image, scores), partial(torch_run, image, scores, cold)]
        expected, found = (work() for work in works)
        baseline, seconds = take_turns(works, repeats)
        rows.append(
            {
                "photo": photo.name,
                "size": f"{image.shape[1]} x {image.shape[0]}",
                "labels": scores.shape[1],
                "pydensecrf_seconds": baseline,
                "torch_seconds": seconds,
                "ratio": seconds / baseline,
                "same_labels": float((expected.argmax(1) == found.argmax(1)).mean()),
                "mean_difference": float(np.abs(expected - found).mean()),
            }
        )
    return rows


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("photos", type=Path, nargs="?", default=PHOTOS, help="folder of photos (default: %(default)s)")
    parser.add_argument("--masks", type=Path, help="folder of masks to draw the scores around")
    parser.add_argument("--powers", type=float, nargs="+", default=[4, 32], help="background powers (default: 4 32)")
    parser.add_argument("--count", type=int, default=12, help="photos at most (default: 12)")
    parser.add_argument("--threads", type=int, help="CPU threads of torch (pydensecrf has one)")
    parser.add_argument("--cold", action="store_true", help="build the position lattice anew for every photo")
    parser.add_argument("--busy", action="store_true", help="with other programs on all cores but one")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    if crf._import_pydensecrf() is None:
        raise SystemExit('the baseline is not installed: pip install "pixaff[pydensecrf]"')
    with load(options.busy):
        rows = run(options.photos, options.masks, options.powers, options.count, options.repeats, options.cold)
    summary: Row = {
        "median_ratio": statistics.median(float(row["ratio"]) for row in rows),
        "worst_same_labels": min(float(row["same_labels"]) for row in rows),
        "busy": options.busy,
        "powers": ", ".join(f"{power:g}" for power in options.powers),
    }
    show("Dense CRF of several background powers: torch against pydensecrf", rows, summary, options.json)


if __name__ == "__main__":
    main()
