"""CAMs of a folder of photos."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pixaff.io.cams import SUFFIXES, CamFile, check_format, write_maps
from pixaff.io.images import write_picture
from pixaff.model_options import ModelOptions
from pixaff.options import divide
from pixaff.run_options import BatchOptions, RunOptions
from pixaff.settings import Settings
from pixaff.stages.batch.cluster import loading, placed, words_for
from pixaff.stages.batch.destination import destination
from pixaff.stages.batch.image_labels import PREDICT, given_entries, labels_of, names_of, read_given_labels
from pixaff.stages.batch.inputs import find_images, given_path
from pixaff.stages.batch.naming import Photos
from pixaff.stages.batch.packs import asked_of, find_packs, over_packs
from pixaff.stages.batch.plan import Plan, weights_of
from pixaff.stages.batch.report import Report
from pixaff.stages.batch.run import Outcome, run_plan, skip_all
from pixaff.viz.cam_panels import cam_panels

if TYPE_CHECKING:
    from PIL import Image
    from typing_extensions import Unpack

    from pixaff.keywords import CamKeywords
    from pixaff.samples import Sample
    from pixaff.stages.batch.executors import Spread

COMMAND = "cam"
OVERLAYS = "overlays"


def cam(
    inputs: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    labels: str | Path = "predict",
    listing: str | Path | None = None,
    format: str = "npz",
    overlay: bool = False,
    run: RunOptions | None = None,
    **options: Unpack[CamKeywords],
) -> Report:
    """Write ``out/NAME.npz`` for each photo: the CAMs of its classes (section 3.1 of the paper).

    The formats of other programs are written as ``out/NAME.npy``, with CAMs of the photo's own size.

    Args:
        inputs: Photos, their address, or shards, as for `pixaff.propagate`.
        out: Folder for the CAMs, or its address; of shards, they go to ``out/SHARD.tar`` or ``out/SHARD.parquet``.
        labels: "predict", or a file or folder of labels; see `pixaff.io.labels.read_labels`.
        listing: Image list; only its images are used.
        format: "npz", our own, or a name in `pixaff.io.cams.SUFFIXES`, such as "psa" or "irn".
        overlay: Also write ``out/overlays/NAME.jpg``: the photo and a heat map for each class, with the probability
            that the classifier gives the class; see `pixaff.viz.cam_panels`.
        run: How the run computes and to whom it reports, as one object; single ``options`` override it.
        **options: Fields of `pixaff.Settings` that decide CAMs, of `pixaff.model_options.ModelOptions` (``model``,
            ``preset``, ``cam_weights``, ``weights_dir``, ``classes``, ``precision``, ``inference``) and of
            `pixaff.run_options.BatchOptions` (``device``, ``batch_size``, ``workers``, ``overwrite``, ``report``,
            ``progress``).

    Returns:
        The photos that were done or skipped, and those that failed, with the reason.

    Raises:
        UsageError: An option is unknown or out of range, or there is no photo.
        LabelsError: The labels or the image list cannot be read.
        CheckpointError: The model cannot be loaded.
        OutputError: The output folder cannot be written.
    """
    model, settings, how = divide(options, COMMAND, ModelOptions, Settings, BatchOptions)
    out, suffix, run = Path(out), SUFFIXES[check_format(format)], BatchOptions.of(run, how)
    chosen = ModelOptions(**model)
    if packs := find_packs(inputs):

        def make(photos: Photos, folder: Path, each: BatchOptions) -> Report:
            return cam(photos, folder, labels=labels, format=format, overlay=overlay, run=each, **model, **settings)

        kinds = {"format": format, "overlay": overlay}
        asked = asked_of({**model, **settings, **kinds}, weights_of(model), (labels, chosen.classes, listing))
        return over_packs(packs, out, run, make, command=COMMAND, labels=labels, asked=asked, listing=listing)
    place = destination(out)
    out = place.folder
    photos = find_images(
        inputs,
        given_path(listing),
        labels=labels,
        recursive=run.recursive,
        addresses=True,
        command=COMMAND,
        report=run.report,
    )
    source, tagged = photos.source, given_entries(labels, photos)

    called = photos.names

    def outputs(path: Path) -> tuple[Path, ...]:
        key = called.key(path)
        return (place.folder / f"{key}{suffix}", *[place.folder / OVERLAYS / f"{key}.jpg"] * overlay)

    plan = Plan(
        out,
        COMMAND,
        photos,
        outputs,
        run,
        place=place,
        labels=names_of(tagged),
        request={**model, **settings, "format": format, "overlay": overlay},
        weights=weights_of(model),
        reads=[Path(path) for path in (labels, listing, chosen.classes) if path is not None and str(path) != PREDICT],
    )
    if plan.nothing_to_do:
        return skip_all(plan)

    from pixaff.loaders import load_predictor
    from pixaff.stages.batch.executors import through_predictor

    placing = placed(run, chosen)
    chosen, device = loading(placing, chosen)
    predictor = load_predictor(chosen, settings, device=device, parts=("cam",), command=COMMAND, report=run.report)
    names = predictor.classes
    given = read_given_labels(
        labels, names, photos, command=COMMAND, listed=listing is not None, report=run.report, entries=tagged
    )

    def load(path: Path, present: tuple[int, ...] | None) -> Sample:
        return predictor.sample(source.open(path), present)

    def draw(sample: Sample, file: CamFile) -> Image.Image:
        shown = [value - 1 for value in file.classes]
        probabilities = predictor.sample_probabilities(sample)
        return cam_panels(sample.image, file.cams, [names[one] for one in shown], [probabilities[one] for one in shown])

    def save(path: Path, made: tuple[CamFile, Image.Image | None]) -> Mapping[str, Any]:
        file, picture = made
        target, *pictures = outputs(path)
        write_maps(target, format, file.classes.tolist(), file.cams, file.size)
        for each in pictures:
            assert picture is not None
            write_picture(each, picture, quality=90)
        place.send(*outputs(path))
        return {"classes": [names[value - 1] for value in file.classes]}

    def compute(batch: list[Sample], spread: Spread) -> list[tuple[CamFile, Image.Image | None]]:
        files = spread(predictor.sample_cams, batch)
        return list(zip(files, spread(draw, batch, files) if overlay else [None] * len(files), strict=True))

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

    return run_plan(
        plan,
        work,
        settings={
            **predictor.sources,
            "labels": str(labels),
            "preset": predictor.settings.preset,
            "cam": predictor.settings.cam,
            **predictor.settings.of(COMMAND),
            "format": format,
            "precision": predictor.precision,
            "inference": predictor.inference,
        },
        device=words_for(placing, predictor.device_words),
        weights=predictor.files,
        classes=names,
        listing=listing,
    )
