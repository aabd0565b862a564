"""Class activation maps of a folder of photos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pixaff.models.bundle import EMBEDDED, Weights, load_model
from pixaff.stages.device import device_words, pick_device
from pixaff.stages.fetching import fetcher
from pixaff.stages.formats import SUFFIXES, check_format, write_maps
from pixaff.stages.inputs import find_images
from pixaff.stages.labelling import class_names, labels_of, read_given_labels
from pixaff.stages.lanes import lanes
from pixaff.stages.maps import Photo, activation_maps, check_scales, load_photo
from pixaff.stages.pools import BATCH, READERS, default_workers, in_batches
from pixaff.stages.precision import settle_precision
from pixaff.stages.record import announce, write_record
from pixaff.stages.runner import Callback, Report, run, silent

SETTINGS = ("preset", "cam", "scales", "flip", "size", "label_threshold")
"""Those that decide the maps."""

Maps = tuple[tuple[int, ...], NDArray[np.float32], tuple[int, int]]
"""0-based classes, maps (C, h, w), and (H, W) of the photo."""


def cam(
    inputs: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    model: str | Path | None = None,
    labels: str | Path = "predict",
    classes: str | Path | None = None,
    listing: str | Path | None = None,
    preset: str | None = None,
    cam_weights: str | Path | None = None,
    weights_dir: str | Path | None = None,
    scales: Sequence[float] | None = None,
    flip: bool | None = None,
    size: int | None = None,
    label_threshold: float | None = None,
    format: str = "npz",
    precision: str = "fp32",
    device: str = "auto",
    batch_size: int | None = None,
    workers: int | None = None,
    overwrite: bool = False,
    report: Callback = silent,
) -> Report:
    """Write ``out/NAME.npz`` for each photo: the activation maps of its classes (section 3.1 of the paper).

    For the programs of others, ``format`` makes that ``out/NAME.npy``, with maps of the photo's own size.

    Args:
        inputs: Photos: a folder, a file, "-" for paths on standard input, or several of these.
        out: Folder for the maps.
        model: "lite", the embedded one, or a folder that `pixaff.fit` made. None takes the network of ``preset``, or
            "lite" without one.
        labels: "predict", a labels.csv, or a folder of VOC XML files.
        classes: File of class names, to make sure that they are the model's.
        listing: List of photos to take.
        preset: Network and scales; where ``model`` is given, as for `pixaff.propagate`, numbers that maps do not need.
        cam_weights: Weights of the preset's network.
        weights_dir: Folder with such a file, recognised by its tensors.
        scales: Image scales whose maps are summed.
        flip: Whether mirror images are seen as well.
        size: Long side in pixels at which the network works; larger photos are shrunk, 0 means never.
        label_threshold: Probability from which a predicted class counts as present.
        format: "npz" is ours; "psa" and "irn" are what the programs of those names read.
        precision: "fp32"; "bf16", which is faster where the processor is made for it and moves the maps a little; or
            "auto", whichever is faster here.
        device: "auto", "cpu", "cuda" or "cuda:n".
        batch_size: Photos computed together.
        workers: Threads that read and write.
        overwrite: Make what exists again.
        report: Receives an `Event` for each photo.

    Returns:
        What was done, skipped, and failed with the reason.

    Raises:
        UsageError: A setting is out of range or there is no photo.
        LabelsError: The label file or list is wrong.
        CheckpointError: The model cannot be loaded.
        OutputError: The output folder cannot be written.
    """
    out, where, suffix = Path(out), pick_device(device), SUFFIXES[check_format(format, SUFFIXES)]
    photos = find_images(inputs, None if listing is None else Path(listing))
    weights = Weights(cam_weights, None, weights_dir)
    bundle = load_model(
        model, preset, weights=weights, classes=classes, parts=("cam",), device=where, fetch=fetcher("cam", report)
    )
    network = bundle.cam
    assert network is not None
    settings = bundle.settings.replace(scales=scales, flip=flip, size=size, label_threshold=label_threshold)
    check_scales(network, settings)
    names = class_names(classes, bundle.classes)
    given = read_given_labels(labels, names, photos, command="cam", listed=listing is not None, report=report)
    precision = settle_precision(precision, network, None, where, "cam", report)
    shown = {**(bundle.sources or {"model": str(model or EMBEDDED)}), "labels": str(labels), **settings.pick(SETTINGS)}
    shown |= {"format": format, "precision": precision}
    announce(out, "cam", shown, device=device_words(where), overwrite=overwrite, report=report)

    def load(path: Path) -> Photo:
        return load_photo(path, labels_of(path, given, labels), settings)

    def maps_of(photo: Photo) -> Maps:
        present, maps = activation_maps(network, photo, settings, precision)
        return present, maps.cpu().numpy(), photo.size

    def save(path: Path, result: Maps) -> Mapping[str, Any]:
        present, maps, size = result
        write_maps(out / f"{path.stem}{suffix}", format, [index + 1 for index in present], maps, size)
        return {"classes": [names[index] for index in present]}

    with lanes(where, network) as (spread, at_a_time):
        result = run(
            photos,
            lambda todo: in_batches(
                todo,
                load=load,
                compute=lambda batch: spread(maps_of, batch),
                save=save,
                batch_size=batch_size or max(BATCH, at_a_time),
                workers=workers or min(READERS, default_workers()),
            ),
            command="cam",
            outputs=lambda path: (out / f"{path.stem}{suffix}",),
            overwrite=overwrite,
            report=report,
        )
    write_record(
        out,
        "cam",
        shown,
        device=device_words(where),
        classes=names,
        list=listing,
        images=len(photos),
        counts=result.counts(),
        failed=dict(result.failed),
    )
    return result
