"""Activation maps sharpened by a dense CRF, with much and with little background: the two sides of affinity labels."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from pixaff.io.cams import read_cams
from pixaff.models.registry import preset_settings
from pixaff.ops.cam import with_background
from pixaff.ops.crf import dense_crf
from pixaff.settings import Settings
from pixaff.stages.device import device_words, pick_device
from pixaff.stages.formats import SUFFIXES, check_format, write_maps
from pixaff.stages.inputs import existing_folder, find_cams, find_images
from pixaff.stages.maps import given_maps, load_photo
from pixaff.stages.pools import default_workers, in_processes, in_threads
from pixaff.stages.record import announce, write_record
from pixaff.stages.refine import check_engine
from pixaff.stages.runner import Callback, Outcome, Report, run, silent

COMMAND = "crf"
SETTINGS = ("preset", "crf_low", "crf_high", "size")
SIDES = ("low", "high")
FORMATS = ("npz", "psa")
PHOTOS_PER_WORKER = 8
"""Fewer are done in this process."""


def crf(
    inputs: str | Path | Sequence[str | Path],
    cams: str | Path,
    out: str | Path,
    *,
    preset: str = "lite",
    crf_low: float | None = None,
    crf_high: float | None = None,
    size: int | None = None,
    engine: str = "auto",
    format: str = "npz",
    listing: str | Path | None = None,
    device: str = "auto",
    workers: int | None = None,
    overwrite: bool = False,
    report: Callback = silent,
) -> Report:
    """Write ``out/low/NAME.npz`` and ``out/high/NAME.npz`` for each photo: posteriors of background and classes.

    The background score of activation maps is ``(1 - max cam) ** power``; both powers share one lattice. The
    posteriors are float16, their first row (class 0) is the background. For the programs of others, ``format`` makes
    the files ``NAME.npy``, with float32 posteriors of the photo's own size.

    Args:
        inputs: Photos: a folder, a file, "-" for paths on standard input, or several of these.
        cams: Folder of their activation maps, in any of the formats that `pixaff.io.cams.read_cams` reads.
        out: Folder for the two folders of posteriors.
        preset: Settings whose numbers apply where none is given.
        crf_low: Background power with much background.
        crf_high: Background power with little background.
        size: Long side in pixels at which the CRF works; 0 means the photo's own.
        engine: "torch", "pydensecrf", or "auto" for whichever is installed and fits the device.
        format: "npz" is ours; "psa" is what the program of that name reads.
        listing: List of photos to take.
        device: Where the torch engine computes.
        workers: Processes; default all processors. Short lists stay in this process.
        overwrite: Make what exists again.
        report: Receives an `Event` for each photo.

    Raises:
        UsageError: A setting is out of range or there is no photo.
        OutputError: The output folder cannot be written.
    """
    out, folder = Path(out), existing_folder(cams, "make activation maps first: pixaff cam")
    settings = preset_settings(preset).replace(crf_low=crf_low, crf_high=crf_high, size=size)
    photos = find_images(inputs, None if listing is None else Path(listing))
    where = pick_device(device)
    shown = {"cams": str(cams), **settings.pick(SETTINGS), "engine": check_engine(engine)}
    shown["format"] = check_format(format, FORMATS)
    announce(out, COMMAND, shown, device=device_words(where), overwrite=overwrite, report=report)
    outputs = partial(_outputs, out, SUFFIXES[format])
    work = partial(
        _posteriors,
        cams=folder,
        outputs=outputs,
        form=format,
        settings=settings,
        engine=engine,
        device=str(where),
    )
    count = workers or default_workers()

    def spread(todo: Sequence[Path]) -> Generator[tuple[Path, Outcome], None, None]:
        # A worker process costs seconds of imports, and CUDA wants one process.
        if count > 1 and len(todo) >= PHOTOS_PER_WORKER * count and where.type == "cpu":
            return in_processes(todo, work, workers=count)
        return in_threads(todo, work, workers=1)

    result = run(
        photos,
        spread,
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
        list=listing,
        images=len(photos),
        counts=result.counts(),
        failed=dict(result.failed),
    )
    return result


def _outputs(out: Path, suffix: str, photo: Path) -> tuple[Path, ...]:
    return tuple(out / side / f"{photo.stem}{suffix}" for side in SIDES)


def _posteriors(
    photo: Path,
    *,
    cams: Path,
    outputs: Callable[[Path], tuple[Path, ...]],
    form: str,
    settings: Settings,
    engine: str,
    device: str,
) -> dict[str, Any]:
    """Read a photo and its maps, write both posteriors."""
    file = read_cams(find_cams(cams, photo.stem))
    loaded = load_photo(photo, None, settings)
    present, maps = given_maps(file, loaded, torch.device(device))
    powers = (settings.crf_low, settings.crf_high)
    unaries = torch.stack([with_background(maps, power) for power in powers])
    posteriors = dense_crf(loaded.image, unaries, engine=engine).cpu().numpy()
    for path, posterior in zip(outputs(photo), posteriors, strict=True):
        write_maps(path, form, [0, *(index + 1 for index in present)], posterior, loaded.size)
    return {}
