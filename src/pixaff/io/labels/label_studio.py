"""Label Studio's exports: JSON (tasks with annotations), JSON-MIN and CSV (a row an annotation).

The labels of an image are its choices, and the labels of its rectangles, polygons, brushes and the like. Several
annotations of an image add up, except where one is marked as ground truth.
"""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from pixaff.errors import LabelsError, quoted, shortened
from pixaff.io.images import IMAGE_SUFFIXES
from pixaff.io.labels.entry import Entries
from pixaff.io.labels.table import first_rows, read_rows, words_of
from pixaff.io.labels.text import beginning, read_bytes
from pixaff.io.labels.wanted import Wanted
from pixaff.io.records import parse_json

NAME = "Label Studio JSON"
_EXPECTED = 'expected Label Studio\'s list of tasks: [{"data": {"image": ...}, "annotations": [...]}]'
_UPLOAD = re.compile(r"(?P<folder>.*/)?[0-9a-f]{8}-(?P<name>[^/]+)")
"""How an uploaded file is stored."""
_IMAGE_KEYS = ("image", "img", "photo", "picture", "url", "image_url", "ocr")
_OTHER_COLUMNS = frozenset(("id", "annotator", "annotation id", "created at", "updated at", "lead time", "agreement"))
_CHOICES = frozenset(("choice", "choices", "label", "labels", "class", "classes", "tag", "tags", "category"))


class Csv:
    """The CSV, as a format of its own."""

    NAME = "Label Studio CSV"

    def detect(self, path: Path) -> bool:
        """A table with the columns that every such export has."""
        rows = first_rows(path)
        return bool(rows) and {"annotation id", "annotator", "lead time"} <= set(words_of(rows[0][1]))

    def read(self, path: Path, wanted: Wanted | None = None) -> Entries:
        """The entries of the rows; empty cells say that the image shows no class.

        Raises:
            LabelsError: Unreadable, or no rows.
        """
        rows, strays = read_rows(path)
        words, names = words_of(rows[0][1]), rows[0][1]
        tasks = _Tasks(path, wanted)
        tasks.entries.strays.extend(strays)
        for line, cells in rows[1:]:
            row = dict(zip(names, cells, strict=False))
            where = f"{path}, line {line}"
            if len(cells) < len(words):
                found = f"{where}: expected {len(words)} columns, as in the header, found {len(cells)}"
                tasks.add(_image_of(row), [], where, found)
                continue
            try:
                shown = {name: _cell(cell) for name, cell in row.items()}
                tasks.add(_image_of(row), list(_minimal(shown, row)), where)
            except ValueError as error:
                tasks.add(_image_of(row), [], where, f"{where}: {error}")
        return tasks.done()


CSV = Csv()


def detect(path: Path) -> bool:
    """A file that begins like a list of objects."""
    return re.match(rb"(?:\xef\xbb\xbf)?\s*\[\s*(?:\{|\])", beginning(path)) is not None


def read(path: Path, wanted: Wanted | None = None) -> Entries:
    """The entries of the tasks; a task without an annotation has none, and one with an empty one shows no class.

    Raises:
        LabelsError: No JSON, or no list of tasks.
    """
    try:
        found = parse_json(read_bytes(path).removeprefix(b"\xef\xbb\xbf"))
    except ValueError as error:
        raise LabelsError(f"{path}: no valid JSON ({shortened(error)})", _EXPECTED) from None
    if not isinstance(found, list) or not found:
        raise LabelsError(f"{path}: found no tasks", _EXPECTED)
    tasks = _Tasks(path, wanted)
    for number, task in enumerate(found):
        where = f"{path}, task {shortened(task['id'])}" if _has_id(task) else f"{path}, [{number}]"
        if not isinstance(task, dict):
            tasks.entries.strays.append(f"{where}: found no object ({_EXPECTED})")
            continue
        data = task.get("data", task)
        image = _image_of(data) if isinstance(data, dict) else ""
        try:
            if "data" not in task:
                tasks.add(image, list(_minimal(task, task)), where)
            else:
                labels = _annotated(task)
                if labels is not None:
                    tasks.add(image, labels, where)
        except ValueError as error:
            tasks.add(image, [], where, f"{where}: {error}")
    return tasks.done()


class _Tasks:
    """The labels of images that several annotations may add to."""

    def __init__(self, path: Path, wanted: Wanted | None) -> None:
        self.path = path
        self.entries = Entries(wanted)
        self.found: dict[Hashable, tuple[str, str, dict[str, None]]] = {}

    def add(self, address: str, labels: Sequence[str], where: str, problem: str = "") -> None:
        image = self._name(address)
        if not image:
            words = f", but {quoted(shortened(address))}" if address else ""
            self.entries.strays.append(f"{where}: found no name of an image{words}")
        elif self.entries.wants(image):
            if problem:
                self.entries.add(image, (), where, problem)
            *_, known = self.found.setdefault(self.entries.same(image), (image, where, {}))
            known.update(dict.fromkeys(labels))

    def done(self) -> Entries:
        for image, where, labels in self.found.values():
            self.entries.add(image, labels, where)
        return self.entries

    def _name(self, address: str) -> str:
        """The image that an address leads to; that of an upload without the eight characters that were put before it.

        They stay where the photos are named so, because they were downloaded from Label Studio.
        """
        path = _path_of(address)
        match = _UPLOAD.fullmatch(path)
        if match is None:
            return path
        bare = f"{match['folder'] or ''}{match['name']}"
        wanted = self.entries.wanted
        if wanted is None:
            return bare if "/upload/" in path else path
        return path if wanted.find(path).images else bare


def _has_id(task: Any) -> bool:
    return isinstance(task, dict) and isinstance(task.get("id"), (int, str))


def _image_of(data: Mapping[str, Any]) -> str:
    """The address of the image among the data of a task."""
    for key in _IMAGE_KEYS:
        if isinstance(data.get(key), str):
            return str(data[key])
    texts = [value for value in data.values() if isinstance(value, str)]
    return next((text for text in texts if _path_of(text).lower().endswith(tuple(IMAGE_SUFFIXES))), "")


def _path_of(address: str) -> str:
    """The path in an address: of Label Studio's storage (/data/upload, /data/local-files/?d=...), a URL or a file."""
    if address.startswith("data:"):
        return ""
    if "?" not in address and "://" not in address and not address.startswith("/data/"):
        return address
    parts = urlsplit(address)
    local = parse_qs(parts.query).get("d") if parts.path.rstrip("/").endswith("local-files") else None
    return local[0] if local else unquote(parts.path)


def _annotated(task: Mapping[str, Any]) -> list[str] | None:
    """The labels of a task's annotations; None if it has none, or only skipped ones.

    Raises:
        ValueError: They are not of the known form.
    """
    annotations = task.get("annotations", task.get("completions"))
    if not isinstance(annotations, list) or not all(isinstance(each, dict) for each in annotations):
        raise ValueError("found no list of annotations")
    made = [each for each in annotations if not each.get("was_cancelled")]
    made = [each for each in made if each.get("ground_truth")] or made
    if not made:
        return None
    labels: list[str] = []
    for annotation in made:
        results = annotation.get("result")
        if not isinstance(results, list):
            raise ValueError("found an annotation without a list of results")
        for result in results:
            value = result.get("value") if isinstance(result, dict) else None
            if isinstance(value, dict):
                labels += _labels(value)
    return labels


def _labels(value: Mapping[str, Any]) -> Iterator[str]:
    """The labels of a region or choice: of the key "choices", "rectanglelabels", "brushlabels", "labels", ...

    Raises:
        ValueError: They are no list of texts.
    """
    for key, names in value.items():
        if key == "choices" or key.endswith("labels"):
            names = [names] if isinstance(names, str) else names
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise ValueError(f"found {quoted(key)} that are no list of names")
            yield from (name.strip() for name in names if name.strip())


def _minimal(values: Mapping[str, Any], data: Mapping[str, Any]) -> Iterator[str]:
    """The labels of a task in JSON-MIN, or of a row: of its choices, {"choices": [...]} and lists of regions."""
    image = _image_of(data)
    for key, value in values.items():
        (word,) = words_of([key])
        if word in _OTHER_COLUMNS or (isinstance(data.get(key), str) and data[key] == image):
            continue
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, dict):
                yield from _labels(each)
            elif isinstance(each, str) and each.strip() and word in _CHOICES:
                yield each.strip()


def _cell(cell: str) -> Any:
    """A cell as what it holds: JSON where it begins like it, else text.

    Raises:
        ValueError: It begins like JSON, and is none.
    """
    if not cell.startswith(("[", "{")):
        return cell
    try:
        return json.loads(cell)
    except (ValueError, RecursionError):
        raise ValueError(f"found {quoted(shortened(cell))}, expected JSON") from None
