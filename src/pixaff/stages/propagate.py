"""Photos in, masks out: activation maps, random walk over learned affinities, dense CRF."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from pixaff.errors import CheckpointError
from pixaff.io.atomic import atomic_path
from pixaff.io.cams import CamFile, read_cams
from pixaff.io.masks import write_mask
from pixaff.io.scores import write_scores
from pixaff.models.bundle import EMBEDDED, PARTS, Weights, load_model
from pixaff.ops.powers import background_powers
from pixaff.ops.walk import random_walk
from pixaff.settings import Settings
from pixaff.stages.device import device_words, pick_device
from pixaff.stages.fetching import fetcher
from pixaff.stages.inputs import default_out, existing_folder, find_cams, find_images
from pixaff.stages.labelling import class_names, labels_of, read_given_labels
from pixaff.stages.lanes import lanes
from pixaff.stages.maps import Photo, activation_maps, check_scales, given_maps, load_photo
from pixaff.stages.pools import BATCH, READERS, default_workers, in_batches
from pixaff.stages.precision import settle_precision
from pixaff.stages.record import announce, write_record
from pixaff.stages.refine import (
    at_network_size,
    at_size,
    check_engine,
    image_affinity,
    mask_at_size,
    probabilities,
    scores_to_walk,
    sharpened,
)
from pixaff.stages.runner import Callback, Report, run, silent
from pixaff.stages.sweeps import FOLDER as SCORES
from pixaff.stages.sweeps import check_saved
from pixaff.stages.walked import walked_file
from pixaff.viz.overlay import overlay as draw_overlay

COMMAND = "propagate"
SETTINGS = tuple(field.name for field in fields(Settings) if not field.name.startswith(("crf_", "seed_")))
"""Those that decide the masks."""
OVERLAYS = "overlays"

Scored = tuple[Photo, tuple[int, ...], Tensor, Tensor]
"""A photo, its 0-based classes, the probabilities (C + 1, h, w) of background and classes, and the walked rows of
`scores_to_walk`."""


def propagate(
    inputs: str | Path | Sequence[str | Path],
    out: str | Path | None = None,
    *,
    model: str | Path | None = None,
    labels: str | Path = "predict",
    classes: str | Path | None = None,
    cams: str | Path | None = None,
    listing: str | Path | None = None,
    preset: str | None = None,
    cam_weights: str | Path | None = None,
    affinity_weights: str | Path | None = None,
    weights_dir: str | Path | None = None,
    scales: Sequence[float] | None = None,
    flip: bool | None = None,
    size: int | None = None,
    label_threshold: float | None = None,
    alpha: float | None = None,
    beta: float | None = None,
    radius: int | None = None,
    steps: int | None = None,
    borders: str | None = None,
    final_crf: bool | None = None,
    engine: str = "auto",
    overlay: bool = False,
    save_scores: bool = False,
    precision: str = "fp32",
    device: str = "auto",
    batch_size: int | None = None,
    workers: int | None = None,
    overwrite: bool = False,
    report: Callback = silent,
) -> Report:
    """Write ``out/NAME.png`` for each photo: a palette mask of the photo's own size and orientation.

    Args:
        inputs: Photos: a folder, a file, "-" for paths on standard input, or several of these.
        out: Folder for the masks; default ``photos-masks`` for ``photos``.
        model: "lite", the embedded one, or a folder that `pixaff.fit` made. None takes the networks of ``preset``,
            or "lite" without one.
        labels: "predict", a labels.csv, or a folder of VOC XML files.
        classes: File of class names, to make sure that they are the model's.
        cams: Folder of activation maps to refine instead of the model's own, in any of the formats that
            `pixaff.io.cams.read_cams` reads.
        listing: List of photos to take.
        preset: Networks and numbers; where ``model`` is given, the numbers of the method alone.
        cam_weights, affinity_weights: Weights of the preset's networks. Given ``cams`` need no CAM network.
        weights_dir: Folder of such files, recognised by their tensors.
        scales, flip, label_threshold: See `pixaff.cam`.
        size: Long side in pixels at which networks and CRF work; larger photos are shrunk, 0 means never. Masks have
            the photo's own size all the same.
        alpha: Power of the background score ``(1 - max cam) ** alpha``.
        beta: Power of the affinities.
        radius: Radius of the neighbourhood, in cells of 8 pixels.
        steps: Length of the walk.
        borders: "full" or "published": all neighbours of the cells near the border, or the published graph's few.
        final_crf: Whether a dense CRF follows the walk.
        engine: Of that CRF: "torch", "pydensecrf" or "auto".
        overlay: Write ``out/overlays/NAME.jpg`` too: the mask laid over the photo.
        save_scores: Write ``out/scores/NAME.npz`` too: the walked scores, from which `pixaff.evaluate` makes the masks
            of every alpha. They are those before the final CRF.
        precision: Of both networks; see `pixaff.cam`.
        device: "auto", "cpu", "cuda" or "cuda:n".
        batch_size: Photos computed together; their walks are one sparse product.
        workers: Threads that read and write.
        overwrite: Make what exists again.
        report: Receives an `Event` for each photo.

    Returns:
        What was done, skipped, and failed with the reason.

    Raises:
        UsageError: A setting is out of range, there is no photo, or the output folder is not clear.
        LabelsError: The label file or list is wrong.
        CheckpointError: The model cannot be loaded.
        OutputError: The output folder cannot be written.
    """
    entries = [inputs] if isinstance(inputs, (str, Path)) else list(inputs)
    out = Path(out) if out is not None else default_out(entries, "masks")
    where = pick_device(device)
    photos = find_images(entries, None if listing is None else Path(listing))
    weights = Weights(cam_weights, affinity_weights, weights_dir)
    parts = PARTS if cams is None else ("affinity",)
    bundle = load_model(
        model, preset, weights=weights, classes=classes, parts=parts, device=where, fetch=fetcher(COMMAND, report)
    )
    network, affinity = bundle.cam, bundle.affinity
    if affinity is None:
        raise CheckpointError(f"{bundle.path} holds no AffinityNet", "train one: pixaff train-affinity, or pixaff fit")
    settings = bundle.settings.replace(
        scales=scales,
        flip=flip,
        size=size,
        label_threshold=label_threshold,
        alpha=alpha,
        beta=beta,
        radius=radius,
        steps=steps,
        borders=borders,
        final_crf=final_crf,
    )
    powers = background_powers() if save_scores else ()
    if save_scores:
        check_saved([settings.alpha])
    check_scales(network, settings)
    names = class_names(classes, bundle.classes)
    given = read_given_labels(labels, names, photos, command=COMMAND, listed=listing is not None, report=report)
    folder = None if cams is None else existing_folder(cams)
    shown = {**(bundle.sources or {"model": str(model or EMBEDDED)}), "labels": str(labels)}
    shown |= {} if cams is None else {"cams": str(cams)}
    shown |= {**settings.pick(SETTINGS), "engine": check_engine(engine)}
    shown["precision"] = precision = settle_precision(
        precision, None if folder else network, affinity, where, COMMAND, report
    )
    announce(out, COMMAND, shown, device=device_words(where), overwrite=overwrite, report=report)

    def load(path: Path) -> tuple[Photo, CamFile | None]:
        photo = load_photo(path, labels_of(path, given, labels), settings)
        return photo, None if folder is None else read_cams(find_cams(folder, path.stem))

    def begin(photo: Photo, file: CamFile | None) -> tuple[tuple[int, ...], Tensor, Tensor]:
        """Classes, scores to walk and affinities of a photo."""
        if file is None:
            assert network is not None
            present, maps = activation_maps(network, photo, settings, precision)
        else:
            present, maps = given_maps(file, photo, where)
        seen = at_network_size(affinity, photo.image)
        start = scores_to_walk(at_size(maps, seen.shape[:2]), settings.alpha, powers)
        return present, start, image_affinity(affinity, seen, settings.radius, settings.borders, precision)

    def finish(photo: Photo, walked: Tensor) -> Tensor:
        size = photo.image.shape[:2]
        scores = probabilities(walked[: len(walked) - len(powers)], affinity.seen_size(size))
        if settings.final_crf:
            scores = sharpened(photo.image, at_size(scores, size), engine)
        return scores.cpu()

    def outputs(path: Path) -> tuple[Path, ...]:
        further = [out / OVERLAYS / f"{path.stem}.jpg"] * overlay + [out / SCORES / f"{path.stem}.npz"] * save_scores
        return (out / f"{path.stem}.png", *further)

    def save(path: Path, scored: Scored) -> Mapping[str, Any]:
        photo, present, scores, walked = scored
        values = [0, *(index + 1 for index in present)]
        write_mask(out / f"{path.stem}.png", mask_at_size(scores, values, photo.size))
        if overlay:
            picture = draw_overlay(photo.image, mask_at_size(scores, values, photo.image.shape[:2]))
            with atomic_path(out / OVERLAYS / f"{path.stem}.jpg") as temporary:
                Image.fromarray(picture).save(temporary, quality=90)
        if save_scores:
            size = affinity.seen_size(photo.image.shape[:2])
            file = walked_file(walked, present, powers, settings.alpha, size, photo.size)
            write_scores(out / SCORES / f"{path.stem}.npz", file)
        return {"classes": [names[index] if index < len(names) else str(index + 1) for index in present]}

    with lanes(where, network, affinity) as (spread, at_a_time):

        @torch.inference_mode()
        def compute(batch: list[tuple[Photo, CamFile | None]]) -> list[Scored]:
            pictures = [photo for photo, _ in batch]
            present, starts, affinities = zip(*spread(begin, pictures, [file for _, file in batch]), strict=True)
            walked = random_walk(
                starts, affinities, settings.beta, settings.steps, settings.radius, borders=settings.borders
            )
            scores = spread(finish, pictures, walked)
            return list(zip(pictures, present, scores, (rows.cpu() for rows in walked), strict=True))

        result = run(
            photos,
            lambda todo: in_batches(
                todo,
                load=load,
                compute=compute,
                save=save,
                batch_size=batch_size or max(BATCH, at_a_time),
                workers=workers or min(READERS, default_workers()),
            ),
            command=COMMAND,
            outputs=outputs,
            overwrite=overwrite,
            report=report,
        )
    write_record(
        out,
        COMMAND,
        shown,
        device=device_words(where),
        classes=names,
        list=listing,
        images=len(photos),
        counts=result.counts(),
        failed=dict(result.failed),
    )
    return result
