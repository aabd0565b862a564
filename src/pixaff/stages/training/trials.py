"""Short trials that measure how long a step or a photo takes on this machine, for the estimate of the time left.

They work on an image of half the size, and count four times its time. The networks have random weights, which take as
long as trained ones.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from pixaff.device import pick_device
from pixaff.io.cams import CamFile
from pixaff.io.images import load_image
from pixaff.models.base import AffinityNetwork, BoundaryNetwork, CamNetwork, Network
from pixaff.ops.cam import with_background
from pixaff.ops.crf import dense_crf
from pixaff.predictor import Predictor
from pixaff.recipe import Recipe
from pixaff.samples import Sample
from pixaff.stages.batch.executors import default_workers
from pixaff.stages.training.datasets import CELL
from pixaff.stages.training.loop import LossFn
from pixaff.stages.training.optimizer import parameter_groups

if TYPE_CHECKING:
    from pixaff.stages.training.stage import Work

USUAL_SIZE = 512
"""Long side of a photo where the working size is that of each photo."""


def step_seconds(work: Work, model: Network, loss: LossFn, recipe: Recipe, cell: int = CELL) -> float:
    """Seconds of a training step: forward and backward pass of an image with a label per cell, times the batch."""
    where = pick_device(work.run.device)
    side = max(min(recipe.crop, 192), recipe.crop // 2 // CELL * CELL)
    model.to(where).to(memory_format=torch.channels_last).train()
    parameter_groups(model, recipe)  # freezes the backbone if the training does
    cells = (torch.arange((side // cell) ** 2, device=where) % 7 == 0).long().view(1, side // cell, side // cell)
    batch: Mapping[str, torch.Tensor] = {
        "image": torch.zeros(1, 3, side, side, device=where).contiguous(memory_format=torch.channels_last),
        "target": torch.zeros(1, len(work.names), device=where),
        "labels": cells,
    }

    def step() -> None:
        loss(model, batch)["loss"].backward()

    with torch.random.fork_rng(devices=[where] if where.type == "cuda" else []):
        seconds = _timed(step, where)
    return seconds * (recipe.crop / side) ** 2 * min(recipe.batch_size, len(work.photos))


def cam_seconds(work: Work, network: CamNetwork, scales: tuple[float, ...], flip: bool) -> float:
    """Seconds for the CAMs of a photo."""
    settings = work.settings.replace(scales=scales, flip=flip)
    return _predictor_seconds(work, Predictor(network, None, work.names, settings), Predictor.sample_cams)


def mask_seconds(work: Work, affinity: AffinityNetwork | None, boundary: BoundaryNetwork | None = None) -> float:
    """Seconds for the mask of a photo whose CAMs exist."""
    predictor = Predictor(None, affinity, work.names, work.settings, engine=work.engine, boundary_network=boundary)
    # Half the size has a quarter of the cells, but takes as many steps.
    return _predictor_seconds(work, predictor, lambda each, sample: each.predict([sample]))


def crf_seconds(work: Work, per_worker: int) -> float:
    """Seconds for both posteriors of a photo; processes share the work from so many photos for each of them on."""
    image, _ = _photo(work)
    unaries = torch.stack([with_background(_blob(image.shape[:2]), alpha) for alpha in (1.0, 4.0)])
    seconds = 4 * _timed(lambda: dense_crf(image, unaries, engine=work.engine), torch.device("cpu"))
    count = work.run.workers or default_workers()
    return seconds / count if len(work.photos) >= per_worker * count else seconds


def _predictor_seconds(work: Work, predictor: Predictor, function: Callable[[Predictor, Sample], object]) -> float:
    where = pick_device(work.run.device)
    for network in (predictor.cam_network, predictor.affinity_network, predictor.boundary_network):
        if network is not None:
            network.to(where).eval()
    image, size = _photo(work)
    cams = CamFile(np.array([1]), _blob(image.shape[:2]).numpy(), size) if predictor.cam_network is None else None
    return 4 * _timed(lambda: function(predictor, Sample(image, size, (0,), cams)), where)


def _photo(work: Work) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """The first photo at half the working size."""
    half = (work.settings.size or USUAL_SIZE) // 2
    return load_image(work.photos[0], half, half * 7 // 8)


def _blob(size: tuple[int, ...]) -> torch.Tensor:
    """A CAM (1, h, w) that falls off from the middle."""
    y, x = (torch.linspace(-1, 1, length) for length in size)
    return torch.exp(-2 * (y[:, None] ** 2 + x**2))[None]


def _timed(function: Callable[[], object], where: torch.device) -> float:
    """Seconds of the second call; the first one warms up."""
    seconds = 0.0
    for _ in range(2):
        if where.type == "cuda":
            torch.cuda.synchronize()
        began = time.perf_counter()
        function()
        if where.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - began
    return seconds
