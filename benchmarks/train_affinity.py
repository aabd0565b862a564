"""Time and memory of AffinityNet's pair affinity and loss, and whether a training of `lite` waits for its photos.

    python -m benchmarks.train_affinity [--repeats N] [--photos DIR] [--steps N] [--json]

First table: affinities of all pairs and their loss, forward and backward, on features (8, 448, 56, 56), which are those
of 8 crops of 448 pixels. The published way gathers both ends of every pair and takes the mean absolute difference;
autograd then keeps the differences of all 34 offsets. Gradients of both are compared. Second table: whole steps of
`lite`'s AffinityNet on crops of photos, against photos read and augmented alone by one worker process.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from torch import Tensor

from benchmarks.measuring import arguments, peak_memory, show, take_turns
from pixaff.io.images import image_size
from pixaff.models import create_affinity_network
from pixaff.models.registry import affinity_recipe
from pixaff.ops.affinity import pair_affinity
from pixaff.ops.labels import pair_labels
from pixaff.ops.losses import affinity_loss
from pixaff.ops.neighbours import offsets, source_view, target_view
from pixaff.stages.batch.inputs import find_images
from pixaff.stages.train_affinity import pair_loss
from pixaff.stages.training.augment import Normalisation
from pixaff.stages.training.datasets import AffinityPhotos, draw_batches, load_batches
from pixaff.stages.training.optimizer import build_optimizer, parameter_groups

SHAPE = (8, 448, 56, 56)
PHOTOS = Path(__file__).parents[1] / "examples" / "photos"
CROP = 320


def published_affinity(features: Tensor) -> Tensor:
    """Affinities (B, P, L) from both ends of every pair, gathered by index."""
    batch, channels, h, w = features.shape
    nodes = torch.arange(h * w, device=features.device).view(h, w)
    sources = source_view(nodes).flatten()
    targets = torch.cat([target_view(nodes, offset).flatten() for offset in offsets()])
    flat = features.flatten(2)
    source = flat.index_select(2, sources)
    target = flat.index_select(2, targets).view(batch, channels, -1, sources.numel())
    return torch.exp(-torch.mean(torch.abs(target - source[:, :, None]), dim=1))


def make_input(shape: tuple[int, int, int, int]) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    """Features and pair labels: blobs of two classes, void between them."""
    generator = torch.Generator().manual_seed(0)
    batch, _, h, w = shape
    coarse = torch.rand(batch, 1, 6, 6, generator=generator)
    field = torch.nn.functional.interpolate(coarse, (h, w), mode="bilinear")[:, 0]
    labels = torch.full((batch, h, w), 255, dtype=torch.uint8)
    labels[field < 0.45] = 0
    labels[field > 0.55] = 1
    labels[field > 0.75] = 2
    return torch.randn(shape, generator=generator) * 0.2, pair_labels(labels)


def prepare(way: Callable[[Tensor], Tensor], shape: tuple[int, int, int, int]) -> Callable[[], Tensor]:
    """The measured call: forward, loss and backward; gives the gradient."""
    features, labels = make_input(shape)
    features.requires_grad_()

    def work() -> Tensor:
        (gradient,) = torch.autograd.grad(affinity_loss(way(features), *labels).total, features)
        return gradient

    return work


def compare_affinities(repeats: int) -> tuple[list[dict[str, float | str]], dict[str, float]]:
    """Both ways by seconds and peak memory, and their ratios."""
    ways = {"published: gather and abs": published_affinity, "pixaff": pair_affinity}
    works = [prepare(way, SHAPE) for way in ways.values()]
    expected, found = (work() for work in works)
    seconds = take_turns(works, repeats)
    memory = [peak_memory(prepare, way, SHAPE) for way in ways.values()]
    rows: list[dict[str, float | str]] = [
        {"way": name, "seconds": s, "peak_MB": m / 1e6} for name, s, m in zip(ways, seconds, memory, strict=True)
    ]
    difference = ((expected - found).abs().max() / expected.abs().max()).item()
    ratios = {"time_ratio": seconds[1] / seconds[0], "memory_ratio": memory[1] / memory[0]}
    return rows, {**ratios, "gradient_difference": difference}


def compare_loading(folder: Path, steps: int) -> tuple[list[dict[str, float | str]], dict[str, float]]:
    """Images per second that one worker process reads and augments, and that the network learns from."""
    model = create_affinity_network("lite_affinity").to(memory_format=torch.channels_last).train()
    photos = find_images(folder)
    paths = [photos[i % len(photos)] for i in range(8 * (steps + 1))]
    sizes = [image_size(path) for path in paths]
    sizes = [(round(h * 500 / max(h, w)), round(w * 500 / max(h, w))) for h, w in sizes]
    rng = np.random.default_rng(0)
    maps = [rng.integers(0, 3, (-(-h // 8), -(-w // 8)), dtype=np.uint8) for h, w in sizes]
    recipe = affinity_recipe("lite_affinity").replace(crop=CROP, seed=0)
    normalisation = Normalisation(model.mean, model.std, model.bgr)
    dataset = AffinityPhotos(paths, sizes, maps, normalisation=normalisation, recipe=recipe)
    batches = draw_batches(len(dataset), 8, 1, 0)

    loader = iter(load_batches(dataset, batches, 1, False))
    next(loader)  # the worker's start
    start = perf_counter()
    kept = [batch for batch, _ in loader]
    loading = 8 * len(kept) / (perf_counter() - start)

    optimizer = build_optimizer(recipe, parameter_groups(model, recipe))
    loss = pair_loss(5)
    seconds = []
    for batch in kept:
        image = batch["image"].contiguous(memory_format=torch.channels_last)
        start = perf_counter()
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss(model, {**batch, "image": image})["loss"])
        optimizer.step()
        seconds.append(perf_counter() - start)
    learning = 8 / float(np.median(seconds))
    rows: list[dict[str, float | str]] = [
        {"part": "photos read and augmented, one worker", "images_per_second": loading},
        {"part": "network, loss and optimizer", "images_per_second": learning},
    ]
    return rows, {"loading_to_learning": loading / learning}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--photos", type=Path, default=PHOTOS, help="folder of photos (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=5, help="timed steps of the training (default: %(default)s)")
    options = parser.parse_args()
    title = "Pair affinity and loss, forward and backward, features (8, 448, 56, 56)"
    show(title, *compare_affinities(options.repeats), options.json)
    show(f"AffinityNet of lite, crops of {CROP}", *compare_loading(options.photos, options.steps), options.json)


if __name__ == "__main__":
    main()
