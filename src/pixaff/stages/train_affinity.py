"""Train the AffinityNet: photos and their CRF posteriors in, weights out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from pixaff.errors import UsageError
from pixaff.models.base import AffinityNetwork
from pixaff.models.bundle import AFFINITY
from pixaff.models.registry import affinity_recipe, create_affinity_network
from pixaff.ops.affinity import pair_affinity
from pixaff.ops.labels import pair_labels
from pixaff.ops.losses import affinity_loss
from pixaff.recipe import Recipe
from pixaff.stages.fetching import posterior_folder
from pixaff.stages.inputs import find_images
from pixaff.stages.pools import default_workers
from pixaff.stages.runner import Callback, silent
from pixaff.stages.training.datasets import CELL, AffinityPhotos, normalisation
from pixaff.stages.training.folder import Trained, check_sizes, digest, finish, is_trained
from pixaff.stages.training.loop import LossFn, train
from pixaff.stages.training.posteriors import confident_cells
from pixaff.stages.training.starting import seeded, start_weights

COMMAND = "train-affinity"


def train_affinity(
    photos: str | Path | Sequence[str | Path],
    crf_low: str | Path,
    crf_high: str | Path,
    out: str | Path,
    *,
    model: str = "lite_affinity",
    init: str | Path | None = None,
    listing: str | Path | None = None,
    size: int = 512,
    crop: int = 448,
    radius: int = 5,
    recipe: Recipe | None = None,
    device: str = "auto",
    workers: int | None = None,
    save_every: float = 300.0,
    resume: bool = False,
    overwrite: bool = False,
    report: Callback = silent,
) -> Trained:
    """Train an AffinityNet on pairs of cells of which two CRF posteriors are sure (section 3.2 of the paper).

    Args:
        photos: A folder, files, or "-"; see `find_images`.
        crf_low: Folder of posteriors with much background, as `pixaff.crf` writes them, or in PSA's format; "@NAME"
            means published ones, such as "@crf-low", which are fetched when they are missing.
        crf_high: The same with little background.
        out: Folder of the weights ``affinity.safetensors``, ``metrics.jsonl``, ``loss.png`` and ``run.json``.
        model: Name of the network; see `pixaff.models.create_model`.
        init: See `pixaff.train_cam`.
        listing: List of the photos to train on.
        size: Long side in pixels to which larger photos are shrunk; 0 means never.
        crop: Side in pixels of the random crop, a multiple of 8.
        radius: Pairs lie closer than this many cells of 8 pixels.
        recipe: Epochs, learning rate, seed and the like; None takes the network's own (see `affinity_recipe`).
        device, workers, save_every, resume, overwrite, report: See `pixaff.train_cam`.

    Returns:
        The path of the weights, the photos trained on and those left out with the reason. Finished weights in
        ``out`` are returned as they are.

    Raises:
        UsageError: An option is out of range, or ``out`` holds an unfinished training and neither ``resume`` nor
            ``overwrite`` is given.
        TrainingError: No photo or no pair is left, the loss is not finite, or the checkpoint belongs to another
            training.
        CheckpointError: ``init`` cannot be read or does not fit.
    """
    weights, recipe = Path(out) / AFFINITY, recipe or affinity_recipe(model)
    check_sizes(crop)
    if radius < 2:
        raise UsageError(f"radius is {radius}, expected at least 2 cells")
    if crop // CELL <= 2 * (radius - 1):
        raise UsageError(
            f"crop is {crop}, expected at least {CELL * (2 * radius - 1)} for radius {radius}: it holds no pair"
        )
    result = Trained(path=weights)
    if is_trained(weights, resume, overwrite, COMMAND, report):
        return result
    found = find_images(photos, None if listing is None else Path(listing))
    low, high = (posterior_folder(folder, COMMAND, report) for folder in (crf_low, crf_high))
    kept, sizes, maps = confident_cells(found, low, high, size, workers or default_workers(), result, COMMAND, report)

    with seeded(recipe.seed):
        network = create_affinity_network(model)
        start = start_weights(network, model, init, COMMAND, report)
    mean, std, bgr = normalisation(network)
    dataset = AffinityPhotos(kept, sizes, maps, mean=mean, std=std, bgr=bgr, crop=crop, seed=recipe.seed)
    data = digest(part for photo, cells in zip(kept, maps, strict=True) for part in (photo.stem, cells.tobytes()))
    config = {"model": model, "init": start, "size": size, "crop": crop, "radius": radius, "data": data}
    train(
        network,
        dataset,
        pair_loss(radius),
        result,
        recipe,
        config=config,
        listing=listing,
        device=device,
        workers=workers,
        save_every=save_every,
        resume=resume,
        command=COMMAND,
        report=report,
    )
    finish(network, result, {"network": model})
    return result


def pair_loss(radius: int) -> LossFn[AffinityNetwork]:
    """The affinity loss over the pairs within a radius, and its three terms."""

    def loss_fn(model: AffinityNetwork, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        features = model.features(batch["image"]).float().contiguous()
        affinity = pair_affinity(features, radius)
        loss = affinity_loss(affinity, *pair_labels(batch["labels"], radius))
        return {"loss": loss.total, "bg": loss.bg, "fg": loss.fg, "neg": loss.neg}

    return loss_fn
