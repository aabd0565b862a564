"""COCO JSON: the labels of an image are the categories of its annotations, or of its segments (panoptic)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pixaff.errors import LabelsError, quoted, shortened
from pixaff.io.labels.entry import Entries
from pixaff.io.labels.text import beginning, read_bytes
from pixaff.io.labels.wanted import Wanted
from pixaff.io.records import parse_json

NAME = "COCO JSON"
_EXPECTED = "expected COCO's lists: images, annotations and categories"


def detect(path: Path) -> bool:
    """A file that begins like an object of JSON."""
    return re.match(rb'(?:\xef\xbb\xbf)?\s*\{\s*(?:"|\})', beginning(path)) is not None


def read(path: Path, wanted: Wanted | None = None) -> Entries:
    """The entries of the file; an image without annotations shows no class.

    Raises:
        LabelsError: No JSON, or not of this form.
    """
    try:
        found = parse_json(read_bytes(path).removeprefix(b"\xef\xbb\xbf"))
    except ValueError as error:
        raise LabelsError(f"{path}: no valid JSON ({shortened(error)})", _EXPECTED) from None
    images, annotations, categories = (_list(path, found, name) for name in ("images", "annotations", "categories"))
    names: dict[int | str, str] = {}
    for number, each in enumerate(categories):
        name = each.get("name")
        if not isinstance(name, str) or not name.strip():
            raise LabelsError(f"{path}, categories[{number}]: found no name", _EXPECTED)
        names[_id(path, each, "id", f"categories[{number}]")] = name.strip()
    labels: dict[int | str, dict[str, None]] = {}
    problems: dict[int | str, str] = {}
    for number, each in enumerate(annotations):
        where = f"annotations[{number}]"
        image = _id(path, each, "image_id", where)
        segments = each.get("segments_info", [each])
        if not isinstance(segments, list) or not all(isinstance(segment, dict) for segment in segments):
            raise LabelsError(f"{path}, {where}: found no list of segments_info", _EXPECTED)
        for segment in segments:
            category = _id(path, segment, "category_id", where)
            if category in names:
                labels.setdefault(image, {})[names[category]] = None
            else:
                problems[image] = f"{path}, {where}: found category {shortened(category)}, which is not in categories"
    entries = Entries(wanted)
    for number, each in enumerate(images):
        where, file = f"{path}, images[{number}]", each.get("file_name")
        key = _id(path, each, "id", f"images[{number}]")
        if not isinstance(file, str) or not file.strip():
            entries.strays.append(f"{where}: found no file_name")
        elif entries.wants(file):
            problem = problems.get(key, "")
            entries.add(file, () if problem else labels.get(key, {}), where, problem)
    return entries


def _list(path: Path, found: Any, name: str) -> list[dict[str, Any]]:
    value = found.get(name) if isinstance(found, dict) else None
    if not isinstance(value, list):
        raise LabelsError(f"{path}: found no list {quoted(name)}", _EXPECTED)
    odd = next((number for number, each in enumerate(value) if not isinstance(each, dict)), None)
    if odd is not None:
        raise LabelsError(f"{path}, {name}[{odd}]: found no object", _EXPECTED)
    return value


def _id(path: Path, item: dict[str, Any], name: str, where: str) -> int | str:
    value = item.get(name)
    if not isinstance(value, (int, str)):
        raise LabelsError(f"{path}, {where}: found no {quoted(name)}", _EXPECTED)
    return value
