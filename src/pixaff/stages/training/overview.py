"""What to look at after a run: its masks, the most doubtful ones first, as a table and as a contact sheet."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pixaff.errors import FormatError, ImageError
from pixaff.io.atomic import write_text
from pixaff.io.images import load_image, write_picture
from pixaff.io.masks import read_mask
from pixaff.io.scores import read_scores
from pixaff.prediction import margin_at, mask_margin
from pixaff.stages.batch.executors import READERS, default_workers
from pixaff.stages.batch.naming import naming_of
from pixaff.stages.batch.sweeps import FOLDER as SCORES
from pixaff.viz.sheet import contact_sheet

DOUBTFUL = "doubtful.csv"
SHEET = "sheet.jpg"
ON_SHEET = 24
"""Photos on the contact sheet."""
CELL = 320
"""Side of a picture on it, in pixels."""


@dataclass(frozen=True)
class Doubt:
    """How sure the walk was of a mask.

    Attributes:
        photo: The photo.
        margin: How far the best score is ahead of the second best, 0..1, see `pixaff.prediction.mask_margin`; None
            without scores.
        shown: Share of the pixels that are not background.
    """

    photo: Path
    margin: float | None
    shown: float


def _doubt(photo: Path, key: str, masks: Path) -> Doubt | None:
    """None without a mask that can be read."""
    try:
        mask = read_mask(masks / f"{key}.png")
    except FormatError:
        return None
    shown = float((mask > 0).mean())
    try:
        file = read_scores(masks / SCORES / f"{key}.npz")
    except FormatError:
        return Doubt(photo, None, shown)
    margin = margin_at(file)
    return Doubt(photo, mask_margin(margin, mask, file.classes.tolist()) if mask.shape == margin.shape else None, shown)


def write_overview(out: Path, masks: Path, overlays: Path, photos: Sequence[Path]) -> list[str]:
    """Write ``doubtful.csv``, all photos from the most doubtful mask on, and ``sheet.jpg`` with the first of them.

    Args:
        out: Folder for both.
        masks: Folder of masks, with the scores that `pixaff.propagate` saved. Masks without these, such as all masks
            with a constant background, have no margin and come last.
        overlays: Folder of their overlays.
        photos: The photos.

    Returns:
        What the photos that have a margin are called, in this order.
    """
    called = naming_of(photos)
    with ThreadPoolExecutor(min(READERS, default_workers())) as pool:
        found = [
            doubt
            for doubt in pool.map(lambda photo: _doubt(photo, called.key(photo), masks), photos)
            if doubt is not None
        ]
    doubts = sorted(found, key=lambda doubt: math.inf if doubt.margin is None else doubt.margin)
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("photo", "margin", "shown"))
    table.writerows((called.name(one.photo), _figure(one.margin, 4), f"{one.shown:.4f}") for one in doubts)
    write_text(out / DOUBTFUL, text.getvalue())
    rows, names = [], []
    for doubt in doubts[:ON_SHEET]:
        try:
            pair = [load_image(path, CELL)[0] for path in (doubt.photo, overlays / f"{called.key(doubt.photo)}.jpg")]
        except ImageError:
            continue
        rows.append(pair)
        names.append(f"{called.key(doubt.photo)}  {_figure(doubt.margin, 2)}".rstrip())
    if rows:
        write_picture(out / SHEET, contact_sheet(rows, ["photo", "mask"], names, CELL), quality=88)
    return [called.name(doubt.photo) for doubt in doubts if doubt.margin is not None]


def _figure(margin: float | None, digits: int) -> str:
    return "" if margin is None else f"{margin:.{digits}f}"
