"""Train a segmentation network on masks: photos and their masks in, weights out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pixaff.errors import UsageError
from pixaff.events import Callback, Event
from pixaff.models.base import Network
from pixaff.models.model_folder import SEG
from pixaff.models.registry import create_seg_network, seg_recipe
from pixaff.options import divide
from pixaff.recipe import MaskRecipe, Recipe, whole_recipe
from pixaff.run_options import RunOptions, TrainingOptions
from pixaff.stages.batch.executors import default_workers
from pixaff.stages.batch.inputs import existing_folder, find_images
from pixaff.stages.training.datasets import IGNORE, MaskPhotos
from pixaff.stages.training.distributed import on_every_rank, summed
from pixaff.stages.training.folder import Trained, digest, finish, is_trained, one_at_a_time
from pixaff.stages.training.loop import LossFn, train
from pixaff.stages.training.pixel_labels import (
    Masks,
    check_confidence,
    class_weights,
    classes_of_masks,
    mask_confidence,
    match_masks,
)
from pixaff.stages.training.starting import RANDOM, seeded, start_weights
from pixaff.stages.training.validation import Validation, hold_out

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from pixaff.keywords import SegTrainingKeywords

COMMAND = "train-seg"
LEAST_STEPS = 240
"""Steps of a training whose number of epochs is not given: few photos are seen more often."""


@on_every_rank
@one_at_a_time("a training")
def train_seg(
    photos: str | Path | Sequence[str | Path],
    masks: str | Path,
    out: str | Path,
    *,
    classes: str | Path | Sequence[str] | None = None,
    network: str = "lite_seg",
    init: str | Path | None = None,
    reset_head: bool = False,
    listing: str | Path | None = None,
    recipe: Recipe | Mapping[str, Any] | None = None,
    run: RunOptions | None = None,
    **options: Unpack[SegTrainingKeywords],
) -> Trained:
    """Train a segmentation network with the cross-entropy of every labelled pixel of the photos' masks.

    Args:
        photos: A folder, files, or "-"; see `find_images`.
        masks: Folder of masks NAME.png of the photos' sizes: palette or grey PNGs of class numbers, 255 where there is
            no label; of pixaff, or anybody's.
        out: Folder of the weights ``seg.safetensors``, ``metrics.jsonl``, ``loss.png`` and ``run.json``: a model for
            `pixaff.segment`.
        classes: A class list, or the names themselves, in the order of the mask values 1, 2, ...; None uses those that
            the ``run.json`` or a ``classes.txt`` beside the masks names.
        network: Registry name of the network: "lite_seg", or "seg:ARCHITECTURE:ENCODER"; see
            `pixaff.models.create_model`.
        init: Initial weights: a file, or "random"; layers that the file lacks are re-initialised. None uses the weights
            in the package, if there are any for the network.
        reset_head: Re-initialise the last layer if ``init`` is for another number of classes.
        listing: Image list; only its images are used.
        recipe: Hyper-parameters: a whole `Recipe`, or values that replace those of the network's own.
        run: How the run computes and to whom it reports, as one object; single ``options`` override it.
        **options: Fields of `pixaff.recipe.MaskRecipe` (``class_weights``, ``confidence``, ``hold_out``) and of
            `pixaff.run_options.TrainingOptions` (``device``, ``workers``, ``save_every``, ``resume``, ``overwrite``,
            ``report``, ``progress``).

    Returns:
        The path of the weights, the photos trained on, and those left out, with the reason. Finished weights in ``out``
        are returned as they are.

    Raises:
        UsageError: An option is unknown or out of range, nothing names the classes, or ``out`` holds an unfinished
            training and neither ``resume`` nor ``overwrite`` is given.
        LabelsError: The class or image list cannot be read.
        TrainingError: Fewer than two photos with masks are left, the loss is not finite, or the checkpoint belongs to
            another training.
        CheckpointError: ``init`` cannot be read or does not fit.
    """
    given, learns = divide(options, COMMAND, TrainingOptions, MaskRecipe)
    how, learning = TrainingOptions.of(run, given), MaskRecipe(**learns)
    weights, report = Path(out) / SEG, how.report
    chosen = recipe.to_dict() if isinstance(recipe, Recipe) else recipe or {}
    recipe = whole_recipe(recipe, seg_recipe(network))
    result = Trained(path=weights)
    listed = classes if isinstance(classes, (str, Path)) else None
    if is_trained(weights, how, COMMAND, [init, listing, listed]):
        return result
    folder = existing_folder(masks, "make masks first: pixaff propagate")
    names, colours = classes_of_masks(folder, classes)
    found = find_images(
        photos, None if listing is None else Path(listing), recursive=how.recursive, command=COMMAND, report=report
    )
    result.names = found.names
    workers = how.workers or default_workers()
    labelled = match_masks(found, folder, len(names), colours, workers, result, COMMAND, report)
    _name_missing_classes(names, labelled, report)
    if learning.confidence:
        check_confidence(labelled.masks, COMMAND, report, folder)
    apart = set(hold_out(len(labelled.photos), learning.hold_out, recipe.seed))
    used = [index for index in range(len(labelled.photos)) if index not in apart]
    if min(len(used), recipe.batch_size) < 2:
        raise UsageError(
            f"found {len(used)} photos to train on in batches of {recipe.batch_size}, expected at least 2 of each",
            "batch norm needs several photos",
        )

    if "epochs" not in chosen:
        steps = len(used) // min(recipe.batch_size, len(used))
        recipe = recipe.replace(epochs=max(recipe.epochs, -(-LEAST_STEPS // steps)))

    with seeded(recipe.seed):
        model = create_seg_network(network, len(names))
        start = start_weights(model, network, init, COMMAND, report, reset_head)
    model.fixed_norms = start != RANDOM
    size = sum(recipe.resize) // 2
    dataset = MaskPhotos(
        [labelled.photos[index] for index in used],
        [labelled.masks[index] for index in used],
        len(names),
        colours=colours,
        confidence=partial(mask_confidence, folder=folder) if learning.confidence else None,
        mean=model.mean,
        recipe=recipe,
    )
    validate = Validation(
        [labelled.photos[index] for index in sorted(apart)],
        [labelled.masks[index] for index in sorted(apart)],
        len(names),
        colours,
        size,
        workers,
    )
    per_class = class_weights(labelled.counts[used], learning.class_weights)
    if learning.class_weights != "none":
        words = ", ".join(f"{name} {value:.2g}" for name, value in zip(("background", *names), per_class, strict=True))
        report(Event("note", COMMAND, f"weights of the classes: {words}"))
    pairs = zip(labelled.photos, labelled.digests, strict=True)
    data = digest(part for photo, one in pairs for part in (found.names.key(photo), one))
    config = {"network": network, "init": start, "classes": list(names), **learning.to_dict(), "data": data}
    train(
        model,
        dataset,
        mask_loss(per_class, learning.confidence),
        result,
        recipe,
        config=config,
        listing=listing,
        command=COMMAND,
        run=how,
        validate=validate if apart else None,
    )
    finish(model, result, {"network": network, "classes": names, "size": str(size)})
    return result


def mask_loss(class_weights: Sequence[float], confidence: float = 0.0) -> LossFn:
    """The loss of a training on masks: the cross-entropy of the labelled pixels, as a weighted mean.

    Args:
        class_weights: Weight of the pixels of background and of each class.
        confidence: Exponent of the pixels' confidence, if the batch has it, as a further weight.

    Returns:
        A function (model, batch) -> "loss", and "accuracy", the share of labelled pixels that are predicted rightly.
    """
    table = torch.zeros(256)  # nothing for pixels without a label
    table[: len(class_weights)] = torch.tensor(class_weights)
    there: dict[torch.device, list[Tensor]] = {}

    def loss_fn(model: Network, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        images, labels = batch["image"], batch["labels"].long()
        if labels.device not in there:  # copied once: a copy at every step would wait for the device
            values = (table, *(torch.tensor(each)[:, None, None] for each in (model.mean, model.std)))
            there[labels.device] = [each.to(labels.device) for each in values]
        of_class, mean, std = there[labels.device]
        weights = of_class[labels]
        if "confidence" in batch:
            weights = weights * (batch["confidence"].float() / 255) ** confidence
        pixels = (images.float() / 255 - mean) / std
        logits = model(pixels.flip(1) if model.bgr else pixels).float()
        losses = F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="none")
        hits = (logits.detach().argmax(1) == labels).sum()
        return {
            "loss": (losses * weights).sum() / summed(weights.sum()).clamp(min=1e-3),
            "accuracy": hits / summed((labels != IGNORE).sum()).clamp(min=1),
        }

    return loss_fn


def _name_missing_classes(names: Sequence[str], masks: Masks, report: Callback) -> None:
    pixels = masks.counts.sum(0)[1:]
    missing = [name for name, count in zip(names, pixels.tolist(), strict=True) if not count]
    if missing:
        text = f"no mask shows {', '.join(missing)}, so the network cannot learn it"
        report(Event("warning", COMMAND, text))
