"""Masks, activation maps under a threshold, or walked scores at any background power, against ground truth."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pixaff.errors import FormatError, UsageError
from pixaff.events import Callback, Event, silent
from pixaff.io.cams import CAM_SUFFIXES, CamFile, find_cams, read_cams
from pixaff.io.labels import VOC_CLASSES, read_classes, read_list
from pixaff.io.masks import read_mask
from pixaff.io.scores import read_scores
from pixaff.ops.metrics import ConfusionMatrix
from pixaff.stages.batch.executors import default_workers, in_threads
from pixaff.stages.batch.inputs import existing_folder
from pixaff.stages.batch.record import read_record
from pixaff.stages.batch.run import describe
from pixaff.stages.sweeps import FOLDER as SCORES
from pixaff.stages.sweeps import check_first, holds_scores, swept_powers

COMMAND = "evaluate"
NAMED = 20
"""Missing predictions named in one line."""

Mask = NDArray[np.uint8]


@dataclass(frozen=True)
class Score:
    """Intersection over union under one setting.

    Attributes:
        setting: "" for masks, "threshold 0.2" or "alpha 4" for activation maps and for scores of the walk.
        miou: Mean over the classes that occur, background included; 0 to 1, NaN when none does.
        iou: By class name; NaN for a class seen neither in the ground truth nor in a prediction.
    """

    setting: str
    miou: float
    iou: dict[str, float]


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found.

    Attributes:
        scores: One for masks, one for each value of a sweep.
        images: Number of images compared.
        listing: Name of the list that chose them, or "all of FOLDER".
        failed: Images that could not be compared, each with the reason.
    """

    scores: tuple[Score, ...]
    images: int
    listing: str
    failed: tuple[tuple[str, str], ...]

    @property
    def best(self) -> Score:
        """The score with the highest mIoU."""
        return max(self.scores, key=lambda score: -1.0 if np.isnan(score.miou) else score.miou)


def evaluate(
    predictions: str | Path,
    ground_truth: str | Path,
    *,
    cams: bool = False,
    thresholds: Sequence[float] = (),
    alphas: Sequence[float] = (),
    sweep: Mapping[str, Sequence[float]] | None = None,
    listing: str | Path | None = None,
    classes: str | Path | None = None,
    workers: int | None = None,
    report: Callback = silent,
) -> Evaluation:
    """Compare a folder of predictions with a folder of ground truth masks, image by image, in constant memory.

    Args:
        predictions: Folder of palette masks NAME.png; of activation maps when ``cams`` is set; or of the walked scores
            that `pixaff.propagate` saved, which are told from masks by their files. Those stand for the masks before
            the final CRF, at the alpha of their run.
        ground_truth: Folder of masks NAME.png: 0 background, 1..K classes, 255 void, which is not counted.
        cams: The predictions are activation maps: a pixel belongs to the class with the largest map where that
            exceeds the background score, given by one of the next two arguments. Files with a background row of
            their own, as CRF posteriors have, need neither.
        thresholds: Constant background scores to try.
        alphas: Background powers to try: the background score is ``(1 - max cam) ** alpha``.
        sweep: ``{"alpha": powers}``, background powers of the walk to try on walked scores; ``predictions`` is their
            folder or the one of the masks that holds it.
        listing: List of the images to compare; without it, all that have ground truth.
        classes: File of class names. Without it, those that the run recorded beside the predictions, else Pascal VOC's.
        workers: Number of threads; default all processors.
        report: Receives an `Event` for each image.

    Raises:
        UsageError: Contradicting arguments, nothing to compare, or a power that the scores do not tell.
        LabelsError: The list or the classes file cannot be read.
    """
    predictions, ground_truth = Path(predictions), Path(ground_truth)
    settings = _backgrounds(cams, thresholds, alphas)
    powers = swept_powers(sweep, cams)
    walked = not cams and (bool(powers) or holds_scores(predictions))
    if walked:
        predictions = predictions / SCORES if (predictions / SCORES).is_dir() else predictions
        settings = [(f"alpha {power:g}", None) for power in powers] or settings
    stems, source = _stems(predictions, ground_truth, listing)
    record = read_record(predictions) or (read_record(predictions.parent) if walked else None) or {}
    names = _class_names(classes, record)
    suffixes = CAM_SUFFIXES if cams else (".npz",) if walked else (".png",)
    missing = [stem for stem in stems if not any((predictions / f"{stem}{suffix}").is_file() for suffix in suffixes)]
    failed = [(stem, f"no prediction in {predictions}") for stem in missing]
    if len(missing) == len(stems):
        raise UsageError(
            f"none of the {len(stems)} images has a prediction in {predictions}",
            f"expected files such as {' or '.join(stems[0] + suffix for suffix in suffixes)}"
            + (", which propagate --save-scores writes" if walked else ""),
        )
    if missing:
        named = ", ".join(missing[:NAMED]) + (f" and {len(missing) - NAMED} more" if len(missing) > NAMED else "")
        hint = "" if listing else "; --list FILE compares a part"
        text = f"{len(missing)} of {len(stems)} images have no prediction in {predictions}: {named}{hint}"
        report(Event("warning", COMMAND, text))
    there = [Path(stem) for stem in stems if stem not in set(missing)]
    if walked:
        check_first(predictions / f"{there[0]}.npz", powers)
        if record.get("settings", {}).get("final_crf"):
            report(Event("note", COMMAND, f"{COMMAND}: the walk alone is scored, without the CRF that followed it"))
    report(Event("begin", COMMAND, total=len(there)))

    def counts(stem: Path) -> dict[str, Any]:
        truth = read_mask(ground_truth / f"{stem}.png", len(names))
        if cams:
            masks = _cam_masks(read_cams(find_cams(predictions, stem.name)), truth.shape, [s for _, s in settings])
        elif walked:
            from pixaff.predictor import masks_at  # torch, which the other ways do without

            file = read_scores(predictions / f"{stem}.npz")
            masks = masks_at(file, powers or (file.alpha,))
        else:
            masks = [read_mask(predictions / f"{stem}.png", len(names))]
        matrices = [ConfusionMatrix(len(names) + 1) for _ in masks]
        for matrix, mask in zip(matrices, masks, strict=True):
            if mask.shape != truth.shape:
                found, expected = (f"{w} x {h}" for h, w in (mask.shape, truth.shape))
                raise FormatError(f"{stem}: found a mask of {found} pixels, expected the ground truth's {expected}")
            try:
                matrix.update(mask, truth)
            except ValueError as error:
                raise FormatError(f"{stem}: {error}") from None
        return {"matrices": matrices}

    totals = [ConfusionMatrix(len(names) + 1) for _ in settings]
    with closing(in_threads(there, counts, workers=workers or default_workers())) as outcomes:
        for stem, outcome in outcomes:
            if isinstance(outcome, BaseException):
                failed.append((str(stem), describe(outcome)))
                report(Event("failed", COMMAND, failed[-1][1], photo=stem))
                continue
            for total, matrix in zip(totals, outcome["matrices"], strict=True):
                total.merge(matrix)
            report(Event("done", COMMAND, photo=stem))
    report(Event("end", COMMAND))
    scores = tuple(
        Score(setting, total.miou(), dict(zip(("background", *names), total.iou().tolist(), strict=True)))
        for (setting, _), total in zip(settings, totals, strict=True)
    )
    return Evaluation(scores, len(stems) - len(failed), source, tuple(failed))


BackgroundScore = Callable[[NDArray[np.float32]], "NDArray[np.float32] | float"]


def _backgrounds(
    cams: bool, thresholds: Sequence[float], alphas: Sequence[float]
) -> list[tuple[str, BackgroundScore | None]]:
    """The settings to score, each with the background score as a function of the largest map."""
    if not cams and (thresholds or alphas):
        raise UsageError(
            "a threshold or alpha needs activation maps, found masks",
            "add --cams; scores of the walk want --sweep alpha=FROM:TO:STEP",
        )
    if thresholds and alphas:
        raise UsageError("found thresholds and alphas, expected one of them")
    if not thresholds and not alphas:
        return [("", None)]
    return [(f"threshold {value:g}", partial(_constant, value)) for value in thresholds] + [
        (f"alpha {value:g}", partial(_power, value)) for value in alphas
    ]


def _constant(value: float, top: NDArray[np.float32]) -> float:
    return value


def _power(value: float, top: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.power(1 - top, np.float32(value))


def _cam_masks(file: CamFile, shape: tuple[int, ...], scores: Sequence[BackgroundScore | None]) -> list[Mask]:
    """One mask of the given (H, W) for each background score."""
    height, width = shape
    maps = [
        np.asarray(Image.fromarray(row).resize((width, height), Image.Resampling.BILINEAR))
        for row in np.asarray(file.cams, dtype=np.float32)
    ]
    if not maps:
        return [np.zeros(shape, np.uint8) for _ in scores]
    best = np.argmax(maps, axis=0)
    found = file.classes.astype(np.uint8)[best]
    if 0 in file.classes:
        return [found for _ in scores]
    top = np.take_along_axis(np.stack(maps), best[None], axis=0)[0].clip(0, 1)
    masks = []
    for score in scores:
        if score is None:
            raise FormatError("activation maps hold no background row", "give --threshold or --alpha")
        masks.append(np.where(top > score(top), found, 0).astype(np.uint8))
    return masks


def _class_names(path: str | Path | None, record: Mapping[str, Any]) -> tuple[str, ...]:
    if path is not None:
        return read_classes(path)
    recorded = record.get("classes")
    return tuple(str(name) for name in recorded) if isinstance(recorded, list) else VOC_CLASSES


def _stems(predictions: Path, ground_truth: Path, listing: str | Path | None) -> tuple[list[str], str]:
    """What to compare, and the name of that choice."""
    for folder in (predictions, ground_truth):
        existing_folder(folder)
    if listing is not None:
        return list(dict.fromkeys(read_list(listing))), Path(listing).name
    stems = sorted(path.stem for path in ground_truth.glob("*.png") if not path.name.startswith("."))
    if not stems:
        raise UsageError(f"{ground_truth}: no masks (.png) in it")
    return stems, f"all of {ground_truth}"
