"""Instances of photos: a 16-bit PNG and COCO annotations for each, and the annotations of a whole folder as one file.

``instances/NAME.png`` has the pixels, 0 for background and 1..D for the instances of a photo; ``instances/NAME.json``
says what they are; ``instances.json``, beside the folder, is a COCO data set with scores.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pixaff.errors import FormatError
from pixaff.io.atomic import write_bytes, write_text
from pixaff.io.picture_files import opened
from pixaff.io.records import entry, read_json
from pixaff.io.run_lengths import packed, run_lengths

FOLDER = "instances"
"""The folder of instances, in the folder of the masks."""
WHOLE = "instances.json"
"""The COCO data set of the whole folder."""
MOST = 65_535


@dataclass(frozen=True, eq=False)
class InstanceFile:
    """The instances of one photo.

    Attributes:
        map: int64 (H, W): 0 background, 1..D the instances.
        values: int64 (D,), their mask values.
        scores: float64 (D,), in 0..1.
    """

    map: NDArray[np.int64]
    values: NDArray[np.int64]
    scores: NDArray[np.float64]


def write_instances(
    folder: str | os.PathLike[str],
    photo: str | os.PathLike[str],
    map: NDArray[np.integer[Any]],
    values: Sequence[int],
    scores: Sequence[float],
) -> None:
    """Write ``NAME.png`` and ``NAME.json`` into the folder of instances.

    Args:
        folder: The folder.
        photo: Path of the photo, whose name the JSON contains.
        map: (H, W): 0 background, 1..D the instances.
        values: Their mask values.
        scores: Their scores, in 0..1.

    Raises:
        FormatError: There are more instances than a 16-bit PNG can tell apart.
        OutputError: A file cannot be written.
    """
    if len(values) > MOST:
        raise FormatError(f"found {len(values)} instances, expected at most {MOST}")
    path, png = Path(folder) / f"{Path(photo).stem}.png", io.BytesIO()
    Image.fromarray(map.astype(np.uint16)).save(png, format="PNG")
    height, width = map.shape
    found = [
        {"id": number, **annotation(map == number, int(value)), "score": round(float(score), 6)}
        for number, (value, score) in enumerate(zip(values, scores, strict=True), 1)
    ]
    facts = {"file_name": Path(photo).name, "height": height, "width": width, "annotations": found}
    write_text(path.with_suffix(".json"), json.dumps(facts, ensure_ascii=False) + "\n")
    write_bytes(path, png.getvalue())


def read_instances(folder: str | os.PathLike[str], name: str) -> InstanceFile:
    """Read what `write_instances` wrote for the photo with the stem ``name``.

    Raises:
        FormatError: A file is missing or damaged, or the two do not fit each other.
    """
    path = Path(folder) / f"{name}.png"
    with opened(path, FormatError) as picture:
        numbers = np.array(picture)
    if numbers.ndim != 2 or numbers.dtype.kind not in "ui":
        raise FormatError(f"{path}: found an image of mode {picture.mode}, expected 16-bit grey: 0, 1..D the instances")
    found = _annotations(path.with_suffix(".json"))
    values = [entry(each, "category_id", int, path.with_suffix(".json")) for each in found]
    scores = [entry(each, "score", float, path.with_suffix(".json")) for each in found]
    largest = int(numbers.max(initial=0))
    if largest > len(values):
        raise FormatError(f"{path}: found instance {largest}, expected at most {len(values)} as in the .json beside it")
    return InstanceFile(numbers.astype(np.int64), np.array(values, np.int64), np.array(scores, np.float64))


def write_whole(out: str | os.PathLike[str], names: Iterable[str], classes: Sequence[str]) -> None:
    """Write ``out/instances.json`` from the files in ``out/instances``, those of the given names that are there.

    Raises:
        FormatError: A file is damaged.
        OutputError: The file cannot be written.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for name in names:
        path = Path(out) / FOLDER / f"{name}.json"
        if not path.is_file():
            continue
        facts = read_json(path, "the instances of a photo")
        image = {"id": len(images) + 1, **{key: facts.get(key) for key in ("file_name", "height", "width")}}
        image["file_name"] = (PurePosixPath(name).parent / str(image["file_name"])).as_posix()
        images.append(image)
        for each in _annotations(path):
            annotations.append({**each, "id": len(annotations) + 1, "image_id": image["id"]})
    whole = {
        "info": {"description": "instances of pixaff"},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": value, "name": name, "supercategory": ""} for value, name in enumerate(classes, 1)],
    }
    write_text(Path(out) / WHOLE, json.dumps(whole, ensure_ascii=False) + "\n")


def _annotations(path: Path) -> list[dict[str, Any]]:
    """The annotations of a photo.

    Raises:
        FormatError: The file is missing, damaged, or something else.
    """
    try:
        facts = read_json(path, "the instances of a photo")
    except FileNotFoundError:
        raise FormatError(f"{path}: no such file", "make it again: pixaff propagate --instances") from None
    found = entry(facts, "annotations", list, path)
    if not all(isinstance(each, dict) for each in found):
        raise FormatError(f"{path}: found annotations that are no objects", "make it again: propagate --instances")
    return found


def annotation(pixels: NDArray[np.bool_], value: int) -> dict[str, Any]:
    """COCO's annotation of one instance (H, W), as run lengths."""
    height, width = pixels.shape
    rows, columns = np.flatnonzero(pixels.any(1)), np.flatnonzero(pixels.any(0))
    box = [0, 0, 0, 0]
    if len(rows):
        left, top = int(columns[0]), int(rows[0])
        box = [left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top]
    return {
        "category_id": value,
        "segmentation": {"size": [height, width], "counts": packed(run_lengths(pixels))},
        "area": int(pixels.sum()),
        "bbox": box,
        "iscrowd": 0,
    }
