"""Photos in, masks out, by one forward pass of a segmentation network."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pixaff.errors import shortened
from pixaff.io.addresses import address_of
from pixaff.io.images import write_picture
from pixaff.io.sources import Packed, Source
from pixaff.model_options import ModelOptions
from pixaff.options import divide
from pixaff.run_options import BatchOptions, RunOptions
from pixaff.settings import SegSettings
from pixaff.stages.batch.cluster import loading, placed, words_for
from pixaff.stages.batch.destination import destination
from pixaff.stages.batch.image_labels import PREDICT, given_entries, labels_of, names_of, read_given_labels
from pixaff.stages.batch.inputs import default_out, find_images, given_path, single_file
from pixaff.stages.batch.mask_page import check_page, write_page_of_run
from pixaff.stages.batch.naming import Photos
from pixaff.stages.batch.packs import asked_of, find_packs, over_packs
from pixaff.stages.batch.plan import Plan, weights_of
from pixaff.stages.batch.report import Report
from pixaff.stages.batch.run import Outcome, run_plan, skip_all

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from pixaff.keywords import SegmentKeywords
    from pixaff.prediction import Segmentation
    from pixaff.samples import Sample
    from pixaff.stages.batch.executors import Spread

COMMAND = "segment"
OVERLAYS = "overlays"


def segment(
    inputs: str | Path | Sequence[str | Path],
    out: str | Path | None = None,
    *,
    labels: str | Path = "predict",
    listing: str | Path | None = None,
    overlay: bool = False,
    run: RunOptions | None = None,
    **options: Unpack[SegmentKeywords],
) -> Report:
    """Write ``out/NAME.png`` for each photo: a palette mask of the photo's own size and orientation.

    With ``recursive``, NAME has the folders of the photo.

    Args:
        inputs: Photos, their address, or shards, as for `pixaff.propagate`.
        out: Folder for the masks or its address, default ``photos-masks`` for ``photos``; for one photo it may be a
            file NAME.png.
        labels: "predict" allows all classes; a file or folder of labels restricts each mask to those of its photo.
        listing: Image list; only its images are used.
        overlay: Also write ``out/overlays/NAME.jpg``, as large as the photo, up to 2,000 pixels.
        run: How the run computes and to whom it reports, as one object; single ``options`` override it.
        **options: Fields of `pixaff.settings.SegSettings` (``scales``, ``flip``, ``size``, ``crf``), of
            `pixaff.model_options.ModelOptions` (``model``, ``precision``, ``engine``) and of
            `pixaff.run_options.BatchOptions` (``device``, ``batch_size``, ``workers``, ``overwrite``, ``page``,
            ``report``, ``progress``).

    Returns:
        The photos that were done or skipped, and those that failed, with the reason.

    Raises:
        UsageError: An option is unknown or out of range, there is no photo, or it is not clear where the outputs go.
        LabelsError: The labels or the image list cannot be read.
        CheckpointError: The model has no segmentation network, or it cannot be loaded.
        OutputError: The output folder cannot be written.
    """
    model, settings, how = divide(options, COMMAND, ModelOptions, SegSettings, BatchOptions)
    run, chosen = BatchOptions.of(run, how), ModelOptions(**model)
    entries = [inputs] if isinstance(inputs, (str, Path)) else inputs
    out = Path(out) if out is not None else default_out(entries, "masks")
    if packs := find_packs(entries):
        check_page(run, elsewhere=True)

        def make(photos: Photos, folder: Path, each: BatchOptions) -> Report:
            return segment(photos, folder, labels=labels, overlay=overlay, run=each, **model, **settings)

        asked = asked_of({**model, **settings, "overlay": overlay}, weights_of(model), (labels, listing))
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
    single = single_file(out, photos)
    check_page(run, single, elsewhere=bool(place.address) or type(source) is not Source)

    called = photos.names

    def outputs(path: Path) -> tuple[Path, ...]:
        folder = place.folder
        if single:
            return (folder,)
        key = called.key(path)
        return (folder / f"{key}.png", *[folder / OVERLAYS / f"{key}.jpg"] * overlay)

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
        request={**model, **settings, "overlay": overlay},
        weights=weights_of(model),
        reads=[Path(path) for path in (labels, listing) if path is not None and str(path) != PREDICT],
    )
    if plan.nothing_to_do:
        return with_page(skip_all(plan))

    from pixaff.loaders import segmenter_of
    from pixaff.stages.batch.executors import through_predictor

    placing = placed(run, chosen)
    chosen, device = loading(placing, chosen)
    segmenter = segmenter_of(chosen, settings, device=device, command=COMMAND, report=run.report)
    given = read_given_labels(
        labels,
        segmenter.classes,
        photos,
        command=COMMAND,
        listed=listing is not None,
        report=run.report,
        entries=tagged,
    )

    labelled = given is not None

    def load(path: Path, present: tuple[int, ...] | None) -> Sample:
        return segmenter.sample(source.open(path), present)

    def save(path: Path, result: Segmentation) -> Mapping[str, Any]:
        mask, *pictures = outputs(path)
        result.save(mask)
        for picture in pictures:
            write_picture(picture, result.overlay(source.open(path)), quality=90)
        place.send(*outputs(path))
        facts: dict[str, Any] = result.to_dict() if isinstance(source, Packed) else {"classes": list(result.classes)}
        if labelled and result.classes and not result.mask.any():
            words = f"the mask shows none of its labels ({', '.join(result.classes)})"
            facts["warning"] = f"{shortened(address_of(path))}: {words}"
        return facts

    def compute(batch: list[Sample], spread: Spread) -> list[Segmentation]:
        return segmenter.predict(batch, spread=spread)

    def work(todo: Sequence[Path]) -> Generator[tuple[Path, Outcome], None, None]:
        return through_predictor(
            todo,
            segmenter,
            placing,
            command=COMMAND,
            labels=lambda path: labels_of(path, given, labels),
            load=load,
            compute=compute,
            save=save,
        )

    result = run_plan(
        plan,
        work,
        settings={
            **segmenter.sources,
            "labels": str(labels),
            **segmenter.settings.to_dict(),
            "engine": segmenter.engine,
            "precision": segmenter.precision,
            "inference": segmenter.inference,
        },
        device=words_for(placing, segmenter.device_words),
        weights=segmenter.files,
        classes=segmenter.classes,
        listing=listing,
    )
    return with_page(result)
