"""A folder of masks as a training set, or for a labelling tool."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pixaff.errors import FormatError, LabelsError, OutputError, UsageError, counted, shortened
from pixaff.events import Callback, Event, silent
from pixaff.io.exports import Item, Writer, check_photo, parse_split, writer_of
from pixaff.io.instances import FOLDER as INSTANCES
from pixaff.io.instances import read_instances
from pixaff.io.labels import VOC_CLASSES, nfc, read_list
from pixaff.io.masks import VOID, Colour, read_mask
from pixaff.io.scores import read_scores
from pixaff.stages.batch.executors import default_workers, in_threads
from pixaff.stages.batch.inputs import existing_folder, find_masked_photos
from pixaff.stages.batch.mask_folders import files_by_stem, listed_images, mask_classes
from pixaff.stages.batch.naming import Names
from pixaff.stages.batch.plan import check_files, check_outputs
from pixaff.stages.batch.record import NAME as RECORD
from pixaff.stages.batch.record import read_record, write_record
from pixaff.stages.batch.run import Report, describe
from pixaff.stages.batch.sweeps import FOLDER as SCORES

COMMAND = "export"
TOGETHER = 64
"""Images whose results may wait in memory for their turn."""


def export(
    masks: str | Path,
    out: str | Path,
    *,
    to: Literal["coco", "yolo", "voc", "mmseg", "index", "cvat", "hf", "imagefolder", "labelstudio"],
    photos: str | Path | Sequence[str | Path] | None = None,
    listing: str | Path | None = None,
    classes: str | Path | None = None,
    uncertain: float = 0.0,
    polygons: bool = False,
    min_area: int = 0,
    split: str | None = None,
    overwrite: bool = False,
    recursive: bool = False,
    workers: int | None = None,
    report: Callback = silent,
) -> Report:
    """Write a folder of masks in the format of a trainer or a labelling tool.

    A mask that cannot be exported is named in the report, and the set is made of the others.

    Args:
        masks: Folder of masks NAME.png, such as `pixaff.propagate` writes. Where it wrote instances, too, they take the
            place of the connected regions, with their scores.
        out: Output folder: a new or an empty one, unless ``overwrite`` is set.
        to: The format.
        photos: The photos: a folder, a file, or several of these. Formats for trainers store them beside the masks, as
            upright JPEGs.
        listing: Image list; only its images are exported.
        classes: Class list. Without it, the classes that the run recorded beside the masks, else Pascal VOC's.
        uncertain: Where the best propagated score leads the second best by less, 0..1, the mask becomes void (255). It
            needs the scores that ``propagate(..., save_scores=True)`` wrote into the folder of the masks.
        polygons: COCO: polygons in place of run lengths.
        min_area: Connected regions of fewer pixels become void (255), before anything else is made of them.
        split: Parts of the set and their shares, such as "train=0.9,val=0.1", for formats of trainers. A hash of the
            name decides the part of an image.
        overwrite: Replace the files of an earlier export.
        recursive: Also export the masks in subfolders, with the photos of the same paths; the set mirrors the folders.
        workers: Number of threads; default all processors.
        report: Receives an `Event` for each image.

    Raises:
        UsageError: Nothing to export, contradicting arguments, or an output would take the place of an input.
        LabelsError: The list or the class list cannot be read.
        OutputError: The output cannot be written.
    """
    started = time.monotonic()
    masks, out = existing_folder(masks), Path(out)
    kind = writer_of(to)
    if not 0 <= uncertain < 1:
        raise UsageError(f"--uncertain: found {uncertain:g}, expected 0 or more, and less than 1")
    if polygons and to != "coco":
        raise UsageError(f"--polygons chooses between two forms of COCO, found --to {to}", "leave it out")
    if min_area < 0:
        raise UsageError(f"--min-area: found {min_area}, expected a number of pixels, 0 or more")
    parts = None if split is None else parse_split(split)
    found = files_by_stem(masks, (".png",), recursive=recursive)
    called = Names((masks,) if recursive else ()).key
    if not found:
        raise UsageError(f"{masks}: no masks (.png) in it", "make some first: pixaff propagate")
    names = _names({stem: called(path) for stem, path in found.items()}, masks, listing, recursive)
    record = read_record(masks) or {}
    known, colours = mask_classes(classes, record)
    if classes is None and record and known is VOC_CLASSES:
        text = f"{masks} records no class names: taking the 20 of Pascal VOC; --classes names others"
        report(Event("note", COMMAND, text))
    scores = _scores(masks, uncertain)
    by_stem = None if photos is None else _photos(photos, recursive)
    writer = kind(out, known, photos=by_stem is not None, polygons=polygons, split=parts)
    there = [found.get(nfc(name), masks / f"{name}.png") for name in names]
    reads = [path for path in (*(by_stem or {}).values(), listing, classes, masks / RECORD) if path is not None]
    check_outputs(there, lambda path: writer.files(called(path)), [Path(path) for path in reads])
    check_files([*writer.shared(), out / RECORD], [*there, *reads])
    if not overwrite and out.is_dir() and any(not path.name.startswith(".") for path in out.iterdir()):
        raise UsageError(f"{out}: found files in it, expected a new folder", "--overwrite replaces those of its names")

    def convert(path: Path) -> Mapping[str, Any]:
        values = len(known), colours
        return {"made": writer.convert(_item(path, called(path), kind, values, by_stem, scores, uncertain, min_area))}

    settings = {"to": to, "masks": str(masks), "uncertain": uncertain, "polygons": polygons}
    settings |= {"min_area": min_area, "split": split}
    report(Event("settings", COMMAND, data=settings))
    report(Event("begin", COMMAND, total=len(there)))
    result = Report()
    with writer:
        for first in range(0, len(there), TOGETHER):
            some = there[first : first + TOGETHER]
            with closing(in_threads(some, convert, workers=workers or default_workers())) as outcomes:
                for path, outcome in outcomes:
                    if isinstance(outcome, OutputError):
                        raise outcome
                    if isinstance(outcome, BaseException):
                        result.failed.append((f"{called(path)}{path.suffix}", describe(outcome)))
                        report(Event("failed", COMMAND, result.failed[-1][1], photo=path))
                        continue
                    writer.add(called(path), outcome["made"])
                    result.done.append(f"{called(path)}{path.suffix}")
                    report(Event("done", COMMAND, photo=path, outputs=writer.files(called(path))))
        if not result.done:
            raise FormatError(f"none of {counted(len(there), 'mask')} can be exported", result.failed[0][1])
    facts = {"images": len(there), "done": len(result.done), "failed": dict(result.failed)}
    write_record(out, COMMAND, settings, classes=list(known), **facts)
    result.seconds = time.monotonic() - started
    report(Event("end", COMMAND, data=result.counts()))
    return result


def _photos(photos: str | Path | Sequence[str | Path], recursive: bool) -> dict[str, Path]:
    found = find_masked_photos(photos, recursive=recursive, command=COMMAND)
    return {nfc(found.names.key(path)): path for path in found}


def _names(found: Mapping[str, str], masks: Path, listing: str | Path | None, recursive: bool) -> list[str]:
    """The names of the masks to export; a listed one without a mask fails by name."""
    if listing is None:
        return sorted(found.values())
    names = listed_images(read_list(listing, folders=recursive), list(found.values()), listing)
    if not any(nfc(name) in found for name in names):
        raise LabelsError(
            f"{listing} names {counted(len(names), 'image')} and none of them has a mask in {masks}",
            "is it the list of another data set?",
        )
    return names


def _scores(masks: Path, uncertain: float) -> Path:
    """The folder of the propagated scores, which must be there where they are asked for."""
    folder = masks / SCORES
    if uncertain and not any(folder.glob("**/*.npz")):
        raise UsageError(
            f"--uncertain needs the propagated scores, found none in {folder}",
            "run propagate again with --save-scores",
        )
    return folder


def _item(
    path: Path,
    name: str,
    kind: type[Writer],
    values: tuple[int, Mapping[Colour, int] | None],
    photos: Mapping[str, Path] | None,
    scores: Path,
    uncertain: float,
    min_area: int,
) -> Item:
    """Read a mask and what belongs to it."""
    mask = read_mask(path, *values)
    photo = None
    if photos is not None:
        photo = photos.get(nfc(name))
        if photo is None:
            raise FormatError(f"{path}: found no photo {shortened(name)} for it", "give its folder to --photos")
        check_photo(photo, (mask.shape[0], mask.shape[1]))
    margin, saved = None, scores / f"{name}.npz"
    if uncertain or (kind.scores and saved.is_file()):
        margin = _margin(saved, mask)
    if uncertain and margin is not None:
        mask[margin < uncertain] = VOID
    if min_area > 1:
        regions = _regions(mask)
        small = np.bincount(regions.ravel()) < min_area
        small[0] = False
        mask[small[regions]] = VOID
    lead = margin if kind.scores else None
    instances = path.parents[len(Path(name).parts) - 1] / INSTANCES
    if kind.regions and (instances / f"{name}.json").is_file():
        found = read_instances(instances, name)
        if found.map.shape != mask.shape:
            raise FormatError(f"{path}: found instances of {found.map.shape}, expected the mask's {mask.shape}")
        regions = np.where(mask == VOID, 0, found.map) if uncertain else found.map
        if min_area > 1:
            regions = np.where(np.bincount(regions.ravel())[regions] < min_area, 0, regions)
        return Item(name, mask, regions, photo, found.values, found.scores, lead)
    return Item(name, mask, _regions(mask) if kind.regions else None, photo, margin=lead)


def _margin(path: Path, mask: NDArray[np.uint8]) -> NDArray[np.float32]:
    from pixaff.prediction import margin_at

    file = read_scores(path)
    if file.size != mask.shape:
        raise FormatError(
            f"{path}: found scores of {file.size[1]} x {file.size[0]} pixels, "
            f"expected the mask's {mask.shape[1]} x {mask.shape[0]}",
            "make masks and scores in one run",
        )
    return margin_at(file)


def _regions(mask: NDArray[np.uint8]) -> NDArray[np.int64]:
    """The connected regions of the classes, numbered from 1."""
    import torch

    from pixaff.ops.instances import connected_regions

    regions: NDArray[np.int64] = connected_regions(torch.from_numpy(np.where(mask == VOID, 0, mask))).numpy()
    return regions
