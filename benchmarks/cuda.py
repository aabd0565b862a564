"""All that a GPU computes, against the CPU's results, and its speed against the published way on the same GPU.

    benchmarks/cuda.sh [PHOTOS] [--out cuda.json] [--images 200] [--parts NAME ...] [--budget 230] [--device cuda]

Made for a machine that is at hand for some minutes: each part runs in a process of its own with a time limit, so that
one that fails or hangs costs no other, and every figure is printed, and written to the JSON file, as soon as it is
known. The exit code is 1 if a figure is wrong or missing. ``--device cpu --tiny --here`` shows that it runs.
"""

from __future__ import annotations

import argparse
import functools
import importlib.metadata
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import pixaff
from benchmarks.crf import make_scores
from benchmarks.propagate import LABELS, PHOTOS, link_photos, published_maps, published_way
from benchmarks.train_affinity import make_input, published_affinity
from benchmarks.walk import dense_walk, random_input, read_input
from pixaff.device import autocast
from pixaff.events import Event
from pixaff.io.cams import write_cams
from pixaff.io.images import load_image
from pixaff.io.masks import read_mask
from pixaff.ops.affinity import pair_affinity
from pixaff.ops.cam import background_score
from pixaff.ops.crf import dense_crf, refine_labels
from pixaff.ops.losses import affinity_loss
from pixaff.ops.walk import random_walk
from pixaff.stages.batch.inputs import find_images
from pixaff.stages.propagate import propagate
from pixaff.stages.train_affinity import train_affinity

MARK = "FIGURE "
Row = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """What a part needs to know.

    Attributes:
        device: Where to compute.
        photos: A folder.
        images: Number of photographs of the `propagate` part.
        tiny: Small inputs, to see whether everything runs.
    """

    device: torch.device
    photos: Path
    images: int
    tiny: bool

    def seconds(self, work: Callable[[], object], repeats: int = 5) -> float:
        """Median duration of a call, until the device has done all of it; the first call is not counted."""
        times = []
        for _ in range(1 + (1 if self.tiny else repeats)):
            self.wait()
            began = time.perf_counter()
            work()
            self.wait()
            times.append(time.perf_counter() - began)
        return statistics.median(times[1:])

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def peak(self, work: Callable[[], object]) -> float | None:
        """Megabytes of GPU memory that a call needs beyond what is held already."""
        if self.device.type != "cuda":
            return None
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        work()
        self.wait()
        return (torch.cuda.max_memory_allocated(self.device) - before) / 1e6


def show(row: Mapping[str, Any]) -> None:
    print(MARK + json.dumps(row), flush=True)


@contextmanager
def figures(name: str) -> Iterator[Row]:
    """A row of figures, shown at the end of the block; an exception becomes one of its entries."""
    row: Row = {"step": name}
    began = time.perf_counter()
    try:
        yield row
    except Exception as error:
        traceback.print_exc()
        row["error"] = f"{type(error).__name__}: {error}".splitlines()[0][:300]
    row["step_seconds"] = round(time.perf_counter() - began, 2)
    show(row)


def compare(row: Row, found: Tensor, expected: Tensor, most: float) -> None:
    """The largest difference of two results, and whether it is small enough."""
    difference = (found.detach().cpu().double() - expected.detach().cpu().double()).abs().max().item()
    row.update(difference=difference, allowed=most, equal=bool(difference <= most))


def compare_labels(row: Row, same: float, least: float) -> None:
    row.update(same_labels=same, least=least, equal=bool(same >= least))


@contextmanager
def exact_convolutions() -> Iterator[None]:
    """Convolutions in float32, which cuDNN rounds to TF32 otherwise."""
    before, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def machine(job: Job) -> None:
    with figures("machine") as row:
        names = (
            "torch",
            "torchvision",
            "timm",
            "numpy",
            "pillow",
            "typer",
            "rich",
            "safetensors",
            "filelock",
            "triton",
        )
        for name in names:
            try:
                row[name] = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                row[name] = None
        row.update(python=sys.version.split()[0], processors=os.cpu_count(), threads=torch.get_num_threads())
        row.update(pixaff=pixaff.__version__, cuda=torch.version.cuda, cudnn=torch.backends.cudnn.version())
        row.update(tf32_products=torch.backends.cuda.matmul.allow_tf32, tf32_cudnn=torch.backends.cudnn.allow_tf32)
        if job.device.type == "cuda":
            about = torch.cuda.get_device_properties(job.device)
            row.update(device=about.name, capability=f"{about.major}.{about.minor}", memory_GB=about.total_memory / 1e9)


def walk(job: Job) -> None:
    """Single walks against the published dense one, a ragged batch, a photo of 3840 x 2160."""
    cpu = random_input((96, 72)) if job.tiny else read_input()
    scores, affinity = (tensor.to(job.device) for tensor in cpu)
    # Each way has rounding errors of its own: on a CPU, float32 is off by 3e-5.
    expected = random_walk(cpu[0].double(), cpu[1].double())
    with figures("walk, 500 x 375, published: 8 dense squarings") as row:
        compare(row, dense_walk(scores, affinity), expected, 2e-4)
        dense = job.seconds(lambda: dense_walk(scores, affinity))
        row.update(ms=1000 * dense, peak_MB=job.peak(lambda: dense_walk(scores, affinity)))
    ways: dict[str, Callable[[], Tensor]] = {
        "chebyshev": lambda: random_walk(scores, affinity),
        "power, 256 products": lambda: random_walk(scores, affinity, solver="power"),
        "chebyshev, float64": lambda: random_walk(scores.double(), affinity.double()),
    }
    for name, way in ways.items():
        with figures(f"walk, 500 x 375, {name}") as row:
            compare(row, way(), expected, 1e-5 if "float64" in name else 1e-4)
            seconds = job.seconds(way, 30)
            row.update(ms=1000 * seconds, times_faster_than_dense=dense / seconds, peak_MB=job.peak(way))
    with figures("walk, 500 x 375, all borders") as row:
        wide = torch.rand(affinity.shape[0], scores[0].numel(), generator=torch.Generator().manual_seed(0))
        found = random_walk(scores, wide.to(job.device), borders="full")
        compare(row, found, random_walk(cpu[0], wide, borders="full"), 1e-5)
    with figures("walk, 500 x 375, on the CPU") as row:
        row.update(ms=1000 * job.seconds(lambda: random_walk(*cpu)))
    if job.device.type == "cuda":
        kernels(job, scores, affinity)
    ragged(job)
    large(job)


def kernels(job: Job, scores: Tensor, affinity: Tensor) -> None:
    """What the GPU itself does of the time of a walk."""
    with figures("walk, 500 x 375: kernels") as row:
        kinds = [torch.profiler.ProfilerActivity.CUDA]
        with torch.profiler.profile(activities=kinds) as profile:
            random_walk(scores, affinity)
            job.wait()
        events = profile.key_averages()
        row["kernels_ms"] = sum(event.self_device_time_total for event in events) / 1000
        top = sorted(events, key=lambda event: -event.self_device_time_total)[:6]
        row["largest"] = [[e.key[:60], e.count, round(e.self_device_time_total / 1000, 3)] for e in top]


def joined(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.flatten().cpu() for tensor in tensors])


def ragged(job: Job) -> None:
    count, shrink = (4, 8) if job.tiny else (64, 1)
    pairs = [random_input(((320 + 4 * i) // shrink, (500 - 3 * i) // shrink)) for i in range(count)]
    scores, affinities = ([tensor.to(job.device) for tensor in column] for column in zip(*pairs, strict=True))
    with figures(f"walk, {count} images of different sizes") as row:
        expected = random_walk([s for s, _ in pairs], [a for _, a in pairs])
        found = random_walk(scores, affinities)
        compare(row, joined(found), joined(expected), 1e-5)
        seconds = job.seconds(lambda: random_walk(scores, affinities))
        row.update(ms=1000 * seconds, peak_MB=job.peak(lambda: random_walk(scores, affinities)))
        alone = job.seconds(lambda: [random_walk(*pair) for pair in zip(scores, affinities, strict=True)], 2)
        row.update(one_by_one_ms=1000 * alone)
        row.update(cpu_ms=1000 * job.seconds(lambda: random_walk([s for s, _ in pairs], [a for _, a in pairs]), 2))
        dense = job.seconds(lambda: [dense_walk(*pair) for pair in zip(scores, affinities, strict=True)], 1)
        row.update(dense_ms=1000 * dense, times_faster_than_dense=dense / seconds)


def large(job: Job) -> None:
    pair = random_input((240, 160) if job.tiny else (3840, 2160))
    scores, affinity = (tensor.to(job.device) for tensor in pair)
    with figures("walk, 3840 x 2160") as row:
        compare(row, random_walk(scores, affinity), random_walk(*pair), 1e-5)
        row.update(ms=1000 * job.seconds(lambda: random_walk(scores, affinity)))
        row.update(peak_MB=job.peak(lambda: random_walk(scores, affinity)))
        row.update(cpu_ms=1000 * job.seconds(lambda: random_walk(*pair), 2))
        row["dense_GB"] = 4 * scores[0].numel() ** 2 / 1e9


def crf(job: Job) -> None:
    """Both alphas of some photographs, and the CRF that `propagate` ends with."""
    shares = []
    for photo in find_images(job.photos)[: 1 if job.tiny else 2]:
        image = load_image(photo, 96 if job.tiny else 500)[0].copy()
        scores = torch.from_numpy(make_scores((image.shape[0], image.shape[1]), None, [4, 32]))
        on_device = scores.to(job.device)
        works: dict[str, Callable[[Tensor], Tensor]] = {
            "CRF, alphas 4 and 32": functools.partial(dense_crf, image, engine="torch"),
            "CRF that ends propagate": lambda values, image=image: refine_labels(image, values[0], "torch"),  # type: ignore[misc]
        }
        for name, work in works.items():
            with figures(f"{name}, {photo.name}") as row:
                expected, found = work(scores), work(on_device).cpu()
                row["on_device"] = work(on_device).device.type == job.device.type
                row["size"] = f"{image.shape[1]} x {image.shape[0]}"
                row["mean_difference"] = (found - expected).abs().mean().item()
                same = (found.argmax(-3) == expected.argmax(-3)).float().mean().item()
                compare_labels(row, same, 0.999)
                shares.append(same)
                row.update(ms=1000 * job.seconds(functools.partial(work, on_device), 3))
                row.update(cpu_ms=1000 * job.seconds(functools.partial(work, scores), 1))
    with figures("CRF in bf16 autocast") as row:
        image = image[:60, :80].copy()
        few = on_device[..., :60, :80]
        with autocast("bf16", job.device):
            compare(row, dense_crf(image, few), dense_crf(image, few), 0)
        compare(row, dense_crf(image, few).cpu(), dense_crf(image, few.cpu()), 1e-2)


def networks(job: Job) -> None:
    """CAMs and affinities of `lite`, in float32, TF32 and bfloat16, and with the published loop."""
    on_cpu = pixaff.load("lite", device="cpu", size=96 if job.tiny else 512)
    model = pixaff.load("lite", device=str(job.device), size=96 if job.tiny else 512)
    photo = find_images(job.photos)[0]
    with figures("networks on the CPU") as row:
        sample = on_cpu.sample(photo, LABELS)
        cams, affinity = torch.from_numpy(on_cpu.sample_cams(sample).cams), on_cpu.affinity(sample.image)
        row.update(cams_ms=1000 * job.seconds(lambda: on_cpu.sample_cams(sample), 2))
    for name, precision, exact, most in (
        ("fp32", "fp32", True, 1e-3),
        ("fp32 with TF32 convolutions, the default", "fp32", False, 5e-2),
        ("bf16", "bf16", False, 0.2),
    ):
        model.precision = precision
        with figures(f"CAMs, {name}") as row:
            if exact:
                with exact_convolutions():
                    compare(row, torch.from_numpy(model.sample_cams(sample).cams), cams, most)
                    row.update(ms=1000 * job.seconds(lambda: model.sample_cams(sample)))
            else:
                compare(row, torch.from_numpy(model.sample_cams(sample).cams), cams, most)
                row.update(ms=1000 * job.seconds(lambda: model.sample_cams(sample)))
        with figures(f"affinities, {name}") as row:
            if exact:
                with exact_convolutions():
                    compare(row, model.affinity(sample.image), affinity, most)
            else:
                compare(row, model.affinity(sample.image), affinity, most)
            row.update(ms=1000 * job.seconds(lambda: model.affinity(sample.image)))
    model.precision = "fp32"
    with figures("CAMs, published loop") as row, torch.inference_mode():
        row.update(ms=1000 * job.seconds(lambda: published_maps(model, sample.image), 2))
    with figures("labels predicted") as row:
        with exact_convolutions():
            found = model.predict([model.sample(photo)])[0]
        expected = on_cpu.predict([on_cpu.sample(photo)])[0]
        row.update(found=found.probabilities, expected=expected.probabilities)
        row["equal"] = list(found.probabilities) == list(expected.probabilities)


def training(job: Job) -> None:
    """Pair affinity and loss against the published way; whole steps of a training of `lite`'s AffinityNet."""
    shape = (1, 16, 14, 14) if job.tiny else (8, 448, 56, 56)
    features, kinds = make_input(shape)

    def gradient(way: Callable[[Tensor], Tensor], where: torch.device) -> Tensor:
        moved = features.to(where).requires_grad_()
        loss = affinity_loss(way(moved), *(kind.to(where) for kind in kinds))
        return torch.autograd.grad(loss.total, moved)[0]

    with figures("pair affinity and loss on the CPU"):
        expected = gradient(pair_affinity, torch.device("cpu"))
    for name, way in (("published: gather and abs", published_affinity), ("pixaff", pair_affinity)):
        with figures(f"pair affinity and loss, {name}") as row:
            work = functools.partial(gradient, way, job.device)
            compare(row, work() / expected.abs().max(), expected / expected.abs().max(), 1e-4)
            row.update(ms=1000 * job.seconds(work), peak_MB=job.peak(work))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        whole_trainings(job, folder)


def whole_trainings(job: Job, folder: Path) -> None:
    """The loop of `pixaff.train_affinity`: loaded by workers, pinned, moved, autocast, checkpoint, resumed."""
    count, crop = (2, 96) if job.tiny else (16, 320)
    photos = link_photos(job.photos, folder, count)
    found = find_images(photos)
    for photo in found:
        image = load_image(photo, 512)[0]
        blobs = make_scores((image.shape[0], image.shape[1]), None, [4])[0, 1:]
        maps = torch.from_numpy(blobs)
        for side, alpha in (("low", 4), ("high", 32)):
            posterior = torch.cat([background_score(maps, alpha), maps])
            write_cams(
                folder / side / f"{photo.stem}.npz", [0, 8, 15], (posterior / posterior.sum(0)).numpy(), image.shape[:2]
            )
    losses: dict[str, dict[int, float]] = {}

    def train(name: str, where: str, precision: str, epochs: int, **options: Any) -> Row:
        losses[name], speeds = {}, []

        def watch(event: Event) -> None:
            if event.kind == "progress":
                speeds.append(float(event.data["images_per_second"]))
                # The mean since the epoch began; on a GPU it is known every few steps and at the end of an epoch.
                if "loss" in event.data:
                    losses[name][int(event.data["step"])] = float(event.data["loss"])

        recipe = {"crop": crop, "epochs": epochs, "batch_size": min(8, count), "precision": precision, "seed": 1}
        out = folder / name.replace(" ", "-")
        began = time.perf_counter()
        train_affinity(
            photos, folder / "low", folder / "high", out, recipe=recipe, device=where, report=watch, **options
        )
        seconds = time.perf_counter() - began
        return {"steps": len(speeds), "seconds": seconds, "images_per_second": speeds[-1], "loss": losses[name]}

    def compare_losses(row: Row, name: str, most: float) -> None:
        steps = sorted(losses["cpu"].keys() & losses[name].keys())
        found, expected = (torch.tensor([losses[which][step] for step in steps]) for which in (name, "cpu"))
        compare(row, found, expected, most)

    with figures("training on the CPU, fp32") as row:
        row.update(train("cpu", "cpu", "fp32", 1, workers=1 if job.tiny else 4))
    where, many = str(job.device), 1 if job.tiny else 4
    with figures("training, fp32 convolutions") as row, exact_convolutions():
        row.update(train("fp32", where, "fp32", 1, workers=1 if job.tiny else 4))
        compare_losses(row, "fp32", 0.01)
    with figures("training, bf16") as row:
        row.update(train("bf16", where, "bf16", many, workers=1 if job.tiny else 4))
        compare_losses(row, "bf16", 0.05)
        row["loss_falls"] = losses["bf16"][max(losses["bf16"])] < losses["bf16"][min(losses["bf16"])]
    if not job.tiny:
        with figures("training, what auto chooses") as row:
            row.update(train("auto", where, "auto", 1, workers=1))


def propagation(job: Job) -> None:
    """Masks of a folder, against the CPU's and the published way on the same device."""
    count = 1 if job.tiny else job.images
    size: dict[str, Any] = {"size": 128} if job.tiny else {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        photos = link_photos(job.photos, folder, count)
        given = folder / "labels.csv"
        some = [photo.stem for photo in find_images(photos)[: 2 if job.tiny else min(count, 12)]]
        listing = folder / "some.txt"
        listing.write_text("\n".join(some) + "\n")

        def masks(out: Path) -> list[NDArray[np.uint8]]:
            return [read_mask(out / f"{stem}.png") for stem in some]

        def make(row: Row, out: Path, **options: Any) -> None:
            finished: list[float] = []

            def watch(event: Event) -> None:
                if event.kind == "done":
                    finished.append(time.perf_counter())

            began = time.perf_counter()
            done = propagate(photos, out, labels=given, report=watch, **{**size, **options})
            seconds = time.perf_counter() - began
            row.update(images=len(done.done), seconds=seconds, images_per_second=len(done.done) / seconds)
            row["images_per_second_later"] = (len(finished) - 1) / max(1e-9, finished[-1] - finished[0])
            assert done.ok, done.failed[:3]

        with figures("propagate on the CPU") as row:
            make(row, folder / "cpu", device="cpu", listing=listing)
            expected = masks(folder / "cpu")
        where = str(job.device)
        for title, least, exact, options in (
            ("fp32", 0.999, True, {}),
            ("fp32 with TF32 convolutions, the default", 0.99, False, {}),
            ("bf16", 0.97, False, {"precision": "bf16"}),
            ("bf16 in batches of 16", 0.97, False, {"precision": "bf16", "batch_size": 16, "listing": listing}),
            ("bf16 without CRF", 0.0, False, {"precision": "bf16", "final_crf": False}),
        )[: 2 if job.tiny else None]:
            with figures(f"propagate, {title}") as row:
                out = folder / title.replace(" ", "-").replace(",", "")
                if exact:
                    with exact_convolutions():
                        make(row, out, device=where, listing=listing)
                else:
                    make(row, out, device=where, **options)
                same = [float((a == b).mean()) for a, b in zip(masks(out), expected, strict=True)]
                row["worst_photo"] = min(same)
                compare_labels(row, statistics.mean(same), least)
        stages(job, photos, size)
        with figures("propagate, published way") as row:
            predictor = pixaff.load("lite", device=where, borders="published", **size)
            few = find_images(photos)[: 1 if job.tiny else 8]
            seconds = job.seconds(lambda: published_way(predictor, few, folder / "published"), 1)
            row.update(images_per_second=len(few) / seconds)


def stages(job: Job, photos: Path, size: Mapping[str, Any]) -> None:
    """Milliseconds of each stage, one photograph after the other."""
    for precision in ("fp32", "bf16")[: 1 if job.tiny else 2]:
        with figures(f"propagate, stages, {precision}") as row, torch.inference_mode():
            predictor = pixaff.load("lite", device=str(job.device), **size)
            predictor.precision = precision
            spent: dict[str, list[float]] = {}

            def clocked(stage: str, work: Callable[[], Any], spent: dict[str, list[float]] = spent) -> Any:
                job.wait()
                began = time.perf_counter()
                found = work()
                job.wait()
                spent.setdefault(stage, []).append(1000 * (time.perf_counter() - began))
                return found

            for photo in find_images(photos)[: 2 if job.tiny else 10]:
                sample = clocked("read", functools.partial(predictor.sample, photo, LABELS))
                clocked("CAM network", functools.partial(predictor.sample_cams, sample))
                clocked("AffinityNet", functools.partial(predictor.affinity, sample.image))
                clocked("all but reading", functools.partial(predictor.predict, [sample]))
                bare = predictor.replace(final_crf=False)
                clocked("all but reading and CRF", functools.partial(bare.predict, [sample]))
            row.update({stage: statistics.median(times[1:] or times) for stage, times in spent.items()})


def tests(job: Job) -> None:
    """The tests that need CUDA."""
    with figures("tests") as row:
        root = Path(__file__).parents[1]
        command = [sys.executable, "-m", "pytest", "-q", "-k", "cuda", "-p", "no:cacheprovider", "-rfE", "tests/ops"]
        command += [] if job.tiny else ["tests/test_cuda.py", "tests/test_device.py", "tests/stages/batch"]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True)
        print(done.stdout[-6000:], done.stderr[-2000:], sep="\n", flush=True)
        lines = done.stdout.strip().splitlines()
        row.update(exit_code=done.returncode, words=lines[-1] if lines else "", equal=done.returncode == 0)


PARTS: dict[str, Callable[[Job], None]] = {
    "machine": machine,
    "walk": walk,
    "crf": crf,
    "networks": networks,
    "propagate": propagation,
    "tests": tests,
    "training": training,
}
LIMITS = {"machine": 60.0, "training": 60.0, "propagate": 80.0, "tests": 60.0}
"""Seconds that a part may take, if not 40."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("photos", type=Path, nargs="?", default=PHOTOS, help="folder (default: %(default)s)")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N or cpu (default: %(default)s)")
    parser.add_argument("--images", type=int, default=200, help="of the propagate part (default: %(default)s)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="(default: all)")
    parser.add_argument("--out", type=Path, default=Path("cuda.json"), help="(default: %(default)s)")
    parser.add_argument("--budget", type=float, default=230, help="seconds for all parts (default: %(default)s)")
    parser.add_argument("--tiny", action="store_true", help="small inputs: whether it runs, not how fast")
    parser.add_argument("--here", action="store_true", help="all parts in this process, without time limits")
    given = parser.parse_args(arguments)
    job = Job(torch.device(given.device), given.photos.absolute(), given.images, given.tiny)
    if given.here:
        for part in given.parts:
            PARTS[part](job)
        return 0
    rows: list[Row] = []
    ends = time.monotonic() + given.budget
    for part in given.parts:
        left = ends - time.monotonic()
        if left < 5:
            rows.append({"part": part, "step": part, "error": "no time left"})
            print(f"{part}: no time left", flush=True)
        else:
            in_a_process(part, given, min(left, LIMITS.get(part, 40.0)), rows)
        write(given.out, rows)
    wrong = [row for row in rows if "error" in row or row.get("equal") is False]
    print(f"\n{len(rows)} figures in {given.budget - (ends - time.monotonic()):.0f} s, {len(wrong)} wrong or missing")
    for row in wrong:
        print(f"  {row['part']}: {json.dumps(row)[:500]}")
    return 1 if wrong else 0


def in_a_process(part: str, given: argparse.Namespace, limit: float, rows: list[Row]) -> None:
    """Run a part, and take its figures as it prints them."""
    command = [sys.executable, "-m", "benchmarks.cuda", str(given.photos), "--device", given.device]
    command += ["--images", str(given.images), "--parts", part, "--here", *["--tiny"] * given.tiny]
    print(f"\n== {part} (at most {limit:.0f} s)", flush=True)
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        preexec_fn=os.setpgrp,  # so that its workers end with it
    )
    stopped = threading.Event()

    def stop() -> None:
        stopped.set()
        os.killpg(process.pid, signal.SIGKILL)

    clock = threading.Timer(limit, stop)
    clock.start()
    before = len(rows)
    assert process.stdout is not None
    for line in process.stdout:
        print(line, end="", flush=True)
        if line.startswith(MARK):
            rows.append({"part": part, **json.loads(line.removeprefix(MARK))})
            write(given.out, rows)
    code = process.wait()
    clock.cancel()
    if stopped.is_set() or code:
        words = f"stopped after {limit:.0f} s" if stopped.is_set() else f"exit code {code}"
        rows.append({"part": part, "step": part, "error": f"{words}, {len(rows) - before} figures"})


def write(path: Path, rows: list[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
