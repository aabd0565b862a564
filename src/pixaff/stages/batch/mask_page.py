"""A folder of masks as a page to look at: overlays, filters, alpha by eye, accept and reject."""

from __future__ import annotations

import base64
import hashlib
import io
import shlex
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray
from PIL import Image, features

from pixaff.errors import FormatError, ImageError, PixaffError, UsageError, counted, shortened
from pixaff.events import Callback, Event, silent
from pixaff.io.atomic import write_text
from pixaff.io.images import load_image
from pixaff.io.labels import VOC_CLASSES, image_path, nfc, read_list
from pixaff.io.masks import VOID, Colour, read_mask, resize_mask
from pixaff.io.scores import ScoreFile, read_scores
from pixaff.ops.metrics import ConfusionMatrix, rank_correlation
from pixaff.run_options import RunOptions
from pixaff.stages.batch.executors import default_workers, in_threads
from pixaff.stages.batch.inputs import existing_folder, find_masked_photos
from pixaff.stages.batch.mask_folders import files_by_stem, listed_images, mask_classes
from pixaff.stages.batch.naming import Names, Photos
from pixaff.stages.batch.plan import check_files
from pixaff.stages.batch.record import NAME as RECORD
from pixaff.stages.batch.record import read_record
from pixaff.stages.batch.report import Report
from pixaff.stages.batch.run import describe
from pixaff.stages.batch.sweeps import FOLDER as SCORES
from pixaff.viz.packing import pack_planes, pack_scores
from pixaff.viz.page import html_page, json_text

COMMAND = "report"
SIDE = 320
"""Long side of a photo on the page, in pixels."""
IN_ONE_FILE = 1000
"""Photos up to which the page is one file, of some 70 MB; the parts of a larger one lie beside it, loaded when seen."""
EACH, EACH_BESIDE = 50, 8
"""Photos in a part: in the page, or beside it."""
ENDS = 6
"""Photos with the best and with the worst IoU that are shown beside the figures."""
_QUALITY = 70


def write_page(
    masks: str | Path,
    out: str | Path,
    *,
    photos: str | Path | Sequence[str | Path] | None = None,
    named: Sequence[str | Path] | None = None,
    keys: Collection[str] | None = None,
    failed: Sequence[tuple[str, str]] | None = None,
    ground_truth: str | Path | None = None,
    listing: str | Path | None = None,
    classes: str | Path | None = None,
    void: int | None = None,
    side: int = SIDE,
    recursive: bool = False,
    workers: int | None = None,
    report: Callback = silent,
) -> Report:
    """Make a page of a folder of masks; see `pixaff.report`.

    Args:
        masks, out, photos, ground_truth, listing, classes, void, side, recursive, workers, report: As there.
        named: What a command line calls the photos; default: ``photos``.
        keys: Show only the masks of these names, without suffix.
        failed: Photos that have no mask, each with the reason; default: those that the run recorded beside the masks.

    Raises:
        UsageError, LabelsError, FormatError, OutputError: As there.
    """
    started = time.monotonic()
    masks, out = existing_folder(masks, "give the folder of masks"), Path(out)
    check_name(out, "--out")
    if not 64 <= side <= 2000:
        raise UsageError(f"--side: found {side}, expected 64 to 2000 pixels")
    found = files_by_stem(masks, (".png",), recursive=recursive)
    if keys is not None:
        wanted = {nfc(key) for key in keys}
        found = {key: path for key, path in found.items() if key in wanted}
    if not found:
        raise UsageError(f"{masks}: no masks (.png) in it", "make some first: pixaff propagate")
    called = Names((masks,) if recursive else ()).key
    shown = sorted(called(path) for path in found.values())
    if listing is not None:
        shown = listed_images(read_list(listing, folders=recursive), shown, listing)
    record = read_record(masks) or {}
    names, colours = mask_classes(classes, record)
    if classes is None and record and names is VOC_CLASSES:
        text = f"{masks} records no class names: taking the 20 of Pascal VOC; --classes names others"
        report(Event("note", COMMAND, text))
    place = photos if photos is not None else _beside(masks)
    if place is None:
        report(Event("note", COMMAND, "showing masks without their photos; --photos DIR names the folder of photos"))
    seen = None if place is None else find_masked_photos(place, recursive=recursive, command=COMMAND)
    by_key = {} if seen is None else {nfc(seen.names.key(path)): path for path in seen}
    truths = {}
    if ground_truth is not None:
        truths = files_by_stem(existing_folder(ground_truth), (".png",), recursive=recursive)
        if not any(nfc(key) in truths for key in shown):
            raise UsageError(f"{ground_truth}: no ground truth for {counted(len(shown), 'mask')}", "see --gt")
    paths = {key: found.get(nfc(key), masks / f"{key}.png") for key in shown}
    beside = len(shown) > IN_ONE_FILE
    folder, each = out.with_name(f"{out.stem}-parts"), EACH_BESIDE if beside else EACH
    written = [out, *(folder / f"part-{number}.js" for number in range(-(-len(shown) // each)) if beside)]
    reads = [listing, classes, masks / RECORD, *paths.values(), *by_key.values(), *truths.values()]
    check_files(written, reads)
    key_of = {path: key for key, path in paths.items()}

    def look(path: Path) -> Mapping[str, Any]:
        key = key_of[path]
        photo = by_key.get(nfc(key))
        name = f"{key}.png" if photo is None or seen is None else seen.names.name(photo)
        mask = read_mask(path, len(names), colours)
        saved = masks / SCORES / f"{key}.npz"
        item = _Item(name, mask, saved if saved.is_file() else None, len(names), colours, side)
        if seen is not None:
            item.take(lambda: item.show(photo, key))
        if item.saved is not None:
            item.take(item.doubt)
        if nfc(key) in truths:
            item.take(lambda: item.compare(truths[nfc(key)], VOID if void is None else void))
        return {"item": item, "stored": item.stored()}

    report(Event("begin", COMMAND, total=len(shown)))
    if any((masks / SCORES).glob("**/*.npz")):
        import pixaff.predictor  # noqa: F401  once, before threads would
    result, items, parts = Report(), list[_Item](), dict[str, str]()
    waiting: list[Mapping[str, Any]] = []
    total, compared = ConfusionMatrix(len(names) + 1), 0

    def close_part() -> None:
        number, text = len(items) // each - (len(items) % each == 0), json_text(waiting)
        if beside:
            write_text(folder / f"part-{number}.js", f"pixaffPart({number},{text})\n")
        else:
            parts[f"part-{number}"] = text
        waiting.clear()

    for first in range(0, len(shown), EACH):
        some = [paths[key] for key in shown[first : first + EACH]]
        with closing(in_threads(some, look, workers=workers or default_workers())) as outcomes:
            for path, outcome in outcomes:
                troubles: Sequence[str] = ()
                if isinstance(outcome, BaseException):
                    troubles = [describe(outcome)]
                else:
                    items.append(outcome["item"])
                    troubles = items[-1].troubles
                    if items[-1].matrix is not None:
                        total.merge(items[-1].matrix)
                        compared, items[-1].matrix = compared + 1, None
                    waiting.append(outcome["stored"])
                    if len(waiting) == each:
                        close_part()
                name = f"{key_of[path]}{path.suffix}"
                if troubles:
                    result.failed.append((name, "; ".join(troubles)))
                    report(Event("failed", COMMAND, result.failed[-1][1], photo=path))
                else:
                    result.done.append(name)
                    report(Event("done", COMMAND, photo=path))
    if waiting:
        close_part()
    if not items:
        raise FormatError(f"none of {counted(len(shown), 'mask')} can be read", result.failed[0][1])
    data = {
        "title": f"Masks in {shortened(masks.resolve().name)}",
        "facts": _facts(items, record),
        "id": hashlib.sha256("\0".join(item.name for item in items).encode("utf-8", "surrogateescape")).hexdigest()[
            :16
        ],
        "classes": list(names),
        "photos": [item.facts() for item in items],
        "failed": _failed(failed, record, None if listing is None else {nfc(key) for key in shown}),
        "parts": {"each": each, "folder": quote(folder.name)},
        "scores": _scores(items, total, compared) if compared else None,
        "alpha": _alpha(items, record, masks, place if named is None else named),
    }
    write_text(out, html_page(data, parts, beside=beside))
    result.seconds = time.monotonic() - started
    report(Event("end", COMMAND, data=result.counts()))
    return result


def write_page_of_run(
    masks: Path, photos: Photos, named: str | Path | Sequence[str | Path], result: Report, run: RunOptions
) -> None:
    """Make the page of a run that has made masks, or found them made; see `write_page`.

    Args:
        masks: Folder of the masks.
        photos: The photos of the run.
        named: What the command line called them.
        result: What became of them.
        run: How the run computes; with ``page``.
    """
    assert run.page is not None
    keys = [photos.names.key(photo) for photo in photos]
    if not any((masks / f"{key}.png").is_file() for key in keys):
        run.report(Event("warning", COMMAND, f"{run.page}: not written, since there is no mask to show"))
        return
    write_page(
        masks,
        run.page,
        photos=photos,
        named=[named] if isinstance(named, (str, Path)) else named,
        keys=keys,
        failed=result.failed,
        recursive=run.recursive,
        workers=run.workers,
        report=as_warnings(run.report),
    )
    run.report(Event("note", COMMAND, f"page: {shortened(run.page)}"))


def as_warnings(report: Callback) -> Callback:
    """For a page beside other results, which count: what cannot be shown on it is a warning."""

    def tell(event: Event) -> None:
        report(replace(event, kind="warning") if event.kind == "failed" else event)

    return tell


def check_page(run: RunOptions, single: bool = False, elsewhere: bool = False) -> None:
    """Refuse, before anything is computed, a page that could not be made in the end.

    Args:
        run: How the run computes.
        single: Whether the run writes one mask alone.
        elsewhere: Whether photos or masks are no files on the disk.

    Raises:
        UsageError: The page has another suffix, or there will be no folder with all masks.
    """
    if run.page is None:
        return
    check_name(run.page, "--report")
    if single:
        raise UsageError("--report shows a folder of masks, found one output file", "give a folder: -o DIR")
    if elsewhere:
        hint = "omit it; copy or unpack some of them, then: pixaff report MASKS --photos PHOTOS"
        raise UsageError("--report shows photos and masks on the disk, found shards or addresses", hint)
    if run.shard is not None:
        raise UsageError("--report shows the masks of all shards", "run pixaff report when they are finished")


def check_name(out: str | Path, option: str) -> None:
    """Refuse a page that browsers would not open, before anything is computed.

    Raises:
        UsageError: The name does not end in .html.
    """
    if Path(out).suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"{option}: found {shortened(out)}, expected a file that ends in .html")


@dataclass(eq=False)
class _Item:
    """One image of the page."""

    name: str
    mask: NDArray[np.uint8]
    saved: Path | None
    num_classes: int
    colours: Mapping[Colour, int] | None
    side: int

    def __post_init__(self) -> None:
        height, width = self.mask.shape
        scale = min(1.0, self.side / max(height, width))
        self.size = max(1, round(height * scale)), max(1, round(width * scale))
        self.classes = [int(value) for value in np.flatnonzero(np.bincount(self.mask.ravel(), minlength=256))]
        self.classes = [value for value in self.classes if value not in (0, VOID)]
        self.shown = float(((self.mask > 0) & (self.mask != VOID)).mean())
        self.margin: float | None = None
        self.matrix: ConfusionMatrix | None = None
        self.iou = float("nan")
        self.picture: str | None = None
        self.truth: str | None = None
        self.packed: dict[str, Any] | None = None
        self.alpha: tuple[float, float, float] | None = None
        self.troubles: list[str] = []

    def take(self, step: Any) -> None:
        """Do a step that may fail alone."""
        try:
            step()
        except PixaffError as error:
            self.troubles.append(str(error))

    def show(self, photo: Path | None, key: str) -> None:
        """Make the picture of the photo."""
        if photo is None:
            raise ImageError(f"found no photo {shortened(key)} for the mask", "give its folder to --photos")
        pixels, size = load_image(photo, self.side)
        if size != self.mask.shape:
            raise FormatError(
                f"{photo}: found {size[1]} x {size[0]} pixels, expected the mask's "
                f"{self.mask.shape[1]} x {self.mask.shape[0]}"
            )
        self.size = (pixels.shape[0], pixels.shape[1])
        kind = "WEBP" if features.check("webp") else "JPEG"
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, format=kind, quality=_QUALITY)
        self.picture = f"data:image/{kind.lower()};base64,{base64.b64encode(stream.getvalue()).decode()}"

    def doubt(self) -> None:
        """Take the scores, and how sure they are of the mask."""
        from pixaff.prediction import margin_at, mask_margin

        assert self.saved is not None
        file: ScoreFile = read_scores(self.saved)
        if file.size != self.mask.shape:
            raise FormatError(
                f"{self.saved}: found scores of {file.size[1]} x {file.size[0]} pixels, expected the mask's "
                f"{self.mask.shape[1]} x {self.mask.shape[0]}",
                "make masks and scores in one run",
            )
        self.margin = mask_margin(margin_at(file), self.mask, file.classes.tolist())
        self.alpha = (float(file.powers[0]), float(file.powers[-1]), file.alpha)
        self.packed = pack_scores(file)

    def compare(self, path: Path, void: int) -> None:
        """Count the pixels of each class and of the ground truth's."""
        truth = read_mask(path, self.num_classes, self.colours, void)
        if truth.shape != self.mask.shape:
            raise FormatError(
                f"{path}: found {truth.shape[1]} x {truth.shape[0]} pixels, expected the mask's "
                f"{self.mask.shape[1]} x {self.mask.shape[0]}"
            )
        matrix = ConfusionMatrix(self.num_classes + 1)
        try:
            matrix.update(self.mask, truth)
        except ValueError as error:
            raise FormatError(f"{self.name}: {error}") from None
        self.matrix, self.iou = matrix, matrix.miou()
        self.truth = pack_planes([resize_mask(truth, self.size)])

    def facts(self) -> dict[str, Any]:
        """What the page knows at once."""
        return {
            "name": self.name,
            "classes": self.classes,
            "shown": round(self.shown, 4),
            "margin": None if self.margin is None else round(self.margin, 4),
            "iou": None if np.isnan(self.iou) else round(self.iou, 4),
            "size": [self.size[1], self.size[0]],
            "trouble": "; ".join(self.troubles),
        }

    def stored(self) -> dict[str, Any]:
        """What the page unpacks when it shows the image; the item itself then needs it no longer."""
        mask = pack_planes([resize_mask(self.mask, self.size)])
        made = {"photo": self.picture, "mask": mask, "truth": self.truth, "scores": self.packed}
        self.mask, self.picture, self.truth, self.packed = np.empty((0, 0), np.uint8), None, None, None
        return made


def _beside(masks: Path) -> Path | None:
    """The folder of which `pixaff propagate` would have made this one without ``--out``."""
    path = masks.resolve()
    folder = path.with_name(path.name.removesuffix("-masks"))
    return folder if folder != path and folder.is_dir() else None


def _facts(items: Sequence[_Item], record: Mapping[str, Any]) -> str:
    words = [counted(len(items), "photo")]
    settings = record.get("settings", {})
    words += [f"{name} {shortened(settings[name])}" for name in ("model", "preset", "alpha") if settings.get(name)]
    if record.get("written"):
        words.append(f"made {shortened(str(record['written'])[:16].replace('T', ' '))}")
    return ", ".join(words)


def _failed(
    given: Sequence[tuple[str, str]] | None, record: Mapping[str, Any], listed: Collection[str] | None
) -> list[tuple[str, str]]:
    """Photos without a mask, each with the reason; of a list, those that it names."""
    recorded = record.get("failed")
    if given is None:
        given = list(recorded.items()) if isinstance(recorded, dict) else []
        if listed is not None:
            given = [(name, why) for name, why in given if nfc(name) in listed or nfc(image_path(name)) in listed]
    return [(str(name), str(why)) for name, why in given]


def _scores(items: Sequence[_Item], total: ConfusionMatrix, compared: int) -> dict[str, Any]:
    """Figures of the comparison with ground truth."""
    each = sorted((item.iou, index) for index, item in enumerate(items) if not np.isnan(item.iou))
    miou = total.miou()
    return {
        "miou": None if np.isnan(miou) else round(miou, 6),
        "iou": [None if np.isnan(value) else round(float(value), 6) for value in total.iou()],
        "matrix": total.matrix.tolist(),
        "images": compared,
        "rank": _rank(items),
        "worst": [index for _, index in each[:ENDS]],
        "best": [index for _, index in reversed(each[-ENDS:])],
    }


def _rank(items: Sequence[_Item]) -> float | None:
    """Rank correlation of the confidence with the IoU, where both are known."""
    both = [(item.margin, item.iou) for item in items if item.margin is not None and not np.isnan(item.iou)]
    found = rank_correlation(*zip(*both, strict=True)) if both else float("nan")
    return None if np.isnan(found) else round(found, 4)


def _alpha(items: Sequence[_Item], record: Mapping[str, Any], masks: Path, photos: Any) -> dict[str, Any] | None:
    """The range of the slider, and the command that makes the masks of its alpha."""
    known = [item.alpha for item in items if item.alpha is not None]
    if not known:
        return None
    lowest, highest, saved = max(each[0] for each in known), min(each[1] for each in known), known[0][2]
    inputs = [photos] if isinstance(photos, (str, Path)) else list(photos or ["PHOTOS"])
    inputs = ["PHOTOS" if str(one) == "-" else one for one in inputs]  # what was on standard input is gone
    config = ["--config", str(masks / RECORD)] if record.get("command") == "propagate" else []
    words = ["pixaff", "propagate", *map(str, inputs), *config, "--alpha", "{alpha}"]
    target = f"{masks.with_name(masks.name + '-alpha')}"
    command = " ".join([*map(_shell, words), "--out", f"{_shell(target)}-{{alpha}}"])
    note = f"The saved masks were made at alpha {saved:g}."
    if record.get("settings", {}).get("final_crf"):
        note += " CRF refinement followed the walk; the slider shows the walk alone."
    return {"from": lowest, "to": highest, "saved": saved, "command": command, "note": note}


def _shell(word: str) -> str:
    """A word of a command line, to be copied; control characters in a name must not reach a terminal."""
    return word if word == "{alpha}" else shlex.quote(word if word.isprintable() else "NAME")
