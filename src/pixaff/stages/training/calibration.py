"""Alphas that suit the CAMs of a model, chosen on its training photos and their labels, without ground truth."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from pixaff.events import Callback, Event
from pixaff.io.atomic import write_text
from pixaff.io.cams import CamFile, find_cams, read_cams
from pixaff.io.records import read_json
from pixaff.loaders import load_predictor
from pixaff.model_options import ModelOptions
from pixaff.models.model_folder import AFFINITY, CAM
from pixaff.ops.cam import background_score, with_background
from pixaff.ops.crf import dense_crf
from pixaff.ops.mask_measures import ALPHAS, cautious_alpha, foreground, normalized_cuts, overlaps
from pixaff.ops.resize import resize_scores
from pixaff.ops.walk import cell_scores, random_walk
from pixaff.options import unknown_option
from pixaff.prediction import STRIDE
from pixaff.predictor import Predictor
from pixaff.samples import Sample
from pixaff.settings import Settings
from pixaff.stages.batch.naming import naming_of
from pixaff.stages.training.folder import digest

CALIBRATED = ("crf_low", "crf_high", "alpha")
"""Settings that are chosen unless they are given."""
RECORD = "calibration.json"
PHOTOS = 40
"""Number of photos to choose on, at most."""
REDUCED = 4
"""The CRF runs at a quarter of the size, with kernels of a quarter of the size."""
LOW, HIGH = 1 / 3, 2.0
"""Alphas of the CRF with much and with little background, as factors on the one between them; those of `lite`."""


def checked_names(names: Sequence[str]) -> tuple[str, ...]:
    """The names of settings to choose.

    Raises:
        UsageError: One of them cannot be chosen.
    """
    for name in names:
        if name not in CALIBRATED:
            raise unknown_option(name, "calibrated setting", CALIBRATED)
    return tuple(name for name in CALIBRATED if name in names)


def calibrate_posteriors(
    out: Path,
    model: Path,
    photos: Sequence[Path],
    settings: Settings,
    names: Sequence[str],
    device: str,
    report: Callback,
) -> Settings:
    """Choose ``crf_low`` and ``crf_high``, after the CAMs and before the CRF.

    Between them lies the alpha with which the CRF's foreground agrees best with the segmentation head's. A network
    without such a head keeps the values of its preset.

    Args:
        out: Folder of the run, with the CAMs in ``cams``.
        model: Folder of the trained CAM network.
        photos: Photos of the run.
        settings: The present values.
        names: Those among `CALIBRATED` to choose.
        device: See `pixaff.run_options.RunOptions`.
        report: Receives a note that says what was chosen.

    Returns:
        The settings with the chosen values.
    """
    wanted = [name for name in ("crf_low", "crf_high") if name in names]
    shown = _some_photos(out, photos) if wanted else []
    if not shown:
        return settings

    def choose() -> dict[str, float]:
        predictor = load_predictor(
            ModelOptions(model=model),
            {"size": settings.size},
            device=device,
            parts=("cam",),
            command="fit",
            report=report,
        )
        counts = torch.zeros(len(ALPHAS), 2, dtype=torch.int64)
        for sample, file in _samples(predictor, shown):
            reference = head_foreground(predictor, sample, file)
            if reference is None:
                return {}
            counts += overlaps(crf_foreground(sample, file), reference)
        alpha = cautious_alpha(ALPHAS, _ratio(counts), tolerance=0)
        low, high = _rounded(alpha * LOW), _rounded(alpha * HIGH)
        # Beside a given one, the other stays on its side of it.
        if "crf_low" not in wanted:
            high = max(high, _rounded(settings.crf_low * HIGH / LOW))
        if "crf_high" not in wanted:
            low = min(low, _rounded(settings.crf_high * LOW / HIGH))
        return {"crf_low": low, "crf_high": high}

    return _chosen(out, settings, wanted, [model / CAM], shown, choose, report)


def calibrate_walk(
    out: Path, photos: Sequence[Path], settings: Settings, names: Sequence[str], device: str, report: Callback
) -> Settings:
    """Choose ``alpha``, after the training of the AffinityNet and before the masks.

    See `pixaff.ops.mask_measures.cautious_alpha`; a network without a segmentation head goes by the normalized cut
    alone.
    ``out`` is a model by then; the other arguments and the result are those of `calibrate_posteriors`.
    """
    shown = _some_photos(out, photos) if "alpha" in names else []
    if not shown:
        return settings

    def choose() -> dict[str, float]:
        model = load_predictor(ModelOptions(model=out), {}, device=device, command="fit", report=report)
        counts, cuts = torch.zeros(len(ALPHAS), 2, dtype=torch.int64), torch.zeros(len(ALPHAS))
        agrees = True
        for sample, file in _samples(model, shown):
            masks, affinity = walked_foreground(model, sample, file)
            # Twice the walk's exponent: weak edges count less than for the walk, and outlines decide.
            one = normalized_cuts(masks, affinity ** (2 * settings.beta), settings.radius, settings.borders)
            cuts += one.cpu()
            reference = head_foreground(model, sample, file)
            if reference is None:
                agrees = False
            else:
                counts += overlaps(masks.cpu(), reference)
        return {"alpha": _rounded(cautious_alpha(ALPHAS, _ratio(counts) if agrees else None, cuts))}

    return _chosen(out, settings, ["alpha"], [out / CAM, out / AFFINITY], shown, choose, report)


@torch.inference_mode()
def head_foreground(model: Predictor, sample: Sample, file: CamFile) -> Tensor | None:
    """Where the segmentation head prefers a class of the photo to the background: bool, on the cells of the walk.

    None without such a head.
    """
    network = model.cam_network
    if network is None or not network.has_segmentation_head:
        return None
    x = network.preprocess(sample.image)[None].to(model.device).contiguous(memory_format=torch.channels_last)
    logits = network.segmentation_logits(x).float()[:, [0, *file.classes.tolist()]]
    cells = F.interpolate(logits, _cells(sample), mode="bilinear", align_corners=False)[0]
    return cells.argmax(0).cpu() > 0


@torch.inference_mode()
def crf_foreground(sample: Sample, file: CamFile) -> Tensor:
    """Foreground of the CRF at each alpha: bool (A, h, w), on the cells of the walk."""
    height, width = (max(1, side // REDUCED) for side in sample.image.shape[:2])
    image = np.asarray(Image.fromarray(sample.image).resize((width, height), Image.Resampling.BOX))
    maps = resize_scores(torch.from_numpy(file.cams).float(), (height, width))
    sets = torch.stack([with_background(maps, alpha) for alpha in ALPHAS])
    # "auto" may pick another engine on another machine; here only the torch engine is fast.
    posteriors = dense_crf(image, sets, engine="torch", sxy_gaussian=3 / REDUCED, sxy_bilateral=80 / REDUCED)
    cells = F.interpolate(posteriors, _cells(sample), mode="area")
    return cells.argmax(1) > 0


@torch.inference_mode()
def walked_foreground(model: Predictor, sample: Sample, file: CamFile) -> tuple[Tensor, Tensor]:
    """Foreground of the walk at each alpha, bool (A, h, w), and the affinities (P, L) of the photo."""
    settings, affinity = model.settings, model.affinity(sample.image)
    maps = resize_scores(torch.from_numpy(file.cams).float(), sample.image.shape[:2]).to(affinity.device)
    start = cell_scores(torch.cat([maps, *(background_score(maps, alpha) for alpha in ALPHAS)]), STRIDE)
    walked = random_walk(start, affinity, settings.beta, settings.steps, settings.radius, borders=settings.borders)
    return foreground(walked[: len(maps)], walked[len(maps) :]), affinity


def _some_photos(out: Path, photos: Sequence[Path]) -> list[tuple[Path, Path]]:
    """Photos with CAMs, and the files of these: the same ones in every run on the same photos."""
    names = naming_of(photos)
    order = np.random.default_rng(len(photos)).permutation(len(photos)).tolist()
    found = []
    for index in order:
        path = find_cams(out / "cams", names.key(photos[index]), must_exist=False)
        if path is not None and path.is_file() and len(read_cams(path).classes):
            found.append((photos[index], path))
        if len(found) == PHOTOS:
            break
    return found


def _samples(model: Predictor, shown: Iterable[tuple[Path, Path]]) -> Iterable[tuple[Sample, CamFile]]:
    for photo, path in shown:
        file = read_cams(path)
        yield model.sample(photo), file


def _chosen(
    out: Path,
    settings: Settings,
    wanted: Sequence[str],
    weights: Sequence[Path],
    shown: Sequence[tuple[Path, Path]],
    choose: Callable[[], dict[str, float]],
    report: Callback,
) -> Settings:
    """The settings with the chosen values, from the record of an earlier call on the same CAMs and weights if there is
    one."""
    decides = (f"{name} {value}" for name, value in settings.to_dict().items() if name not in CALIBRATED)
    files = (path.read_bytes() for path in (*weights, *(cams for _, cams in shown)))
    data = digest((*decides, *(cams.stem for _, cams in shown), *files))
    path, key = out / RECORD, "+".join(wanted)
    record = read_json(path, "chosen settings", hint="delete it") if path.is_file() else {}
    known = record.get(key)
    if not isinstance(known, dict) or known.get("data") != data:
        known = {"data": data, "photos": len(shown), "values": choose()}
        write_text(path, json.dumps({**record, key: known}, indent=1) + "\n")
    values = {name: value for name, value in known["values"].items() if name in wanted}
    if not values:
        return settings
    words = ", ".join(f"{name.replace('_', '-')} {value:g}" for name, value in values.items())
    options = ", ".join(f"--{name.replace('_', '-')}" for name in values)
    text = f"{words}: chosen to suit the CAMs of {len(shown)} photos, without ground truth; {options} would set it"
    report(Event("note", "fit", text))
    return settings.replace(**values)


def _cells(sample: Sample) -> tuple[int, int]:
    height, width = (-(-side // STRIDE) for side in sample.image.shape[:2])
    return height, width


def _ratio(counts: Tensor) -> Tensor:
    return counts[:, 0] / counts[:, 1].clamp(min=1)


def _rounded(alpha: float) -> float:
    """Two digits, as one would type it."""
    return float(f"{alpha:.2g}")
