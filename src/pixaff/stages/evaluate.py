"""Compare masks, CAMs at a threshold or alpha, or propagated scores at any alpha with ground truth."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pixaff.errors import FormatError, UsageError, shortened
from pixaff.events import Callback, Event, silent
from pixaff.io.cams import CAM_SUFFIXES, CamFile, read_cams
from pixaff.io.labels import VOC_CLASSES, nfc, read_list
from pixaff.io.masks import VOID, read_mask
from pixaff.io.scores import read_scores
from pixaff.ops.metrics import ConfusionMatrix
from pixaff.stages.batch.executors import default_workers, in_threads
from pixaff.stages.batch.inputs import existing_folder
from pixaff.stages.batch.mask_folders import files_by_stem, listed_images, mask_classes
from pixaff.stages.batch.mask_page import as_warnings, check_name, write_page
from pixaff.stages.batch.naming import Names
from pixaff.stages.batch.record import read_record
from pixaff.stages.batch.run import describe
from pixaff.stages.batch.sweeps import FOLDER as SCORES
from pixaff.stages.batch.sweeps import check_first, holds_scores, swept_powers

COMMAND = "evaluate"
NAMED = 20
"""Number of missing predictions that are named in one line."""

Mask = NDArray[np.uint8]


@dataclass(frozen=True)
class Score:
    """Intersection over union for one setting.

    Attributes:
        setting: "" for masks, "threshold 0.2" or "alpha 4" for CAMs and for propagated scores.
        miou: Mean over the classes that occur, background included; 0 to 1, NaN if none does.
        iou: By class name; NaN for a class that occurs neither in the ground truth nor in a prediction.
    """

    setting: str
    miou: float
    iou: dict[str, float]


@dataclass(frozen=True)
class Evaluation:
    """The result of `evaluate`.

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
    void: int | None = None,
    recursive: bool = False,
    page: str | Path | None = None,
    photos: str | Path | Sequence[str | Path] | None = None,
    workers: int | None = None,
    report: Callback = silent,
) -> Evaluation:
    """Compare a folder of predictions with a folder of ground truth masks, image by image, in constant memory.

    Whatever would make the score misleading is an error: ground truth with nothing but 0 and 255, as binary masks are
    drawn; a palette whose colours contradict its numbers (see `pixaff.io.masks.read_mask`); CAMs of a photo that was
    not turned upright.

    Args:
        predictions: Folder of palette masks NAME.png; of CAM files when ``cams`` is set; or of the propagated scores
            that `pixaff.propagate` saved, which are recognised by their suffix. Scores stand for the masks before CRF
            refinement, at the alpha of their run.
        ground_truth: Folder of masks NAME.png: 0 background, 1..K classes, 255 void, which is not counted.
        cams: The predictions are CAMs: a pixel belongs to the class with the largest CAM if that exceeds the background
            score, which one of the next two arguments gives. CRF posteriors have a row for the background and need
            neither.
        thresholds: Constant background scores to try.
        alphas: Alphas to try: the background score is ``(1 - max cam) ** alpha``.
        sweep: ``{"alpha": alphas}``, alphas of the walk to try on propagated scores; ``predictions`` is their folder,
            or the folder of masks that contains it.
        listing: Image list; without it, all images with ground truth are compared.
        classes: Class list. Without it, the classes recorded beside the predictions, or else those of Pascal VOC. If it
            has colours, palettes and colour images are read by them.
        void: Value of the ground truth that is not counted; default: 255. If 255 is given explicitly, ground truth with
            nothing but 0 and 255 is accepted.
        recursive: Compare the files in subfolders, too: each with the one of the same path.
        page: Also make the page of `pixaff.report`, with the ground truth; a file that ends in .html. Its figures are
            those of the saved masks, whatever ``sweep`` tries.
        photos: Photos on that page; see `pixaff.report`.
        workers: Number of threads; default: the number of processors.
        report: Receives an `Event` for each image.

    Raises:
        UsageError: Contradictory arguments, nothing to compare, or an alpha outside the range of the scores.
        LabelsError: The list or the class list cannot be read.
        FormatError: The ground truth contains nothing but 0 and 255.
    """
    predictions, ground_truth = Path(predictions), Path(ground_truth)
    settings = _backgrounds(cams, thresholds, alphas)
    masks = predictions
    if page is not None:
        check_name(page, "--report")
        if cams:
            raise UsageError("--report shows masks, found --cams", "pixaff cam --overlay draws CAMs")
        if holds_scores(masks, recursive):
            raise UsageError(f"--report shows masks, found scores in {masks}", "give the folder of masks above it")
    powers = swept_powers(sweep, cams)
    if void is not None and not 0 <= void <= 255:
        raise UsageError(f"--void: found {void}, expected a value of a mask, 0..255")
    walked = not cams and (bool(powers) or holds_scores(predictions, recursive))
    if walked:
        predictions = predictions / SCORES if (predictions / SCORES).is_dir() else predictions
        settings = [(f"alpha {power:g}", None) for power in powers] or settings
    suffixes = CAM_SUFFIXES if cams else (".npz",) if walked else (".png",)
    truths = files_by_stem(existing_folder(ground_truth), (".png",), recursive=recursive)
    found = files_by_stem(existing_folder(predictions), suffixes, recursive=recursive)
    stems, source = _stems(truths, ground_truth, listing, recursive)
    record = read_record(predictions) or (read_record(predictions.parent) if walked else None) or {}
    names, colours = mask_classes(classes, record)
    if classes is None and record and names is VOC_CLASSES:
        text = f"{predictions} records no class names: taking the 20 of Pascal VOC; --classes names others"
        report(Event("note", COMMAND, text))
    there = [Path(stem) for stem in stems if nfc(stem) in found]
    if not there:
        raise UsageError(
            f"none of the {len(stems)} images has a prediction in {predictions}",
            f"expected files such as {' or '.join(stems[0] + suffix for suffix in suffixes)}"
            + (", which propagate --save-scores writes" if walked else ""),
        )
    missing = [stem for stem in stems if nfc(stem) not in found]
    if missing:
        named = ", ".join(missing[:NAMED]) + (f" and {len(missing) - NAMED} more" if len(missing) > NAMED else "")
        hint = "" if listing else "; --list FILE compares a part"
        text = f"{len(missing)} of {len(stems)} images have no prediction in {predictions}: {named}{hint}"
        report(Event("warning", COMMAND, text))
    if walked:
        check_first(found[nfc(str(there[0]))], powers)
        if record.get("settings", {}).get("final_crf"):
            report(
                Event(
                    "note", COMMAND, f"{COMMAND}: scoring the walk alone, without the CRF refinement that followed it"
                )
            )

    def masks_of(path: Path, shape: tuple[int, ...]) -> list[Mask]:
        if cams:
            return _cam_masks(read_cams(path, (shape[0], shape[1])), shape, [score for _, score in settings])
        if walked:
            from pixaff.prediction import masks_at  # imports torch, which nothing else here needs

            file = read_scores(path)
            return masks_at(file, powers or (file.alpha,))
        return [read_mask(path, len(names), colours)]

    def counts(stem: Path) -> dict[str, Any]:
        name = nfc(str(stem))
        path = truths.get(name, ground_truth / f"{stem}.png")  # if it does not exist, the error says so
        truth = read_mask(path, len(names), colours, VOID if void is None else void)
        masks = masks_of(found[name], truth.shape)
        matrices = [_counted(stem, mask, truth, len(names) + 1) for mask in masks]
        return {"matrices": matrices, "values": np.unique(truth).tolist()}

    report(Event("begin", COMMAND, total=len(there)))
    totals = [ConfusionMatrix(len(names) + 1) for _ in settings]
    values: set[int] = set()
    failed = [(stem, f"no prediction in {predictions}") for stem in missing]
    with closing(in_threads(there, counts, workers=workers or default_workers())) as outcomes:
        for stem, outcome in outcomes:
            if isinstance(outcome, BaseException):
                failed.append((str(stem), describe(outcome)))
                report(Event("failed", COMMAND, failed[-1][1], photo=stem))
                continue
            for total, matrix in zip(totals, outcome["matrices"], strict=True):
                total.merge(matrix)
            values.update(outcome["values"])
            report(Event("done", COMMAND, photo=stem))
    report(Event("end", COMMAND))
    if void is None:
        _question(ground_truth, values, report)
    scores = tuple(
        Score(setting, total.miou(), dict(zip(("background", *names), total.iou().tolist(), strict=True)))
        for (setting, _), total in zip(settings, totals, strict=True)
    )
    result = Evaluation(scores, len(stems) - len(failed), source, tuple(failed))
    tried = tuple(thresholds) or tuple(alphas) or powers
    if len(tried) > 1 and _at_an_end([score.miou for score in scores], tried):
        text = f"the best value, {result.best.setting}, is at an end of the sweep: a better one may lie beyond it"
        report(Event("warning", COMMAND, f"{COMMAND}: {text}"))
    if page is not None:
        write_page(
            masks,
            page,
            photos=photos,
            keys=list(map(str, there)),
            failed=failed,
            ground_truth=ground_truth,
            classes=classes,
            void=void,
            recursive=recursive,
            workers=workers,
            report=as_warnings(report),
        )
        report(Event("note", COMMAND, f"page: {shortened(page)}"))
    return result


def _counted(stem: Path, mask: Mask, truth: Mask, num_values: int) -> ConfusionMatrix:
    if mask.shape != truth.shape:
        found, expected = (f"{width} x {height}" for height, width in (mask.shape, truth.shape))
        raise FormatError(f"{stem}: found a mask of {found} pixels, expected the ground truth's {expected}")
    matrix = ConfusionMatrix(num_values)
    try:
        matrix.update(mask, truth)
    except ValueError as error:
        raise FormatError(f"{stem}: {error}") from None
    return matrix


def _question(ground_truth: Path, values: Collection[int], report: Callback) -> None:
    """Doubt ground truth in which no class occurs in any mask.

    Raises:
        FormatError: It contains nothing but 0 and 255, as binary masks are drawn: the whole object would be void.
    """
    if VOID in values and set(values) <= {0, VOID}:
        found = " and ".join(map(str, sorted(values)))
        raise FormatError(
            f"{ground_truth}: found {found} alone in all masks, expected 0 background, 1..K classes and 255 void",
            "replace 255 by 1 in binary masks, or give --void 255 if these images show no class",
        )
    if set(values) == {0}:
        report(Event("warning", COMMAND, f"{COMMAND}: the ground truth in {ground_truth} shows background only"))


def _at_an_end(scores: Sequence[float], values: Sequence[float]) -> bool:
    """Whether only the smallest or only the largest value reaches the best score."""
    best = max((score for score in scores if not np.isnan(score)), default=None)
    reached = [value for value, score in zip(values, scores, strict=True) if score == best]
    return bool(reached) and (max(reached) == min(values) or min(reached) == max(values))


BackgroundScore = Callable[[NDArray[np.float32]], "NDArray[np.float32] | float"]


def _backgrounds(
    cams: bool, thresholds: Sequence[float], alphas: Sequence[float]
) -> list[tuple[str, BackgroundScore | None]]:
    """The settings to score, each with the background score as a function of the largest CAM."""
    if not cams and (thresholds or alphas):
        raise UsageError(
            "a threshold or alpha needs CAMs, found masks",
            "give the CAMs with --cams DIR; for saved scores use --sweep alpha=FROM:TO:STEP",
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
    if file.lies_on_its_side((height, width)):
        found_size = f"{file.size[0]} x {file.size[1]}"
        raise FormatError(
            f"found CAMs of a photo of {found_size} pixels, expected {height} x {width}: they lie on their side",
            "the program that made them ignored the EXIF orientation of the photo",
        )
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
            raise FormatError("found CAMs without a row for the background", "give --threshold or --alpha")
        masks.append(np.where(top > score(top), found, 0).astype(np.uint8))
    return masks


def _stems(
    truths: Mapping[str, Path], ground_truth: Path, listing: str | Path | None, recursive: bool
) -> tuple[list[str], str]:
    """The images to compare, and the name of that choice."""
    names = Names((ground_truth,) if recursive else ())
    stems = sorted(names.key(path) for path in truths.values())
    if listing is not None:
        return listed_images(read_list(listing, folders=recursive), stems, listing), Path(listing).name
    if not stems:
        raise UsageError(f"{ground_truth}: no masks (.png) in it", "give the folder of ground truth masks")
    return stems, f"all of {ground_truth}"
