"""Tagged photos with any classes in, a model and its masks out: the whole chain in one resumable run.

train-cam, cam, crf, train-affinity, propagate. If the network has a segmentation head (`LiteCam`), this is trained
first on its own refined CAMs: cam, crf and train-cam once more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

from pixaff.device import device_words, pick_device
from pixaff.errors import LabelsError, TrainingError, UsageError
from pixaff.events import Callback, Event
from pixaff.io.atomic import write_text
from pixaff.io.labels import Labels, names_in, read_classes
from pixaff.models import load_checkpoint, registry
from pixaff.models.base import CamNetwork
from pixaff.models.bundle import AFFINITY, CAM, RECORD, write_bundle
from pixaff.models.registry import create_affinity_network, create_cam_network
from pixaff.options import divide
from pixaff.recipe import Recipe, whole_recipe
from pixaff.run_options import RunOptions, TrainingOptions
from pixaff.settings import Settings, value_words
from pixaff.stages.batch.image_labels import ask_about, keys_of, labels_of, read_given_labels
from pixaff.stages.batch.inputs import find_images
from pixaff.stages.batch.ledger import read_ledger
from pixaff.stages.batch.plan import check_files
from pixaff.stages.batch.record import read_record, write_record
from pixaff.stages.batch.report import Report
from pixaff.stages.cam import cam
from pixaff.stages.crf import SIDES, crf
from pixaff.stages.propagate import OVERLAYS, SCORES, propagate
from pixaff.stages.train_affinity import train_affinity
from pixaff.stages.train_cam import train_cam
from pixaff.stages.training.chain import Stage, Work, of_recipe, run_stages
from pixaff.stages.training.checkpoint import CHECKPOINT
from pixaff.stages.training.folder import Trained, digest, leave_out, leave_out_unreadable, one_at_a_time

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from pixaff.keywords import TrainingKeywords

COMMAND = "fit"
PARTS = ("train-cam", "seed-cams", "seed-crf", "train-head", "cams", "crf", "train-affinity", "masks")
"""Subfolders of a run, in the order in which they are filled."""
INNER = (*SIDES, OVERLAYS, SCORES)
"""Folders in these."""
WRITTEN = (RECORD, CAM, AFFINITY, CHECKPOINT, "run.json", "run.jsonl", "metrics.jsonl", "loss.png")
"""Files of the trainings and of the run itself."""


@one_at_a_time("pixaff fit")
def fit(
    photos: str | Path | Sequence[str | Path],
    labels: str | Path,
    out: str | Path,
    *,
    classes: str | Path | Sequence[str] | None = None,
    listing: str | Path | None = None,
    settings: Settings | None = None,
    cam_recipe: Recipe | Mapping[str, Any] | None = None,
    head_recipe: Recipe | Mapping[str, Any] | None = None,
    affinity_recipe: Recipe | Mapping[str, Any] | None = None,
    cam_init: str | Path | None = None,
    affinity_init: str | Path | None = None,
    reset_head: bool = False,
    engine: Literal["auto", "torch", "pydensecrf"] = "auto",
    run: RunOptions | None = None,
    **options: Unpack[TrainingKeywords],
) -> Trained:
    """Train a model for your own classes and write masks: train-cam, cam, crf, train-affinity, propagate.

    To continue a stopped run, call this again with the same arguments. Afterwards ``out`` is a model for `pixaff.load`
    and `pixaff.propagate`; its masks are in ``out/masks``.

    Args:
        photos: A folder, files, or "-"; see `find_images`.
        labels: A file or folder of labels; see `pixaff.io.labels.read_labels`.
        out: Folder of the run.
        classes: A class list, or the names themselves, in the order of the mask values; None uses all names that the
            labels use, in alphabetical order.
        listing: Image list; only its images are used.
        settings: Networks and hyper-parameters of the model, which are stored in it.
        cam_recipe, head_recipe, affinity_recipe: Hyper-parameters of the trainings of the classifier, of its
            segmentation head if it has one, and of the AffinityNet: a whole `Recipe`, or values that replace those of
            the network's own.
        cam_init, affinity_init, reset_head: Initial weights; see `pixaff.train_cam`.
        engine: Implementation of the dense CRF: "torch", "pydensecrf" or "auto".
        run: How the run computes and to whom it reports, as one object; single ``options`` override it.
        **options: Fields of `pixaff.run_options.TrainingOptions`: ``device``, ``workers``, ``save_every``,
            ``overwrite``, ``yes``, ``report``, ``progress``. A run always resumes.

    Returns:
        The run's folder, the photos that have masks and those that failed in any stage, with the reason.

    Raises:
        UsageError: An option is unknown or out of range, ``out`` holds a run with other options or photos, or labels
            look misread (see `pixaff.io.labels.doubts`) and ``yes`` is not given.
        LabelsError: Labels or classes cannot be read, or no photo has a label.
        TrainingError: No photo is left, or a loss is not finite.
        CheckpointError: Initial weights cannot be read or do not fit.
    """
    out, labels = Path(out), Path(labels)
    how = TrainingOptions.of(run, divide(options, COMMAND, TrainingOptions)[0])
    report, settings = how.report, settings or Settings()
    cam_recipe = whole_recipe(cam_recipe, registry.cam_recipe(settings.cam))
    head_recipe = whole_recipe(head_recipe, registry.head_recipe(settings.cam) or cam_recipe)
    affinity_recipe = whole_recipe(affinity_recipe, registry.affinity_recipe(settings.affinity))
    where = pick_device(how.device)
    result = Trained(path=out)
    check_files([out / name for name in (*WRITTEN, "photos.txt")], [labels, listing, cam_init, affinity_init])
    found = find_images(photos, None if listing is None else Path(listing), labels=labels, recursive=how.recursive)
    result.names = found.names
    names = _class_names(labels, classes, found)
    given = read_given_labels(labels, names, found, command=COMMAND, listed=listing is not None, report=report)
    ask_about(given, names, listed=classes is not None, yes=how.yes, command=COMMAND, report=report)
    labelled = _labelled_photos(found, given, labels, names, result, report)
    decides = {
        **settings.to_dict(),
        **{f"cam {name}": value for name, value in cam_recipe.to_dict().items()},
        **{f"head {name}": value for name, value in head_recipe.to_dict().items()},
        **{f"affinity {name}": value for name, value in affinity_recipe.to_dict().items()},
        "cam init": None if cam_init is None else str(cam_init),
        "affinity init": None if affinity_init is None else str(affinity_init),
        "engine": engine,
        "classes": list(names),
        "data": digest(f"{found.names.key(photo)} {present}" for photo, present in labelled.items()),
    }
    if how.overwrite:
        _clear(out)
    _same_run(out, decides)
    write_record(out, COMMAND, decides, device=device_words(where), list=listing, images=len(labelled))
    report(Event("settings", COMMAND, data={**decides, "device": device_words(where)}))
    write_text(out / "classes.txt", "".join(f"{name}\n" for name in names))
    work = Work(
        out=out,
        labels=labels,
        names=tuple(names),
        settings=settings,
        recipes={"cam": cam_recipe, "head": head_recipe, "affinity": affinity_recipe},
        init={"cam": cam_init, "affinity": affinity_init},
        reset_head=reset_head,
        engine=engine,
        run=replace(how, overwrite=False, resume=True, yes=True),
        photos=found.only(labelled),
        result=result,
    )
    masks = run_stages(psa_stages(settings), work)
    result.done, result.skipped = masks.done, masks.skipped
    return result


def psa_stages(settings: Settings) -> list[Stage]:
    """The stages of PSA (Ahn & Kwak, CVPR 2018), in the order in which they run."""
    head = registry.has_segmentation_head(settings.cam)
    return [
        Stage(
            "train-cam",
            "train the classifier",
            _train_classifier,
            options=("data", "classes", "cam", "cam init", *of_recipe("cam")),
        ),
        *(SEEDING if head else ()),
        Stage(
            "cams",
            "CAMs",
            _make_cams,
            options=("scales", "flip", "size"),
            needs=("train-head" if head else "train-cam",),
        ),
        Stage(
            "crf",
            "CRF posteriors with much and with little background",
            _make_posteriors,
            options=("crf_low", "crf_high", "size", "engine"),
            needs=("cams",),
        ),
        Stage(
            "train-affinity",
            "train the AffinityNet",
            _train_affinity,
            options=("affinity", "affinity init", "radius", "size", *of_recipe("affinity")),
            needs=("crf",),
        ),
        Stage(
            "masks",
            "masks",
            _make_masks,
            options=("alpha", "beta", "radius", "steps", "borders", "final_crf", "size", "engine"),
            needs=("cams", "train-affinity"),
        ),
    ]


def _train_classifier(work: Work) -> Report:
    return train_cam(
        work.photos,
        work.labels,
        work.names,
        work.out / "train-cam",
        network=work.settings.cam,
        init=work.init["cam"],
        reset_head=work.reset_head,
        listing=work.listing,
        recipe=work.recipes["cam"],
        run=work.run,
    )


def _make_seed_cams(work: Work) -> Report:
    return cam(
        work.photos,
        work.out / "seed-cams",
        model=work.out / "train-cam",
        labels=work.labels,
        listing=work.listing,
        scales=(1.0,),
        flip=False,
        size=work.settings.size,
        run=work.run,
    )


def _make_seed_posteriors(work: Work) -> Report:
    return crf(
        work.photos,
        work.out / "seed-cams",
        work.out / "seed-crf",
        crf_low=work.settings.seed_low,
        crf_high=work.settings.seed_high,
        size=work.settings.size,
        engine=work.engine,
        listing=work.listing,
        run=work.run,
    )


def _train_head(work: Work) -> Report:
    return train_cam(
        work.photos,
        work.labels,
        work.names,
        work.out / "train-head",
        network=work.settings.cam,
        init=work.out / "train-cam" / CAM,
        crf_low_dir=work.out / "seed-crf" / "low",
        crf_high_dir=work.out / "seed-crf" / "high",
        listing=work.listing,
        recipe=work.recipes["head"],
        run=work.run,
    )


SEEDING = (
    Stage("seed-cams", "CAMs of the classifier", _make_seed_cams, options=("size",), needs=("train-cam",)),
    Stage(
        "seed-crf",
        "CRF posteriors of these",
        _make_seed_posteriors,
        options=("seed_low", "seed_high", "size", "engine"),
        needs=("seed-cams",),
    ),
    Stage(
        "train-head",
        "train the segmentation head",
        _train_head,
        options=of_recipe("head"),
        needs=("train-cam", "seed-crf"),
    ),
)
"""Stages of a network with a segmentation head (`LiteCam`), which is trained on its own refined CAMs."""


def _make_cams(work: Work) -> Report:
    if not (work.out / RECORD).is_file():
        write_bundle(work.out, work.settings.cam, None, _cam_network(work), None, work.names, work.settings)
    return cam(work.photos, work.out / "cams", model=work.out, labels=work.labels, listing=work.listing, run=work.run)


def _make_posteriors(work: Work) -> Report:
    return crf(
        work.photos,
        work.out / "cams",
        work.out / "crf",
        crf_low=work.settings.crf_low,
        crf_high=work.settings.crf_high,
        size=work.settings.size,
        engine=work.engine,
        listing=work.listing,
        run=work.run,
    )


def _train_affinity(work: Work) -> Report:
    return train_affinity(
        work.photos,
        work.out / "crf" / "low",
        work.out / "crf" / "high",
        work.out / "train-affinity",
        network=work.settings.affinity,
        init=work.init["affinity"],
        listing=work.listing,
        size=work.settings.size,
        radius=work.settings.radius,
        recipe=work.recipes["affinity"],
        run=work.run,
    )


def _make_masks(work: Work) -> Report:
    """Complete the model, and make the masks with it."""
    settings, affinity = work.settings, create_affinity_network(work.settings.affinity)
    load_checkpoint(affinity, work.out / "train-affinity" / AFFINITY)
    write_bundle(work.out, settings.cam, settings.affinity, _cam_network(work), affinity, work.names, settings)
    return propagate(
        work.photos,
        work.out / "masks",
        model=work.out,
        labels=work.labels,
        cams=work.out / "cams",
        listing=work.listing,
        engine=work.engine,
        run=work.run,
    )


def _cam_network(work: Work) -> CamNetwork:
    """The trained CAM network, with its segmentation head if it has one."""
    network = create_cam_network(work.settings.cam, len(work.names))
    load_checkpoint(network, work.out / ("train-head" if network.has_segmentation_head else "train-cam") / CAM)
    return network


def _class_names(labels: Path, classes: str | Path | Sequence[str] | None, photos: Sequence[Path]) -> tuple[str, ...]:
    if isinstance(classes, (str, Path)):
        return read_classes(classes)
    return names_in(labels, keys_of(photos)) if classes is None else tuple(classes)


def _labelled_photos(
    found: list[Path],
    given: Labels | None,
    labels: Path,
    names: Sequence[str],
    result: Report,
    report: Callback,
) -> dict[Path, tuple[int, ...]]:
    """The photos that can be read, with their labels; the others are named once here, not by every stage."""
    labelled = {}
    for photo in leave_out_unreadable(found, result, COMMAND, report):
        try:
            labelled[photo] = labels_of(photo, given, labels) or ()
        except LabelsError as error:
            leave_out(photo, str(error), result, COMMAND, report)
    if not labelled:
        raise TrainingError("no photo is left to train on", "the messages above say what is wrong with each")
    report(Event("note", COMMAND, f"{len(labelled)} photos, {len(names)} classes: {', '.join(names)}"))
    return labelled


def _same_run(out: Path, options: Mapping[str, Any]) -> None:
    """Refuse to mix two runs in one folder."""
    record = read_record(out)
    if record is None:
        return
    before = record.get("settings") if record.get("command") == COMMAND else None
    if not isinstance(before, dict):
        raise UsageError(f"{out} contains outputs of pixaff {record.get('command')}", "choose another folder")
    changed = [f"{name} {value_words(before.get(name))} -> {value_words(value)}" for name, value in options.items()
               if before.get(name) != value]  # fmt: skip
    if changed:
        raise UsageError(
            f"{out} contains a run with other options or photos: {', '.join(changed)}",
            "use the same ones to continue it, choose another folder, or --overwrite",
        )


def _clear(out: Path) -> None:
    """Remove what an earlier run wrote, and nothing else."""
    record = read_record(out)
    if record is None or record.get("command") != COMMAND:
        return
    for part in PARTS:
        keys = {PurePosixPath(name).with_suffix("") for name in read_ledger(out / part).images}
        for folder in (*(out / part / inner for inner in INNER), out / part):
            places = sorted({folder / above for key in keys for above in key.parents} | {folder}, reverse=True)
            for place in places:  # the inner folders first
                for file in [path for path in place.iterdir() if path.is_file()] if place.is_dir() else []:
                    if PurePosixPath(file.relative_to(folder)).with_suffix("") in keys or file.name in WRITTEN:
                        file.unlink(missing_ok=True)
                with suppress(OSError):  # not there, or not empty
                    place.rmdir()
    for name in WRITTEN:
        (out / name).unlink(missing_ok=True)
