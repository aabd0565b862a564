"""Time multi-scale activation maps: a plain float32 loop over scale and mirror against pixaff with each engine.

    python -m benchmarks.cam [--network NAME] [--size 500x375] [--precision auto] [--threads N] [--repeats N] [--json]

The engines are the network as it is, with batch norm folded into the convolutions, with Winograd's algorithm as well if
it suits the network, and in ONNX Runtime; they take turns. Ratios are of processor seconds, which other programs on the
machine change little.

The weights are noise whose scale keeps the values of all layers in range. The plain loop sees one scale or mirror
image at a time and enlarges all maps. The maps kept are those of the two classes that the network thinks likeliest, as
for a photo whose labels it predicts: the map of a class that it sees nowhere is little but rounding. The difference is
the largest one of a single pixel of a map, as a share of the map's maximum. ResNet-38 at 500 x 375 takes some minutes
on two threads; --size 160x120 shows the same in a tenth of that.
"""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from benchmarks.measuring import Row, arguments, show, take_turns_on
from pixaff.device import choose_precision
from pixaff.errors import UsageError
from pixaff.io.images import IMAGE_SUFFIXES, load_image
from pixaff.models import create_cam_network
from pixaff.models.base import CamNetwork
from pixaff.models.folding import folded
from pixaff.models.winograd import winograd_layers
from pixaff.predictor import Predictor
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
        # Networks of cells get sizes that the cells cover.
        columns, rows = (round(side * scale / network.size_divisor) for side in (width, height))
        size = (columns * network.size_divisor, rows * network.size_divisor)
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


def engines(network: CamNetwork, precision: str) -> dict[str, Predictor]:
    """A predictor for each engine that this machine has."""
    network = network.to(memory_format=torch.channels_last)
    names = [str(index) for index in range(20)]

    def make() -> Predictor:
        return Predictor(network, None, names, Settings(cam="lite", scales=SCALES, size=0))

    plain, folding, pytorch, runtime, low = (make() for _ in range(5))
    plain._engines["cam"], folding._engines["cam"] = network, folded(network)
    found = {"pixaff, network as it is": plain, "pixaff, folded": folding}
    if winograd_layers(network):
        found["pixaff, folded, Winograd"] = pytorch
    try:
        runtime.settle_inference("onnx")
        found["pixaff, ONNX Runtime"] = runtime
    except UsageError as error:
        print(f"no ONNX Runtime: {error}", file=sys.stderr)
    low.precision, _ = choose_precision(precision, torch.device("cpu"), low.seconds)
    low.settle_inference("torch")
    if low.precision != "fp32":
        found[f"pixaff, folded, {low.precision}"] = low
    return found


def run(name: str, size: tuple[int, int], precision: str, repeats: int) -> list[Row]:
    """One row per way: name, seconds, ratios to the plain loop, difference from it."""
    image = read_photo(size)
    network = make_network(name)
    with torch.no_grad():
        classes = sorted(network(network.preprocess(image)[None])[0].topk(PRESENT).indices.tolist())
    works: dict[str, Callable[[], Tensor]] = {"plain loop": partial(plain_maps, network, image, classes)}
    for way, predictor in engines(copy.deepcopy(network), precision).items():
        works[way] = partial(pixaff_maps, predictor, image, classes)
    results = [work() for work in works.values()]  # warms up, too
    times = take_turns_on([time.perf_counter, time.process_time], list(works.values()), repeats)
    return [
        {
            "way": way,
            "seconds": wall,
            "cpu_seconds": cpu,
            "times_faster": times[0][1] / cpu,
            "largest_difference": float((found - results[0]).abs().max() / results[0].max()),
        }
        for way, (wall, cpu), found in zip(works, times, results, strict=True)
    ]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--network", choices=("lite", "vgg16", "resnet38", "resnet50"), default="resnet38")
    parser.add_argument("--size", default="500x375", help="WIDTHxHEIGHT of the photo (default: %(default)s)")
    parser.add_argument("--precision", choices=("fp32", "bf16", "auto"), default="auto")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's own choice)")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    width, height = map(int, options.size.split("x"))
    rows = run(options.network, (width, height), options.precision, options.repeats)
    title = f"Activation maps of {options.network}, {width} x {height}"
    show(title, rows, {"network": options.network, "repeats": options.repeats}, options.json)


if __name__ == "__main__":
    main()
