"""Photos in, masks and instances out: CAMs, random walk over learned affinities, CRF refinement if asked for."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pixaff.errors import UsageError, shortened
from pixaff.io.addresses import address_of
from pixaff.io.cams import find_cams, read_cams
from pixaff.io.images import write_picture
from pixaff.io.instances import FOLDER as INSTANCES
from pixaff.io.instances import WHOLE, write_instances, write_whole
from pixaff.io.scores import check_saved, write_scores
from pixaff.io.sources import Packed, Source
from pixaff.model_options import ModelOptions
from pixaff.ops.powers import HIGHEST, LOWEST, background_powers
from pixaff.options import divide
from pixaff.run_options import BatchOptions, RunOptions
from pixaff.settings import Settings
from pixaff.stages.batch.cluster import loading, placed, words_for
from pixaff.stages.batch.destination import destination
from pixaff.stages.batch.image_labels import PREDICT, given_entries, labels_of, names_of, read_given_labels
from pixaff.stages.batch.inputs import default_out, existing_folder, find_images, given_path, single_file
from pixaff.stages.batch.mask_page import check_page, write_page_of_run
from pixaff.stages.batch.naming import Photos
from pixaff.stages.batch.packs import asked_of, find_packs, over_packs
from pixaff.stages.batch.plan import Plan, weights_of
from pixaff.stages.batch.record import read_record, shard_records
from pixaff.stages.batch.report import Report
from pixaff.stages.batch.run import Outcome, run_plan, skip_all
from pixaff.stages.batch.sweeps import FOLDER as SCORES

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from pixaff.keywords import PropagateKeywords
    from pixaff.prediction import Prediction
    from pixaff.samples import Sample
    from pixaff.stages.batch.executors import Spread

COMMAND = "propagate"
OVERLAYS = "overlays"


def propagate(
    inputs: str | Path | Sequence[str | Path],
    out: str | Path | None = None,
    *,
    labels: str | Path = "predict",
    cams: str | Path | None = None,
    listing: str | Path | None = None,
    overlay: bool = False,
    save_scores: bool = False,
    instances: bool = False,
    run: RunOptions | None = None,
    **options: Unpack[PropagateKeywords],
) -> Report:
    """Write ``out/NAME.png`` for each photo: a palette mask of the photo's own size and orientation.

    Args:
        inputs: Photos: a folder, a file, the address of either (``s3://bucket/photos``), "-" for paths on standard
            input, or several of these. Or shards: tar or Parquet files, or patterns (``shards/{000..099}.tar``).
        out: Folder for the masks or its address, default ``photos-masks`` for ``photos``; for one photo it may be a
            file NAME.png. With ``recursive``, NAME has the folders of the photo. Of shards, masks go to
            ``out/SHARD.tar`` or ``out/SHARD.parquet``: see docs/scale.md.
        labels: "predict", or a file or folder of labels; see `pixaff.io.labels.read_labels`. Of shards also "inside":
            the labels that they hold.
        cams: Folder of CAMs to refine instead of the model's own, in any of the formats that
            `pixaff.io.cams.read_cams` reads.
        listing: Image list; only its images are used.
        overlay: Also write ``out/overlays/NAME.jpg``, as large as the photo, up to 2,000 pixels.
        save_scores: Also write ``out/scores/NAME.npz``: the propagated scores before CRF refinement, from which
            `pixaff.evaluate` makes the masks of any alpha.
        instances: Also write the instances of each photo, ``out/instances/NAME.png`` (16 bits) and ``NAME.json``, and
            all of them together as a COCO data set, ``out/instances.json``; see `pixaff.io.instances`. A shard does not
            write the latter: the same call without ``shard`` does. Of tar and Parquet files, there is one for each:
            ``out/instances/SHARD.json``.
        run: How the run computes and to whom it reports, as one object; single ``options`` override it.
        **options: Fields of `pixaff.Settings` that decide masks, such as ``alpha``; of
            `pixaff.model_options.ModelOptions` (``model``, ``preset``, ``cam_weights``, ``affinity_weights``,
            ``irn_weights``, ``weights_dir``, ``classes``, ``precision``, ``inference``, ``engine``) and of
            `pixaff.run_options.BatchOptions` (``device``, ``batch_size``, ``workers``, ``overwrite``, ``page``,
            ``report``, ``progress``).

    Returns:
        The photos that were done or skipped, and those that failed, with the reason.

    Raises:
        UsageError: An option is unknown or out of range, there is no photo, or it is not clear where the outputs go.
        LabelsError: The labels or the image list cannot be read.
        CheckpointError: The model cannot be loaded.
        OutputError: The output folder cannot be written.
    """
    model, settings, how = divide(options, COMMAND, ModelOptions, Settings, BatchOptions)
    run, chosen = BatchOptions.of(run, how), ModelOptions(**model)
    entries = [inputs] if isinstance(inputs, (str, Path)) else inputs
    out = Path(out) if out is not None else default_out(entries, "masks")
    if packs := find_packs(entries):
        check_page(run, elsewhere=True)
        kinds: dict[str, Any] = {"overlay": overlay, "save_scores": save_scores, "instances": instances}

        def make(photos: Photos, folder: Path, each: BatchOptions) -> Report:
            return propagate(photos, folder, labels=labels, cams=cams, run=each, **kinds, **model, **settings)

        asked = asked_of({**model, **settings, **kinds}, weights_of(model), (labels, cams, chosen.classes, listing))
        return over_packs(packs, out, run, make, command=COMMAND, labels=labels, asked=asked, listing=listing)
    place = destination(out)
    out = place.folder
    photos = find_images(
        entries,
        given_path(listing),
        labels=labels,
        recursive=run.recursive,
        addresses=True,
        command=COMMAND,
        report=run.report,
    )
    source = photos.source
    folder = None if cams is None else existing_folder(cams)
    single = single_file(out, photos)
    check_page(run, single, elsewhere=bool(place.address) or type(source) is not Source)
    if single and instances:
        raise UsageError(f"{out}: instances are several files, found one output file", "give a folder to --out")
    if instances and place.address:
        words = f"{place.address}: instances are gathered in one file"
        raise UsageError(words, "give a folder on the disk to --out, or pack the photos in shards")

    called = photos.names  # what a cluster gets of the photos, whose list may be long

    def outputs(path: Path) -> tuple[Path, ...]:
        folder = place.folder
        if single:
            return (folder,)
        key = called.key(path)
        further = [folder / OVERLAYS / f"{key}.jpg"] * overlay + [folder / SCORES / f"{key}.npz"] * save_scores
        further += [folder / INSTANCES / f"{key}{suffix}" for suffix in (".png", ".json")] * instances
        return (folder / f"{key}.png", *further)

    def with_page(result: Report) -> Report:
        if run.page is not None:
            write_page_of_run(out, photos, entries, result, run)
        return result

    tagged = given_entries(labels, photos)
    plan = Plan(
        out,
        COMMAND,
        photos,
        outputs,
        run,
        recorded=not single,
        place=place,
        labels=names_of(tagged),
        cams=None if folder is None else lambda photo: find_cams(folder, called.key(photo), must_exist=False),
        request={
            **model,
            **settings,
            "given_cams": folder is not None,
            "overlay": overlay,
            "scores": save_scores,
            **({"instances": True} if instances else {}),
        },
        weights=weights_of(model),
        reads=[Path(path) for path in (labels, listing, chosen.classes) if path is not None and str(path) != PREDICT],
    )
    if plan.nothing_to_do:
        if instances and plan.shard is None and (not (out / WHOLE).is_file() or shard_records(out)):
            write_whole(
                out, [photos.names.key(photo) for photo in photos], (read_record(out) or {}).get("classes") or ()
            )
        return with_page(skip_all(plan))

    from pixaff.loaders import load_predictor
    from pixaff.models.bundle import parts_of_walk
    from pixaff.stages.batch.executors import through_predictor

    placing = placed(run, chosen)
    chosen, device = loading(placing, chosen)
    predictor = load_predictor(
        chosen,
        settings,
        device=device,
        parts=lambda own: parts_of_walk(own.replace(**settings), folder is None, instances),
        command=COMMAND,
        report=run.report,
    )
    predictor.require_networks(instances)
    if folder is not None and chosen.classes is None and tagged is None:
        # CAMs of another model: their classes have the names recorded beside them, or none.
        predictor.classes = tuple((read_record(folder) or {}).get("classes") or ())
    powers = background_powers() if save_scores else ()
    if save_scores:
        if predictor.settings.background:
            raise UsageError("save_scores needs a walk that propagates the background", "choose --background 0")
        check_saved([predictor.settings.alpha], LOWEST, HIGHEST)
    given = read_given_labels(
        labels,
        predictor.classes,
        photos,
        command=COMMAND,
        listed=listing is not None,
        report=run.report,
        entries=tagged,
    )

    def load(path: Path, present: tuple[int, ...] | None) -> Sample:
        file = None if folder is None or present == () else read_cams(find_cams(folder, called.key(path)))
        return predictor.sample(source.open(path), present, file)

    def compute(batch: list[Sample], spread: Spread) -> list[Prediction]:
        return predictor.predict(batch, powers=powers, instances=instances, spread=spread)

    labelled = given is not None

    def save(path: Path, result: Prediction) -> Mapping[str, Any]:
        mask, *further = outputs(path)
        result.save(mask)
        for file in further:
            if file.suffix == ".jpg":
                write_picture(file, result.overlay(source.open(path)), quality=90)
            elif file.suffix == ".npz":
                write_scores(file, result.scores_file())
        if result.instances is not None:
            kept = result.instances.without_fragments()
            write_instances(
                (place.folder / INSTANCES / called.key(path)).parent,
                path,
                kept.map,
                kept.values.tolist(),
                kept.scores.tolist(),
            )
        place.send(*outputs(path))
        facts: dict[str, Any] = result.to_dict() if isinstance(source, Packed) else {"classes": list(result.classes)}
        if result.classes and not result.mask.any():
            which = "its labels" if labelled else "its classes"
            words = f"the mask shows none of {which} ({', '.join(result.classes)})"
            facts["warning"] = f"{shortened(address_of(path))}: {words}"
        return facts

    def work(todo: Sequence[Path]) -> Generator[tuple[Path, Outcome], None, None]:
        return through_predictor(
            todo,
            predictor,
            placing,
            command=COMMAND,
            labels=lambda path: labels_of(path, given, labels),
            load=load,
            compute=compute,
            save=save,
        )

    report = run_plan(
        plan,
        work,
        settings={
            **predictor.sources,
            "labels": str(labels),
            **({} if cams is None else {"cams": str(cams)}),
            "preset": predictor.settings.preset,
            "cam": predictor.settings.cam,
            "affinity": predictor.settings.affinity,
            "irn": predictor.settings.irn,
            **predictor.settings.of(COMMAND),
            "engine": predictor.engine,
            "precision": predictor.precision,
            "inference": predictor.inference,
        },
        device=words_for(placing, predictor.device_words),
        weights=predictor.files,
        classes=predictor.classes or None,
        listing=listing,
    )
    if instances and plan.shard is None:  # a shard knows too little; the run that finishes the rest writes it
        write_whole(out, [photos.names.key(photo) for photo in photos], predictor.classes)
    return with_page(report)
