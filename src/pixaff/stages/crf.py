"""CAMs refined by a dense CRF, with much and with little background: the two sides of affinity labels."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pixaff.errors import UsageError, shortened
from pixaff.io.cams import POSTERIOR_FORMATS, SUFFIXES, check_format, find_cams, read_cams, write_maps
from pixaff.io.images import load_image
from pixaff.model_options import ModelOptions
from pixaff.options import divide
from pixaff.run_options import RunOptions
from pixaff.settings import Settings
from pixaff.stages.batch.cluster import Work, on_cluster, placed, words_for
from pixaff.stages.batch.executors import default_workers, in_processes, in_threads
from pixaff.stages.batch.inputs import existing_folder, find_images, given_path
from pixaff.stages.batch.naming import Names
from pixaff.stages.batch.packs import find_packs
from pixaff.stages.batch.plan import Plan
from pixaff.stages.batch.report import Report
from pixaff.stages.batch.run import Outcome, run_plan, skip_all

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from pixaff.keywords import CrfKeywords

COMMAND = "crf"
SIDES = ("low", "high")
_OTHERS = {False: ("conf_fg", "conf_bg"), True: ("crf_low", "crf_high")}
"""Settings that do not decide posteriors, and those that do not decide confident labels."""
PHOTOS_PER_WORKER = 8
"""With fewer, the work is done in this process."""


def crf(
    inputs: str | Path | Sequence[str | Path],
    cams: str | Path,
    out: str | Path,
    *,
    preset: str = "lite",
    listing: str | Path | None = None,
    format: str = "npz",
    hard: bool = False,
    run: RunOptions | None = None,
    **options: Unpack[CrfKeywords],
) -> Report:
    """Write ``out/low/NAME.npz`` and ``out/high/NAME.npz`` for each photo: posteriors of background and classes.

    The background score of CAMs is ``(1 - max CAM) ** alpha``; both alphas share one lattice. The posteriors are
    float16, with the background (class 0) as their first row. The formats of other programs are written as
    ``NAME.npy``, with float32 posteriors of the photo's own size.

    With ``hard``, write ``out/NAME.png`` instead: a mask of confident labels for `pixaff.train_irn`, 255 where the CRFs
    over two hard labellings do not agree; see `pixaff.ops.labels.confident_label_map`.

    Args:
        inputs: Photos: a folder, a file, "-" for paths on standard input, or several of these.
        cams: Folder of their CAMs, in any of the formats that `pixaff.io.cams.read_cams` reads.
        out: Folder for the two folders of posteriors.
        preset: Settings for the options that are not given.
        listing: Image list; only its images are used.
        format: "npz", our own, or a name in `pixaff.io.cams.POSTERIOR_FORMATS`, such as "psa".
        hard: Write confident labels instead of posteriors.
        run: How the run computes and to whom it reports, as one object; single ``options`` override it.
        **options: ``crf_low``, ``crf_high``, ``conf_fg``, ``conf_bg`` and ``size`` of `pixaff.Settings`, ``engine``,
            and fields of `pixaff.run_options.RunOptions` (``device``, ``workers``, ``overwrite``, ``report``,
            ``progress``).

    Raises:
        UsageError: An option is unknown or out of range, or there is no photo.
        OutputError: The output folder cannot be written.
    """
    model, given, how = divide(options, COMMAND, ModelOptions, Settings, RunOptions)
    engine, run = ModelOptions(**model).engine, RunOptions.of(run, how)
    if packs := find_packs(inputs):
        hint = "trainings read posteriors from folders: unpack the photos, and the CAMs for --cams"
        raise UsageError(f"found the shard {shortened(packs[0].place)}, expected photos in folders", hint)
    out, folder = Path(out), existing_folder(cams, "make CAMs first: pixaff cam")
    photos = find_images(inputs, given_path(listing), recursive=run.recursive, command=COMMAND, report=run.report)
    suffix = SUFFIXES[check_format(format, POSTERIOR_FORMATS)]
    outputs = partial(_label_output, out, photos.names) if hard else partial(_outputs, out, suffix, photos.names)
    plan = Plan(
        out,
        COMMAND,
        photos,
        outputs,
        run,
        cams=lambda photo: find_cams(folder, photos.names.key(photo), must_exist=False),
        request={**given, "preset": preset, "engine": engine, "format": format, **_mode(hard)},
        reads=[] if listing is None else [Path(listing)],
    )
    if plan.nothing_to_do:
        return skip_all(plan)

    from pixaff.device import device_words, pick_device
    from pixaff.models.registry import preset_settings

    settings = preset_settings(preset).replace(**given)
    if hard:
        check_confidences(settings)
    run = placed(run)
    where = pick_device(run.device if run.cluster is None else "cpu")
    count = run.workers or default_workers()
    shared: dict[str, Any] = {
        "cams": folder,
        "names": photos.names,
        "outputs": outputs,
        "settings": settings,
        "engine": engine,
        "device": str(where),
    }
    work = partial(_confident_labels, **shared) if hard else partial(_posteriors, form=format, **shared)

    def begin(device: str) -> Work:
        there = partial(work, device=device)
        return lambda photos, known: in_threads(photos, there, workers=1)

    def spread(todo: Sequence[Path]) -> Generator[tuple[Path, Outcome], None, None]:
        if run.cluster is not None:
            return on_cluster(todo, begin, lambda photo: None, run, command=COMMAND, cpus=1)
        # A worker process costs seconds of imports, and CUDA works best in one process.
        if count > 1 and len(todo) >= PHOTOS_PER_WORKER * count and where.type == "cpu":
            return in_processes(todo, work, workers=count)
        return in_threads(todo, work, workers=1)

    return run_plan(
        plan,
        spread,
        settings={
            "cams": str(cams),
            "preset": settings.preset,
            **{name: value for name, value in settings.of(COMMAND).items() if name not in _OTHERS[hard]},
            "engine": engine,
            "format": format,
            **_mode(hard),
        },
        device=words_for(run, device_words(where)),
        listing=listing,
    )


def check_confidences(settings: Settings) -> None:
    """Refuse background scores of confident labels that are the wrong way round.

    Raises:
        UsageError: They are.
    """
    if settings.conf_bg > settings.conf_fg:
        raise UsageError(f"conf_bg is {settings.conf_bg:g}, expected at most conf_fg, {settings.conf_fg:g}")


def _mode(hard: bool) -> dict[str, bool]:
    return {"hard": True} if hard else {}


def _outputs(out: Path, suffix: str, names: Names, photo: Path) -> tuple[Path, ...]:
    return tuple(out / side / f"{names.key(photo)}{suffix}" for side in SIDES)


def _label_output(out: Path, names: Names, photo: Path) -> tuple[Path, ...]:
    return (out / f"{names.key(photo)}.png",)


def _posteriors(
    photo: Path,
    *,
    cams: Path,
    names: Names,
    outputs: Callable[[Path], tuple[Path, ...]],
    form: str,
    settings: Settings,
    engine: str,
    device: str,
) -> dict[str, Any]:
    """Read a photo and its CAMs, write both posteriors."""
    import torch

    from pixaff.ops.cam import with_background
    from pixaff.ops.crf import dense_crf
    from pixaff.samples import Sample, fitted_cams

    file = read_cams(find_cams(cams, names.key(photo)))
    image, size = load_image(photo, settings.size, settings.enlarge_below)
    present, maps = fitted_cams(file, Sample(image, size), torch.device(device))
    unaries = torch.stack([with_background(maps, alpha) for alpha in (settings.crf_low, settings.crf_high)])
    posteriors = dense_crf(image, unaries, engine=engine).cpu().numpy()
    for path, posterior in zip(outputs(photo), posteriors, strict=True):
        write_maps(path, form, [0, *(index + 1 for index in present)], posterior, size)
    return {}


def _confident_labels(
    photo: Path,
    *,
    cams: Path,
    names: Names,
    outputs: Callable[[Path], tuple[Path, ...]],
    settings: Settings,
    engine: str,
    device: str,
) -> dict[str, Any]:
    """Read a photo and its CAMs, write its confident labels at the size at which it is worked on."""
    import numpy as np
    import torch

    from pixaff.io.masks import write_mask
    from pixaff.ops.labels import confident_label_map
    from pixaff.samples import Sample, fitted_cams

    file = read_cams(find_cams(cams, names.key(photo)))
    image, size = load_image(photo, settings.size, settings.enlarge_below)
    present, maps = fitted_cams(file, Sample(image, size), torch.device(device))
    rows = confident_label_map(image, maps, settings.conf_fg, settings.conf_bg, engine=engine).cpu().numpy()
    values = np.full(256, 255, np.uint8)
    values[: len(present) + 1] = [0, *(index + 1 for index in present)]
    write_mask(outputs(photo)[0], values[rows])
    return {}
