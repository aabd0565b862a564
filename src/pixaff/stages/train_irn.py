"""Train a network of class boundaries and displacements (IRN): photos and confident labels in, weights out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pixaff.errors import FormatError, PixaffError, TrainingError, UsageError
from pixaff.events import Callback, Event
from pixaff.io.images import image_size
from pixaff.io.masks import read_mask
from pixaff.models.base import BoundaryNetwork, Network
from pixaff.models.model_folder import IRN
from pixaff.models.registry import create_boundary_network, irn_recipe
from pixaff.ops.losses import boundary_loss, displacement_loss
from pixaff.options import divide
from pixaff.recipe import Recipe, whole_recipe
from pixaff.run_options import RunOptions, TrainingOptions
from pixaff.settings import Settings
from pixaff.stages.batch.executors import default_workers
from pixaff.stages.batch.inputs import existing_folder, find_images
from pixaff.stages.training.augment import Normalisation
from pixaff.stages.training.datasets import BOUNDARY_CELL, IGNORE, BoundaryPhotos, TopLeft, load_batches
from pixaff.stages.training.distributed import on_every_rank, share, summed
from pixaff.stages.training.folder import Trained, digest, finish, is_trained, leave_out, one_at_a_time
from pixaff.stages.training.loop import LossFn, train
from pixaff.stages.training.starting import seeded, start_weights

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from pixaff.keywords import TrainingKeywords

COMMAND = "train-irn"
RADIUS = 10
"""Radius of the neighbourhood in the training; that of the walk is 5."""


@on_every_rank
@one_at_a_time("a training")
def train_irn(
    photos: str | Path | Sequence[str | Path],
    labels_dir: str | Path,
    out: str | Path,
    *,
    network: str = "lite_irn",
    init: str | Path | None = None,
    listing: str | Path | None = None,
    radius: int = RADIUS,
    recipe: Recipe | Mapping[str, Any] | None = None,
    run: RunOptions | None = None,
    **options: Unpack[TrainingKeywords],
) -> Trained:
    """Train a network of class boundaries and displacements on confident labels (sections 3 and 4 of IRN).

    At the end the mean displacement over the photos is stored in the network.

    Args:
        photos: A folder, files, or "-"; see `find_images`.
        labels_dir: Folder of confident labels, masks NAME.png of any size, as ``pixaff.crf(..., hard=True)`` or IRN's
            own code write them.
        out: Folder of the weights ``irn.safetensors``, ``metrics.jsonl``, ``loss.png`` and ``run.json``.
        network: Registry name of the network; see `pixaff.models.create_model`.
        init: See `pixaff.train_cam`.
        listing: Image list; only its images are used.
        radius: Radius of the neighbourhood: pairs are closer than this many cells of 4 pixels.
        recipe: Hyper-parameters: a whole `Recipe`, or values that replace those of the network's own.
        run, **options: See `pixaff.train_cam`.

    Returns:
        The path of the weights, the photos trained on, and those left out, with the reason. Finished weights in ``out``
        are returned as they are.

    Raises:
        UsageError: An option is unknown or out of range, or ``out`` holds an unfinished training and neither ``resume``
            nor ``overwrite`` is given.
        TrainingError: No photo with labels is left, the loss is not finite, or the checkpoint belongs to another
            training.
        CheckpointError: ``init`` cannot be read or does not fit.
    """
    how = TrainingOptions.of(run, divide(options, COMMAND, TrainingOptions)[0])
    weights, report = Path(out) / IRN, how.report
    recipe = whole_recipe(recipe, irn_recipe(network))
    Settings(radius=radius)
    check_crop(recipe, radius)
    result = Trained(path=weights)
    if is_trained(weights, how, COMMAND, [init, listing]):
        return result
    found = find_images(photos, None if listing is None else Path(listing), recursive=how.recursive)
    result.names = found.names
    folder = existing_folder(labels_dir, "make labels first: pixaff crf --hard")
    kept, maps, data = _labelled(found, folder, how.workers or default_workers(), result, report)

    with seeded(recipe.seed):
        model = create_boundary_network(network)
        start = start_weights(model, network, init, COMMAND, report)
    normalisation = Normalisation(model.mean, model.std, model.bgr)
    dataset = BoundaryPhotos(kept, maps, normalisation=normalisation, recipe=recipe)
    config = {"network": network, "init": start, "radius": radius, "data": data}
    train(
        model, dataset, boundary_terms(radius), result, recipe, config=config, listing=listing, command=COMMAND, run=how
    )
    report(Event("note", COMMAND, f"measuring the mean displacement over {len(kept)} photos"))
    store_mean_displacement(model, kept, sum(recipe.resize) // 2, recipe, how.workers or default_workers())
    finish(model, result, {"network": network})
    return result


def check_crop(recipe: Recipe, radius: int = RADIUS) -> None:
    """Refuse a crop that contains no pair of cells.

    Raises:
        UsageError: It contains none.
    """
    if recipe.crop // BOUNDARY_CELL <= 2 * (radius - 1):
        least = BOUNDARY_CELL * (2 * radius - 1)
        raise UsageError(f"crop is {recipe.crop}, expected at least {least} for radius {radius}: it contains no pair")


def boundary_terms(radius: int = RADIUS) -> LossFn:
    """The losses of boundaries and displacements over the pairs within a radius, and their five terms."""

    def loss_fn(model: Network, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        logits, displacement = model(batch["image"])
        edges = boundary_loss(torch.sigmoid(logits.float()), batch["labels"], radius, whole=summed)
        offsets = displacement_loss(displacement.float(), batch["labels"], radius, whole=summed)
        return {
            "loss": edges.total + offsets.total,
            "bg": edges.bg,
            "fg": edges.fg,
            "neg": edges.neg,
            "dp_fg": offsets.fg,
            "dp_bg": offsets.bg,
        }

    return loss_fn


@torch.no_grad()
def store_mean_displacement(
    model: BoundaryNetwork, photos: Sequence[Path], max_side: int, recipe: Recipe, workers: int
) -> None:
    """Measure the mean displacement over photos, and store it in the network, which subtracts it from then on.

    Every photo counts the same, with its top left crop. Another one takes the place of one that cannot be decoded.
    """
    device = next(model.parameters()).device
    dataset = TopLeft(photos, max_side, normalisation=Normalisation(model.mean, model.std, model.bgr), crop=recipe.crop)
    model.eval()
    model.mean_shift.running_mean.zero_()
    places = [(0, index) for index in range(len(photos))]
    batches = [places[at : at + recipe.batch_size] for at in range(0, len(places), recipe.batch_size)]
    total = torch.zeros(2, device=device)
    cells = torch.arange(-(-recipe.crop // model.boundary_stride), device=device) * model.boundary_stride
    for batch, _ in load_batches(dataset, share(batches), workers, device.type == "cuda"):
        image = batch["image"].to(device, non_blocking=True, memory_format=torch.channels_last)
        _, displacement = model(image)
        extent = batch["extent"].to(device, non_blocking=True)
        rows, columns = (cells < extent[:, axis, None] for axis in (0, 1))
        inside = (rows[:, :, None] & columns[:, None, :])[:, None].expand(-1, 2, -1, -1)
        if model.mean_of_padding:
            inside = torch.ones_like(inside)
        total += ((displacement.float() * inside).sum((2, 3)) / inside.sum((2, 3))).sum(0)
    model.mean_shift.running_mean.copy_(summed(total) / len(photos))


def _labelled(
    photos: Sequence[Path], folder: Path, workers: int, result: Trained, report: Callback
) -> tuple[list[Path], list[Path], str]:
    """The photos whose labels can be read, their labels, and a digest; the others are named and left out.

    Raises:
        TrainingError: No label is left.
    """

    key = result.names.key

    def one(photo: Path) -> tuple[str, bool] | PixaffError:
        try:
            return _checked(photo, folder / f"{key(photo)}.png")
        except PixaffError as error:
            return error

    report(Event("note", COMMAND, f"reading the labels of {len(photos)} photos"))
    with ThreadPoolExecutor(workers) as pool:
        outcomes = list(pool.map(one, photos))
    kept, parts, labelled = [], [], False
    for photo, outcome in zip(photos, outcomes, strict=True):
        if isinstance(outcome, PixaffError):
            leave_out(photo, str(outcome), result, COMMAND, report)
        else:
            kept.append(photo)
            parts += [key(photo), outcome[0]]
            labelled = labelled or outcome[1]
    if not labelled:
        raise TrainingError("no photo with labels is left to train on", "the messages above say why")
    return kept, [folder / f"{key(photo)}.png" for photo in kept], digest(parts)


def _checked(photo: Path, labels: Path) -> tuple[str, bool]:
    """A digest of a photo's labels, and whether there is any.

    Raises:
        PixaffError: The photo or its labels cannot be read, or they do not fit each other.
    """
    size, cells = image_size(photo), read_mask(labels)
    height, width = cells.shape
    if abs(height * size[1] - width * size[0]) > 2 * max(*size, *cells.shape):
        raise FormatError(
            f"{labels}: found labels of {height} x {width}, expected the shape of the photo, {size[0]} x {size[1]}",
            "make them from this photo: pixaff crf --hard",
        )
    return digest([cells.tobytes(), repr(cells.shape)]), bool(np.any(cells != IGNORE))
