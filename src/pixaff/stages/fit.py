"""Tagged photos of any classes in, a model of one's own and its masks out: the whole chain in one resumable run.

train-cam, cam, crf, train-affinity, propagate; a network with a pixel head (`pixaff.models.lite.LiteCam`) is first
trained further on what a CRF makes of its own maps: cam, crf and train-cam once more.
"""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from xml.etree import ElementTree

from pixaff.errors import LabelsError, TrainingError, UsageError
from pixaff.io.atomic import write_text
from pixaff.io.labels import read_classes
from pixaff.models import create_affinity_network, create_cam_network, load_checkpoint, registry
from pixaff.models.bundle import AFFINITY, CAM, RECORD, write_bundle
from pixaff.recipe import Recipe
from pixaff.settings import Settings, value_words
from pixaff.stages.cam import cam
from pixaff.stages.crf import crf
from pixaff.stages.device import device_words, pick_device
from pixaff.stages.inputs import find_images
from pixaff.stages.labelling import labels_of, read_given_labels
from pixaff.stages.propagate import propagate
from pixaff.stages.record import read_record, write_record
from pixaff.stages.runner import Callback, Event, Report, silent
from pixaff.stages.train_affinity import train_affinity
from pixaff.stages.train_cam import train_cam
from pixaff.stages.training.folder import Trained, digest, leave_out, leave_out_unreadable

COMMAND = "fit"
PARTS = ("train-cam", "seed-cams", "seed-crf", "train-pixels", "cams", "crf", "train-affinity", "masks")
"""Subfolders of a run, in the order in which they are filled."""


def fit(
    photos: str | Path | Sequence[str | Path],
    labels: str | Path,
    out: str | Path,
    *,
    classes: str | Path | Sequence[str] | None = None,
    listing: str | Path | None = None,
    settings: Settings | None = None,
    cam_recipe: Recipe | None = None,
    seed_recipe: Recipe | None = None,
    affinity_recipe: Recipe | None = None,
    cam_init: str | Path | None = None,
    affinity_init: str | Path | None = None,
    reset_head: bool = False,
    long_side: tuple[int, int] = (256, 512),
    crop: int = 448,
    engine: str = "auto",
    device: str = "auto",
    workers: int | None = None,
    save_every: float = 300.0,
    overwrite: bool = False,
    report: Callback = silent,
) -> Trained:
    """Train a model for one's own classes and write masks: train-cam, cam, crf, train-affinity, propagate.

    A run that was stopped goes on where it was when it is started again with the same arguments. Afterwards
    ``out`` is a model for `pixaff.propagate`; its masks are in ``out/masks``.

    Args:
        photos: A folder, files, or "-"; see `find_images`.
        labels: labels.csv or a folder of VOC XML files.
        out: Folder of the run.
        classes: classes.txt or the names themselves, in the order of the mask values; None takes every name that
            the labels use, in alphabetical order.
        listing: List of the photos to take.
        settings: Networks and numbers of the model, kept in it.
        cam_recipe, seed_recipe, affinity_recipe: Epochs, learning rate, seed and the like of the classifier's
            training, of its pixel head's if it has one, and of the AffinityNet's; None takes each network's own.
        cam_init, affinity_init, reset_head: Weights to start from; see `pixaff.train_cam`.
        long_side: Range of the long side in pixels to which a photo is randomly resized for the classifier.
        crop: Side in pixels of the random crop of all trainings.
        engine: Of the dense CRF: "torch", "pydensecrf" or "auto".
        device: "auto", "cpu", "cuda" or "cuda:n".
        workers: Processes or threads that help; None chooses.
        save_every: Seconds between two checkpoints.
        overwrite: Remove what an earlier run left in ``out`` and start anew.
        report: Receives an `Event` for each step and photo of every stage.

    Returns:
        The run's folder, the photos that have masks and those that failed in any stage, with the reason.

    Raises:
        UsageError: An option is out of range, or ``out`` holds a run with other options or photos.
        LabelsError: Labels or classes cannot be read, or no photo has a label.
        TrainingError: No photo is left, or a loss is not finite.
        CheckpointError: Weights to start from cannot be read or do not fit.
    """
    out, labels = Path(out), Path(labels)
    settings = settings or Settings()
    seed_recipe = seed_recipe or registry.head_recipe(settings.cam)
    cam_recipe = cam_recipe or registry.cam_recipe(settings.cam)
    affinity_recipe = affinity_recipe or registry.affinity_recipe(settings.affinity)
    where = pick_device(device)
    result = Trained(path=out)
    if overwrite:
        _clear(out)
    names = _class_names(labels, classes)
    labelled = _labelled_photos(photos, labels, names, listing, result, report)
    kept = list(labelled)
    options = {
        **settings.to_dict(),
        **{f"cam {name}": value for name, value in cam_recipe.to_dict().items()},
        **({} if seed_recipe is None else {f"seed {name}": value for name, value in seed_recipe.to_dict().items()}),
        **{f"affinity {name}": value for name, value in affinity_recipe.to_dict().items()},
        "cam init": None if cam_init is None else str(cam_init),
        "affinity init": None if affinity_init is None else str(affinity_init),
        "long side": list(long_side),
        "crop": crop,
        "engine": engine,
        "classes": list(names),
        "data": digest(f"{photo.stem} {present}" for photo, present in labelled.items()),
    }
    _same_run(out, options)
    write_record(out, COMMAND, options, device=device_words(where), list=listing, images=len(labelled))
    report(Event("settings", COMMAND, data={**options, "device": device_words(where)}))
    write_text(out / "classes.txt", "".join(f"{name}\n" for name in names))
    seconds = 0.0

    def stage(run: Callable[[list[Path], Path], Report]) -> Report:
        """Run a stage on the photos that no stage has failed on."""
        nonlocal kept, seconds
        # Given as a list too, lest every stage warns of the labels of photos that are left out.
        write_text(out / "photos.txt", "".join(f"{photo.stem}\n" for photo in kept))
        outcome = run(kept, out / "photos.txt")
        failed = {name for name, _ in outcome.failed}
        result.failed.extend(outcome.failed)
        kept = [photo for photo in kept if photo.name not in failed]
        seconds += outcome.seconds
        if not kept:
            raise TrainingError("no photo is left", "the messages above name what is wrong with each")
        return outcome

    stage(
        lambda paths, listed: train_cam(
            paths, labels, names, out / "train-cam", model=settings.cam, init=cam_init, reset_head=reset_head,
            listing=listed, size=long_side, crop=crop, recipe=cam_recipe, device=device, workers=workers,
            save_every=save_every, resume=True, report=report,
        )
    )  # fmt: skip
    cam_model, trained = create_cam_network(settings.cam, len(names)), out / "train-cam"
    if cam_model.has_segmentation_head:
        stage(
            lambda paths, listed: cam(
                paths, out / "seed-cams", model=out / "train-cam", labels=labels, listing=listed, scales=(1.0,),
                flip=False, size=settings.size, device=device, workers=workers, report=report,
            )
        )  # fmt: skip
        stage(
            lambda paths, listed: crf(
                paths, out / "seed-cams", out / "seed-crf", crf_low=settings.seed_low, crf_high=settings.seed_high,
                size=settings.size, engine=engine, listing=listed, device=device, workers=workers, report=report,
            )
        )  # fmt: skip
        stage(
            lambda paths, listed: train_cam(
                paths, labels, names, out / "train-pixels", model=settings.cam, init=out / "train-cam" / CAM,
                crf_low=out / "seed-crf" / "low", crf_high=out / "seed-crf" / "high", listing=listed, size=long_side,
                crop=crop, recipe=seed_recipe, device=device, workers=workers, save_every=save_every, resume=True,
                report=report,
            )
        )  # fmt: skip
        trained = out / "train-pixels"
    load_checkpoint(cam_model, trained / CAM)
    if not (out / RECORD).is_file():
        write_bundle(out, settings.cam, None, cam_model, None, names, settings)
    stage(
        lambda paths, listed: cam(
            paths, out / "cams", model=out, labels=labels, listing=listed, device=device, workers=workers, report=report
        )
    )
    stage(
        lambda paths, listed: crf(
            paths, out / "cams", out / "crf", crf_low=settings.crf_low, crf_high=settings.crf_high,
            size=settings.size, engine=engine, listing=listed, device=device, workers=workers, report=report,
        )
    )  # fmt: skip
    stage(
        lambda paths, listed: train_affinity(
            paths, out / "crf" / "low", out / "crf" / "high", out / "train-affinity", model=settings.affinity,
            init=affinity_init, listing=listed, size=settings.size, crop=crop, radius=settings.radius,
            recipe=affinity_recipe, device=device, workers=workers, save_every=save_every, resume=True, report=report,
        )
    )  # fmt: skip
    affinity_model = load_checkpoint(create_affinity_network(settings.affinity), out / "train-affinity" / AFFINITY)
    write_bundle(out, settings.cam, settings.affinity, cam_model, affinity_model, names, settings)
    masks = stage(
        lambda paths, listed: propagate(
            paths, out / "masks", model=out, labels=labels, cams=out / "cams", listing=listed, engine=engine,
            device=device, workers=workers, report=report,
        )
    )  # fmt: skip
    result.done, result.skipped, result.seconds = masks.done, masks.skipped, seconds
    return result


def names_in(labels: Path) -> tuple[str, ...]:
    """Every class name that labels.csv or a folder of VOC XML files uses, in alphabetical order.

    Names are only gathered here; whether the labels are in order is for `read_labels` to say.
    """
    found: set[str] = set()
    if labels.is_dir():
        for file in labels.glob("*.xml"):
            data = file.read_bytes()
            try:
                root = None if b"<!ENTITY" in data else ElementTree.fromstring(data)
            except (ElementTree.ParseError, ValueError, LookupError):
                continue
            found.update((name.text or "").strip() for name in ([] if root is None else root.findall("object/name")))
    elif labels.is_file():
        text = labels.read_bytes().decode("utf-8-sig", errors="replace")
        rows = [row for row in csv.reader(text.splitlines(), skipinitialspace=True) if len(row) == 2]
        if rows and [cell.strip().lower() for cell in rows[0]] == ["image", "labels"]:
            del rows[0]
        found.update(name.strip() for row in rows for name in row[1].split(";"))
    return tuple(sorted(found - {""}))


def _class_names(labels: Path, classes: str | Path | Sequence[str] | None) -> tuple[str, ...]:
    if isinstance(classes, (str, Path)):
        return read_classes(classes)
    return names_in(labels) if classes is None else tuple(classes)


def _labelled_photos(
    photos: str | Path | Sequence[str | Path],
    labels: Path,
    names: Sequence[str],
    listing: str | Path | None,
    result: Report,
    report: Callback,
) -> dict[Path, tuple[int, ...]]:
    """The photos that can be read, with their labels; the others are named once, here, and not by every stage."""
    found = find_images(photos, None if listing is None else Path(listing))
    given = read_given_labels(labels, names, found, command=COMMAND, listed=listing is not None, report=report)
    labelled = {}
    for photo in leave_out_unreadable(found, result, COMMAND, report):
        try:
            labelled[photo] = labels_of(photo, given, labels) or ()
        except LabelsError as error:
            leave_out(photo, str(error), result, COMMAND, report)
    if not labelled:
        raise TrainingError("no photo is left to train on", "the messages above name what is wrong with each")
    report(Event("note", COMMAND, f"{len(labelled)} photos, {len(names)} classes: {', '.join(names)}"))
    return labelled


def _same_run(out: Path, options: dict[str, object]) -> None:
    """Refuse to mix two runs in one folder."""
    record = read_record(out)
    if record is None:
        return
    before = record.get("settings") if record.get("command") == COMMAND else None
    if not isinstance(before, dict):
        raise UsageError(f"{out} holds the outputs of pixaff {record.get('command')}", "choose another folder")
    changed = [f"{name} {value_words(before.get(name))} -> {value_words(value)}" for name, value in options.items()
               if before.get(name) != value]  # fmt: skip
    if changed:
        raise UsageError(
            f"{out} holds a run with other options or photos: {', '.join(changed)}",
            "go on with the same ones, choose another folder, or overwrite it",
        )


def _clear(out: Path) -> None:
    """Remove the parts of an earlier run, and nothing that another program or command wrote."""
    record = read_record(out)
    if record is None or record.get("command") != COMMAND:
        return
    for part in PARTS:
        if (out / part).is_dir():
            shutil.rmtree(out / part)
    for file in (*out.glob("*.safetensors"), out / RECORD, out / "run.json"):
        file.unlink(missing_ok=True)
