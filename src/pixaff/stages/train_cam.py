"""Train the network whose class activation maps are the seeds: photos and image-level labels in, weights out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F

from pixaff.errors import LabelsError, TrainingError, UsageError
from pixaff.io.labels import read_classes
from pixaff.models.base import CamNetwork
from pixaff.models.bundle import CAM
from pixaff.models.registry import cam_recipe, create_cam_network, head_recipe
from pixaff.recipe import Recipe
from pixaff.stages.fetching import posterior_folder
from pixaff.stages.inputs import find_images
from pixaff.stages.labelling import labels_of, read_given_labels
from pixaff.stages.pools import default_workers
from pixaff.stages.runner import Callback, Event, silent
from pixaff.stages.training.datasets import IGNORE, AffinityPhotos, CamPhotos, normalisation
from pixaff.stages.training.folder import (
    Trained,
    check_sizes,
    digest,
    finish,
    is_trained,
    leave_out,
    leave_out_unreadable,
)
from pixaff.stages.training.loop import LossFn, train
from pixaff.stages.training.posteriors import confident_cells
from pixaff.stages.training.starting import RANDOM, seeded, start_weights

COMMAND = "train-cam"


def train_cam(
    photos: str | Path | Sequence[str | Path],
    labels: str | Path,
    classes: str | Path | Sequence[str],
    out: str | Path,
    *,
    model: str = "lite_cam",
    init: str | Path | None = None,
    reset_head: bool = False,
    listing: str | Path | None = None,
    crf_low: str | Path | None = None,
    crf_high: str | Path | None = None,
    size: tuple[int, int] = (256, 512),
    crop: int = 448,
    recipe: Recipe | None = None,
    device: str = "auto",
    workers: int | None = None,
    save_every: float = 300.0,
    resume: bool = False,
    overwrite: bool = False,
    report: Callback = silent,
) -> Trained:
    """Train a classifier with the multi-label soft margin loss (section 4.2) on photos with image-level labels.

    Args:
        photos: A folder, files, or "-"; see `find_images`.
        labels: labels.csv or a folder of VOC XML files.
        classes: classes.txt, or the names themselves, in the order of the mask values 1, 2, ...
        out: Folder of the weights ``cam.safetensors``, ``metrics.jsonl``, ``loss.png`` and ``run.json``.
        model: Name of the network; see `pixaff.models.create_model`.
        init: Weights to start from, a file or "random"; what the file lacks starts anew. None takes the weights
            shipped with pixaff where the network has some.
        reset_head: Let the class rows start anew where ``init`` has those of another number of classes.
        listing: List of the photos to train on.
        crf_low: Folder of posteriors with much background, made from a first network's maps. With both folders it is
            the network's pixel head that is trained, on the cells that both are sure of (see `seed_loss`).
        crf_high: Folder of posteriors with little background.
        size: Range of the long side in pixels to which a photo is randomly resized.
        crop: Side in pixels of the random crop.
        recipe: Epochs, learning rate, seed and the like; None takes the network's own (see
            `cam_recipe`), or `head_recipe` with posteriors.
        device: "auto", "cpu", "cuda" or "cuda:n".
        workers: Processes that read photos; None chooses.
        save_every: Seconds between two checkpoints.
        resume: Go on from the checkpoint in ``out`` when there is one.
        overwrite: Train anew although ``out`` holds a training.
        report: Receives an `Event` for each step and each photo that is left out.

    Returns:
        The path of the weights, the photos trained on and those left out with the reason. Finished weights in
        ``out`` are returned as they are.

    Raises:
        UsageError: An option is out of range, or ``out`` holds an unfinished training and neither ``resume`` nor
            ``overwrite`` is given.
        LabelsError: Labels or classes cannot be read, or no photo has a label.
        TrainingError: No photo is left, the loss is not finite, or the checkpoint belongs to another training.
        CheckpointError: ``init`` cannot be read or does not fit.
    """
    weights = Path(out) / CAM
    check_sizes(crop, *size)
    if (crf_low is None) != (crf_high is None):
        raise UsageError("found one folder of posteriors, expected two", "give both --crf-low and --crf-high")
    recipe = recipe or (None if crf_low is None else head_recipe(model)) or cam_recipe(model)
    result = Trained(path=weights)
    if is_trained(weights, resume, overwrite, COMMAND, report):
        return result
    names = read_classes(classes) if isinstance(classes, (str, Path)) else tuple(classes)
    found = find_images(photos, None if listing is None else Path(listing))
    given = read_given_labels(labels, names, found, command=COMMAND, listed=listing is not None, report=report)
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
        network = create_cam_network(model, len(names))
        start = start_weights(network, model, init, COMMAND, report, reset_head)
    if start == RANDOM and recipe.backbone_lr_scale == 0:
        text = f"the backbone of {model} is random and stays so: give its weights with --init, or --backbone-lr-scale 1"
        report(Event("warning", COMMAND, text))
    if network.has_segmentation_head:
        network.use_segmentation_head(crf_low is not None)
    elif crf_low is not None:
        raise UsageError(
            f"{model} has no segmentation head to train on posteriors", "leave out --crf-low and --crf-high"
        )
    mean, std, bgr = normalisation(network)
    config = {"model": model, "init": start, "classes": list(names), "size": list(size), "crop": crop}
    dataset: CamPhotos | AffinityPhotos
    if crf_low is None or crf_high is None:
        dataset = CamPhotos(
            kept, present, len(names), mean=mean, std=std, bgr=bgr, size=size, crop=crop, seed=recipe.seed
        )
        config["data"] = digest(f"{photo.stem} {shown}" for photo, shown in zip(kept, present, strict=True))
        loss: LossFn[CamNetwork] = cam_loss
    else:
        low, high = (posterior_folder(folder, COMMAND, report) for folder in (crf_low, crf_high))
        kept, sizes, maps = confident_cells(
            kept, low, high, size[1], workers or default_workers(), result, COMMAND, report
        )
        dataset = AffinityPhotos(kept, sizes, maps, mean=mean, std=std, bgr=bgr, crop=crop, seed=recipe.seed)
        cells = zip(dataset.paths, dataset.label_maps, strict=True)
        config["data"] = digest(part for photo, labels in cells for part in (photo.stem, labels.tobytes()))
        loss = seed_loss
    train(
        network,
        dataset,
        loss,
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
    finish(network, result, {"network": model, "classes": names})
    return result


def cam_loss(model: CamNetwork, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The loss of a batch, and how well the classes present are told from the others (F1, logit 0 and above)."""
    logits, target = model(batch["image"]).float(), batch["target"]
    loss = F.multilabel_soft_margin_loss(logits, target)
    predicted = logits.detach() >= 0
    hits = (predicted * target).sum()
    return {"loss": loss, "f1": 2 * hits / (predicted.sum() + target.sum()).clamp(min=1)}


def seed_loss(model: CamNetwork, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Cross-entropy of the pixel head on the labelled cells of a batch, background and classes weighing the same.

    The seeding loss of Kolesnikov & Lampert, ECCV 2016 (equation 2), with a half for either side: most cells are
    background, and the network would else call everything that.
    """
    logits = model.segmentation_logits(batch["image"]).float()
    labels = batch["labels"]
    logits = F.interpolate(logits, labels.shape[1:], mode="bilinear", align_corners=False)
    losses = F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="none")
    background, foreground = labels == 0, (labels != 0) & (labels != IGNORE)
    terms = {"bg": _mean(losses, background), "fg": _mean(losses, foreground)}
    return {"loss": (terms["bg"] + terms["fg"]) / 2, **terms}


def _mean(values: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    return (values * chosen).sum() / chosen.sum().clamp(min=1)


def _name_missing_classes(names: Sequence[str], present: Sequence[Sequence[int]], report: Callback) -> None:
    seen = {index for labels in present for index in labels}
    missing = [name for index, name in enumerate(names) if index not in seen]
    if len(missing) == len(names):
        raise TrainingError("no photo is left to train on", "the messages above name what is wrong with each")
    if missing:
        report(Event("warning", COMMAND, f"no photo shows {', '.join(missing)}, so the network cannot learn it"))
