"""Photo to mask with `lite`: images per second against the same networks run the published way, shares, and memory.

    python -m benchmarks.propagate [PHOTOS] [--images N] [--baseline N] [--irn-baseline N] [--long-run N] [--repeats N]
        [--json]

The published way is that of PSA, with the CAM network and the AffinityNet of `lite`: it takes one image, one scale and
one mirror image at a time, enlarges the maps of all 20 classes and squares a dense transition matrix; it reads before
and writes after computing. `lite` as shipped walks within class boundaries instead, as IRN does; IRN's published way
squares a matrix of 16 times the size, which takes minutes a photo: it is timed once, and only if asked for. A dense CRF
after the walk is no part of either. Labels are given. The photos are taken again and again under new names until there
are enough; take photos of one size, as few of them go the published way. Rows without an engine's name are those of the
default, ONNX Runtime where it is installed. Ratios of processor seconds stand beside those of the wall clock, since
other programs on the machine change them less.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

import pixaff
from benchmarks.irn_walk import dense_walk as dense_boundary_walk
from benchmarks.measuring import arguments, peak_memory, resident_memory, show, take_turns_on
from benchmarks.walk import Rows, dense_transition
from pixaff.events import Event
from pixaff.io.images import load_image
from pixaff.io.labels import VOC_CLASSES, write_labels
from pixaff.io.masks import write_mask
from pixaff.ops.crf import refine_labels
from pixaff.ops.resize import mask_at_size, resize_scores
from pixaff.ops.walk import cell_scores, upsample_scores
from pixaff.prediction import probabilities
from pixaff.predictor import Predictor
from pixaff.stages.batch.inputs import find_images
from pixaff.stages.propagate import propagate

PHOTOS = Path(__file__).parents[1] / "examples" / "photos"
InferenceName = Literal["auto", "torch", "int8"]
LABELS = (7, 14)
"""Cat and person, 0-based: the work does not depend on whether the photo shows them."""


def link_photos(source: Path, folder: Path, count: int) -> Path:
    """A folder of ``count`` names for the photos of another, and labels.csv beside it."""
    photos = find_images(source)
    (folder / "photos").mkdir(parents=True)
    names = [f"{i:04}" for i in range(count)]
    for i, name in enumerate(names):
        (folder / "photos" / f"{name}{photos[i % len(photos)].suffix}").symlink_to(photos[i % len(photos)].resolve())
    write_labels(folder / "labels.csv", dict.fromkeys(names, LABELS), VOC_CLASSES)
    return folder / "photos"


@torch.inference_mode()
def published_way(predictor: Predictor, photos: list[Path], out: Path) -> None:
    """Masks one photo after the other, by PSA."""
    settings = predictor.settings
    for photo in photos:
        image, _ = load_image(photo, settings.size)
        maps = published_maps(predictor, image)
        background = (1 - maps.max(0, keepdim=True)[0]) ** settings.alpha
        cells = cell_scores(torch.cat([background, maps]))
        affinity = predictor.affinity(image)
        transition = dense_transition(affinity, (cells.shape[1], cells.shape[2]), settings.beta)
        for _ in range(round(math.log2(settings.steps))):
            transition = transition @ transition
        walked = (cells.flatten(1) @ transition).view_as(cells)
        write_best(walked, image, 8, out / f"{photo.stem}.png")


@torch.inference_mode()
def published_irn_way(predictor: Predictor, photos: list[Path], out: Path) -> None:
    """Masks one photo after the other, by IRN."""
    settings = predictor.settings
    for photo in photos:
        image, _ = load_image(photo, settings.size)
        edge = predictor.boundaries(image).edge
        size = (4 * edge.shape[0], 4 * edge.shape[1])
        maps = published_maps(predictor, np.asarray(Image.fromarray(image).resize(size[::-1])))
        background = (1 - maps.max(0, keepdim=True)[0]) ** settings.alpha
        cells = cell_scores(torch.cat([background, maps]), 4)
        walked = dense_boundary_walk(cells, edge, round(math.log2(settings.steps)))
        write_best(walked, image, 4, out / f"{photo.stem}.png")


def write_best(walked: Tensor, image: np.ndarray, stride: int, path: Path) -> None:
    """Write the mask of propagated scores."""
    large = upsample_scores(walked, (walked.shape[1] * stride, walked.shape[2] * stride), stride)
    best = F.interpolate(large[None], image.shape[:2], mode="bilinear", align_corners=False)[0].argmax(0).cpu().numpy()
    write_mask(path, np.array([0, *(k + 1 for k in LABELS)], np.uint8)[best])


def published_maps(predictor: Predictor, image: np.ndarray) -> Tensor:
    """Normalised activation maps by a loop over scales and mirror images, each enlarged with all its classes."""
    picture, size = Image.fromarray(image), image.shape[:2]
    network = predictor.cam_network
    assert network is not None
    total = torch.zeros(len(predictor.classes), *size, device=predictor.device)
    for scale in predictor.settings.scales:
        height, width = (round(side * scale / network.size_divisor) * network.size_divisor for side in size)
        resized = np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC))
        for mirrored in (False, True):
            view = resized[:, ::-1] if mirrored else resized
            maps = network.cam(network.preprocess(np.ascontiguousarray(view))[None].to(predictor.device))
            maps = F.interpolate(maps, size, mode="bilinear", align_corners=False)[0]
            total += maps.flip(2) if mirrored else maps
    total = total[list(LABELS)]
    return total / (total.amax((1, 2), keepdim=True) + 1e-5)


def compare(source: Path, images: int, baseline: int, repeats: int) -> tuple[Rows, dict[str, Any]]:
    """Images per second of both ways."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        photos = link_photos(source, folder, images)
        predictor = plain_predictor(preset="lite-psa", borders="published")
        some = find_images(photos)[:baseline]

        def ours(
            inference: InferenceName = "auto", crf: bool | None = None, preset: str | None = None
        ) -> Callable[[], None]:
            def work() -> None:
                out, labels = folder / "out", folder / "labels.csv"
                done = propagate(
                    photos, out, labels=labels, preset=preset, final_crf=crf, inference=inference, overwrite=True
                )
                assert done.ok

            return work

        works = {
            "published way": lambda: published_way(predictor, some, folder / "published"),
            "pixaff, as shipped": ours(),
            "pixaff, PyTorch": ours("torch"),
            "pixaff, int8": ours("int8"),
            "pixaff, with CRF": ours(crf=True),
            "pixaff, lite-psa, no CRF": ours(crf=False, preset="lite-psa"),
            "pixaff, lite-psa": ours(preset="lite-psa"),
        }
        for work in works.values():
            work()
        times = take_turns_on([time.perf_counter, time.process_time], list(works.values()), repeats)
    counts = [baseline, *[images] * (len(works) - 1)]
    each = [[value / count for value in found] for found, count in zip(times, counts, strict=True)]
    rows: Rows = [
        {
            "way": way,
            "images_per_second": 1 / wall,
            "times_faster": each[0][0] / wall,
            "cpu_seconds_per_image": cpu,
            "cpu_times_faster": each[0][1] / cpu,
        }
        for way, (wall, cpu) in zip(works, each, strict=True)
    ]
    return rows, {"images": images, "images_of_the_published_way": baseline}


def irn_way(source: Path, photos: int) -> tuple[Rows, dict[str, Any]]:
    """Seconds of IRN's published way, once."""
    with tempfile.TemporaryDirectory() as name:
        found = find_images(link_photos(source, Path(name), photos))
        predictor = plain_predictor()
        clocks = [time.perf_counter, time.process_time]
        ((wall, cpu),) = take_turns_on(clocks, [lambda: published_irn_way(predictor, found, Path(name))], 1)
    row: dict[str, float | str] = {
        "way": "IRN's",
        "images_per_second": photos / wall,
        "cpu_seconds_per_image": cpu / photos,
    }
    return [row], {"images": photos}


def plain_predictor(**settings: Any) -> Predictor:
    """`lite` with the networks as they are, neither folded nor in ONNX Runtime."""
    predictor = pixaff.load("lite", inference="torch", **settings)
    predictor._engines.update(predictor._networks)
    return predictor


@torch.inference_mode()
def shares(source: Path, count: int) -> tuple[Rows, dict[str, Any]]:
    """Processor milliseconds of each stage with each engine, one photo after the other on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    predictors = {
        "plain": plain_predictor(),
        "folded": pixaff.load("lite", inference="torch"),
        "default": pixaff.load("lite"),
        "int8": pixaff.load("lite", inference="int8"),
    }
    found = find_images(source)
    spent: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in predictors}
    with tempfile.TemporaryDirectory() as folder:
        for i in range(-2, count):  # two to warm up
            for name, predictor in predictors.items():
                if i == 0:
                    spent[name].clear()
                one_photo(predictor, found[i % len(found)], Path(folder), spent[name])
    torch.set_num_threads(threads)
    medians = {name: {stage: 1000 * median(times) for stage, times in stages.items()} for name, stages in spent.items()}
    totals = {name: sum(stages.values()) for name, stages in medians.items()}
    rows: Rows = [
        {
            "stage": stage,
            **{f"{name}_ms": stages[stage] for name, stages in medians.items()},
            "share": medians["default"][stage] / totals["default"],
        }
        for stage in medians["default"]
    ]
    return rows, {"one_thread": True, **{f"{name}_ms": total for name, total in totals.items()}}


def one_photo(predictor: Predictor, path: Path, folder: Path, spent: dict[str, list[float]]) -> None:
    """The mask of a photo, with the processor seconds of each stage."""

    @contextmanager
    def clock(stage: str) -> Iterator[None]:
        start = time.process_time()
        yield
        spent[stage].append(time.process_time() - start)

    with clock("read"):
        sample = predictor.sample(path, LABELS)
    size = sample.image.shape[:2]
    with clock("networks"):
        cams, found = predictor._seen(sample, displacement=False)
    with clock("walk"):
        start, affinity = predictor._start(sample, cams, found, ())
        walked = predictor._walk([start], [affinity], predictor.settings.boundary_beta)[0]
        scores = probabilities(walked, predictor._walked_size(size), predictor.stride)
    with clock("CRF"):
        scores = refine_labels(sample.image, resize_scores(scores, size))
    with clock("mask and writing"):
        values = [0, *(index + 1 for index in cams.present)]
        write_mask(folder / "mask.png", mask_at_size(scores, values, sample.size))


def long_run(folder: Path, marks: dict[int, str], result: Path) -> Callable[[], None]:
    """A run over a folder that notes the memory held when so many photos are done."""

    def work() -> None:
        count, lines = 0, []

        def watch(event: Event) -> None:
            nonlocal count
            if event.kind == "done":
                count += 1
                if count in marks:
                    lines.append(f"{count} {resident_memory()}")

        propagate(folder, folder.parent / "masks", labels=folder.parent / "labels.csv", report=watch)
        result.write_text("\n".join(lines))

    return work


def memory(source: Path, images: int) -> tuple[Rows, dict[str, Any]]:
    """Memory held at 50 photos and at the end."""
    with tempfile.TemporaryDirectory() as name:
        folder, result = link_photos(source, Path(name), images), Path(name) / "memory.txt"
        marks = {50: "", images // 2: "", images: ""}
        peak = peak_memory(long_run, folder, marks, result)
        held = [tuple(map(int, line.split())) for line in result.read_text().splitlines()]
    rows: Rows = [{"images_done": done, "resident_MB": size / 1e6} for done, size in held]
    return rows, {"peak_MB_above_imports": peak / 1e6, "growth": held[-1][1] / held[0][1]}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("photos", type=Path, nargs="?", default=PHOTOS, help="folder (default: %(default)s)")
    parser.add_argument("--images", type=int, default=24, help="of a timed run of pixaff (default: %(default)s)")
    parser.add_argument("--baseline", type=int, default=3, help="of one the published way (default: %(default)s)")
    parser.add_argument("--irn-baseline", type=int, default=0, help="of one IRN's way, once (default: %(default)s)")
    parser.add_argument("--long-run", type=int, default=300, help="images of the memory test; 0: none")
    options = parser.parse_args()
    # Squared again and again, small affinities become denormal numbers, over which the dense products take minutes.
    torch.set_flush_denormal(True)
    title = "Photo to mask with lite"
    show(title, *compare(options.photos, options.images, options.baseline, options.repeats), options.json)
    if options.irn_baseline:
        show("Photo to mask as IRN published it", *irn_way(options.photos, options.irn_baseline), options.json)
    show("Share of each stage", *shares(options.photos, options.images), options.json)
    if options.long_run:
        show("Memory over a long run", *memory(options.photos, options.long_run), options.json)


if __name__ == "__main__":
    main()
