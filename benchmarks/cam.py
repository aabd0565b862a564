"""Time multi-scale activation maps of a published network: a plain float32 loop over scale and mirror against pixaff.

    python -m benchmarks.cam [--network NAME] [--size 500x375] [--precision auto] [--threads N] [--repeats N] [--json]

The weights are noise whose scale keeps the values of all layers in range. The plain loop sees one scale or mirror
image at a time and enlarges all maps. The maps kept are those of the two classes that the network thinks likeliest, as
for a photo whose labels it predicts: the map of a class that it sees nowhere is little but rounding. The difference is
the largest one of a single pixel of a map, as a share of the map's maximum. ResNet-38 at 500 x 375 takes some minutes
on two threads; --size 160x120 shows the same in a tenth of that.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor

from pixaff.io.images import IMAGE_SUFFIXES, load_image
from pixaff.models import create_cam_network
from pixaff.models.base import CamNetwork
from pixaff.predictor import Predictor, settle_precision
from pixaff.settings import Settings

PHOTOS = Path(__file__).parents[1] / "examples" / "photos"
SCALES = (1.0, 0.5, 1.5, 2.0)
PRESENT = 2


def read_photo(size: tuple[int, int]) -> NDArray[np.uint8]:
    """The first example photo, brought to a (width, height)."""
    path = min(path for path in PHOTOS.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    return np.asarray(Image.fromarray(load_image(path)[0]).resize(size, Image.Resampling.BICUBIC))


@torch.no_grad()
def make_network(name: str) -> CamNetwork:
    """The CAM network with weights of noise: batch norms near the identity, convolutions that keep the scale."""
    noise = torch.Generator().manual_seed(0)
    network = create_cam_network(f"{name}_cam")
    for key, tensor in network.state_dict().items():
        if not tensor.is_floating_point():
            continue
        tensor.normal_(generator=noise)
        if key.endswith("running_var"):
            tensor.abs_().mul_(0.1).add_(1)
        elif key.endswith(("running_mean", "bias")):
            tensor.mul_(0.05)
        elif tensor.ndim == 1:
            tensor.mul_(0.1).add_(1)
        else:
            tensor.mul_((1.6 / tensor[0].numel()) ** 0.5)
    return network


@torch.no_grad()
def plain_maps(network: CamNetwork, image: NDArray[np.uint8], classes: list[int]) -> Tensor:
    """One scale and one mirror image after the other, in float32."""
    height, width = image.shape[:2]
    total = torch.zeros(())
    for scale in SCALES:
        size = (round(width * scale), round(height * scale))
        resized = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
        for mirrored in (False, True):
            x = network.preprocess(resized[:, ::-1] if mirrored else resized)[None]
            maps = F.interpolate(network.cam(x), (height, width), mode="bilinear", align_corners=False)[0]
            total = total + (maps.flip(2) if mirrored else maps)
    total = total[classes]
    return total / (total.amax((1, 2), keepdim=True) + 1e-5)


def pixaff_maps(predictor: Predictor, image: NDArray[np.uint8], classes: list[int]) -> Tensor:
    """The way of `pixaff cam`."""
    return torch.from_numpy(predictor.cams(image, classes).cams)


def measure(work: Callable[[], Tensor], repeats: int) -> tuple[float, Tensor]:
    """Median seconds and the result."""
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        result = work()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds), result


def run(name: str, size: tuple[int, int], precision: str, repeats: int) -> list[dict[str, float | str]]:
    """One row per way: name, seconds, speedup over the plain one, difference from it."""
    image = read_photo(size)
    network = make_network(name)
    with torch.no_grad():  # warms up, too
        classes = network(network.preprocess(image)[None])[0].topk(PRESENT).indices.tolist()
    baseline, expected = measure(partial(plain_maps, network, image, classes), repeats)
    network = network.to(memory_format=torch.channels_last)
    names = [str(index) for index in range(20)]
    predictor = Predictor(network, None, names, Settings(cam=name, scales=SCALES, size=0))
    predictor.precision, _ = settle_precision(precision, predictor, torch.device("cpu"))
    seconds, found = measure(partial(pixaff_maps, predictor, image, classes), repeats)
    difference = float((found - expected).abs().max() / expected.max())
    way = f"pixaff, {precision}" + (f": {predictor.precision}" if precision == "auto" else "")
    return [
        {"way": "plain loop, fp32", "seconds": baseline, "speedup": 1.0, "difference": 0.0},
        {"way": way, "seconds": seconds, "speedup": baseline / seconds, "difference": difference},
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="Time multi-scale activation maps against a plain loop.")
    parser.add_argument("--network", choices=("resnet38", "vgg16"), default="resnet38", help="(default: %(default)s)")
    parser.add_argument("--size", default="500x375", help="WIDTHxHEIGHT of the photo (default: %(default)s)")
    parser.add_argument("--precision", choices=("fp32", "bf16", "auto"), default="auto")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's own choice)")
    parser.add_argument("--repeats", type=int, default=1, help="timed runs of each way (default: 1)")
    parser.add_argument("--json", action="store_true", help="one JSON object per line instead of the table")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    width, height = map(int, arguments.size.split("x"))
    rows = run(arguments.network, (width, height), arguments.precision, max(1, arguments.repeats))
    if arguments.json:
        for row in rows:
            print(json.dumps(row))
        return
    threads = torch.get_num_threads()
    table = Table(title=f"Activation maps of {arguments.network}, {width} x {height}, {threads} CPU threads")
    table.add_column("way")
    for column in ("seconds", "times faster", "largest difference"):
        table.add_column(column, justify="right")
    for row in rows:
        figures = f"{row['seconds']:.2f}", f"{row['speedup']:.2f}", f"{100 * float(row['difference']):.2f} %"
        table.add_row(str(row["way"]), *figures)
    Console().print(table)


if __name__ == "__main__":
    main()
