"""Train the classifier whose CAMs are the seeds: photos and image-level labels in, weights out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from pixaff.errors import LabelsError, TrainingError, UsageError
from pixaff.events import Callback, Event
from pixaff.io.labels import read_classes
from pixaff.models.base import CamNetwork, Network
from pixaff.models.model_folder import CAM
from pixaff.models.registry import cam_recipe, create_cam_network, head_recipe
from pixaff.options import divide
from pixaff.published import posterior_folder
from pixaff.recipe import Recipe, whole_recipe
from pixaff.run_options import RunOptions, TrainingOptions
from pixaff.stages.batch.executors import default_workers
from pixaff.stages.batch.image_labels import ask_about, labels_of, read_given_labels
from pixaff.stages.batch.inputs import find_images
from pixaff.stages.training.augment import Normalisation
from pixaff.stages.training.datasets import IGNORE, AffinityPhotos, CamPhotos
from pixaff.stages.training.distributed import on_every_rank, share_of_mean, summed
from pixaff.stages.training.folder import (
    Trained,
    digest,
    finish,
    is_trained,
    leave_out,
    leave_out_unreadable,
    one_at_a_time,
)
from pixaff.stages.training.held_out import HeldOut, split_photos
from pixaff.stages.training.loop import LossFn, train
from pixaff.stages.training.posteriors import confident_cells
from pixaff.stages.training.starting import RANDOM, seeded, start_weights

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from pixaff.keywords import TrainingKeywords

COMMAND = "train-cam"


@on_every_rank
@one_at_a_time("a training")
def train_cam(
    photos: str | Path | Sequence[str | Path],
    labels: str | Path,
    classes: str | Path | Sequence[str],
    out: str | Path,
    *,
    network: str = "lite_cam",
    init: str | Path | None = None,
    reset_head: bool = False,
    listing: str | Path | None = None,
    crf_low_dir: str | Path | None = None,
    crf_high_dir: str | Path | None = None,
    recipe: Recipe | Mapping[str, Any] | None = None,
    run: RunOptions | None = None,
    **options: Unpack[TrainingKeywords],
) -> Trained:
    """Train a classifier with the multi-label soft margin loss (section 4.2) on photos with image-level labels.

    Args:
        photos: A folder, files, or "-"; see `find_images`.
        labels: A file or folder of labels; see `pixaff.io.labels.read_labels`.
        classes: A class list, or the names themselves, in the order of the mask values 1, 2, ...
        out: Folder of the weights ``cam.safetensors``, ``metrics.jsonl``, ``loss.png`` and ``run.json``.
        network: Registry name of the network; see `pixaff.models.create_model`.
        init: Initial weights: a file, or "random"; layers that the file lacks are re-initialised. None uses the weights
            in the package, if there are any for the network.
        reset_head: Re-initialise the classifier if ``init`` is for another number of classes.
        listing: Image list; only its images are used.
        crf_low_dir: Folder of posteriors with much background, made from the CAMs of a first training. With both
            folders, the network's segmentation head is trained on the cells that both agree on (see `seed_loss`).
        crf_high_dir: Folder of posteriors with little background.
        recipe: Hyper-parameters: a whole `Recipe`, or values that replace those of the network's own.
        run: How the run computes and to whom it reports, as one object; single ``options`` override it.
        **options: Fields of `pixaff.run_options.TrainingOptions`: ``device``, ``workers``, ``save_every``, ``resume``,
            ``overwrite``, ``yes``, ``report``, ``progress``.

    Returns:
        The path of the weights, the photos trained on, and those left out, with the reason. Finished weights in ``out``
        are returned as they are.

    Raises:
        UsageError: An option is unknown or out of range, labels look misread (see `pixaff.io.labels.doubts`) and
            ``yes`` is not given, or ``out`` holds an unfinished training and neither ``resume`` nor ``overwrite`` is.
        LabelsError: Labels or classes cannot be read, or no photo has a label.
        TrainingError: No photo is left, the loss is not finite, or the checkpoint belongs to another training.
        CheckpointError: ``init`` cannot be read or does not fit.
    """
    how = TrainingOptions.of(run, divide(options, COMMAND, TrainingOptions)[0])
    weights, report = Path(out) / CAM, how.report
    if (crf_low_dir is None) != (crf_high_dir is None):
        raise UsageError("found one folder of posteriors, expected two", "give both --crf-low-dir and --crf-high-dir")
    own = cam_recipe(network) if crf_low_dir is None else head_recipe(network)
    if own is None:
        raise UsageError(f"{network} has no segmentation head", "omit --crf-low-dir and --crf-high-dir")
    recipe = whole_recipe(recipe, own)
    result = Trained(path=weights)
    if is_trained(
        weights, how, COMMAND, [init, labels, listing, classes if isinstance(classes, (str, Path)) else None]
    ):
        return result
    names = read_classes(classes) if isinstance(classes, (str, Path)) else tuple(classes)
    found = find_images(photos, None if listing is None else Path(listing), labels=labels, recursive=how.recursive)
    result.names = found.names
    given = read_given_labels(labels, names, found, command=COMMAND, listed=listing is not None, report=report)
    ask_about(given, names, listed=True, yes=how.yes, command=COMMAND, report=report)
    labelled: dict[Path, tuple[int, ...]] = {}
    for photo in found:
        try:
            labelled[photo] = labels_of(photo, given, labels) or ()
        except LabelsError as error:
            leave_out(photo, str(error), result, COMMAND, report)
    kept = leave_out_unreadable(list(labelled), result, COMMAND, report)
    present = [labelled[photo] for photo in kept]
    _name_missing_classes(names, present, report)

    with seeded(recipe.seed):
        model = create_cam_network(network, len(names))
        start = start_weights(model, network, init, COMMAND, report, reset_head)
    if start == RANDOM and recipe.backbone_lr_scale == 0:
        text = f"the backbone of {network} is random and frozen: give weights with --init, or --backbone-lr-scale 1"
        report(Event("warning", COMMAND, text))
    if model.has_segmentation_head:
        model.use_segmentation_head(crf_low_dir is not None)
    config = {"network": network, "init": start, "classes": list(names)}
    normalisation = Normalisation(model.mean, model.std, model.bgr)
    dataset: CamPhotos | AffinityPhotos
    held_out = None
    if crf_low_dir is None or crf_high_dir is None:
        trained, held = split_photos(present, recipe.hold_out, recipe.seed)
        parts = [([kept[i] for i in part], [present[i] for i in part], len(names)) for part in (trained, held)]
        dataset = CamPhotos(*parts[0], normalisation=normalisation, recipe=recipe)
        held_out = HeldOut(*parts[1], recipe) if held else None
        config["data"] = digest(f"{found.names.key(photo)} {shown}" for photo, shown in zip(kept, present, strict=True))
        loss: LossFn = cam_loss
    else:
        low, high = (posterior_folder(folder, COMMAND, report) for folder in (crf_low_dir, crf_high_dir))
        kept, sizes, maps = confident_cells(
            kept, low, high, recipe.resize[1], how.workers or default_workers(), result, COMMAND, report
        )
        dataset = AffinityPhotos(kept, sizes, maps, normalisation=normalisation, recipe=recipe)
        cells = zip(dataset.paths, dataset.label_maps, strict=True)
        config["data"] = digest(part for photo, labels in cells for part in (found.names.key(photo), labels.tobytes()))
        loss = seed_loss
    train(
        model, dataset, loss, result, recipe, config=config, listing=listing, command=COMMAND, run=how,
        held_out=held_out,
    )  # fmt: skip
    finish(model, result, {"network": network, "classes": names})
    return result


def cam_loss(model: Network, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The loss of a batch, and the F1 score of the predicted classes (logit 0 and above)."""
    logits, target = model(batch["image"]).float(), batch["target"]
    loss = share_of_mean(F.multilabel_soft_margin_loss(logits, target), len(target))
    predicted = logits.detach() >= 0
    hits = (predicted * target).sum()
    return {"loss": loss, "f1": 2 * hits / summed(predicted.sum() + target.sum()).clamp(min=1)}


def seed_loss(model: Network, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Cross-entropy of the segmentation head on the labelled cells, half of it for background and half for the classes.

    The seeding loss of Kolesnikov & Lampert, ECCV 2016 (equation 2). Most cells are background; without the halves, the
    network would predict background everywhere.
    """
    assert isinstance(model, CamNetwork)
    logits = model.segmentation_logits(batch["image"]).float()
    labels = batch["labels"]
    logits = F.interpolate(logits, labels.shape[1:], mode="bilinear", align_corners=False)
    losses = F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="none")
    background, foreground = labels == 0, (labels != 0) & (labels != IGNORE)
    terms = {"bg": _mean(losses, background), "fg": _mean(losses, foreground)}
    return {"loss": (terms["bg"] + terms["fg"]) / 2, **terms}


def _mean(values: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    return (values * chosen).sum() / summed(chosen.sum()).clamp(min=1)


def _name_missing_classes(names: Sequence[str], present: Sequence[Sequence[int]], report: Callback) -> None:
    seen = {index for labels in present for index in labels}
    missing = [name for index, name in enumerate(names) if index not in seen]
    if len(missing) == len(names):
        raise TrainingError("no photo is left to train on", "the messages above say what is wrong with each")
    if missing:
        report(Event("warning", COMMAND, f"no photo shows {', '.join(missing)}, so the network cannot learn it"))
