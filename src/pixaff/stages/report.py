"""A folder of masks as a page to look at: overlays, filters, alpha by eye, accept and reject."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pixaff.events import Callback, silent
from pixaff.stages.batch.mask_page import SIDE, write_page
from pixaff.stages.batch.report import Report


def report(
    masks: str | Path,
    out: str | Path,
    *,
    photos: str | Path | Sequence[str | Path] | None = None,
    ground_truth: str | Path | None = None,
    listing: str | Path | None = None,
    classes: str | Path | None = None,
    void: int | None = None,
    side: int = SIDE,
    recursive: bool = False,
    workers: int | None = None,
    report: Callback = silent,
) -> Report:
    """Make a page of a folder of masks, to look at them, to choose alpha by eye, and to accept or reject each.

    The page needs nothing from the network and sends nothing. Photos that the run could not make a mask of are named
    in it. An image of which something cannot be read is named in
    the report; what can be read of it is shown.

    Args:
        masks: Folder of masks NAME.png. With the scores that ``propagate(..., save_scores=True)`` wrote beside them,
            the page knows how sure the walk was, and shows the masks at any alpha.
        out: The page, a file that ends in .html; it is replaced if it exists. The parts of a page of more than 2,000
            photos are written to a folder beside it, named after it with "-parts".
        photos: The photos: a folder, a file, or several of these. Without them, for masks in "photos-masks" the folder
            "photos" beside it, if there is one; else the masks are shown alone.
        ground_truth: Folder of masks NAME.png to compare with: 0 background, 1..K classes, 255 void.
        listing: Image list; only its images are shown.
        classes: Class list. Without it, the classes that the run recorded beside the masks, else Pascal VOC's.
        void: Value of the ground truth that is not counted; default: 255.
        side: Long side of a photo on the page, in pixels, 64..2000; larger ones make the file larger.
        recursive: Also show the masks in subfolders, with photos and ground truth of the same paths.
        workers: Number of threads; default all processors.
        report: Receives an `Event` for each image.

    Raises:
        UsageError: Nothing to show, a name that does not end in .html, or the page would take the place of an input.
        LabelsError: The list or the class list cannot be read.
        FormatError: None of the masks can be read.
        OutputError: The page cannot be written.

    Example:
        >>> import pixaff
        >>> pixaff.report("photos-masks", "report.html", photos="photos")  # doctest: +SKIP
    """
    return write_page(
        masks,
        out,
        photos=photos,
        ground_truth=ground_truth,
        listing=listing,
        classes=classes,
        void=void,
        side=side,
        recursive=recursive,
        workers=workers,
        report=report,
    )
