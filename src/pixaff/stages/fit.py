"""Tagged photos with any classes in, a model and its masks out: the whole chain in one resumable run.

train-cam, cam, crf, train-affinity, propagate; or with the method irn: train-cam, cam, crf --hard, train-irn,
propagate. If the network has a segmentation head (`LiteCam`), this is trained first on its own refined CAMs: cam, crf
and train-cam once more. If asked for, train-seg follows, on the masks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pixaff.device import device_words, pick_device
from pixaff.errors import LabelsError, TrainingError, UsageError
from pixaff.events import Callback, Event
from pixaff.io.atomic import write_text
from pixaff.io.labels import Labels, names_in, read_classes
from pixaff.models import registry
from pixaff.models.model_folder import AFFINITY, CAM, IRN, RECORD, SEG
from pixaff.models.registry import create_boundary_network
from pixaff.options import divide
from pixaff.recipe import Recipe, whole_recipe
from pixaff.run_options import RunOptions, TrainingOptions
from pixaff.settings import Settings
from pixaff.stages.batch.image_labels import ask_about, keys_of, labels_of, read_given_labels
from pixaff.stages.batch.inputs import find_images
from pixaff.stages.batch.mask_page import check_page, write_page_of_run
from pixaff.stages.batch.plan import check_files
from pixaff.stages.batch.record import read_record, write_record
from pixaff.stages.batch.report import Report
from pixaff.stages.crf import check_confidences
from pixaff.stages.propagate import OVERLAYS
from pixaff.stages.train_irn import check_crop
from pixaff.stages.training.calibration import CALIBRATED, checked_names
from pixaff.stages.training.calibration import RECORD as CALIBRATION
from pixaff.stages.training.chains import irn_stages, psa_stages, seg_stage
from pixaff.stages.training.checkpoint import CHECKPOINT
from pixaff.stages.training.distributed import refuse_several
from pixaff.stages.training.earlier import EARLIER, changes_since, clear_folder, clear_stale, shorter
from pixaff.stages.training.folder import Trained, digest, leave_out, leave_out_unreadable, one_at_a_time
from pixaff.stages.training.forecast import Pace
from pixaff.stages.training.overview import DOUBTFUL, SHEET, write_overview
from pixaff.stages.training.running import run_stages
from pixaff.stages.training.stage import Stage, Work

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from pixaff.keywords import TrainingKeywords

COMMAND = "fit"
OF_METHOD = {"psa": ("crf", "train-affinity"), "irn": ("confident-labels", "train-irn")}
"""Subfolders that only one of the methods fills."""
PARTS = (
    "train-cam", "seed-cams", "seed-crf", "train-head", "cams", *OF_METHOD["psa"], *OF_METHOD["irn"], "masks",
    "train-seg",
)  # fmt: skip
"""Subfolders of a run, in the order in which they are filled."""
WRITTEN = (
    RECORD, CAM, AFFINITY, IRN, SEG, CHECKPOINT, CALIBRATION, "run.json", "run.jsonl", "metrics.jsonl", "loss.png",
    DOUBTFUL, SHEET,
)  # fmt: skip
"""Files of the trainings and of the run itself."""


@one_at_a_time("pixaff fit")
def fit(
    photos: str | Path | Sequence[str | Path],
    labels: str | Path,
    out: str | Path,
    *,
    classes: str | Path | Sequence[str] | None = None,
    listing: str | Path | None = None,
    method: Literal["psa", "irn"] | None = None,
    settings: Settings | None = None,
    cam_recipe: Recipe | Mapping[str, Any] | None = None,
    head_recipe: Recipe | Mapping[str, Any] | None = None,
    affinity_recipe: Recipe | Mapping[str, Any] | None = None,
    irn_recipe: Recipe | Mapping[str, Any] | None = None,
    cam_init: str | Path | None = None,
    affinity_init: str | Path | None = None,
    irn_init: str | Path | None = None,
    reset_head: bool = False,
    seg: bool = False,
    seg_network: str = "lite_seg",
    seg_recipe: Mapping[str, Any] | None = None,
    calibrate: Sequence[str] | None = None,
    engine: Literal["auto", "torch", "pydensecrf"] = "auto",
    run: RunOptions | None = None,
    **options: Unpack[TrainingKeywords],
) -> Trained:
    """Train a model for your own classes and write masks: train-cam, cam, crf, train-affinity or train-irn, propagate.

    To continue a stopped run, call this again with the same arguments. Afterwards ``out`` is a model for `pixaff.load`
    and `pixaff.propagate`; its masks are in ``out/masks``.

    Args:
        photos: A folder, files, or "-"; see `find_images`.
        labels: A file or folder of labels; see `pixaff.io.labels.read_labels`.
        out: Folder of the run.
        classes: A class list, or the names themselves, in the order of the mask values; None uses all names that the
            labels use, in alphabetical order.
        listing: Image list; only its images are used.
        method: "psa" trains an AffinityNet, "irn" a network of class boundaries and displacements; the walk of the
            model is of the same name. None is the method of the walk in ``settings``.
        settings: Networks and hyper-parameters of the model, which are stored in it.
        cam_recipe, head_recipe, affinity_recipe, irn_recipe: Hyper-parameters of the trainings of the classifier, of
            its segmentation head if it has one, of the AffinityNet, and of the boundary network: a whole `Recipe`, or
            values that replace those of the network's own.
        cam_init, affinity_init, irn_init, reset_head: Initial weights; see `pixaff.train_cam`.
        seg: Also train a segmentation network on the masks, see `pixaff.train_seg`; the run is then a model for
            `pixaff.segment`, too. A finished run can be given one.
        seg_network: Registry name of that network.
        seg_recipe: Values that replace those of its own recipe.
        calibrate: Settings to choose by the model's own CAMs, among "crf_low", "crf_high" and "alpha"; see
            `pixaff.ops.mask_measures`. None chooses all of them, or none if ``settings`` are given. The method irn
            chooses none: it has no such CRF, and its walk no affinities by which the choice was tested.
        engine: Implementation of the dense CRF: "torch", "pydensecrf" or "auto".
        run: How the run computes and to whom it reports, as one object; single ``options`` override it.
        **options: Fields of `pixaff.run_options.TrainingOptions`: ``device``, ``workers``, ``save_every``,
            ``overwrite``, ``yes``, ``page``, ``report``, ``progress``. A run always resumes.

    Returns:
        The run's folder, the photos that have masks, those that failed in any stage, with the reason, and the photos
        from the most doubtful mask on.

    Raises:
        UsageError: An option is unknown or out of range, ``out`` holds a run with other options or photos, or labels
            look misread (see `pixaff.io.labels.doubts`) and ``yes`` is not given.
        LabelsError: Labels or classes cannot be read, or no photo has a label.
        TrainingError: No photo is left, or a loss is not finite.
        CheckpointError: Initial weights cannot be read or do not fit.
    """
    refuse_several(COMMAND, "run its steps one by one, the trainings with torchrun: docs/training.md, step by step")
    out, labels = Path(out), Path(labels)
    how = TrainingOptions.of(run, divide(options, COMMAND, TrainingOptions)[0])
    report = how.report
    check_page(how)
    calibrate = (CALIBRATED if settings is None else ()) if calibrate is None else checked_names(calibrate)
    settings = _settings_for(method, settings or registry.settings_of_network("lite_cam", method or "psa"))
    cam_recipe = whole_recipe(cam_recipe, registry.cam_recipe(settings.cam))
    head_recipe = whole_recipe(head_recipe, registry.head_recipe(settings.cam) or cam_recipe)
    by_boundaries = settings.walk == "irn"
    if by_boundaries:
        calibrate = ()
    affinity_recipe = whole_recipe(affinity_recipe, registry.affinity_recipe(settings.affinity or settings.irn))
    irn_recipe = whole_recipe(irn_recipe, registry.irn_recipe(settings.irn or settings.affinity))
    if by_boundaries:
        check_confidences(settings)
        check_crop(irn_recipe)
        create_boundary_network(settings.irn)  # which is what shows that the name is of one
    where = pick_device(how.device)
    result = Trained(path=out)
    check_files([out / name for name in (*WRITTEN, "photos.txt")], [labels, listing, cam_init, affinity_init, irn_init])
    found = find_images(photos, None if listing is None else Path(listing), labels=labels, recursive=how.recursive)
    result.names = found.names
    names = _class_names(labels, classes, found)
    given = read_given_labels(labels, names, found, command=COMMAND, listed=listing is not None, report=report)
    ask_about(given, names, listed=classes is not None, yes=how.yes, command=COMMAND, report=report)
    labelled = _labelled_photos(found, given, labels, names, result, report)
    decides = {
        **settings.to_dict(),
        **dict.fromkeys(calibrate, "calibrated"),
        **{f"cam {name}": value for name, value in cam_recipe.to_dict().items()},
        **{f"head {name}": value for name, value in head_recipe.to_dict().items()},
        **{f"affinity {name}": value for name, value in affinity_recipe.to_dict().items()},
        **{f"irn {name}": value for name, value in irn_recipe.to_dict().items()},
        "cam init": None if cam_init is None else str(cam_init),
        "affinity init": None if affinity_init is None else str(affinity_init),
        "irn init": None if irn_init is None else str(irn_init),
        "engine": engine,
        "classes": list(names),
        "data": digest(f"{found.names.key(photo)} {present}" for photo, present in labelled.items()),
    }
    stages = irn_stages(settings) if by_boundaries else psa_stages(settings)
    recipes = {"cam": cam_recipe, "head": head_recipe, "affinity": affinity_recipe, "irn": irn_recipe}
    if seg:
        recipes["seg"] = whole_recipe(seg_recipe, registry.seg_recipe(seg_network))
        own = {f"seg {name}": value for name, value in recipes["seg"].to_dict().items()}
        decides |= {"seg network": seg_network, **own}
        stages.append(seg_stage(seg_network))
    if how.overwrite:
        _clear(out)
    present = {found.names.name(photo): list(classes) for photo, classes in labelled.items()}
    changes = changes_since(out, COMMAND, stages, decides, present, recipes)
    # No record says what the parts of the other method were made of.
    for part in OF_METHOD["psa" if by_boundaries else "irn"]:
        clear_folder(out / part, (*WRITTEN, EARLIER))
    facts = {"device": device_words(where), "list": listing, "images": len(labelled), "photos": present}

    def record() -> None:
        write_record(out, COMMAND, decides, **facts, **changes.facts())

    def finished(stage: Stage, pace: Pace) -> None:
        part = changes.parts[stage.name]
        part.state = "done"
        if pace.units:
            part.seconds, part.units = pace.seconds, pace.units
        record()

    record()
    clear_stale(out, stages, changes, WRITTEN)
    record()
    unused = "affinity" if by_boundaries else "irn"
    shown = {name: value for name, value in decides.items() if name.split()[0] != unused}
    report(Event("settings", COMMAND, data={**shown, "device": device_words(where)}))
    if changes.words:
        report(Event("note", COMMAND, changes.words))
    write_text(out / "classes.txt", "".join(f"{name}\n" for name in names))
    work = Work(
        out=out,
        labels=labels,
        names=tuple(names),
        settings=settings,
        recipes=recipes,
        init={"cam": cam_init, "affinity": affinity_init, "irn": irn_init},
        reset_head=reset_head,
        calibrate=tuple(calibrate),
        engine=engine,
        run=replace(how, overwrite=False, resume=True, yes=True, keep=True, renew=True, page=None),
        photos=found.only(labelled),
        result=result,
    )
    for stage in stages:
        if changes.parts[stage.name].warm:
            work.recipes[stage.recipe] = shorter(work.recipes[stage.recipe])
            work.init[stage.recipe] = out / stage.name / EARLIER
    if "head" in work.init:
        # These weights are the earlier classifier together with its trained segmentation head.
        work.init["cam"] = work.init.pop("head")
    known = {name: part.pace for name, part in changes.parts.items()}
    masks = run_stages(stages, work, known=known, finished=finished)
    result.done, result.skipped = masks.done, masks.skipped
    result.doubtful = write_overview(out, out / "masks", out / "masks" / OVERLAYS, work.photos)
    if how.page is not None:
        write_page_of_run(out / "masks", found.only(work.photos), photos, result, how)
    return result


def _settings_for(method: Literal["psa", "irn"] | None, settings: Settings) -> Settings:
    """The settings with the walk of the method.

    Raises:
        UsageError: The walk needs both networks, or the preset has not the one of the method.
    """
    if method is None:
        if settings.walk == "both":
            raise UsageError("found the walk both, of which fit trains one network", "choose --method psa or irn")
        method = settings.walk
    if method not in OF_METHOD:
        raise UsageError(f"method is {method}, expected {' or '.join(OF_METHOD)}")
    if method == "irn":
        # A boundary network goes with any CAM network.
        return settings.replace(walk="irn", irn=settings.irn or "lite_irn")
    if not settings.affinity:
        raise UsageError(f"preset {settings.preset} has no AffinityNet", "choose --method irn, or --affinity-network")
    return settings.replace(walk="psa")


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


def _clear(out: Path) -> None:
    """Remove what an earlier run wrote, and nothing else."""
    record = read_record(out)
    if record is None or record.get("command") != COMMAND:
        return
    for part in PARTS:
        clear_folder(out / part, (*WRITTEN, EARLIER))
    for name in WRITTEN:
        (out / name).unlink(missing_ok=True)
