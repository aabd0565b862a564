"""Train the AffinityNet: photos and their CRF posteriors in, weights out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pixaff.errors import UsageError
from pixaff.models.base import AffinityNetwork, Network
from pixaff.models.model_folder import AFFINITY
from pixaff.models.registry import affinity_recipe, create_affinity_network
from pixaff.ops.affinity import pair_affinity
from pixaff.ops.labels import pair_labels
from pixaff.ops.losses import affinity_loss
from pixaff.options import divide
from pixaff.published import posterior_folder
from pixaff.recipe import Recipe, whole_recipe
from pixaff.run_options import RunOptions, TrainingOptions
from pixaff.settings import Settings
from pixaff.stages.batch.executors import default_workers
from pixaff.stages.batch.inputs import find_images
from pixaff.stages.training.augment import Normalisation
from pixaff.stages.training.datasets import CELL, AffinityPhotos
from pixaff.stages.training.distributed import on_every_rank, summed
from pixaff.stages.training.folder import Trained, digest, finish, is_trained, one_at_a_time
from pixaff.stages.training.loop import LossFn, train
from pixaff.stages.training.posteriors import confident_cells
from pixaff.stages.training.starting import seeded, start_weights

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from pixaff.keywords import TrainingKeywords

COMMAND = "train-affinity"


@on_every_rank
@one_at_a_time("a training")
def train_affinity(
    photos: str | Path | Sequence[str | Path],
    crf_low_dir: str | Path,
    crf_high_dir: str | Path,
    out: str | Path,
    *,
    network: str = "lite_affinity",
    init: str | Path | None = None,
    listing: str | Path | None = None,
    size: int = 512,
    radius: int = 5,
    recipe: Recipe | Mapping[str, Any] | None = None,
    run: RunOptions | None = None,
    **options: Unpack[TrainingKeywords],
) -> Trained:
    """Train an AffinityNet on pairs of cells whose labels two CRF posteriors agree on (section 3.2 of the paper).

    Args:
        photos: A folder, files, or "-"; see `find_images`.
        crf_low_dir: Folder of posteriors with much background, as `pixaff.crf` writes them, or in PSA's format; "@NAME"
            means published ones, such as "@crf-low", which are downloaded if they are not cached.
        crf_high_dir: The same with little background.
        out: Folder of the weights ``affinity.safetensors``, ``metrics.jsonl``, ``loss.png`` and ``run.json``.
        network: Registry name of the network; see `pixaff.models.create_model`.
        init: See `pixaff.train_cam`.
        listing: Image list; only its images are used.
        size: Working size: long side in pixels to which larger photos are shrunk; 0 means never.
        radius: Radius of the neighbourhood: pairs are closer than this many cells of 8 pixels.
        recipe: Hyper-parameters: a whole `Recipe`, or values that replace those of the network's own.
        run, **options: See `pixaff.train_cam`.

    Returns:
        The path of the weights, the photos trained on, and those left out, with the reason. Finished weights in ``out``
        are returned as they are.

    Raises:
        UsageError: An option is unknown or out of range, or ``out`` holds an unfinished training and neither ``resume``
            nor ``overwrite`` is given.
        TrainingError: No photo or no pair is left, the loss is not finite, or the checkpoint belongs to another
            training.
        CheckpointError: ``init`` cannot be read or does not fit.
    """
    how = TrainingOptions.of(run, divide(options, COMMAND, TrainingOptions)[0])
    weights, report = Path(out) / AFFINITY, how.report
    recipe = whole_recipe(recipe, affinity_recipe(network))
    radius = Settings(radius=radius, size=size).radius
    if recipe.crop // CELL <= 2 * (radius - 1):
        least = CELL * (2 * radius - 1)
        raise UsageError(f"crop is {recipe.crop}, expected at least {least} for radius {radius}: it contains no pair")
    result = Trained(path=weights)
    if is_trained(weights, how, COMMAND, [init, listing]):
        return result
    found = find_images(photos, None if listing is None else Path(listing), recursive=how.recursive)
    result.names = found.names
    low, high = (posterior_folder(folder, COMMAND, report) for folder in (crf_low_dir, crf_high_dir))
    workers = how.workers or default_workers()
    kept, sizes, maps = confident_cells(found, low, high, size, workers, result, COMMAND, report)

    with seeded(recipe.seed):
        model = create_affinity_network(network)
        start = start_weights(model, network, init, COMMAND, report)
    normalisation = Normalisation(model.mean, model.std, model.bgr)
    dataset = AffinityPhotos(kept, sizes, maps, normalisation=normalisation, recipe=recipe)
    data = digest(
        part for photo, cells in zip(kept, maps, strict=True) for part in (found.names.key(photo), cells.tobytes())
    )
    config = {"network": network, "init": start, "size": size, "radius": radius, "data": data}
    train(model, dataset, pair_loss(radius), result, recipe, config=config, listing=listing, command=COMMAND, run=how)
    finish(model, result, {"network": network})
    return result


def pair_loss(radius: int) -> LossFn:
    """The affinity loss over the pairs within a radius, and its three terms."""

    def loss_fn(model: Network, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        assert isinstance(model, AffinityNetwork)
        features = model.features(batch["image"]).float().contiguous()
        affinity = pair_affinity(features, radius)
        loss = affinity_loss(affinity, *pair_labels(batch["labels"], radius), whole=summed)
        return {"loss": loss.total, "bg": loss.bg, "fg": loss.fg, "neg": loss.neg}

    return loss_fn
